//! Back to where it began: the databases are the source's again.
//!
//! Before the promotion nothing was written on the target, so it is removed. Later, somebody may
//! have written there: the databases are closed on it first, it is stopped and kept.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use crate::close::{END_TIMEOUT, allow, end_former, end_sessions};
use crate::error::io;
use crate::journal::{Step, remove};
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
        self.journal.begin_step(Step::Undone)?;
        // A data directory that somebody removed takes no writes.
        let is_gone = !self.journal.record.target.join("PG_VERSION").exists();
        if promoted && !is_gone {
            self.close_target().await?;
        }
        self.stop_target()?;
        // Only now: what is stopped takes no writes.
        self.open_source().await?;
        self.helper.say("the databases are open on the source");
        self.stop_relay().await?;
        self.drop_slot().await?;
        self.remove_passfiles()?;
        let target = self.journal.record.target.clone();
        if promoted {
            let target = target.display();
            self.helper.say(&format!(
                "the target is stopped, and its databases are closed; {target} is as it was"
            ));
        } else {
            self.remove_target()?;
            self.helper.say(&format!("removed {}", target.display()));
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

    /// Removes a target that never was a server of its own.
    fn remove_target(&self) -> Result<(), Error> {
        let record = &self.journal.record;
        // Nothing was in these folders before.
        let places = record.mapping.iter().map(|(_, new)| new).chain(&record.unmapped);
        if !self.is_begun(Step::Cloned) {
            return Ok(());
        }
        for path in places.chain([&record.target]) {
            empty(path)?;
            // It may have been there before, as a mount point.
            fs::remove_dir(path).ok();
        }
        Ok(())
    }
}

/// Removes what is in a folder.
fn empty(path: &Path) -> Result<(), Error> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io("read", path)(error)),
    };
    for entry in entries {
        remove(&entry.map_err(io("read", path))?.path())?;
    }
    Ok(())
}
