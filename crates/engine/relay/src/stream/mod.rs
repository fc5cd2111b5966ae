//! A filtered stream.
//!
//! [`start`](self) prepares it: who is the upstream, what do the names mean, what continues
//! into the place where it starts. [`flow`] carries it: messages are rewritten in the buffer
//! into which they were read. [`events`] takes in what the WAL says. [`lookback`] finds the
//! beginning of a record that was not seen.

mod course;
mod events;
mod flow;
mod lookback;
mod resolve;
mod start;
mod window;

pub(crate) use course::{Course, lock};
pub(crate) use flow::Flow;

use pgproto::SqlState;
use pgproto::backend::Report;
use pgtypes::{BadSegmentBytes, Lsn, Oid};
use wal::WalError;

use crate::backup::BackupError;
use crate::ledger::LedgerError;
use crate::names::NamesError;

/// Why a filtered stream cannot start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum StreamError {
    /// What came is not WAL that can be filtered.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// What was decided could not be kept, or does not fit.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The names could not be read, and without them nothing can be decided.
    #[error("cannot read the names of databases and tablespaces from the upstream: {0}")]
    Names(#[from] NamesError),
    /// A name in the filter does not exist, and the configuration is strict.
    #[error(
        "the filter of configuration {configuration:?} names {missing}, which the server does not have"
    )]
    Strict {
        /// The configuration.
        configuration: String,
        /// The first name that is missing.
        missing: String,
    },
    /// The upstream answered a question of the relay with an error.
    #[error("the upstream refused {command}: {message}")]
    Refused {
        /// What was asked.
        command: &'static str,
        /// What it said.
        message: String,
    },
    /// The upstream answered a question of the relay with something else.
    #[error("the upstream's answer to {command} cannot be understood")]
    Answer {
        /// What was asked.
        command: &'static str,
    },
    /// No server has such segments.
    #[error(transparent)]
    Segment(#[from] BadSegmentBytes),
    /// A message of the stream is malformed.
    #[error("the upstream sent a malformed stream message: {0}")]
    Malformed(String),
    /// A base backup cannot be filtered.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// A folder in a base backup belongs to nothing that has a name.
    #[error(
        "the upstream's catalogs do not know database {database} in tablespace {tablespace}, \
         which is being created, or is left over from a crash"
    )]
    Unsettled {
        /// Where the folder is.
        tablespace: Oid,
        /// Its name.
        database: Oid,
    },
    /// The stream has a hole or goes back.
    #[error("the upstream sent WAL from {found}, {expected} should have come")]
    Gap {
        /// Where the next byte should have been.
        expected: Lsn,
        /// Where it was.
        found: Lsn,
    },
    /// The upstream asks again and again for the confirmation of bytes that are held back.
    #[error(
        "the upstream waits for the confirmation of {held_bytes} bytes of an incomplete record \
         at {at}; ending the stream so that it can go on"
    )]
    Stuck {
        /// Where the record begins.
        at: Lsn,
        /// What is held back.
        held_bytes: usize,
    },
}

impl StreamError {
    /// What the client is told: enough to act, nothing of the relay's own login.
    pub(crate) fn report(&self) -> Report {
        match self {
            Self::Ledger(error @ LedgerError::Loosened { name, .. }) => Report::fatal(
                SqlState::NOT_IN_PREREQUISITE_STATE,
                format!("pgherd relay: {error}"),
            )
            .with_detail("The standbys of this configuration do not hold what is included now.")
            .with_hint(format!(
                "Make the standby anew from a base backup, after `pgherd relay forget {name}` on \
                 the relay's host; or put the old filter back."
            )),
            Self::Ledger(error @ LedgerError::OtherCluster { name, .. }) => Report::fatal(
                SqlState::NOT_IN_PREREQUISITE_STATE,
                format!("pgherd relay: {error}"),
            )
            .with_hint(format!(
                "If the change is meant, run `pgherd relay forget {name}` on the relay's host."
            )),
            Self::Names(_) => Report::fatal(
                SqlState::UNABLE_TO_CONNECT,
                "pgherd relay: cannot read the names of databases and tablespaces",
            )
            .with_hint(
                "The relay's log has the reason; check upstream.catalog (user, database, \
                 passfile) in its configuration.",
            ),
            Self::Strict { .. } => {
                Report::fatal(SqlState::UNDEFINED_OBJECT, format!("pgherd relay: {self}"))
                    .with_hint(
                        "Correct the name, or set strict to false when it is yet to be created.",
                    )
            }
            Self::Ledger(LedgerError::Damaged { name, .. }) => Report::fatal(
                SqlState::DATA_CORRUPTED,
                format!("pgherd relay: what was decided for configuration {name:?} is damaged"),
            )
            .with_hint(format!(
                "Put back a copy of the file that the relay's log names, or run `pgherd relay \
                 forget {name}` on its host and make the standby anew from a base backup."
            )),
            Self::Ledger(_) => Report::fatal(
                SqlState::INTERNAL_ERROR,
                "pgherd relay: its state folder cannot be used; its log has the reason",
            ),
            _ => Report::fatal(SqlState::INTERNAL_ERROR, format!("pgherd relay: {self}")),
        }
    }
}
