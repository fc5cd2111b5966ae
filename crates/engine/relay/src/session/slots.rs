//! Commands about replication slots, where the relay has to know whose a slot is.
//!
//! Temporary slots are not noted: they end with the connection that made them, and only that
//! connection may use them.

use alarm::Code;
use pgnet::Message;
use pgproto::SqlState;
use pgproto::backend::{Report, Severity};
use pgproto::frame::{backend, limit};
use pgproto::replication::StartPhysical;
use tracing::{error, info};

use super::{Session, SessionError, pass_up};
use crate::slots::{Slots, SlotsError};

impl Session {
    /// Makes or drops a slot on the server, and notes whose it is before the client learns
    /// that it is done.
    pub(super) async fn change_slot(
        &mut self,
        slot: &str,
        is_made: bool,
        raw: &[u8],
    ) -> Result<(), SessionError> {
        let owner = self.configuration.as_ref().filter(|it| is_made && it.filter.is_some());
        let owner = owner.map(|it| it.name.clone());
        let slots = Slots::new(&self.context.config.state_dir);
        self.to_upstream.queue(raw);
        // Others have nothing to note, unless it is of a slot that was dropped elsewhere.
        if owner.is_none() && !matches!(slots.knows(slot), Ok(true)) {
            return self.until_ready().await;
        }
        let (answer, is_done) = self.whole_answer().await?;
        if is_done {
            let (system, _timeline) = self.identify().await?;
            if let Err(error) = slots.bind(&system, slot, owner.as_deref()) {
                return self.to_client.report_and_ready(&report(&error)).await;
            }
            info!(slot, configuration = owner, "the slot's configuration was noted");
        }
        self.to_client.send(&answer).await
    }

    /// The server's answer to what is in line, and whether it has done what it was told.
    async fn whole_answer(&mut self) -> Result<(Vec<u8>, bool), SessionError> {
        let Self { client, from_client, from_upstream, to_upstream, stop, .. } = self;
        to_upstream.flush_up().await;
        let mut is_over = false;
        let answer = async {
            let (mut answer, mut is_done) = (Vec::new(), true);
            loop {
                let message: Option<Message> =
                    from_upstream.message(limit::REPLY).await.map_err(SessionError::Upstream)?;
                let message = message.ok_or(SessionError::UpstreamLeft)?;
                is_done &= message.tag != backend::ERROR;
                answer.extend_from_slice(&message.raw);
                if message.tag == backend::READY {
                    return Ok((answer, is_done));
                }
            }
        };
        tokio::select! {
            answer = answer => answer,
            // DROP_REPLICATION_SLOT ... WAIT may take as long as it likes.
            up = pass_up(from_client, to_upstream, client, &mut is_over) => Err(up.err().unwrap_or(SessionError::ClientLeft)),
            () = stop.cancelled() => Err(SessionError::Stopping),
        }
    }

    /// Why the client may not stream from the slot: it is another configuration's.
    pub(super) async fn foreign_slot(
        &mut self,
        start: &StartPhysical,
    ) -> Result<Option<Report>, SessionError> {
        let Some(slot) = &start.slot else { return Ok(None) };
        let slots = Slots::new(&self.context.config.state_dir);
        let owner = match slots.knows(slot) {
            Ok(false) => return Ok(None),
            Ok(true) => {
                let (system, _timeline) = self.identify().await?;
                slots.owner(&system, slot)
            }
            Err(error) => Err(error),
        };
        let owner = match owner {
            Ok(Some(owner)) => owner,
            Ok(None) => return Ok(None),
            Err(error) => return Ok(Some(report(&error))),
        };
        let own = self.configuration.as_ref().map(|it| it.name.as_str());
        if own == Some(owner.as_str()) {
            return Ok(None);
        }
        let own = own.map_or("no configuration".to_owned(), |own| format!("configuration {own:?}"));
        let message = format!(
            "pgherd relay: replication slot {slot:?} belongs to configuration {owner:?}, and this \
             client is of {own}"
        );
        let report = Report::error(SqlState::NOT_IN_PREREQUISITE_STATE, message).with_hint(
            "A standby has to be cloned and to stream as the same application_name. Set the one \
             that it was cloned with in primary_conninfo, or make the standby anew with a slot of \
             its own.",
        );
        Ok(Some(report))
    }
}

/// What the client is told when the file fails; the log has the rest.
pub(super) fn report(error: &SlotsError) -> Report {
    error!(code = %Code::SlotsUnknown, %error, "cannot tell whose a replication slot is");
    let message = "pgherd relay: its state folder cannot be used; its log has the reason";
    Report { severity: Severity::Error, ..Report::fatal(SqlState::INTERNAL_ERROR, message) }
}
