//! What is known of a stream beyond its bytes: whose it is, and what was decided for it.

use std::sync::{Arc, Mutex};

use pgproto::history::History;
use pgtypes::{Lsn, Oid, SegmentBytes};

use crate::clients::Client;
use crate::ledger::Ledger;
use crate::ledger::fates::{Fate, Kind};
use crate::names::Catalog;
use crate::service::Context;

/// What is known of a stream beyond its bytes.
pub(crate) struct Course {
    pub(crate) context: Arc<Context>,
    pub(crate) client: Arc<Client>,
    pub(crate) configuration: String,
    pub(crate) ledger: Arc<Mutex<Ledger>>,
    pub(crate) catalog: Catalog,
    pub(crate) history: History,
    pub(crate) segment_bytes: SegmentBytes,
    /// The first byte that the client asked for.
    pub(super) wanted: Lsn,
}

impl Course {
    /// The fate of an OID in this history.
    pub(crate) fn fate(&self, kind: Kind, oid: Oid, at: Lsn) -> Option<Fate> {
        lock(&self.ledger).fate(kind, oid, &self.history, at)
    }
}

/// The ledger of a configuration, for a moment: nothing waits while it is held.
pub(crate) fn lock(ledger: &Mutex<Ledger>) -> std::sync::MutexGuard<'_, Ledger> {
    // A panic elsewhere left a ledger that is on disk as it is in memory, or newer there.
    ledger.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
