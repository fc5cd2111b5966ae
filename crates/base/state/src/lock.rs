//! A lock that one process holds; the kernel gives it back when that process ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::PathBuf;

use crate::{Error, io};

/// Held while it lives.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock at `path`, without waiting.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] when somebody holds it, [`Error::Io`] when the file cannot be made.
    pub fn take(path: PathBuf) -> Result<Self, Error> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(io("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(Error::Locked { path }),
            Err(TryLockError::Error(error)) => Err(io("lock", &path)(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = Lock::take(path.clone()).unwrap();
        assert!(matches!(Lock::take(path.clone()), Err(Error::Locked { .. })));
        drop(held);
        Lock::take(path).unwrap();
    }
}
