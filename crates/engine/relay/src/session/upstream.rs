//! Asks the server that a session has got whether it is what the watch took it for.

use pgtypes::Major;

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
        let fork = self.history(timeline).await?.past().last().copied();
        let facts = Facts { role, system_identifier, timeline, fork };
        let host = self.place.endpoint.clone();
        let admitted = self.context.upstream.admit(&host, &facts);
        admitted.map_err(|unfit| SessionError::Unfit { host, unfit })
    }

    async fn role(&mut self) -> Result<Role, SessionError> {
        // Older servers tell less: there a primary with default_transaction_read_only is one too.
        let is_told = self.major >= Major::V14;
        let command = if is_told { "SHOW in_hot_standby" } else { "SHOW transaction_read_only" };
        let row = self.ask_for_row(command).await?;
        let value = row.into_iter().next().flatten();
        Ok(if value.as_deref() == Some(b"on") { Role::Standby } else { Role::Primary })
    }
}
