//! What of the new machine belongs to this split, and what only lies where it was meant to be.
//!
//! A folder can be somebody else's by the time that it is looked at: a clone that never came
//! about, a second split into the same place, a server that was moved away. So the target has a
//! mark, a setting that means nothing to PostgreSQL, from the clone on; and only what has it is
//! started, stopped or removed.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::io;
use crate::journal::remove;
use crate::record::Record;
use crate::server::Session;
use crate::split::Split;
use crate::target::CONTROL;
use crate::{CloneFailure, Error, Helper, Owner, sql};

/// The setting that has the split's id.
pub(crate) const MARK: &str = "pgherd.split";
/// The last thing that a clone makes, when all else is there.
pub(crate) const VERSION: &str = "PG_VERSION";

impl<H: Helper> Split<'_, H> {
    /// Whether a whole data directory is in place, and it is ours.
    pub(crate) fn owns_target(&self) -> bool {
        let record = &self.journal.record;
        let mark = sql::setting(&record.id);
        let path = record.target.join("postgresql.auto.conf");
        let text = Owner::act(record.owner.as_ref(), || {
            fs::read_to_string(&path).map_err(io("read", &path))
        });
        let is_mark = |line: &str| {
            line.split_once('=')
                .is_some_and(|(name, value)| name.trim() == MARK && value.trim() == mark)
        };
        record.target.join(VERSION).exists() && text.is_ok_and(|text| text.lines().any(is_mark))
    }

    pub(crate) fn ensure_owned(&self) -> Result<(), Error> {
        if self.owns_target() {
            return Ok(());
        }
        let target = self.journal.record.target.display();
        let mark = sql::setting(&self.journal.record.id);
        Err(Error::unfit(format!(
            "what is in {target} is not the server that this split made, or its line {MARK} = {mark} in \
             postgresql.auto.conf was removed"
        )))
    }

    /// A session on the target, when it is the server that this split made, and promoted.
    pub(crate) async fn own_target(&self) -> Result<Session, Error> {
        let target = self.target(CONTROL).await?;
        let mark = "select coalesce(current_setting($1::text, true), '')";
        let found: String = target.one("look for the mark", mark, &[&MARK]).await?;
        if found != self.journal.record.id {
            return Err(Error::unfit("another server is where the new one was"));
        }
        let standby = "select pg_is_in_recovery()";
        if target.one("ask for the state", standby, &[]).await? {
            return Err(Error::unfit("the new server is a standby"));
        }
        Ok(target)
    }

    /// The new server has every moved database still, and lets somebody in where it did.
    pub(crate) async fn ensure_target_has_them(&self) -> Result<(), Error> {
        let target = self.own_target().await?;
        let known = "select datname::text, datallowconn from pg_database where oid = $1";
        for database in &self.journal.record.databases {
            let rows = target.rows("look for a database", known, &[&database.oid]).await?;
            let Some(row) = rows.first() else {
                let name = &database.name;
                return Err(Error::unfit(format!("database {name} is not on the new server")));
            };
            if target.value(row, 1)? {
                self.target(&target.value::<String>(row, 0)?).await?;
            }
        }
        Ok(())
    }

    /// Removes a target that never was a server of its own, and tells what was removed.
    pub(crate) fn remove_target(&self) -> Result<(), Error> {
        let record = &self.journal.record;
        let target = &record.target;
        let discarded = self.helper.discard(target, &record.slot, record.owner.as_ref());
        discarded.map_err(|failure| match failure {
            CloneFailure::Stopped => Error::Stopped,
            CloneFailure::Failed(reason) => Error::Clone(reason),
        })?;
        if !self.owns_target() {
            let is_there = fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_some());
            if is_there {
                let target = target.display();
                self.helper.say(&format!("{target} is not what this split made: left alone"));
            }
            return Ok(());
        }
        let owner = record.owner.as_ref();
        for place in Owner::act(owner, || tablespaces(record))? {
            Owner::act(owner, || {
                // `TABLESPACE_VERSION_DIRECTORY` (`relpath.h`); nothing else is a server's.
                let is_ours = |it: &&OsStr| it.as_encoded_bytes().starts_with(b"PG_");
                let folders = entries(&place)?;
                let folders = folders.iter().filter(|it| it.file_name().filter(is_ours).is_some());
                folders.into_iter().try_for_each(|folder| remove(folder))
            })?;
            // Not when somebody has something there.
            fs::remove_dir(&place).ok();
            self.helper.say(&format!("removed what was in {}", place.display()));
        }
        Owner::act(owner, || entries(target)?.iter().try_for_each(|entry| remove(entry)))?;
        // It may have been there before, as a mount point.
        fs::remove_dir(target).ok();
        self.helper.say(&format!("removed {}", target.display()));
        Ok(())
    }
}

/// Where the target's tablespaces are.
fn tablespaces(record: &Record) -> Result<Vec<PathBuf>, Error> {
    let places = record.mapping.iter().map(|(_, new)| new).chain(&record.unmapped);
    let places: Vec<_> = places.collect();
    let links = entries(&record.target.join("pg_tblspc"))?;
    let led_to = links.iter().filter_map(|link| fs::read_link(link).ok());
    Ok(led_to.filter(|place| places.contains(&place)).collect())
}

/// The paths in a folder; none when it is not there.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io("read", folder)(error)),
    };
    entries.map(|entry| Ok(entry.map_err(io("read", folder))?.path())).collect()
}
