//! How far a target is behind that waits for `finish`: a look at the source alone, beside
//! whoever works on the split.

use crate::Error;
use crate::error::Side;
use crate::journal::{Record, Step};
use crate::plan::size;

/// The standby's own word through the relay, and what is kept for it.
const LAG: &str = "select pg_wal_lsn_diff(pg_current_wal_flush_lsn(), r.replay_lsn)::bigint, \
     pg_wal_lsn_diff(pg_current_wal_flush_lsn(), s.restart_lsn)::bigint \
     from pg_replication_slots s left join pg_stat_replication r on r.pid = s.active_pid \
     where s.slot_name = $1::text";

/// Where a target stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lag {
    /// It follows, and has not replayed so many bytes yet.
    Follows(u64),
    /// Its server or relay does not run; the source keeps so many bytes for it.
    Away(u64),
    /// Its slot is gone, or has lost WAL.
    Lost,
}

impl std::fmt::Display for Lag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Follows(bytes) => write!(f, "the new server follows, {} behind", size(*bytes)),
            Self::Away(bytes) => write!(
                f,
                "the new server does not follow, and the source keeps {} of WAL for it; the command that \
                 began the split starts it again",
                size(*bytes)
            ),
            Self::Lost => f.write_str("the slot on the source is lost: undo the split"),
        }
    }
}

/// How far the target of a split is behind; `None` when it does not follow yet, or any more.
///
/// # Errors
///
/// [`Error`], when the source cannot be asked.
pub async fn lag(record: &Record) -> Result<Option<Lag>, Error> {
    let follows = record.is_done(Step::Cloned) && !record.is_begun(Step::Promoted);
    if !follows || record.is_begun(Step::Undone) {
        return Ok(None);
    }
    let source = record.source.connect(Side::Source, &record.control).await?;
    let rows = source.rows("look for the slot", LAG, &[&record.slot]).await?;
    let Some(row) = rows.first() else { return Ok(Some(Lag::Lost)) };
    let bytes = |column| -> Result<Option<u64>, Error> {
        let bytes: Option<i64> = source.value(row, column)?;
        // What is replayed may be ahead of what was flushed a moment ago.
        Ok(bytes.map(|it| u64::try_from(it).unwrap_or(0)))
    };
    Ok(Some(match (bytes(0)?, bytes(1)?) {
        (Some(behind), _) => Lag::Follows(behind),
        (None, Some(kept)) => Lag::Away(kept),
        (None, None) => Lag::Lost,
    }))
}
