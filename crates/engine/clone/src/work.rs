//! A clone while it is being made.
//!
//! Everything happens in the folder `.pgherd-clone` inside the target, so that it is on the
//! target's own file system. In the end its contents move up, `PG_VERSION` last: until then no
//! server takes the target for a data directory. The journal says what there is to remove.
//!
//! The folder is the owner's, who may write into the journal what he likes: so what it says is
//! done as the owner, too.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use state::Document;
use tracing::{debug, info, warn};

use crate::backup::drop_slot;
use crate::files::{
    empty, ensure_empty, make, make_folder, remove, remove_folder, rename, sync, sync_if_allowed,
};
use crate::owner::Owner;
use crate::{Error, Options, io};

/// The folder of the work.
const FOLDER: &str = ".pgherd-clone";
/// What makes a folder a data directory.
const VERSION: &str = "PG_VERSION";
/// A program that was killed needs a moment to end.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// A server needs a moment to notice that the client of a slot is gone.
const SLOT_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two tries.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// What a clone has made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Made {
    /// The target was made too.
    target: bool,
    /// Folders of tablespaces that were made.
    folders: Vec<PathBuf>,
    /// Folders of tablespaces that were there, and empty.
    emptied: Vec<PathBuf>,
    /// The slot, from the moment at which it may be there.
    slot: Option<String>,
}

/// The slot that a clone into `target` has or may have made before it was killed; the next one
/// drops it.
#[must_use]
pub fn slot_left_behind(target: &Path, owner: Option<&Owner>) -> Option<String> {
    left_behind(target, owner)?.slot
}

/// Whether a clone may go into `target`.
///
/// # Errors
///
/// [`Error::NotEmpty`], unless what is there was left behind by an earlier clone.
pub fn ensure_free(target: &Path) -> Result<(), Error> {
    if is_left(target) { Ok(()) } else { ensure_empty(target) }
}

/// Whether a tablespace of a clone into `target` may go into `place`.
///
/// # Errors
///
/// As [`ensure_free`].
pub fn ensure_place_free(target: &Path, place: &Path, owner: Option<&Owner>) -> Result<(), Error> {
    let left = left_behind(target, owner).unwrap_or_default();
    if left.folders.iter().chain(&left.emptied).any(|it| it == place) {
        return Ok(());
    }
    ensure_empty(place)
}

/// Whether `target` has the work of a clone that was killed.
fn is_left(target: &Path) -> bool {
    target.join(FOLDER).is_dir() && !target.join(VERSION).exists()
}

fn left_behind(target: &Path, owner: Option<&Owner>) -> Option<Made> {
    load(&Document::new(target.join(FOLDER).join("journal")), owner).ok()?
}

fn load(journal: &Document, owner: Option<&Owner>) -> Result<Option<Made>, Error> {
    let text = Owner::act(owner, || Ok(journal.load()?))?;
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
}

/// A clone that is being made.
#[derive(Debug)]
pub(crate) struct Work {
    target: PathBuf,
    owner: Option<Owner>,
    slot: Option<String>,
    /// Held by whoever makes the clone.
    _own: File,
    /// Held by the program and its processes as well, as their input: so they are found.
    shared: File,
    journal: Document,
    made: Made,
}

impl Work {
    /// Begins a clone; removes what an earlier one left behind.
    pub(crate) async fn begin(options: &Options) -> Result<Self, Error> {
        let target = options.target.clone();
        let owner = options.owner.clone();
        let folder = target.join(FOLDER);
        let is_left = is_left(&target);
        let is_new = !target.exists();
        ensure_free(&target)?;
        make_folder(&target, owner.as_ref())?;
        if let Err(error) = Owner::act(owner.as_ref(), || make(&folder)) {
            if is_new {
                // As far as it is empty, which is all that it can be.
                remove_folder(&target, owner.as_ref()).ok();
            }
            return Err(error);
        }
        let Some(own) = Owner::act(owner.as_ref(), || try_lock(&folder.join("lock")))? else {
            return Err(Error::Busy { path: target });
        };
        let shared = take_over(&folder.join("input"), &target, owner.as_ref()).await?;
        let journal = Document::new(folder.join("journal"));
        let made = load(&journal, owner.as_ref())?.unwrap_or_default();
        let is_ours = is_new || made.target;
        let slot = options.slot.clone();
        let mut work = Self { target, owner, slot, _own: own, shared, journal, made };
        if is_left {
            info!(folder = %work.target.display(), "removing what an earlier clone left behind");
            work.clear(options).await?;
        }
        work.made = Made { target: is_ours, ..Made::default() };
        work.save()?;
        if let Err(error) = work.claim(options) {
            work.abandon(options).await;
            return Err(error);
        }
        Ok(work)
    }

