//! Asks a server for what it keeps instead of a user's password.

use tokio_postgres::Client;

use super::{Catalog, NamesError};

/// Rounds of a user who is made up: those that the server gives to a new password. It has been a
/// setting since 16, and 4096 before.
const ITERATIONS: &str = "select coalesce(current_setting('scram_iterations', true), '4096')::int";

/// What a query for a verifier gave.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    /// This text, which may be anything.
    Text(String),
    /// No row, or NULL: there is no such user, or it has no password.
    Nothing,
    /// More than one row, or not one column.
    Unclear,
}

impl Catalog {
    /// Asks `query`, with the user for `$1`; gives also the rounds of users who are made up.
    ///
    /// # Errors
    ///
    /// As [`Self::read`]; also when the column is no text.
    pub(crate) async fn verifier(
        &self,
        query: &str,
        user: &str,
    ) -> Result<(Asked, u32), NamesError> {
        self.ask(async |client: &Client| {
            let rows = client.query(query, &[&user]).await?;
            let iterations: i32 = client.query_one(ITERATIONS, &[]).await?.try_get(0)?;
            let asked = match rows.as_slice() {
                [] => Asked::Nothing,
                [row] if row.len() == 1 => {
                    row.try_get::<_, Option<String>>(0)?.map_or(Asked::Nothing, Asked::Text)
                }
                _ => Asked::Unclear,
            };
            Ok((asked, iterations.unsigned_abs()))
        })
        .await
    }
}
