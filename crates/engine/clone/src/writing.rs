//! Brings a clone to the disk while the rest of it still comes.
//!
//! `pg_basebackup` syncs what it wrote when all of it has come. Until then the kernel keeps in
//! memory what fits there, so that the disk rests first and has everything to do afterwards.
//! Here files that grew are synced meanwhile. Folders, small files and what is missed are left to
//! the program, which syncs everything in the end.
//!
//! A failure counts: the kernel reports a failed write once, and the program would not hear of
//! it any more.

use std::ffi::OsStr;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fdatasync, open, openat, statat};
use tasks::CancellationToken;
use tracing::debug;

use crate::owner::Owner;
use crate::{Error, io};

/// Between two looks, at the least.
const INTERVAL: Duration = Duration::from_millis(250);
/// The same for each file that was looked at, so that looking takes a small part of the time.
const INTERVAL_PER_FILE: Duration = Duration::from_micros(20);
/// To sync less costs more than it brings.
const FILE_BYTES_MIN: i64 = 1024 * 1024;
/// The clocks of file systems go in steps.
const CLOCK_STEP: Duration = Duration::from_millis(50);
/// Folders inside of each other; a server has four.
const DEPTH_MAX: u32 = 8;

/// No link is followed, and nothing waited for.
const FILE: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);
const FOLDER: OFlags = FILE.union(OFlags::DIRECTORY);

/// Syncs the files in `folders` as they grow, until `stop`.
///
/// # Errors
///
/// [`Error::Io`] when something could not be written: the clone is no good then.
pub(crate) async fn sync_what_grows(
    folders: Vec<PathBuf>,
    owner: Option<Owner>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let mut pause = INTERVAL;
    let mut since = Duration::ZERO;
    while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let changed = since..now + CLOCK_STEP;
        since = now.saturating_sub(CLOCK_STEP);
        let (folders, owner) = (folders.clone(), owner.clone());
        let mut look =
            Look { changed, bytes_min: FILE_BYTES_MIN, stop: stop.clone(), seen: 0, synced: 0 };
        let looked = tokio::task::spawn_blocking(move || {
            Owner::act(owner.as_ref(), || look.at_all(&folders).map(|()| look))
        });
        let look =
            looked.await.map_err(|error| io("sync", Path::new("the clone"))(error.into()))??;
        debug!(seen = look.seen, synced = look.synced, "files of the clone");
        pause = INTERVAL.max(INTERVAL_PER_FILE.saturating_mul(look.seen));
    }
    Ok(())
}

/// A look at all files.
struct Look {
    /// When what is synced was changed, since the epoch: what was changed before was synced before,
    /// and a clock that is ahead must not have it synced again and again.
    changed: Range<Duration>,
    /// What is smaller is left alone.
    bytes_min: i64,
    stop: CancellationToken,
    /// How many files and folders there were.
    seen: u32,
    synced: u32,
}

impl Look {
    fn at_all(&mut self, folders: &[PathBuf]) -> Result<(), Error> {
        for path in folders {
            // It may not be there yet.
            if let Ok(folder) = open(path, FOLDER, Mode::empty()) {
                self.at(&folder, path, DEPTH_MAX)?;
            }
        }
        Ok(())
    }

    /// What disappears meanwhile is not missed.
    fn at(&mut self, folder: &OwnedFd, path: &Path, depth: u32) -> Result<(), Error> {
        let Ok(entries) = Dir::read_from(folder) else { return Ok(()) };
        for entry in entries.map_while(Result::ok) {
            let name = entry.file_name();
            if self.stop.is_cancelled() {
                break;
            }
            let Ok(stat) = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let kind = FileType::from_raw_mode(stat.st_mode);
            self.seen = self.seen.saturating_add(1);
            let is_above = matches!(name.to_bytes(), b"." | b"..");
            let flags = match kind {
                FileType::Directory if depth > 0 && !is_above => FOLDER,
                FileType::RegularFile if self.has_grown(&stat) => FILE,
                _ => continue,
            };
            let Ok(opened) = openat(folder, name, flags, Mode::empty()) else { continue };
            let path = path.join(OsStr::from_bytes(name.to_bytes()));
            if kind == FileType::Directory {
                self.at(&opened, &path, depth - 1)?;
            } else {
                fdatasync(opened).map_err(|error| io("sync", &path)(error.into()))?;
                self.synced = self.synced.saturating_add(1);
            }
        }
        Ok(())
    }

    fn has_grown(&self, stat: &Stat) -> bool {
        let seconds = u64::try_from(stat.st_mtime).unwrap_or_default();
        let changed =
            Duration::from_secs(seconds).saturating_add(Duration::from_nanos(stat.st_mtime_nsec));
        stat.st_size >= self.bytes_min && self.changed.contains(&changed)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn look(since: Duration, bytes_min: i64) -> Look {
        let stop = CancellationToken::new();
        Look { changed: since..Duration::MAX, bytes_min, stop, seen: 0, synced: 0 }
    }

    #[test]
    fn syncs_what_is_large_and_changed_and_follows_no_link() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let inner = folder.path().join("base/5");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("large"), [0; 4096]).unwrap();
        fs::write(inner.join("small"), [0; 4095]).unwrap();
        fs::write(other.path().join("large"), [0; 4096]).unwrap();
        symlink(other.path(), inner.join("folder")).unwrap();
        symlink(other.path().join("large"), inner.join("file")).unwrap();
        let fifo =
            rustix::fs::mknodat(rustix::fs::CWD, inner.join("fifo"), FileType::Fifo, Mode::RWXU, 0);
        fifo.unwrap();
        let folders = [folder.path().to_owned(), folder.path().join("not there")];

        let mut first = look(Duration::ZERO, 4096);
        first.at_all(&folders).unwrap();
        assert_eq!(first.synced, 1);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let mut later = look(now + Duration::from_secs(60), 4096);
        later.at_all(&folders).unwrap();
        assert_eq!((later.seen, later.synced), (first.seen, 0));
        // In a tablespace's folder that is itself a link there is nothing to do either.
        let mut link = look(Duration::ZERO, 0);
        link.at_all(&[inner.join("folder")]).unwrap();
        assert_eq!((link.seen, link.synced), (0, 0));
    }

    #[test]
    fn a_file_that_cannot_be_synced_is_named() {
        // Files of the kernel cannot.
        let folder = Path::new("/proc/sys/kernel/random");
        let error = look(Duration::ZERO, 0).at_all(&[folder.to_owned()]).unwrap_err();
        assert!(error.to_string().starts_with("cannot sync /proc/sys/kernel/random/"), "{error}");
    }

    #[test]
    fn stops_between_two_files() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("large"), [0; 4096]).unwrap();
        let mut stopped = look(Duration::ZERO, 0);
        stopped.stop.cancel();
        stopped.at_all(&[folder.path().to_owned()]).unwrap();
        assert_eq!((stopped.seen, stopped.synced), (0, 0));
    }
}
