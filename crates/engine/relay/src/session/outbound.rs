//! The writing side of a connection, which never leaves half a message behind.

use std::io;
use std::time::Duration;

use pgnet::WriteHalf;
use pgproto::backend::{Report, error_response, ready_for_query};
use tokio::io::AsyncWriteExt as _;

use super::SessionError;
use crate::counters::Refusal;

/// How long a farewell may take; a client that does not read gets none.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);

/// A writing half with what is still to be written.
#[derive(Debug)]
pub(crate) struct Outbound {
    half: WriteHalf,
    pending: Vec<u8>,
    written: usize,
    /// A message has been begun by [`Self::write_through`] and not been ended: whatever was
    /// written now would be taken for a part of it.
    inside_message: bool,
}

impl Outbound {
    pub(crate) const fn new(half: WriteHalf) -> Self {
        Self { half, pending: Vec::new(), written: 0, inside_message: false }
    }

    /// Takes the connection out; what stays here takes nothing.
    pub(crate) const fn take_half(&mut self) -> WriteHalf {
        std::mem::replace(&mut self.half, WriteHalf::Gone)
    }

    /// Puts whole messages in line.
    pub(crate) fn queue(&mut self, messages: &[u8]) {
        self.pending.extend_from_slice(messages);
    }

    /// Writes what is in line. Cancel-safe: what was not written stays in line.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        while let Some(rest) = self.pending.get(self.written..)
            && !rest.is_empty()
        {
            match self.half.write(rest).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                bytes => self.written += bytes,
            }
        }
        self.pending.clear();
        self.written = 0;
        // TLS keeps what the socket did not take yet; without it this does nothing.
        self.half.flush().await
    }

    /// As [`Self::flush`], towards a server that is about to be read from: one that takes nothing
    /// more may have said why before it left, and the reading ends too. Gives whether it took all.
    pub(crate) async fn flush_up(&mut self) -> bool {
        let flushed = self.flush().await;
        if let Err(error) = &flushed {
            tracing::debug!(%error, "the upstream takes nothing more");
        }
        flushed.is_ok()
    }

    /// Writes from a buffer of the caller's, behind what is in line; `ends_message` tells
    /// whether the bytes end with a message.
    ///
    /// When it is cancelled a message may be cut: then nothing can be sent any more.
    pub(crate) async fn write_through(
        &mut self,
        bytes: &[u8],
        ends_message: bool,
    ) -> io::Result<()> {
        if !self.pending.is_empty() {
            self.flush().await?;
        }
        self.inside_message = true;
        self.half.write_all(bytes).await?;
        self.inside_message = !ends_message;
        self.half.flush().await
    }

    /// As [`Self::queue`] and [`Self::flush`], towards a client.
    pub(crate) async fn send(&mut self, messages: &[u8]) -> Result<(), SessionError> {
        self.queue(messages);
        self.flush().await.map_err(|error| SessionError::Client(error.into()))
    }

    /// Reports an error after which the client may go on.
    pub(crate) async fn report_and_ready(&mut self, report: &Report) -> Result<(), SessionError> {
        let mut messages = Vec::new();
        error_response(report, &mut messages);
        ready_for_query(b'I', &mut messages);
        self.send(&messages).await
    }

    /// Tells a client why it is not served; gives the error that ends the session.
    pub(crate) async fn refuse(&mut self, report: &Report) -> SessionError {
        let mut message = Vec::new();
        error_response(report, &mut message);
        self.farewell(&message).await;
        SessionError::Refused(Refusal::of(report.sqlstate), report.message.clone())
    }

    /// Last words, as far as the peer takes them in time; then nothing more is sent.
    pub(crate) async fn farewell(&mut self, messages: &[u8]) {
        if !self.inside_message {
            self.queue(messages);
        }
        let said = async {
            self.flush().await?;
            self.half.shutdown().await
        };
        match tokio::time::timeout(FAREWELL_TIMEOUT, said).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "no farewell: the peer is gone"),
            Err(_elapsed) => tracing::debug!("no farewell: the peer does not read"),
        }
    }
}
