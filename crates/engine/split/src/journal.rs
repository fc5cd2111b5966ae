//! What was decided and what was done, so that another process can continue.
//!
//! One [`state::Document`], replaced at each change. What undoing needs is written before it is
//! done. Nothing here is a guess: what can be looked up on a server or in a folder is looked up.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;
use state::{Document, Lock};

use crate::Error;
use crate::error::io;
use crate::record::FORMAT;

pub use crate::record::{Database, Record, Step};

/// The folder of all splits, in the state folder.
const FOLDER: &str = "split";
const FILE: &str = "journal";
const LOCK: &str = "lock";
/// The relay's own state.
pub(crate) const RELAY_STATE: &str = "relay";
/// What it prints.
pub(crate) const RELAY_LOG: &str = "relay.log";

/// The journal of one split, which this process alone may change.
#[derive(Debug)]
pub(crate) struct Journal {
    pub(crate) folder: PathBuf,
    pub(crate) record: Record,
    document: Document,
    _lock: Lock,
}

impl Journal {
    /// Begins a split under `name`.
    pub(crate) fn begin(state_dir: &Path, name: &str, record: Record) -> Result<Self, Error> {
        let folder = folder_of(state_dir, name);
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&folder).map_err(io("make", &folder))?;
        let lock = take_lock(&folder)?;
        // What an undone split of this name left: its relay decided for other databases.
        for left in [RELAY_STATE, RELAY_LOG] {
            remove(&folder.join(left))?;
        }
        let document = Document::new(folder.join(FILE));
        let mut journal = Self { folder, record, document, _lock: lock };
        journal.done(Step::Planned)?;
        Ok(journal)
    }

    /// Continues the split of this name; `None` when there is none.
    pub(crate) fn open(state_dir: &Path, name: &str) -> Result<Option<Self>, Error> {
        let folder = folder_of(state_dir, name);
        if !folder.is_dir() {
            return Ok(None);
        }
        let lock = take_lock(&folder)?;
        let document = Document::new(folder.join(FILE));
        let Some(record) = read(&document)? else { return Ok(None) };
        Ok(Some(Self { folder, record, document, _lock: lock }))
    }

    /// Writes that a step begins.
    pub(crate) fn begin_step(&mut self, step: Step) -> Result<(), Error> {
        let is_new = self.record.begun.insert(step);
        if let Err(error) = self.save() {
            // What is written later must not tell of a step that was not taken.
            if is_new {
                self.record.begun.remove(&step);
            }
            return Err(error);
        }
        fail_point("begun", step);
        Ok(())
    }

    /// Writes that a step is done.
    pub(crate) fn done(&mut self, step: Step) -> Result<(), Error> {
        fail_point("doing", step);
        self.record.begun.insert(step);
        self.record.done.insert(step);
        self.save()?;
        fail_point("done", step);
        Ok(())
    }

    /// Writes that the cut did not happen: the databases are open on the source.
    ///
    /// That the promotion began may be on the disk, though writing it failed.
    pub(crate) fn took_back(&mut self) -> Result<(), Error> {
        for step in [Step::SourceClosed, Step::Drained, Step::Promoted] {
            self.record.begun.remove(&step);
            self.record.done.remove(&step);
        }
        self.record.closed_at_millis = None;
        self.record.closer = None;
        self.record.closed.clear();
        self.record.cut = None;
        self.save()
    }

    pub(crate) fn save(&self) -> Result<(), Error> {
        let text = serde_json::to_string(&self.record);
        // Paths that are not UTF-8.
        let text = text.map_err(|error| Error::unfit(format!("the journal: {error}")))?;
        Ok(self.document.save(&text)?)
    }
}

fn take_lock(folder: &Path) -> Result<Lock, Error> {
    Lock::take(folder.join(LOCK)).map_err(|error| match error {
        state::Error::Locked { .. } => Error::unfit("another pgherd works on this split"),
        error => error.into(),
    })
}