    /// Where the backup goes.
    pub(crate) fn data(&self) -> PathBuf {
        self.target.join(FOLDER).join("data")
    }

    /// All folders that the backup goes to.
    pub(crate) fn folders(&self, options: &Options) -> Vec<PathBuf> {
        let mapped = options.mapping.iter().map(|(_, to)| to);
        mapped.chain(&options.unmapped).cloned().chain([self.data()]).collect()
    }

    /// The input of the program: an empty file that marks it as ours.
    pub(crate) fn input(&self) -> Result<Stdio, Error> {
        Ok(self.shared.try_clone().map_err(io("share the lock of", &self.target))?.into())
    }

    /// Ends what is left of a program that ended badly: `pg_basebackup` does not take the
    /// process along that receives its WAL, and that process does not notice.
    pub(crate) fn end_program(&self) {
        end_holders(&self.target.join(FOLDER).join("input"), self.owner.as_ref());
    }

    /// Notes that the slot is ours to drop: before it is made, so that a kill in between does
    /// not leave it behind. Whoever planned the clone has seen that nobody else has one so named.
    pub(crate) fn slot_may_be_made(&mut self) -> Result<(), Error> {
        self.made.slot.clone_from(&self.slot);
        self.save()
    }

    /// The program ended without making the slot: one of that name is somebody else's.
    pub(crate) fn slot_was_not_made(&mut self) {
        self.made.slot = None;
        // What ended the program is what counts, a full disk perhaps.
        if let Err(error) = self.save() {
            debug!(%error, "the journal still names the slot");
        }
    }

    /// The clone is whole: makes it a data directory.
    pub(crate) fn finish(&self) -> Result<(), Error> {
        Owner::act(self.owner.as_ref(), || self.move_up())?;
        let data = self.data();
        Owner::act(self.owner.as_ref(), || {
            rename(&data.join(VERSION), &self.target.join(VERSION))
        })?;
        // From here on the clone is good, and may run: nothing takes it back.
        let folder = self.target.join(FOLDER);
        let settled = Owner::act(self.owner.as_ref(), || {
            sync(&self.target)?;
            remove(&folder)
        });
        if let Err(error) = settled {
            warn!(%error, folder = %folder.display(), "the clone is whole, but for this");
        }
        Ok(())
    }

    /// All but what makes it a data directory.
    fn move_up(&self) -> Result<(), Error> {
        let data = self.data();
        // The program has synced all of it but what was written since.
        sync(&data)?;
        for entry in fs::read_dir(&data).map_err(io("read", &data))? {
            let entry = entry.map_err(io("read", &data))?;
            if entry.file_name() != VERSION {
                rename(&entry.path(), &self.target.join(entry.file_name()))?;
            }
        }
        let mode = fs::metadata(&data).map_err(io("look at", &data))?.permissions().mode();
        fs::set_permissions(&self.target, fs::Permissions::from_mode(mode))
            .map_err(io("change the mode of", &self.target))?;
        sync(&self.target)?;
        self.target.parent().map_or(Ok(()), sync_if_allowed)
    }

    /// Removes everything again.
    pub(crate) async fn abandon(&mut self, options: &Options) {
        let removed = match self.clear(options).await {
            Ok(()) => self.remove_folders(),
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            let target = self.target.display();
            warn!(%error, "something of the clone is left; the next clone into {target} removes it");
        }
    }

    fn remove_folders(&self) -> Result<(), Error> {
        let folder = self.target.join(FOLDER);
        Owner::act(self.owner.as_ref(), || remove(&folder))?;
        if self.made.target { remove_folder(&self.target, self.owner.as_ref()) } else { Ok(()) }
    }

    /// Removes what was made, but for the folder of the work and its journal. The slot above all:
    /// it would keep WAL on the server, whatever is wrong here.
    async fn clear(&mut self, options: &Options) -> Result<(), Error> {
        let removed = self.made.remove(&self.target, self.owner.as_ref());
        if let Some(slot) = self.made.slot.clone() {
            self.drop_slot(options, &slot).await?;
            self.made.slot = None;
        }
        removed.and(self.save())
    }

    async fn drop_slot(&self, options: &Options, slot: &str) -> Result<(), Error> {
        let started = Instant::now();
        loop {
            match drop_slot(options, slot).await {
                Err(error) if started.elapsed() > SLOT_TIMEOUT => {
                    warn!(
                        slot,
                        "the slot of the clone may still be there, and keep WAL: \
                         pg_drop_replication_slot on the server drops it"
                    );
                    return Err(error);
                }
                Err(_may_be_in_use) => tokio::time::sleep(RETRY_INTERVAL).await,
                Ok(()) => return Ok(()),
            }
        }
    }

