//! What one configuration knows, shared by its streams and kept across restarts.
//!
//! A ledger is opened by the first client of a configuration and closed with the last one.
//! Everything that changes a fate goes through [`Ledger::adopt`] (the catalogs, at the start
//! of a stream) or [`Ledger::learn`] (an event in the WAL), and is on disk before it is used:
//! decisions are a function of the WAL and of this file, whatever happened in between.

mod adopt;
pub mod fates;
mod learn;
mod store;
mod table;

use std::path::{Path, PathBuf};

use config::Filter;
use pgproto::history::History;
use pgtypes::{Lsn, SegmentBytes, Timeline};
use wal::Span;

pub use adopt::Unmatched;
pub use table::Table;

use crate::counters::Counters;
use crate::slots::{Slots, SlotsError};
use fates::{Epoch, Fate, Kind, Reason};
use store::{Record, Store};

/// Why a ledger cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// The folder cannot be made or changed.
    #[error("cannot use the state folder {}: {source}", path.display())]
    Folder {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file in it failed.
    #[error(transparent)]
    State(#[from] state::Error),
    /// The decisions were damaged on the disk: nothing may be guessed in their place.
    #[error(
        "{source}; without them nothing can be decided for configuration {name:?}: put back a \
         copy of the file, or run `pgherd relay forget {name}` and make its standbys anew"
    )]
    Damaged {
        /// The configuration.
        name: String,
        /// Which file.
        source: state::Error,
    },
    /// A file is not of a form that this version knows.
    #[error("{} is not a state file of this pgherd: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// The file with the owners of slots failed.
    #[error(transparent)]
    Slots(#[from] SlotsError),
    /// Another process streams under this configuration.
    #[error("the state in {} is in use by a connected standby or another relay", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The OIDs belong to another cluster.
    #[error(
        "configuration {name:?} was used with the cluster {known}, the upstream is cluster {found}"
    )]
    OtherCluster {
        /// The configuration.
        name: String,
        /// System identifier in the state.
        known: String,
        /// System identifier of the upstream.
        found: String,
    },
    /// Clients are still streaming under the filter that there was.
    #[error("clients of configuration {name:?} still stream under the filter that there was")]
    OldFilter {
        /// The configuration.
        name: String,
    },
    /// The filter now includes what a standby of this configuration does not hold.
    #[error("the filter of configuration {name:?} was loosened: {} included now", list(loosened))]
    Loosened {
        /// The configuration.
        name: String,
        /// What would have to come back.
        loosened: Vec<String>,
    },
}

fn list(things: &[String]) -> String {
    let shown: Vec<_> = things.iter().take(5).map(String::as_str).collect();
    let more = things.len().saturating_sub(shown.len());
    let verb = if things.len() == 1 { "is" } else { "are" };
    match more {
        0 => format!("{} {verb}", shown.join(", ")),
        more => format!("{} and {more} more {verb}", shown.join(", ")),
    }
}

/// What a configuration knows.
#[derive(Debug)]
pub struct Ledger {
    name: String,
    filter: Filter,
    record: Record,
    store: Store,
    counters: std::sync::Arc<Counters>,
    /// Grows with each change, so that streams know when to take a new [`Table`].
    version: u64,
}

impl Ledger {
    /// Opens the ledger of configuration `name` for the cluster `system_identifier`.
    ///
    /// # Errors
    ///
    /// [`LedgerError`]: nothing may be streamed under this configuration then.
    pub fn open(
        state_dir: &Path,
        name: &str,
        filter: &Filter,
        system_identifier: &str,
        counters: std::sync::Arc<Counters>,
    ) -> Result<Self, LedgerError> {
        let opened = Store::open(&store::folder(state_dir, name));
        let (store, record) = opened.map_err(|error| damaged(name, error))?;
        let record = record.unwrap_or_else(|| Record::new(system_identifier));
        let ledger = Self {
            name: name.to_owned(),
            filter: filter.clone(),
            record,
            store,
            counters,
            version: 0,
        };
        ledger.check_cluster(system_identifier)?;
        Ok(ledger)
    }

    /// What standbys of configuration `name` do not hold, as far as its state tells; nothing
    /// when there is no state.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] when there is a state that cannot be read.
    pub fn excluded(state_dir: &Path, name: &str) -> Result<Vec<String>, LedgerError> {
        let record = store::peek(&store::folder(state_dir, name))?;
        let fates = record.map(|record| record.fates).unwrap_or_default();
        Ok(fates.excluded().map(|(kind, name)| format!("{} {name:?}", kind.word())).collect())
    }

    /// What is decided of everything that may still be there.
    pub(crate) fn decisions(&self) -> Vec<(Kind, pgtypes::Oid, Epoch)> {
        decisions(&self.record.fates)
    }

