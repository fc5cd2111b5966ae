//! Moves chosen databases of a running server into a new, independent server.
//!
//! The new server (the target) begins as a filtered clone, follows the old one (the source)
//! as a standby behind a relay of its own, and is promoted in a cut of a few seconds.
//! [`plan`] looks at both sides first; [`Split`] goes through the steps; each of them is
//! written into the [`journal`] before and after, so that another process continues where one
//! was killed.
//!
//! # What it guarantees
//!
//! No database takes writes on both sides. A moved database is closed on the source
//! (`datallowconn`, and no session left) before the target is promoted; the closing arrives on
//! the target as WAL, so the database is closed there too, until it is opened as the last act
//! of the cut. Whoever goes back closes the target first.
//!
//! # What it does not do
//!
//! It runs no relay and makes no clone: the [`Helper`] of the caller does.

mod check;
mod close;
mod configure;
mod count;
mod cut;
mod drop_source;
mod error;
pub mod journal;
mod lag;
mod login;
mod options;
mod owned;
pub mod plan;
mod processes;
mod programs;
mod record;
mod relay;
mod server;
mod split;
mod sql;
mod ssl;
mod target;
mod tidy;
mod unchanged;
mod undo;

use std::io;
use std::path::{Path, PathBuf};

use tasks::CancellationToken;

pub use error::Error;
pub use journal::{Step, names_in, summary};
pub use lag::{Lag, lag};
pub use login::Login;
pub use options::{BadOptions, Options, Owner, Pace, patterns};
pub use plan::{Finding, Plan, Weight};
pub use programs::Programs;
pub use split::{Outcome, Split};

/// A clone that the caller makes.
#[derive(Clone, Debug)]
pub struct CloneOrder {
    /// Version of the server.
    pub major: pgtypes::Major,
    /// Folder of the programs.
    pub bin_dir: PathBuf,
    /// Port of the relay on 127.0.0.1.
    pub port: u16,
    /// `application_name`
    pub name: String,
    /// Who logs in.
    pub user: String,
    /// A file with the password, when there is one.
    pub passfile: PathBuf,
    /// The data directory.
    pub target: PathBuf,
    /// Tablespaces that go elsewhere.
    pub mapping: Vec<(PathBuf, PathBuf)>,
    /// Where the other tablespaces go.
    pub unmapped: Vec<PathBuf>,
    /// The slot to make.
    pub slot: String,
    /// How much is asked of the server at once.
    pub pace: Pace,
    /// Whose the files will be.
    pub owner: Option<Owner>,
    /// Settings for `postgresql.auto.conf`.
    pub settings: Vec<(String, String)>,
}

/// What the caller does for a split.
pub trait Helper {
    /// Starts a relay with this configuration as a process that outlives this one; gives its
    /// process id. What it prints goes to the end of `log`.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn start_relay(&self, config: &Path, log: &Path) -> io::Result<u32>;

    /// Makes a clone: all of it, or nothing. Removes what an interrupted one left.
    ///
    /// # Errors
    ///
    /// The reason, for people; [`CloneFailure::Stopped`] after `stop`.
    fn clone(
        &self,
        order: CloneOrder,
        stop: CancellationToken,
    ) -> impl Future<Output = Result<(), CloneFailure>>;

    /// Removes what an interrupted clone with this slot left in `target`, and nothing else; with no
    /// more rights than `owner` has.
    ///
    /// # Errors
    ///
    /// The reason, for people.
    fn discard(&self, target: &Path, slot: &str, owner: Option<&Owner>)
    -> Result<(), CloneFailure>;

    /// Tells of something that was done.
    fn say(&self, line: &str);

    /// Tells how far something is; the next one takes its place.
    fn progress(&self, line: &str);
}

/// Why there is no clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloneFailure {
    /// Somebody stopped it.
    Stopped,
    /// The reason.
    Failed(String),
}
