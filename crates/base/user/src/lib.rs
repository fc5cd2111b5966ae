//! Does things as another user of the system.
//!
//! Under root the files of a server belong to somebody else, who can put anything in the place of
//! anything at any time: links above all. Whatever root did there with a path could be led
//! elsewhere. So it is done with no more rights than that user has, by a thread of its own: on
//! Linux each thread has its own user and group (credentials(7)), and one that gave root's up
//! does not get them back.

use std::io;
use std::panic::resume_unwind;

use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// A user of the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// Number of the user; not root's.
    pub uid: u32,
    /// Number of the user's group.
    pub gid: u32,
}

/// Does `work` as `user`, with the user's own group and no other; as who runs this when no user is
/// given. Blocks as long as the work takes.
///
/// # Errors
///
/// What the system says when the user cannot be taken on: then nothing was done.
pub fn act<T: Send>(user: Option<User>, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let Some(user) = user else { return Ok(work()) };
    let acted = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("as owner".into());
        let acting = thread.spawn_scoped(scope, || become_user(user).map(|()| work()))?;
        acting.join().unwrap_or_else(|panic| resume_unwind(panic))
    })?;
    Ok(acted)
}

/// Gives up what this thread may, for good.
fn become_user(user: User) -> io::Result<()> {
    if user.uid == 0 {
        return Err(io::Error::other("root is nobody else"));
    }
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};

    use super::*;

    const NOBODY: User = User { uid: 65534, gid: 65534 };

    #[test]
    fn the_rights_are_those_of_the_user() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        fs::write(&secret, "secret").unwrap();
        assert_eq!(act(None, || fs::read_to_string(&secret).unwrap()).unwrap(), "secret");
        fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let read = act(Some(NOBODY), || fs::read_to_string(&secret));
        if !rustix::process::geteuid().is_root() {
            assert!(read.is_err(), "only root can be somebody else");
            return;
        }
        assert_eq!(read.unwrap().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        let inner = folder.path().join("theirs");
        fs::create_dir(&inner).unwrap();
        chown(&inner, Some(NOBODY.uid), Some(NOBODY.gid)).unwrap();
        act(Some(NOBODY), || fs::write(inner.join("file"), "")).unwrap().unwrap();
        let file = fs::metadata(inner.join("file")).unwrap();
        assert_eq!((file.uid(), file.gid()), (NOBODY.uid, NOBODY.gid));
        // Threads that a thread starts are as it is; root has no groups left there either.
        let groups = act(Some(NOBODY), || {
            std::thread::spawn(|| fs::read_to_string("/proc/thread-self/status").unwrap()).join()
        });
        let status = groups.unwrap().unwrap();
        let line = |name: &str| status.lines().find(|it| it.starts_with(name)).unwrap().to_owned();
        assert_eq!(line("Uid:"), "Uid:\t65534\t65534\t65534\t65534");
        assert_eq!(line("Groups:").trim_end(), "Groups:");
        assert_eq!(line("CapEff:"), "CapEff:\t0000000000000000");
        assert_eq!(line("CapPrm:"), "CapPrm:\t0000000000000000");
        // And here nothing has changed.
        assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
    }

    #[test]
    fn root_is_nobody_else() {
        assert!(act(Some(User { uid: 0, gid: 0 }), || ()).is_err());
    }
}
