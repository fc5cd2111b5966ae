//! Questions of the relay itself, asked over the client's connection between its commands.
//!
//! The client logged in for it and sees nothing of it.

use pgnet::Message;
use pgproto::backend::{ErrorFields, data_row, parse_error_response};
use pgproto::frame::{backend, limit};
use pgproto::frontend;

use super::{Session, SessionError};

/// Most rows of an answer; none of the questions has more than one.
const ROWS_MAX: usize = 16;

/// A row's values as text; `None` for NULL.
pub(crate) type Row = Vec<Option<Vec<u8>>>;

impl Session {
    /// Asks, and gives the rows or the server's error.
    pub(crate) async fn ask(
        &mut self,
        command: &str,
    ) -> Result<Result<Vec<Row>, ErrorFields>, SessionError> {
        self.send_upstream(|out| frontend::query(command, out)).await;
        let mut answer = Ok(Vec::new());
        loop {
            let message = self.upstream_message().await?;
            match message.tag {
                backend::DATA_ROW => {
                    if let (Ok(rows), Ok(values)) = (&mut answer, data_row(message.payload()))
                        && rows.len() < ROWS_MAX
                    {
                        rows.push(values.into_iter().map(|it| it.map(<[u8]>::to_vec)).collect());
                    }
                }
                backend::ERROR => answer = Err(parse_error_response(message.payload())),
                backend::READY => return Ok(answer),
                _ => {}
            }
        }
    }

    /// Puts a message together and sends it upstream.
    pub(crate) async fn send_upstream(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut message = Vec::new();
        write(&mut message);
        self.to_upstream.queue(&message);
        self.to_upstream.flush_up().await;
    }

    /// The upstream's next message.
    pub(crate) async fn upstream_message(&mut self) -> Result<Message, SessionError> {
        tokio::select! {
            message = self.from_upstream.message(limit::STREAM) => {
                message.map_err(SessionError::Upstream)?.ok_or(SessionError::UpstreamLeft)
            }
            () = self.stop.cancelled() => Err(SessionError::Stopping),
        }
    }
}
