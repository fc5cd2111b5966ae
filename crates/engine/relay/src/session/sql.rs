//! Plain SQL connections, for configurations that let them through: bytes both ways, as they come.
//!
//! The server has let the client in and judges what it may do; nothing here is read, and nothing
//! is filtered. `pg_rewind --source-server` is what this is for.

use pgnet::Inbound;

use super::{Outbound, Session, SessionError};
use crate::clients::Activity;

/// What is moved at once.
const STEP_BYTES: usize = 64 * 1024;

impl Session {
    /// Passes everything on until one side leaves, the upstream moves, or the relay stops.
    pub(super) async fn sql(mut self) -> Result<(), SessionError> {
        self.client.does(Activity::Command);
        let Self {
            client, from_client, to_client, from_upstream, to_upstream, stop, place, ..
        } = &mut self;
        let down = |bytes| {
            client.count(|tally| {
                tally.received_bytes.add(bytes);
                tally.sent_bytes.add(bytes);
            });
        };
        tokio::select! {
            // What the server says last is passed on before its end is noticed.
            down = pass(from_upstream, to_client, down) => {
                down.map_err(|error| SessionError::Upstream(error.into()))
            }
            up = pass(from_client, to_upstream, |_bytes| {}) => {
                up.map_err(|error| SessionError::Client(error.into()))
            }
            () = place.moved.cancelled() => Err(SessionError::Moved),
            () = stop.cancelled() => Err(SessionError::Stopping),
        }
    }
}

/// Until the sender has closed its side.
async fn pass(from: &mut Inbound, to: &mut Outbound, passed: impl Fn(u64)) -> std::io::Result<()> {
    let mut buffer = vec![0; STEP_BYTES];
    loop {
        let bytes = from.read_some(&mut buffer).await?;
        let arrived = buffer.get(..bytes).unwrap_or_default();
        if arrived.is_empty() {
            return Ok(());
        }
        to.write_through(arrived, true).await?;
        passed(bytes as u64);
    }
}
