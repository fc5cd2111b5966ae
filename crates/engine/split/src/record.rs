//! What a split is, and how far: everything that is written down of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use pgtypes::Lsn;
use serde::{Deserialize, Serialize};

use crate::{Login, Owner, Pace};

/// The form of the record that this version reads and writes.
pub(crate) const FORMAT: u32 = 3;

/// What a split consists of, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Somebody said yes to the plan.
    Planned,
    /// The relay runs, on a port that stays.
    RelayStarted,
    /// The clone is there, and its slot.
    Cloned,
    /// The target runs as a standby.
    TargetStarted,
    /// It has caught up.
    CaughtUp,
    /// Begun: databases may be closed on the source. Done: they are, and nobody is left.
    SourceClosed,
    /// The target has replayed everything of them.
    Drained,
    /// Begun: the target may be a server of its own; there is no way back but undoing.
    Promoted,
    /// The databases are open on the target.
    Opened,
    /// The other databases are dropped on the target.
    Dropped,
    /// What was only for the standby is gone, the slot and the relay too.
    Settled,
    /// The databases were looked through.
    Checked,
    /// All is done.
    Finished,
    /// The databases are dropped on the source.
    SourceDropped,
    /// Everything goes back, or has gone.
    Undone,
}

impl Step {
    /// Its name in the journal.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::RelayStarted => "relay_started",
            Self::Cloned => "cloned",
            Self::TargetStarted => "target_started",
            Self::CaughtUp => "caught_up",
            Self::SourceClosed => "source_closed",
            Self::Drained => "drained",
            Self::Promoted => "promoted",
            Self::Opened => "opened",
            Self::Dropped => "dropped",
            Self::Settled => "settled",
            Self::Checked => "checked",
            Self::Finished => "finished",
            Self::SourceDropped => "source_dropped",
            Self::Undone => "undone",
        }
    }

    /// What has been reached with it, for people.
    #[must_use]
    pub const fn told(self) -> &'static str {
        match self {
            Self::Planned | Self::RelayStarted => "begun, not cloned yet",
            Self::Cloned => "cloned",
            Self::TargetStarted => "the new server was started",
            Self::CaughtUp => "the new server has caught up",
            Self::SourceClosed | Self::Drained => "closed on the source",
            Self::Promoted => "promoted",
            Self::Opened | Self::Dropped | Self::Settled | Self::Checked => "moved, not finished",
            Self::Finished => "finished",
            Self::SourceDropped => "finished, and dropped on the source",
            Self::Undone => "undone",
        }
    }
}

/// A database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// Its OID, the same on both sides.
    pub oid: u32,
    /// Its name.
    pub name: String,
    /// `datallowconn` before it was closed.
    pub open: bool,
}

/// A split, as it is written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub(crate) format: u32,
    /// What no other split has: it tells a target that is ours from one that is not.
    pub(crate) id: String,
    /// The source.
    pub source: Login,
    /// The database of the source that our sessions are in; not one that is moved.
    pub control: String,
    pub(crate) system_identifier: i64,
    pub(crate) major: String,
    /// What is moved.
    pub databases: Vec<Database>,
    /// The new data directory.
    pub target: PathBuf,
    /// The new port.
    pub port: u16,
    pub(crate) bin_dir: PathBuf,
    pub(crate) owner: Option<Owner>,
    pub(crate) mapping: Vec<(PathBuf, PathBuf)>,
    pub(crate) unmapped: Vec<PathBuf>,
    #[serde(default)]
    pub(crate) pace: Pace,
    pub(crate) relay_port: u16,
    pub(crate) relay_pid: Option<u32>,
    /// What the relay asks the clone and the standby for. Nothing else knows it.
    pub(crate) relay_password: String,
    pub(crate) slot: String,
    /// `application_name` of the clone and the standby.
    pub(crate) client: String,
    /// Tablespaces in which no database had anything from the beginning.
    pub(crate) empty_tablespaces: Vec<u32>,
    /// Milliseconds since 1970 at which the first database was closed.
    pub(crate) closed_at_millis: Option<u64>,
    /// The session that last closed or opened them on the source: its backend, and when that began.
    pub(crate) closer: Option<(i32, i64)>,
    /// The rows of `pg_database` as we left them when we closed them: OID and `xmin`. With another
    /// `xmin` it is not we who wrote the row last.
    pub(crate) closed: BTreeMap<u32, i64>,
    /// Databases whose rows were found to be those of the source.
    pub(crate) compared: BTreeSet<u32>,
    /// What the comparison of rows found; only the run that made the cut can compare.
    pub(crate) differ: Vec<String>,
    /// Where the WAL ends that the target needed.
    pub(crate) cut: Option<String>,
    /// What is left out, as the target's catalog had it before it was opened.
    pub(crate) left_out: Vec<Database>,
    /// Databases that were left out and got a folder, so that somebody can connect.
    pub(crate) stubs: Vec<u32>,
    /// How long the databases took no writes.
    pub downtime_millis: Option<u64>,
    pub(crate) begun: BTreeSet<Step>,
    pub(crate) done: BTreeSet<Step>,
}