    /// As [`Self::decisions`] for a configuration without clients, as far as its state tells.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] when there is a state that cannot be read.
    pub(crate) fn kept_decisions(
        state_dir: &Path,
        name: &str,
    ) -> Result<Vec<(Kind, pgtypes::Oid, Epoch)>, LedgerError> {
        let record = store::peek(&store::folder(state_dir, name))?;
        Ok(record.map(|record| decisions(&record.fates)).unwrap_or_default())
    }

    /// Refuses an upstream that is another cluster than the one this ledger is about.
    ///
    /// # Errors
    ///
    /// [`LedgerError::OtherCluster`].
    pub fn check_cluster(&self, system_identifier: &str) -> Result<(), LedgerError> {
        if self.record.system_identifier == system_identifier {
            return Ok(());
        }
        Err(LedgerError::OtherCluster {
            name: self.name.clone(),
            known: self.record.system_identifier.clone(),
            found: system_identifier.to_owned(),
        })
    }

    /// Whether it was opened for this filter.
    #[must_use]
    pub fn judges_by(&self, filter: &Filter) -> bool {
        self.filter == *filter
    }

    /// Changes with every fate that changes.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Whether names were ever read for this configuration.
    #[must_use]
    pub fn has_names(&self) -> bool {
        // An empty filter has an empty text; the catalogs' own files are noted with any names.
        !self.record.fates.database_files.is_empty()
    }

    /// The fates as a table for judging.
    #[must_use]
    pub fn table(&self, history: &History) -> Table {
        Table::new(&self.record.fates, history)
    }

    /// How to start at `boundary`, if an earlier stream of this history passed there.
    #[must_use]
    pub fn span(&self, history: &History, boundary: Lsn) -> Option<Span> {
        self.store.span(history, boundary)
    }

    /// Notes that a stream enters a segment; call it before any byte of it is forwarded.
    ///
    /// # Errors
    ///
    /// [`LedgerError`]; the stream must not go on then.
    pub fn enter(
        &mut self,
        timeline: Timeline,
        boundary: Lsn,
        span: Option<&Span>,
    ) -> Result<(), LedgerError> {
        self.store.enter(timeline, boundary, span)
    }

    /// Behind everything that a client of this configuration can have received.
    fn behind_all_sent(&self, segment_bytes: SegmentBytes) -> Lsn {
        self.store.behind_all_sent(segment_bytes)
    }

    /// The fate of an OID at a position of a history.
    pub(crate) fn fate(
        &self,
        kind: Kind,
        oid: pgtypes::Oid,
        history: &History,
        at: Lsn,
    ) -> Option<Fate> {
        self.record.fates.at(kind, oid, history, at).map(|epoch| epoch.fate)
    }

    fn commit(&mut self) -> Result<(), LedgerError> {
        self.version += 1;
        self.store.save(&self.record)
    }
}

fn damaged(name: &str, error: LedgerError) -> LedgerError {
    match error {
        LedgerError::State(source @ state::Error::Damaged { .. }) => {
            LedgerError::Damaged { name: name.to_owned(), source }
        }
        other => other,
    }
}

/// Makes sure that state can be kept in `state_dir`, before anybody relies on it.
///
/// # Errors
///
/// [`LedgerError::Folder`] when nothing can be written there.
pub fn check_folder(state_dir: &Path) -> Result<(), LedgerError> {
    store::check_folder(state_dir)
}

/// Forgets what was decided for a configuration: its standbys then need new base backups.
/// `false` when nothing was known.
///
/// # Errors
///
/// [`LedgerError::InUse`] while a client of it is connected.
pub fn forget(state_dir: &Path, name: &str) -> Result<bool, LedgerError> {
    let known = store::forget(&store::folder(state_dir, name))?;
    Ok(Slots::new(state_dir).forget(name)? | known)
}

/// What a filter says of a database: its name, and the tablespace of its catalogs.
fn judge_database(filter: &Filter, name: &[u8], tablespace: Option<Fate>) -> (Fate, Reason) {
    if !filter.database(name) {
        (Fate::Excluded, Reason::Name)
    } else if tablespace == Some(Fate::Excluded) && !matches!(name, b"template0" | b"template1") {
        (Fate::Excluded, Reason::DefaultTablespace)
    } else {
        (Fate::Included, Reason::Name)
    }
}

fn decisions(fates: &fates::Fates) -> Vec<(Kind, pgtypes::Oid, Epoch)> {
    let kinds = [Kind::Database, Kind::Tablespace].into_iter();
    let all = kinds.flat_map(|kind| fates.last(kind).map(move |(oid, it)| (kind, oid, it.clone())));
    all.collect()
}

fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

fn log_decision(configuration: &str, kind: Kind, oid: pgtypes::Oid, epoch: &Epoch) {
    tracing::info!(
        configuration,
        kind = kind.word(),
        name = epoch.name,
        %oid,
        fate = epoch.fate.word(),
        reason = ?epoch.reason,
        "decided",
    );
}
