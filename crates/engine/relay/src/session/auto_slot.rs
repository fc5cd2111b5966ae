//! `slot: auto`: a stream uses a slot that the relay makes where the upstream is now.
//!
//! A slot lives on one server. When the upstream moves, its standbys find none on the new one, and
//! nothing keeps WAL for them; so the slot is made again there, before the stream starts. A new
//! slot keeps what the server still has, and is moved back by the first report of the standby; if
//! the WAL from the standby's position on is gone already, the stream is refused and the slot
//! dropped again. Slots that exist are never dropped here: `pgherd relay forget` does that.

use std::time::Duration;

use config::Slot;
use pgproto::SqlState;
use pgproto::backend::{ErrorFields, Report, parse_error_response};
use pgproto::frame::backend;
use pgproto::frontend::{copy_done, query};
use pgproto::replication::{Command, CreatePhysicalSlot, StartPhysical};
use tracing::{info, warn};

use super::slots::report;
use super::{Session, SessionError};
use crate::slots::{Slots, own_slot};

/// A server that has nothing to send says nothing; one that lacks the WAL says so at once.
const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(1);
/// `ERRCODE_DUPLICATE_OBJECT`
const DUPLICATE_OBJECT: &str = "42710";

impl Session {
    /// Whether the relay takes care of this client's slot.
    pub(super) fn has_auto_slot(&self) -> bool {
        self.configuration.as_ref().is_some_and(|it| it.slot == Slot::Auto)
    }

    /// The stream that the client asked for, with a slot that is there; or why there is none.
    pub(super) async fn with_slot(
        &mut self,
        start: StartPhysical,
    ) -> Result<Result<StartPhysical, Report>, SessionError> {
        let Some(configuration) = self.configuration.as_ref().map(|it| it.name.clone()) else {
            return Ok(Ok(start));
        };
        let (system, _timeline) = self.identify().await?;
        let slots = Slots::new(&self.context.config.state_dir);
        let slot = match &start.slot {
            None => own_slot(&configuration, &self.name),
            Some(slot) => match slots.owner(&system, slot) {
                // Made through the relay before, as `pgherd clone` does.
                Ok(Some(owner)) if owner == configuration => slot.clone(),
                Ok(_) => return Ok(Ok(start)),
                Err(error) => return Ok(Err(report(&error))),
            },
        };
        // Noted first: one that is there and was not noted would never be dropped.
        if start.slot.is_none()
            && let Err(error) = slots.bind_own(&system, &slot, &configuration)
        {
            return Ok(Err(report(&error)));
        }
        let start = StartPhysical { slot: Some(slot.clone()), ..start };
        let create = CreatePhysicalSlot { name: slot.clone(), temporary: false, reserve_wal: true };
        match self.ask(&Command::CreatePhysicalSlot(create).to_text()).await? {
            Ok(_made) => info!(slot, configuration, "made a replication slot"),
            Err(error) if error.sqlstate == DUPLICATE_OBJECT => return Ok(Ok(start)),
            Err(error) => return Ok(Err(not_made(&slot, &error))),
        }
        let tried = self.try_start(&start).await?;
        if matches!(tried, Tried::Streams) {
            return Ok(Ok(start));
        }
        let drop = Command::DropSlot { name: slot.clone(), wait: false }.to_text();
        if let Err(error) = self.ask(&drop).await? {
            warn!(reason = error.message, "a replication slot that is of no use stays");
        }
        let Tried::Refused(error) = tried else {
            // The client gets the server's own answer, and comes back on the next timeline.
            return Ok(Ok(StartPhysical { slot: None, ..start }));
        };
        let (lsn, reason) = (start.start, &error.message);
        warn!(slot, %lsn, reason, "the upstream does not have the WAL that the standby needs");
        Ok(Err(not_started(&start, &error)))
    }

    /// Whether the server would stream this, as far as it says so at once.
    async fn try_start(&mut self, start: &StartPhysical) -> Result<Tried, SessionError> {
        let command = Command::StartPhysical(start.clone()).to_text();
        self.send_upstream(|out| query(&command, out)).await;
        let mut error = None;
        let mut streams = false;
        loop {
            // One that is told to stop at once may do so before it looks for the WAL.
            let first = tokio::time::timeout(FIRST_MESSAGE_TIMEOUT, self.upstream_message());
            let message = match first.await {
                Ok(message) => message?,
                Err(_idle) if streams => return self.stop_trying().await,
                Err(_slow) => continue,
            };
            match message.tag {
                backend::COPY_BOTH => streams = true,
                backend::COPY_DATA => return self.stop_trying().await,
                backend::ERROR => error = Some(parse_error_response(message.payload())),
                // The end of a timeline that has ended, when there was little left of it.
                backend::COPY_DONE => self.send_upstream(copy_done).await,
                backend::READY => {
                    let nothing = if streams { Tried::Streams } else { Tried::Nothing };
                    return Ok(error.map_or(nothing, Tried::Refused));
                }
                _ => {}
            }
        }
    }

    async fn stop_trying(&mut self) -> Result<Tried, SessionError> {
        let stopped = self.stop_upstream(0).await?;
        let refused = stopped.map(|it| Tried::Refused(parse_error_response(it.payload())));
        Ok(refused.unwrap_or(Tried::Streams))
    }
}

/// How a stream that was only tried began.
enum Tried {
    Streams,
    /// The position is the end of its timeline.
    Nothing,
    Refused(ErrorFields),
}

fn not_made(slot: &str, error: &ErrorFields) -> Report {
    let message = format!("pgherd relay: cannot make replication slot {slot:?}: {}", error.message);
    Report::error(SqlState::NOT_IN_PREREQUISITE_STATE, message).with_hint(
        "Set slot to passthrough in this client's configuration, or let the server make it.",
    )
}

fn not_started(start: &StartPhysical, error: &ErrorFields) -> Report {
    let message = format!(
        "pgherd relay: the upstream cannot stream from {}, and no replication slot was kept for \
         this client there: {}",
        start.start, error.message
    );
    Report::error(SqlState::UNDEFINED_FILE, message).with_hint(
        "Make the standby anew from a base backup, or bring back a server that has the WAL.",
    )
}
