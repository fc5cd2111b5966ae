//! Finds a fate for an OID that nobody has met.
//!
//! It happens when a stream starts between the insert into `pg_database` and the first record
//! of the new database, and was never here before. The catalogs know the name as soon as
//! the transaction has committed, so the stream waits for that; "not known" is believed only
//! when nothing is under way any more.

use std::time::{Duration, Instant};

use pgtypes::{Lsn, Oid, Xid};
use tracing::{info, warn};
use wal::{Judge as _, Place, Verdict};

use super::StreamError;
use super::course::lock;
use super::flow::Flow;

/// Between two looks at a transaction that is under way.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// How long a base backup waits for a database that is being created; copying a large template
/// takes its time.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(600);

/// After this long a transaction is taken for one that cannot end by itself.
const PATIENCE: Duration = Duration::from_secs(10);

impl Flow {
    /// Makes sure that `place` has a fate.
    ///
    /// # Errors
    ///
    /// When the names cannot be read: deciding without them could lose data for good, so the
    /// stream ends and the standby comes back.
    pub(super) async fn resolve(
        &mut self,
        place: Place,
        xid: Xid,
        at: Lsn,
    ) -> Result<(), StreamError> {
        if self.is_known(place, at) {
            return Ok(());
        }
        info!(
            configuration = self.course.configuration,
            database = %place.database,
            tablespace = %place.tablespace,
            lsn = %at,
            "an OID without a name: asking the catalog",
        );
        self.read_names().await?;
        if self.is_known(place, at) {
            return Ok(());
        }
        if xid != Xid(0) {
            self.wait_for(xid, at).await?;
            self.read_names().await?;
        }
        if !self.is_known(place, at) {
            lock(&self.course.ledger).give_up(place, &self.course.history, at)?;
            self.refresh();
        }
        Ok(())
    }

    /// Finds a fate for a folder in a base backup; whether it belongs there.
    ///
    /// No record tells which transaction made the folder, so this waits until nothing is being
    /// made any more. What has no name then was dropped, or its making failed.
    ///
    /// # Errors
    ///
    /// When the names cannot be read, or the folder belongs to nothing for too long.
    pub(crate) async fn settle(&mut self, place: Place) -> Result<bool, StreamError> {
        let newest = Lsn(u64::MAX);
        let started = Instant::now();
        while !self.is_known(place, newest) {
            // In this order: what ended before the first look is seen by the second.
            let is_under_way = self.course.catalog.is_being_made(place).await?;
            self.read_names().await?;
            if self.is_known(place, newest) {
                break;
            }
            if !is_under_way {
                return Ok(false);
            }
            if started.elapsed() > SETTLE_TIMEOUT {
                let Place { tablespace, database } = place;
                return Err(StreamError::Unsettled { tablespace, database });
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Ok(self.table.place(place, newest) == Verdict::Pass)
    }

    /// Waits until a transaction is over.
    async fn wait_for(&mut self, xid: Xid, at: Lsn) -> Result<(), StreamError> {
        let begun = Instant::now();
        let mut told = false;
        while self.course.catalog.is_running(xid).await? {
            if begun.elapsed() >= PATIENCE && !told {
                told = true;
                // What waits for this very standby looks as if it were running.
                warn!(
                    configuration = self.course.configuration,
                    %xid,
                    lsn = %at,
                    "still waiting for the transaction that makes a database, to know its name; \
                     if it waits for a synchronous standby behind this relay (wait_event SyncRep), \
                     cancel it with pg_cancel_backend: it is committed already",
                );
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Ok(())
    }

    /// Whether both parts of `place` have a fate; another stream may have met them first.
    fn is_known(&mut self, place: Place, at: Lsn) -> bool {
        self.refresh();
        let parts = [Place::database(place.database), Place::tablespace(place.tablespace)];
        parts
            .into_iter()
            .filter(|part| part.database != Oid::INVALID || part.tablespace != Oid::INVALID)
            .all(|part| self.table.place(part, at) != Verdict::Unknown)
    }

    async fn read_names(&mut self) -> Result<(), StreamError> {
        let names = self.course.catalog.read().await?;
        let (history, segment_bytes) = (&self.course.history, self.course.segment_bytes);
        lock(&self.course.ledger).adopt(&names, history, segment_bytes)?;
        Ok(())
    }
}