fn read(document: &Document) -> Result<Option<Record>, Error> {
    let Some(text) = document.load()? else { return Ok(None) };
    let format = |reason: String| Error::Format { path: document.path().to_owned(), reason };
    let tree: Value = serde_json::from_str(&text).map_err(|error| format(error.to_string()))?;
    // First of all: the rest has another form then.
    let found = tree.get("format").and_then(Value::as_u64).unwrap_or_default();
    if found != u64::from(FORMAT) {
        return Err(format(format!(
            "it has form {found}, and this one knows {FORMAT}; end the split with the version that began it"
        )));
    }
    serde_json::from_value(tree).map(Some).map_err(|error| format(error.to_string()))
}

/// Removes a file, or a folder with all that is in it.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(io("remove", path)(error)),
        _ => Ok(()),
    }
}

fn folder_of(state_dir: &Path, name: &str) -> PathBuf {
    state_dir.join(FOLDER).join(name)
}

/// The names of the splits in a state folder.
///
/// # Errors
///
/// [`Error::Io`]
pub fn names_in(state_dir: &Path) -> Result<Vec<String>, Error> {
    let folder = state_dir.join(FOLDER);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io("read", &folder)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io("read", &folder))?;
        if entry.path().join(FILE).exists() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// What is written of a split, without taking its lock: for a look only.
///
/// # Errors
///
/// [`Error::State`] and [`Error::Format`].
pub fn summary(state_dir: &Path, name: &str) -> Result<Option<Record>, Error> {
    read(&Document::new(folder_of(state_dir, name).join(FILE)))
}

/// Kills this process at a step, for tests of continuing: `PGHERD_SPLIT_KILL=begun:promoted`.
/// Not in optimised builds.
#[cfg(debug_assertions)]
pub(crate) fn fail_point(when: &str, step: Step) {
    let at = format!("{when}:{}", step.name());
    if std::env::var("PGHERD_SPLIT_KILL").is_ok_and(|wanted| wanted == at) {
        let itself = rustix::process::getpid();
        rustix::process::kill_process(itself, rustix::process::Signal::KILL).ok();
        // It arrives at the latest when this call returns.
        std::thread::park();
    }
}

#[cfg(not(debug_assertions))]
pub(crate) const fn fail_point(_when: &str, _step: Step) {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::example;

    fn record() -> Record {
        let databases = vec![Database { oid: 5, name: "a\"b'ü ".into(), open: true }];
        Record { databases, ..example() }
    }

    #[test]
    fn steps_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::begin(folder.path(), "x", record()).unwrap();
        journal.begin_step(Step::SourceClosed).unwrap();
        assert!(Journal::open(folder.path(), "x").is_err(), "the lock is held");
        let kept = journal.record.clone();
        drop(journal);
        let mut journal = Journal::open(folder.path(), "x").unwrap().unwrap();
        assert_eq!(journal.record, kept);
        assert!(kept.is_begun(Step::SourceClosed) && !kept.is_done(Step::SourceClosed));
        journal.done(Step::SourceClosed).unwrap();
        journal.took_back().unwrap();
        let seen = summary(folder.path(), "x").unwrap().unwrap();
        assert_eq!(seen.last(), Some(Step::Planned));
        assert!(!seen.is_begun(Step::SourceClosed));
        assert_eq!(names_in(folder.path()).unwrap(), ["x"]);
        assert!(Journal::open(folder.path(), "y").unwrap().is_none());
    }

    #[test]
    fn a_step_that_cannot_be_written_is_not_begun() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::begin(folder.path(), "x", record()).unwrap();
        journal.begin_step(Step::SourceClosed).unwrap();
        fs::rename(&journal.folder, folder.path().join("away")).unwrap();
        journal.begin_step(Step::Promoted).unwrap_err();
        journal.begin_step(Step::SourceClosed).unwrap_err();
        assert!(!journal.record.is_begun(Step::Promoted));
        assert!(journal.record.is_begun(Step::SourceClosed), "it was begun before");
        fs::rename(folder.path().join("away"), &journal.folder).unwrap();
        journal.took_back().unwrap();
        let seen = summary(folder.path(), "x").unwrap().unwrap();
        assert!(!seen.is_begun(Step::SourceClosed) && !seen.is_begun(Step::Promoted));
    }
}
