//! The story of a split: its steps, in order, each begun and done in the journal.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pgtypes::Major;
use tasks::CancellationToken;

use crate::error::Side;
use crate::journal::{Journal, Record, Step};
use crate::owned::MARK;
use crate::server::Session;
use crate::{CloneFailure, CloneOrder, Error, Helper, Plan, relay};

/// How long the databases may be closed, where nobody says so.
const CUT_TIMEOUT: Duration = Duration::from_secs(30);

/// What a run came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The target has caught up and waits for `finish`.
    Ready,
    /// All is done.
    Finished,
}

/// A split that this process works on; nobody else can meanwhile.
#[derive(Debug)]
pub struct Split<'a, H> {
    pub(crate) journal: Journal,
    pub(crate) helper: &'a H,
    pub(crate) stop: CancellationToken,
    /// Whether the moved databases are looked through in the end.
    pub(crate) checks: bool,
    /// How long the databases may be closed before the source gets them back.
    pub(crate) cut_timeout: Duration,
}

impl<'a, H: Helper> Split<'a, H> {
    /// Begins what was planned, under `name`.
    ///
    /// # Errors
    ///
    /// When the plan must not be carried out, or the state folder cannot be used.
    pub fn begin(
        plan: &Plan,
        state_dir: &Path,
        name: &str,
        helper: &'a H,
        stop: CancellationToken,
    ) -> Result<Self, Error> {
        let record = plan.record(name)?;
        let journal = Journal::begin(state_dir, name, record)?;
        Ok(Self { journal, helper, stop, checks: true, cut_timeout: CUT_TIMEOUT })
    }

    /// Continues the split `name`; `None` when there is none.
    ///
    /// # Errors
    ///
    /// When another process works on it, or its journal cannot be read.
    pub fn open(
        state_dir: &Path,
        name: &str,
        helper: &'a H,
        stop: CancellationToken,
    ) -> Result<Option<Self>, Error> {
        let journal = Journal::open(state_dir, name)?;
        let cut_timeout = CUT_TIMEOUT;
        Ok(journal.map(|journal| Self { journal, helper, stop, checks: true, cut_timeout }))
    }

    /// Leaves the last look at the moved databases out.
    pub fn skip_checks(&mut self) {
        self.checks = false;
    }

    /// How long the databases may be closed at most before they are promoted on the target.
    pub const fn set_cut_timeout(&mut self, limit: Duration) {
        self.cut_timeout = limit;
    }

