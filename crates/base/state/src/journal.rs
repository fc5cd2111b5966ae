//! A file of lines that only grows, until it is written anew with what still matters.
//!
//! Lines are handed to the operating system before [`Journal::append`] returns, so they
//! outlive the process; they are not synced, so a crash of the machine may lose the last
//! ones. Use it for what can be worked out again.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;

use crate::{Error, io, seal, unseal};

/// A file of checksummed lines, open for appending.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    /// Length of the lines that were written whole.
    sound_bytes: u64,
}

impl Journal {
    /// Opens the journal and gives its sound lines, oldest first.
    ///
    /// A damaged line ends the reading: what follows it is dropped, since a crash can only
    /// tear the end.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the file cannot be read or written.
    pub fn open(path: PathBuf) -> Result<(Self, Vec<String>), Error> {
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(io("read", &path)(error)),
        };
        let mut lines = Vec::new();
        let mut sound_bytes = 0;
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let text = line.strip_suffix(b"\n").and_then(|line| str::from_utf8(line).ok());
            let Some(text) = text.and_then(unseal) else { break };
            lines.push(text.to_owned());
            sound_bytes += line.len();
        }
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let file = file.map_err(io("open", &path))?;
        let torn = sound_bytes < bytes.len();
        let sound_bytes = u64::try_from(sound_bytes).unwrap_or(0);
        if torn {
            file.set_len(sound_bytes).map_err(io("cut the torn end of", &path))?;
        }
        Ok((Self { path, file, sound_bytes }, lines))
    }

    /// Adds a line; `text` has no line break.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it could not be written; a part that was, as on a disk that got full,
    /// is taken back, so that it does not spoil the next line.
    pub fn append(&mut self, text: &str) -> Result<(), Error> {
        let line = format!("{}\n", seal(text));
        if let Err(error) = self.file.write_all(line.as_bytes()) {
            // If that fails as well, opening the journal cuts it off.
            self.file.set_len(self.sound_bytes).ok();
            return Err(io("append to", &self.path)(error));
        }
        self.sound_bytes += line.len() as u64;
        Ok(())
    }

    /// Replaces everything by `lines`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; the old lines are still there then.
    pub fn rewrite<'a>(&mut self, lines: impl Iterator<Item = &'a str>) -> Result<(), Error> {
        let aside = self.path.with_extension("new");
        let text: String = lines.map(|line| format!("{}\n", seal(line))).collect();
        fs::write(&aside, &text).map_err(io("write", &aside))?;
        let file = OpenOptions::new().append(true).open(&aside).map_err(io("open", &aside))?;
        fs::rename(&aside, &self.path).map_err(io("replace", &self.path))?;
        self.file = file;
        self.sound_bytes = text.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_end_is_dropped_and_appending_goes_on_behind_the_sound_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spans");
        let (mut journal, lines) = Journal::open(path.clone()).unwrap();
        assert!(lines.is_empty());
        journal.append("one").unwrap();
        journal.append("two").unwrap();
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 3]).unwrap();
        let (mut journal, lines) = Journal::open(path.clone()).unwrap();
        assert_eq!(lines, ["one"]);
        journal.append("three").unwrap();
        assert_eq!(Journal::open(path.clone()).unwrap().1, ["one", "three"]);
        journal.rewrite(["three"].into_iter()).unwrap();
        journal.append("four").unwrap();
        assert_eq!(Journal::open(path).unwrap().1, ["three", "four"]);
    }
}
