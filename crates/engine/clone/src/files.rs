//! Files and folders, and what the operating system said of them.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use crate::{Error, Options, io};

/// Makes a folder that only its owner may enter, when it is not there.
pub(crate) fn make_folder(path: &Path, options: &Options) -> Result<(), Error> {
    if !path.is_dir() {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(io("make", path))?;
    }
    options.owner.as_ref().map_or(Ok(()), |owner| owner.give(path))
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

pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(io("move", from))
}

pub(crate) fn sync(folder: &Path) -> Result<(), Error> {
    File::open(folder).and_then(|it| it.sync_all()).map_err(io("sync", folder))
}
