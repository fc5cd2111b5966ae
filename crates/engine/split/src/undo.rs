//! Back to where it began: the databases are the source's again.
//!
//! Before the promotion nothing was written on the target, so it is removed. Later, somebody may
//! have written there: the databases are closed on it first, it is stopped and kept.

use crate::close::{END_TIMEOUT, allow, end_former, end_sessions};
use crate::journal::Step;
use crate::owned::VERSION;
use crate::split::Split;
use crate::target::CONTROL;
use crate::{Error, Helper};

impl<H: Helper> Split<'_, H> {
    /// Whether undoing gives up what was written on the target.
    #[must_use]
    pub fn undo_loses_writes(&self) -> bool {
        self.is_begun(Step::Opened) && !self.is_done(Step::Undone)
    }

    /// Undoes everything but what was written on the target, which is lost to the source.
    ///
    /// # Errors
    ///
    /// When the databases are gone from the source; or [`Error`], and it can be called again.
    pub async fn undo(&mut self) -> Result<(), Error> {
        if self.is_begun(Step::SourceDropped) {
            return Err(Error::unfit(
                "the databases were dropped on the source: nothing leads back",
            ));
        }
        if self.is_done(Step::Undone) {
            return Ok(());
        }
        let promoted = self.is_begun(Step::Promoted) || self.is_done(Step::Opened);
        if promoted && self.journal.record.target.join(VERSION).exists() {
            // It may be ours without its mark, open, and written to: then the source stays closed.
            self.ensure_owned()?;
        }
        self.journal.begin_step(Step::Undone)?;
        // A data directory that somebody removed takes no writes.
        let is_there = self.owns_target();
        if promoted && is_there {
            self.close_target().await?;
        }
        if is_there {
            self.stop_target()?;
        }
        // Only now: what is stopped takes no writes.
        if self.is_begun(Step::SourceClosed) {
            self.open_source().await?;
        } else {
            self.helper.say("the databases were not touched on the source");
        }
        self.stop_relay().await?;
        self.drop_slot().await?;
        self.remove_passfiles()?;
        if promoted && is_there {
            let target = self.journal.record.target.display();
            self.helper.say(&format!(
                "the target is stopped, and its databases are closed; {target} is as it was"
            ));
        } else if promoted {
            let target = self.journal.record.target.display();
            self.helper.say(&format!(
                "the new server is not in {target} any more: wherever it is, do not let anybody write there"
            ));
        } else {
            self.remove_target()?;
        }
        self.journal.done(Step::Undone)
    }

    /// Closes the databases on the target: also for whoever starts it again later.
    async fn close_target(&mut self) -> Result<(), Error> {
        self.ensure_target().await?;
        let target = self.target(CONTROL).await?;
        if target.one("ask for the state", "select pg_is_in_recovery()", &[]).await? {
            // It was never opened, and its databases are closed as they are on the source.
            return Ok(());
        }
        end_former(&target).await?;
        allow(&target, &self.opened_before(), false).await?;
        let oids = self.journal.record.oids();
        end_sessions(self, &target, &oids, &[], END_TIMEOUT).await
    }
}
