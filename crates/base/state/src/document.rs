//! A file that is replaced as a whole: written aside, synced, renamed, folder synced.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::{Error, io, replace, seal, unseal};

/// One checksummed text.
#[derive(Clone, Debug)]
pub struct Document {
    path: PathBuf,
}

impl Document {
    /// The document at `path`; nothing is read yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the text; `None` when there is no such file.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] when the checksum is wrong, [`Error::Io`] when it cannot be read.
    pub fn load(&self) -> Result<Option<String>, Error> {
        let sealed = match fs::read_to_string(&self.path) {
            Ok(sealed) => sealed,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io("read", &self.path)(error)),
        };
        match unseal(sealed.trim_end_matches('\n')) {
            Some(text) => Ok(Some(text.to_owned())),
            None => Err(Error::Damaged {
                path: self.path.clone(),
                reason: "its checksum does not fit its content",
            }),
        }
    }

    /// Replaces the text; durable when this returns, and never half written.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; the old text is still there then.
    pub fn save(&self, text: &str) -> Result<(), Error> {
        replace(&self.path, format!("{}\n", seal(text)).as_bytes(), None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_back_what_was_saved_last() {
        let folder = tempfile::tempdir().unwrap();
        let document = Document::new(folder.path().join("fates"));
        assert_eq!(document.load().unwrap(), None);
        document.save("one").unwrap();
        document.save("{\"two\": \"\\n\"}").unwrap();
        assert_eq!(document.load().unwrap().unwrap(), "{\"two\": \"\\n\"}");
    }

    #[test]
    fn a_flipped_bit_or_a_cut_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let document = Document::new(folder.path().join("fates"));
        document.save("a text of some length").unwrap();
        let whole = fs::read(document.path()).unwrap();
        for cut in 0..whole.len() - 1 {
            fs::write(document.path(), &whole[..cut]).unwrap();
            assert!(matches!(document.load(), Err(Error::Damaged { .. })), "cut at {cut}");
        }
        let mut flipped = whole.clone();
        flipped[20] ^= 1;
        fs::write(document.path(), &flipped).unwrap();
        assert!(matches!(document.load(), Err(Error::Damaged { .. })));
    }
}
