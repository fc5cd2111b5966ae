//! A plain file that is replaced as a whole, in a folder that may be somebody else's.
//!
//! Under root this is written into folders of other users. Whoever owns the folder can put a link
//! there, and root would write through it: so what is written is always a new file, made where
//! there is none, and takes the place of what was there, be that a link.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, fchown};
use std::path::Path;

use crate::{Error, io};

/// Replaces the file at `path`; durable when this returns, and never half written. Only its owner
/// can read it: user and group `owner`, or else who runs this.
///
/// # Errors
///
/// [`Error::Io`]; what was there is still there then.
pub fn replace(path: &Path, bytes: &[u8], owner: Option<(u32, u32)>) -> Result<(), Error> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".pgherd-new");
    let aside = Path::new(&aside);
    match fs::remove_file(aside) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(io("remove", aside)(error));
        }
        _ => {}
    }
    let write = || {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(aside)?;
        if let Some((user, group)) = owner {
            fchown(&file, Some(user), Some(group))?;
        }
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(io("write", aside))?;
    fs::rename(aside, path).map_err(io("replace", path))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io("sync", folder))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_link_is_replaced_and_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let precious = folder.path().join("precious");
        fs::write(&precious, "precious").unwrap();
        for name in ["file", "file.pgherd-new"] {
            symlink(&precious, folder.path().join(name)).unwrap();
        }
        let file = folder.path().join("file");
        replace(&file, b"new", None).unwrap();
        replace(&file, b"newer", None).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "newer");
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
        let about = fs::symlink_metadata(&file).unwrap();
        assert!(about.is_file() && about.permissions().mode() & 0o777 == 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
