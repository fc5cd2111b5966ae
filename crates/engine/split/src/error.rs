//! Why a split does not go on.

use std::io;
use std::path::{Path, PathBuf};

/// Which of the two servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The old one.
    Source,
    /// The new one.
    Target,
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Target => "target",
        })
    }
}

/// Why a split does not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A server refused, or was not there.
    #[error("on the {side}: cannot {action}: {}", shown(cause))]
    Server {
        /// Which one.
        side: Side,
        /// What was tried: a verb.
        action: String,
        /// What the server, or the driver, said.
        cause: tokio_postgres::Error,
    },
    /// A server could not be reached.
    #[error("on the {side}: cannot {action}: {cause}")]
    Dial {
        /// Which one.
        side: Side,
        /// What was tried: a verb.
        action: String,
        /// Where, and why not.
        cause: pgnet::DialError,
    },
    /// No answer in time.
    #[error("waited {secs} s in vain for {what}")]
    Late {
        /// What did not come.
        what: String,
        /// How long it was waited for.
        secs: u64,
    },
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: a verb.
        action: &'static str,
        /// The file, folder or program.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The journal failed.
    #[error(transparent)]
    State(#[from] state::Error),
    /// The journal is not of a form that this version knows.
    #[error("{} is not a journal of this pgherd: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// The password file is of no use.
    #[error(transparent)]
    Passfile(#[from] pgnet::passfile::PassfileError),
    /// A program is missing or of the wrong version.
    #[error("{0}")]
    Programs(String),
    /// A program failed.
    #[error("{program} failed: {reason}")]
    Program {
        /// Its name.
        program: &'static str,
        /// The end of what it printed.
        reason: String,
    },
    /// The clone failed.
    #[error("the clone failed: {0}")]
    Clone(String),
    /// The world is not as it has to be for this step.
    #[error("{0}")]
    Unfit(String),
    /// A check of the finished server failed.
    #[error("{0}")]
    Damaged(String),
    /// Somebody stopped it.
    #[error("stopped")]
    Stopped,
}

impl Error {
    /// What the server calls it, if it is the server's.
    pub(crate) fn sqlstate(&self) -> Option<&str> {
        let Self::Server { cause, .. } = self else { return None };
        cause.code().map(tokio_postgres::error::SqlState::code)
    }

    pub(crate) fn unfit(reason: impl Into<String>) -> Self {
        Self::Unfit(reason.into())
    }
}

/// The server's own words where there are some; the driver's otherwise.
pub(crate) fn shown(error: &tokio_postgres::Error) -> String {
    let Some(server) = error.as_db_error() else {
        let cause = std::error::Error::source(error);
        return cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
    };
    let mut text = format!("{} (SQLSTATE {})", server.message(), server.code().code());
    for more in [server.detail(), server.hint()].into_iter().flatten() {
        text.push_str("; ");
        text.push_str(more);
    }
    text
}

pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}
