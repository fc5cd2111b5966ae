//! Files and folders, and what the operating system said of them.
//!
//! All of it happens with the rights of whoever calls it, but for folders that the owner may not
//! make or remove where they are: those are root's to make, to give away and to remove.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, fchown};
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};

use crate::owner::{Owner, existing};
use crate::{Error, io};

/// Makes a folder that only its owner may enter, when it is not there.
pub(crate) fn make_folder(path: &Path, owner: Option<&Owner>) -> Result<(), Error> {
    let made = Owner::act(owner, || make(path));
    match (made, owner) {
        // Where the owner may not write the owner cannot put anything else in its place either.
        (Err(Error::Io { source, .. }), Some(owner))
            if source.kind() == ErrorKind::PermissionDenied =>
        {
            let new: Vec<_> = path.ancestors().take_while(|it| !it.is_dir()).collect();
            for folder in new.into_iter().rev() {
                make(folder)?;
                give(folder, owner)?;
            }
            give(path, owner)
        }
        (Ok(()), Some(owner)) => give(path, owner),
        (made, _) => made,
    }
}

pub(crate) fn make(path: &Path) -> Result<(), Error> {
    if path.is_dir() {
        return Ok(());
    }
    let above = existing(path).to_owned();
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(io("make", path))?;
    // From the new folder up to the one that has the first new name.
    for folder in path.ancestors().skip(1) {
        sync_if_allowed(folder)?;
        if folder == above {
            break;
        }
    }
    Ok(())
}

/// Gives an empty folder to the owner. What is full is somebody's already.
fn give(path: &Path, owner: &Owner) -> Result<(), Error> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // A link is left as it is, and the program will say whether it may go there.
    let Ok(folder) = open(path, flags, Mode::empty()) else { return Ok(()) };
    let folder = File::from(folder);
    let about = folder.metadata().map_err(io("look at", path))?;
    if about.uid() == owner.uid {
        return Ok(());
    }
    let entries = rustix::fs::Dir::read_from(&folder);
    let mut entries = entries.map_err(|error| io("read", path)(error.into()))?;
    let is_own = |name: &std::ffi::CStr| matches!(name.to_bytes(), b"." | b"..");
    if entries.any(|it| it.is_ok_and(|it| !is_own(it.file_name()))) {
        return Ok(());
    }
    fchown(&folder, Some(owner.uid), Some(owner.gid)).map_err(io("change the owner of", path))
}

pub(crate) fn ensure_empty(path: &Path) -> Result<(), Error> {
    match fs::read_dir(path) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(Error::NotEmpty { path: path.to_owned() }),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io("read", path)(error)),
    }
}

/// Removes what is in a folder, but for one entry.
pub(crate) fn empty(path: &Path, but: Option<&str>) -> Result<(), Error> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io("read", path)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(io("read", path))?;
        if but.is_none_or(|but| entry.file_name() != but) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes a file, a link, or a folder with all that is in it.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    let is_folder = fs::symlink_metadata(path).is_ok_and(|it| it.is_dir());
    let removed = if is_folder { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Removes an empty folder, also where the owner may not.
pub(crate) fn remove_folder(path: &Path, owner: Option<&Owner>) -> Result<(), Error> {
    let remove = || match fs::remove_dir(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(io("remove", path)(error)),
        _ => Ok(()),
    };
    match Owner::act(owner, remove) {
        Err(Error::Io { source, .. })
            if source.kind() == ErrorKind::PermissionDenied && owner.is_some() =>
        {
            remove()
        }
        removed => removed,
    }
}

pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(io("move", from))
}

pub(crate) fn sync(folder: &Path) -> Result<(), Error> {
    File::open(folder).and_then(|it| it.sync_all()).map_err(io("sync", folder))
}

/// The same for a folder that one may pass through, and perhaps not read.
pub(crate) fn sync_if_allowed(folder: &Path) -> Result<(), Error> {
    match sync(folder) {
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::PermissionDenied => Ok(()),
        synced => synced,
    }
}