    /// Makes sure that tablespaces have empty folders, which then are ours.
    fn claim(&mut self, options: &Options) -> Result<(), Error> {
        let mapped = options.mapping.iter().map(|(_, to)| to);
        for path in mapped.chain(&options.unmapped) {
            ensure_empty(path)?;
            if path.exists() {
                self.made.emptied.push(path.clone());
            } else {
                self.made.folders.push(path.clone());
            }
        }
        // Before they are touched.
        self.save()?;
        for path in self.made.folders.iter().chain(&self.made.emptied) {
            make_folder(path, self.owner.as_ref())?;
        }
        Ok(())
    }

    fn save(&self) -> Result<(), Error> {
        // Paths that are not UTF-8.
        let text = serde_json::to_string(&self.made);
        let text = text.map_err(|error| io("write down", &self.target)(error.into()))?;
        Owner::act(self.owner.as_ref(), || Ok(self.journal.save(&text)?))
    }
}

impl Made {
    /// Removes all files, but for the folder of the work and its journal.
    fn remove(&self, target: &Path, owner: Option<&Owner>) -> Result<(), Error> {
        Owner::act(owner, || {
            for path in self.folders.iter().chain(&self.emptied) {
                empty(path, None)?;
            }
            // Without it no server takes what is left for a data directory.
            remove(&target.join(VERSION))?;
            empty(target, Some(FOLDER))?;
            remove(&target.join(FOLDER).join("data"))
        })?;
        self.folders.iter().try_for_each(|path| remove_folder(path, owner))
    }
}

/// Removes what an interrupted clone into `target` with the slot `slot` left behind, but for the
/// slot itself. What is not such a thing stays. The files are those of `owner`.
///
/// # Errors
///
/// [`Error::Busy`] when the clone is under way; [`Error::Io`].
pub fn discard(target: &Path, slot: &str, owner: Option<&Owner>) -> Result<(), Error> {
    let folder = target.join(FOLDER);
    if !is_left(target) {
        return Ok(());
    }
    let Some(_own) = Owner::act(owner, || try_lock(&folder.join("lock")))? else {
        return Err(Error::Busy { path: target.to_owned() });
    };
    end_holders(&folder.join("input"), owner);
    let Some(made) = load(&Document::new(folder.join("journal")), owner)? else {
        return Ok(());
    };
    if made.slot.as_deref().is_some_and(|made| made != slot) {
        return Ok(());
    }
    made.remove(target, owner)?;
    Owner::act(owner, || remove(&folder))?;
    if made.target { remove_folder(target, owner) } else { Ok(()) }
}

/// Takes a lock that ends with the process; `None` when somebody has it.
fn try_lock(path: &Path) -> Result<Option<File>, Error> {
    let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path);
    let file = file.map_err(io("open", path))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(io("lock", path)(error)),
    }
}

/// Takes the lock that a clone shares with its program. The clone is dead, so its program has
/// to go as well.
async fn take_over(path: &Path, target: &Path, owner: Option<&Owner>) -> Result<File, Error> {
    let started = Instant::now();
    loop {
        if let Some(file) = Owner::act(owner, || try_lock(path))? {
            return Ok(file);
        }
        if started.elapsed() > LOCK_TIMEOUT {
            return Err(Error::Busy { path: target.to_owned() });
        }
        end_holders(path, owner);
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

/// Kills the processes whose input is the file at `path`: no others have it. Of processes that are
/// not the owner's it kills none, whatever somebody has put there.
fn end_holders(path: &Path, owner: Option<&Owner>) {
    let ended = Owner::act(owner, || {
        let path = fs::canonicalize(path).map_err(io("find", path))?;
        for process in fs::read_dir("/proc").map_err(io("read", Path::new("/proc")))?.flatten() {
            let id = process.file_name().to_str().and_then(|id| id.parse().ok());
            let input = fs::read_link(process.path().join("fd/0"));
            if let Some(id) = id.and_then(Pid::from_raw)
                && input.is_ok_and(|input| input == path)
            {
                info!(process = id.as_raw_nonzero().get(), "ending a program that lost its clone");
                // It may just have ended.
                kill_process(id, Signal::KILL).ok();
            }
        }
        Ok(())
    });
    if let Err(error) = ended {
        debug!(%error, "nobody was looked for who lost a clone");
    }
}
