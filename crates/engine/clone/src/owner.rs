//! Whose the clone will be.
//!
//! Under root the program runs as the owner, so that every file is the owner's from the
//! beginning, and what is done beside it in the owner's folders is done as the owner. Without
//! root there is nothing to choose.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use user::User;

use crate::{Error, io};

/// A user of the system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Number of the user.
    pub uid: u32,
    /// Number of the user's group.
    pub gid: u32,
    /// The home, where the password file is.
    pub home: PathBuf,
}

impl Owner {
    /// The owner for a clone in `target`: `name`, or whoever owns the target or else the first
    /// folder above it that exists. `None` without root: then it is who runs this.
    ///
    /// # Errors
    ///
    /// [`Error::Root`], [`Error::NoUser`] and [`Error::NotRoot`].
    pub fn choose(name: Option<&str>, target: &Path) -> Result<Option<Self>, Error> {
        let is_root = rustix::process::geteuid().is_root();
        let owner = match name {
            Some(name) => Self::named(name)?,
            None if !is_root => return Ok(None),
            None => {
                let place = existing(target);
                let uid = fs::metadata(place).map_err(io("look at", place))?.uid();
                Self::named(&uid.to_string())?
            }
        };
        if owner.uid == 0 {
            return Err(Error::Root);
        }
        if !is_root && owner.uid != rustix::process::geteuid().as_raw() {
            return Err(Error::NotRoot);
        }
        Ok(is_root.then_some(owner))
    }

    /// Whether this owner, or who runs this, will get passwords from a file.
    ///
    /// # Errors
    ///
    /// [`Error::Passfile`]
    pub fn check_passfile(owner: Option<&Self>, path: &Path) -> Result<(), Error> {
        let uid = owner.map_or_else(|| rustix::process::geteuid().as_raw(), |owner| owner.uid);
        Ok(pgnet::passfile::check(path, uid)?)
    }

    /// `getent` knows the users of directories, too, which `/etc/passwd` does not.
    fn named(name: &str) -> Result<Self, Error> {
        let missing = || Error::NoUser { name: name.to_owned() };
        let output = Command::new("getent").args(["passwd", name]).stdin(Stdio::null()).output();
        let output = output.map_err(io("run", Path::new("getent")))?;
        let line = String::from_utf8_lossy(&output.stdout).into_owned();
        let fields: Vec<_> = line.trim_end().split(':').collect();
        let [_, _, uid, gid, _, home, ..] = fields.as_slice() else { return Err(missing()) };
        let (Ok(uid), Ok(gid)) = (uid.parse(), gid.parse()) else { return Err(missing()) };
        Ok(Self { uid, gid, home: home.into() })
    }

    /// Does `work` as `owner`; as who runs this when there is none.
    pub(crate) fn act<T: Send>(
        owner: Option<&Self>,
        work: impl FnOnce() -> Result<T, Error> + Send,
    ) -> Result<T, Error> {
        let user = owner.map(|it| User { uid: it.uid, gid: it.gid });
        let acted = user::act(user, work);
        acted.map_err(|source| Error::Act { uid: user.map_or(0, |it| it.uid), source })?
    }
}

/// `path`, or the first folder above it that exists.
pub(crate) fn existing(path: &Path) -> &Path {
    let exists = |path: &&Path| path.exists() && !path.as_os_str().is_empty();
    path.ancestors().find(exists).unwrap_or(Path::new("."))
}