    /// What is written down.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.journal.record
    }

    /// Goes on from wherever it stands: to the end, or until the target has caught up.
    ///
    /// # Errors
    ///
    /// [`Error`]; before the promotion the source is open then, and this can be called again.
    pub async fn run(&mut self, until_ready: bool) -> Result<Outcome, Error> {
        if self.is_done(Step::Undone) {
            return Err(Error::unfit("this split was undone"));
        }
        if self.is_begun(Step::Undone) {
            return Err(Error::unfit("this split is being undone"));
        }
        if !self.is_begun(Step::Promoted) {
            self.reopen_after_a_kill().await?;
            self.make_ready().await?;
            if until_ready {
                return Ok(Outcome::Ready);
            }
        }
        let counts = self.cut_over().await?;
        self.tidy().await?;
        self.settle().await?;
        self.look_through(counts).await?;
        if !self.is_done(Step::Finished) {
            self.journal.done(Step::Finished)?;
        }
        Ok(Outcome::Finished)
    }

    /// Clone, standby, caught up.
    async fn make_ready(&mut self) -> Result<(), Error> {
        self.ensure_relay().await?;
        if !self.is_done(Step::Cloned) {
            self.clone_source().await?;
        }
        if !self.is_done(Step::TargetStarted) {
            self.journal.begin_step(Step::TargetStarted)?;
            self.configure_standby().await?;
            self.ensure_target().await?;
            self.journal.done(Step::TargetStarted)?;
        }
        self.ensure_target().await?;
        self.catch_up().await?;
        if !self.is_done(Step::CaughtUp) {
            self.journal.done(Step::CaughtUp)?;
        }
        Ok(())
    }

    async fn clone_source(&mut self) -> Result<(), Error> {
        let target = self.journal.record.target.clone();
        // A kill after the clone, and before this was written down.
        if !(self.is_begun(Step::Cloned) && self.owns_target()) {
            self.free_slot().await?;
            self.journal.begin_step(Step::Cloned)?;
            let passfile = self.passfile_for_clone()?;
            let order = self.clone_order(passfile.clone())?;
            let made = self.helper.clone(order, self.stop.clone()).await;
            std::fs::remove_file(&passfile).ok();
            made.map_err(|failure| match failure {
                CloneFailure::Stopped => Error::Stopped,
                CloneFailure::Failed(reason) => Error::Clone(reason),
            })?;
        }
        self.journal.done(Step::Cloned)?;
        self.helper.say(&format!("cloned into {}", target.display()));
        Ok(())
    }

    /// Drops the slot of a clone that was killed: it makes it before it can write that down. The
    /// first time there must be none, so a later one is ours.
    async fn free_slot(&self) -> Result<(), Error> {
        let slot = &self.journal.record.slot;
        let source = self.source().await?;
        let sql =
            "select coalesce(active_pid, 0) from pg_replication_slots where slot_name = $1::text";
        let holder: Vec<i32> = source.column("look for the slot", sql, &[slot]).await?;
        let Some(holder) = holder.first() else { return Ok(()) };
        if !self.is_begun(Step::Cloned) {
            return Err(Error::unfit(format!(
                "there is a slot {slot} on the source: drop it if nobody needs it, or choose another \
                 --name"
            )));
        }
        // What the killed one started may still receive.
        source.rows("free the slot", "select pg_terminate_backend($1)", &[holder]).await?;
        self.drop_slot().await
    }

    pub(crate) fn major(&self) -> Result<Major, Error> {
        let major = Major::from_server_version(&self.journal.record.major);
        major.map_err(|error| Error::unfit(error.to_string()))
    }

    fn clone_order(&self, passfile: PathBuf) -> Result<CloneOrder, Error> {
        let record = &self.journal.record;
        Ok(CloneOrder {
            major: self.major()?,
            bin_dir: record.bin_dir.clone(),
            port: record.relay_port,
            name: record.client.clone(),
            user: record.source.user.clone(),
            passfile,
            target: record.target.clone(),
            mapping: record.mapping.clone(),
            unmapped: record.unmapped.clone(),
            slot: record.slot.clone(),
            pace: record.pace,
            owner: record.owner.clone(),
            settings: vec![(MARK.to_owned(), record.id.clone())],
        })
    }

    /// A file with the relay's password that the target's owner can read, for as long as the clone
    /// takes.
    fn passfile_for_clone(&self) -> Result<PathBuf, Error> {
        let record = &self.journal.record;
        let path = self.clone_passfile();
        let text = relay::passfile("*", &record.relay_password);
        // Beside the target, where only root may write as a rule.
        let owner = record.owner.as_ref().map(|it| (it.uid, it.gid));
        state::replace(&path, text.as_bytes(), owner)?;
        Ok(path)
    }

    pub(crate) fn is_done(&self, step: Step) -> bool {
        self.journal.record.is_done(step)
    }

    pub(crate) fn is_begun(&self, step: Step) -> bool {
        self.journal.record.is_begun(step)
    }

    /// A session on the source, in a database that is not moved.
    pub(crate) async fn source(&self) -> Result<Session, Error> {
        let record = &self.journal.record;
        record.source.connect(Side::Source, &record.control).await
    }

    /// Waits; an error when somebody stops the split meanwhile.
    pub(crate) async fn pause(&self, time: Duration) -> Result<(), Error> {
        tokio::select! {
            () = tokio::time::sleep(time) => Ok(()),
            () = self.stop.cancelled() => Err(Error::Stopped),
        }
    }

    pub(crate) fn check_stop(&self) -> Result<(), Error> {
        if self.stop.is_cancelled() { Err(Error::Stopped) } else { Ok(()) }
    }
}
