//! Makes a standby: a base backup with `pg_basebackup`, and the standby's settings.
//!
//! The backup is taken from any address that speaks the replication protocol, a server or a
//! relay; the standby may be told to stream from another one. [`programs`] finds the program,
//! [`work`](self) keeps the half-made clone where nobody takes it for a whole one, [`backup`]
//! runs the program and reads its progress, [`writing`] syncs what has come while the rest comes,
//! [`standby`] writes the settings.
//!
//! # What it guarantees
//!
//! A data directory has its `PG_VERSION`, without which no server starts, only when everything
//! else is there and on the disk. Whatever ends a clone before that, the next run removes what
//! it left, its slot included.
//!
//! # What it does not do
//!
//! It knows nothing of filters, and starts no server.

mod backup;
mod files;
mod owner;
pub mod programs;
mod space;
mod standby;
mod work;
mod writing;

use std::io;
use std::path::PathBuf;

use pgnet::passfile::PassfileError;
use tasks::CancellationToken;

pub use backup::{Pace, Progress};
pub use owner::Owner;
pub use programs::Programs;
pub use space::room;
pub use work::{discard, ensure_free, ensure_place_free, slot_left_behind};

/// Where something listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Name, IP address, or folder of a Unix socket.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Whether it is the caller's own on this machine: what somebody asks of servers with `PG…`
    /// variables is not meant for it.
    pub is_own: bool,
}

impl Address {
    /// The parameters of a connection string.
    pub(crate) fn pairs(&self) -> Vec<(&'static str, String)> {
        let mut pairs = vec![("host", self.host.clone()), ("port", self.port.to_string())];
        if self.is_own {
            pairs.push(("sslmode", "prefer".into()));
        }
        pairs
    }
}

/// A clone to make.
#[derive(Clone, Debug)]
pub struct Options {
    /// The programs of PostgreSQL.
    pub programs: Programs,
    /// Where the backup is taken from.
    pub source: Address,
    /// Where the standby streams from.
    pub upstream: Address,
    /// `application_name`, of the backup and of the standby.
    pub name: String,
    /// Who logs in; the program's default when it is not given.
    pub user: Option<String>,
    /// The file with the password, when it is not the default one.
    pub passfile: Option<PathBuf>,
    /// The data directory; absent, or an empty folder.
    pub target: PathBuf,
    /// Tablespaces that go elsewhere: where they were, where they go.
    pub mapping: Vec<(PathBuf, PathBuf)>,
    /// Where tablespaces go that are not mapped, as far as it is known.
    pub unmapped: Vec<PathBuf>,
    /// The slot to make; none when it is not given.
    pub slot: Option<String>,
    /// How much is asked of the server at once.
    pub pace: Pace,
    /// Whose the files will be; this process's own when it is not given.
    pub owner: Option<Owner>,
    /// What else `postgresql.auto.conf` of the clone says.
    pub settings: Vec<(String, String)>,
}

/// Why there is no clone.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A folder has something in it.
    #[error("{} is not empty", path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// A clone into this folder is being made.
    #[error("another clone into {} is under way", path.display())]
    Busy {
        /// The folder.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The journal of a clone failed.
    #[error(transparent)]
    State(#[from] state::Error),
    /// The program is not there.
    #[error(transparent)]
    Programs(#[from] programs::Missing),
    /// PostgreSQL does not run as root, so nothing may belong to it.
    #[error("PostgreSQL does not run as root, and the clone would belong to root")]
    Root,
    /// The file with the password will not be read.
    #[error(transparent)]
    Passfile(#[from] PassfileError),
    /// There is no such user.
    #[error("there is no user {name:?}")]
    NoUser {
        /// The user.
        name: String,
    },
    /// The system does not let root be the owner.
    #[error("cannot become user {uid}, whose the clone would be: {source}")]
    Act {
        /// Number of the user.
        uid: u32,
        /// What the system said.
        source: io::Error,
    },
    /// Only root may give files away.
    #[error("only root can make a clone that belongs to somebody else")]
    NotRoot,
    /// The backup failed.
    #[error("{program} failed: {reason}")]
    Backup {
        /// The program.
        program: &'static str,
        /// The last lines that it printed.
        reason: String,
    },
    /// Somebody stopped it.
    #[error("stopped")]
    Stopped,
}

fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}

/// Makes the clone; tells `progress` how far it is.
///
/// Cancelling `stop` ends it and removes what there is of it. Not cancel-safe: a future that is
/// dropped leaves its work for the next run to remove.
///
/// # Errors
///
/// [`Error`]; nothing of the clone is left then, or nothing that a server would start from.
pub async fn run(
    options: &Options,
    mut progress: impl FnMut(Progress),
    stop: CancellationToken,
) -> Result<(), Error> {
    let mut work = work::Work::begin(options).await?;
    let made = make(options, &mut work, &mut progress, &stop).await;
    if made.is_err() {
        work.abandon(options).await;
    }
    made
}

async fn make(
    options: &Options,
    work: &mut work::Work,
    progress: &mut impl FnMut(Progress),
    stop: &CancellationToken,
) -> Result<(), Error> {
    backup::take(options, work, progress, stop).await?;
    if stop.is_cancelled() {
        return Err(Error::Stopped);
    }
    let data = work.data();
    Owner::act(options.owner.as_ref(), || standby::configure(options, &data))?;
    work.finish()
}