impl Record {
    pub(crate) fn new(parts: Begin) -> Self {
        Self {
            format: FORMAT,
            id: parts.id,
            source: parts.source,
            control: parts.control,
            system_identifier: parts.system_identifier,
            major: parts.major,
            databases: parts.databases,
            target: parts.target,
            port: parts.port,
            bin_dir: parts.bin_dir,
            owner: parts.owner,
            mapping: parts.mapping,
            unmapped: parts.unmapped,
            pace: parts.pace,
            relay_port: 0,
            relay_pid: None,
            relay_password: parts.relay_password,
            slot: parts.slot,
            client: parts.client,
            empty_tablespaces: parts.empty_tablespaces,
            closed_at_millis: None,
            closer: None,
            closed: BTreeMap::new(),
            compared: BTreeSet::new(),
            differ: Vec::new(),
            cut: None,
            left_out: Vec::new(),
            stubs: Vec::new(),
            downtime_millis: None,
            begun: BTreeSet::new(),
            done: BTreeSet::new(),
        }
    }

    /// Whether a step was done.
    #[must_use]
    pub fn is_done(&self, step: Step) -> bool {
        self.done.contains(&step)
    }

    /// Whether a step was begun at least.
    #[must_use]
    pub fn is_begun(&self, step: Step) -> bool {
        self.begun.contains(&step) || self.is_done(step)
    }

    /// The last step that was done.
    #[must_use]
    pub fn last(&self) -> Option<Step> {
        self.done.last().copied()
    }

    pub(crate) fn oids(&self) -> Vec<u32> {
        self.databases.iter().map(|database| database.oid).collect()
    }

    pub(crate) fn cut(&self) -> Option<Lsn> {
        self.cut.as_ref()?.parse().ok()
    }

    /// The names of what is moved, for people.
    #[must_use]
    pub fn names(&self) -> String {
        let names: Vec<_> = self.databases.iter().map(|it| it.name.as_str()).collect();
        names.join(", ")
    }
}

/// What is known when a split begins.
pub(crate) struct Begin {
    pub(crate) id: String,
    pub(crate) source: Login,
    pub(crate) control: String,
    pub(crate) system_identifier: i64,
    pub(crate) major: String,
    pub(crate) databases: Vec<Database>,
    pub(crate) target: PathBuf,
    pub(crate) port: u16,
    pub(crate) bin_dir: PathBuf,
    pub(crate) owner: Option<Owner>,
    pub(crate) mapping: Vec<(PathBuf, PathBuf)>,
    pub(crate) unmapped: Vec<PathBuf>,
    pub(crate) pace: Pace,
    pub(crate) relay_password: String,
    pub(crate) slot: String,
    pub(crate) client: String,
    pub(crate) empty_tablespaces: Vec<u32>,
}

/// For tests: a split of `orders` (OID 5) off the server 7, into `/nonexistent/t` and `/nonexistent/ts`, on port 5433.
#[cfg(test)]
pub(crate) fn example() -> Record {
    let (source, _) = Login::parse("host=h user=u").unwrap();
    Record::new(Begin {
        id: "i".into(),
        source,
        control: "postgres".into(),
        system_identifier: 7,
        major: "15".into(),
        databases: vec![Database { oid: 5, name: "orders".into(), open: true }],
        target: "/nonexistent/t".into(),
        port: 5433,
        bin_dir: "/b".into(),
        owner: None,
        mapping: vec![("/old".into(), "/nonexistent/ts".into())],
        unmapped: Vec::new(),
        pace: Pace::default(),
        relay_password: "p".into(),
        slot: "s".into(),
        client: "c".into(),
        empty_tablespaces: Vec::new(),
    })
}
