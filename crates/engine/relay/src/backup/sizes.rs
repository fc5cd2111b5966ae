//! How much a filtered backup leaves out, for a progress bar that ends at 100 %.

use std::collections::HashMap;

use pgtypes::{Lsn, Oid};
use tracing::debug;

use crate::ledger::fates::{Fate, Kind};
use crate::stream::Course;

/// Bytes that are left out, by the tablespace in which the database's own files lie.
///
/// An estimate, as the server's own sizes are; without the right to ask it is nothing.
pub(super) async fn left_out(course: &Course) -> HashMap<Oid, u64> {
    let sizes = match course.catalog.sizes().await {
        Ok(sizes) => sizes,
        Err(error) => {
            debug!(%error, "the sizes of databases cannot be read: progress will be rough");
            return HashMap::new();
        }
    };
    let mut left_out = HashMap::new();
    let newest = Lsn(u64::MAX);
    for size in sizes {
        if course.fate(Kind::Database, size.database, newest) == Some(Fate::Excluded) {
            *left_out.entry(size.tablespace).or_default() += size.bytes;
        }
    }
    left_out
}
