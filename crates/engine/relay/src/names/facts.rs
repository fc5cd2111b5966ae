//! Asks a server again and again what it is, over one connection, for as long as that lives.

use std::convert::Infallible;
use std::time::Duration;

use pgtypes::Timeline;
use tokio::sync::Notify;
use tokio_postgres::{Client, Error, Row};

use super::{Catalog, NamesError};
use crate::upstream::{Facts, Role};

/// Any role may ask this. A primary's timeline is that of the segment it writes. A standby tells
/// the one that it receives only to members of `pg_read_all_stats`; its control file is behind
/// by up to a restartpoint.
const FACTS: &str = "select pg_catalog.pg_is_in_recovery(), \
     (select system_identifier::text from pg_catalog.pg_control_system()), \
     case when pg_catalog.pg_is_in_recovery() then greatest( \
         (select timeline_id from pg_catalog.pg_control_checkpoint()), \
         (select min_recovery_end_timeline from pg_catalog.pg_control_recovery()), \
         (select received_tli from pg_catalog.pg_stat_wal_receiver)) \
     else ('x' || left(pg_catalog.pg_walfile_name( \
         pg_catalog.pg_current_wal_insert_lsn()), 8))::bit(32)::int end";

const DROP_SLOT: &str = "select pg_catalog.pg_drop_replication_slot(slot_name) \
     from pg_catalog.pg_replication_slots, pg_catalog.pg_control_system() \
     where slot_type = 'physical' and slot_name::text = $1 and system_identifier::text = $2";

impl Catalog {
    /// Asks every `interval`, and tells each answer to `saw`; ends when no answer comes within
    /// `patience`, or with any other error.
    pub(crate) async fn watch(
        &self,
        interval: Duration,
        patience: Duration,
        saw: &(dyn Fn(Facts) + Sync),
    ) -> NamesError {
        let progress = Notify::new();
        let looks = self.ask_unlimited(async |client: &Client| -> Result<Infallible, Error> {
            let question = client.prepare(FACTS).await?;
            loop {
                let row = client.query_one(&question, &[]).await?;
                progress.notify_one();
                saw(facts_of(&row)?);
                tokio::time::sleep(interval).await;
            }
        });
        let stalled = async {
            while tokio::time::timeout(interval + patience, progress.notified()).await.is_ok() {}
        };
        tokio::select! {
            Err(error) = looks => error,
            () = stalled => NamesError::TimedOut,
        }
    }

    /// Drops a physical slot, if it is there and the server is of this cluster.
    pub(crate) async fn drop_slot(&self, slot: &str, system: &str) -> Result<bool, NamesError> {
        self.ask(async |client: &Client| {
            Ok(!client.query(DROP_SLOT, &[&slot, &system]).await?.is_empty())
        })
        .await
    }

    /// Asks once.
    pub(crate) async fn facts(&self) -> Result<Facts, NamesError> {
        self.ask(async |client: &Client| facts_of(&client.query_one(FACTS, &[]).await?)).await
    }
}

fn facts_of(row: &Row) -> Result<Facts, Error> {
    let in_recovery: bool = row.try_get(0)?;
    let timeline: i32 = row.try_get(2)?;
    Ok(Facts {
        role: if in_recovery { Role::Standby } else { Role::Primary },
        system_identifier: row.try_get(1)?,
        timeline: Timeline(timeline.cast_unsigned()),
        // Only a replication connection can be asked for it.
        past: None,
    })
}
