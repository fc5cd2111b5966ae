//! `BASE_BACKUP` of a client with a filter.
//!
//! The server's backup passes through and loses what the filter leaves out: tablespaces from
//! the list, archives and members, lines of `tablespace_map` and of the manifest. WAL inside
//! the backup goes through the same rewriter as a stream, with the same fates.
//!
//! [`options`] says which backups can be filtered, [`answer`] follows the messages of an
//! answer, [`holdings`] what was decided for which folder, [`wal_files`] filters segments that
//! lie in an archive.

mod answer;
mod holdings;
mod options;
mod sizes;
mod wal_files;

use alarm::Code;
use basebackup::{ArchiveError, ManifestError};
use pgproto::backend::{Report, Severity};
use pgproto::replication::BaseBackup;
use pgtypes::Major;
use tracing::{error, info};

use crate::counters::Refusal;
use crate::session::{Session, SessionError, pass_up};
use crate::stream::StreamError;
use answer::Answer;

/// Why a filtered backup cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum BackupError {
    /// An archive is not what a server sends.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The manifest is not what a server writes.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A message of the answer is malformed, or out of order.
    #[error("the upstream's answer to BASE_BACKUP cannot be understood: {0}")]
    Answer(&'static str),
}

impl Session {
    /// Takes a backup without what the filter leaves out.
    pub(crate) async fn backup_filtered(
        &mut self,
        backup: &BaseBackup,
        raw: &[u8],
    ) -> Result<(), SessionError> {
        if let Err(report) = options::check(backup) {
            return self.answer(&report).await;
        }
        let course = match self.plot(None).await {
            Ok(course) => course,
            Err(SessionError::Stream(error)) => {
                error!(code = %Code::NoFilteredBackup, %error, "cannot take a filtered backup");
                let report = Report { severity: Severity::Error, ..error.report() };
                self.context.counters.refuse(Refusal::of(report.sqlstate));
                return self.to_client.report_and_ready(&report).await;
            }
            Err(error) => return Err(error),
        };
        let in_one_copy = self.major >= Major::V15;
        let sizes = sizes::left_out(&course).await;
        info!(configuration = course.configuration, "taking a filtered backup");
        let mut answer = Answer::new(course, self.major, in_one_copy, sizes);
        self.to_upstream.queue(raw);
        self.to_upstream.flush_up().await;
        let Self { client, from_client, to_client, from_upstream, to_upstream, stop, .. } = self;
        let mut is_done = false;
        tokio::select! {
            ended = answer.carry(from_upstream, to_client) => ended,
            up = pass_up(from_client, to_upstream, client, &mut is_done) => up,
            () = stop.cancelled() => Err(SessionError::Stopping),
        }
    }
}

impl From<BackupError> for SessionError {
    fn from(error: BackupError) -> Self {
        Self::Stream(StreamError::Backup(error))
    }
}
