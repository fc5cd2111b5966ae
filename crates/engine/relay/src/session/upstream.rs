//! Asks the server that a session has got whether it is what the watch took it for.

use pgproto::history::Past;
use pgtypes::{Major, Timeline};

use super::{Session, SessionError};
use crate::upstream::{Facts, Role};

impl Session {
    /// Ends the session when its server is not, or not any more, one to be followed.
    pub(super) async fn check_upstream(&mut self) -> Result<(), SessionError> {
        if !self.context.upstream.is_moving() {
            return Ok(());
        }
        let role = self.role().await?;
        let (system_identifier, timeline) = self.identify().await?;
        let past = self.past(timeline).await?;
        let facts = Facts { role, system_identifier, timeline, past };
        let host = self.place.endpoint.clone();
        let admitted = self.context.upstream.admit(&host, &facts);
        admitted.map_err(|unfit| SessionError::Unfit { host, unfit })
    }

    /// What a timeline came out of; nothing when the server does not tell.
    async fn past(&mut self, timeline: Timeline) -> Result<Option<Vec<Past>>, SessionError> {
        let past = self.history(timeline).await?.past().to_vec();
        Ok(Some(past).filter(|past| timeline <= Timeline(1) || !past.is_empty()))
    }

    async fn role(&mut self) -> Result<Role, SessionError> {
        if self.major >= Major::V14 {
            let in_recovery = self.is_on("SHOW in_hot_standby").await?;
            return Ok(if in_recovery { Role::Standby } else { Role::Primary });
        }
        // Older servers tell less.
        if !self.is_on("SHOW transaction_read_only").await? {
            return Ok(Role::Primary);
        }
        // A primary's transactions may be read-only too; the watch asks in another way.
        let seen = self.context.upstream.role_of(&self.place.endpoint);
        let may_be_primary = self.is_on("SHOW default_transaction_read_only").await?;
        Ok(seen.filter(|_| may_be_primary).unwrap_or(Role::Standby))
    }

    async fn is_on(&mut self, command: &'static str) -> Result<bool, SessionError> {
        let row = self.ask_for_row(command).await?;
        Ok(row.into_iter().next().flatten().as_deref() == Some(b"on"))
    }
}
