//! Under root, servers run as user `postgres`: PostgreSQL refuses to run as root.

use std::fs;
use std::os::unix::fs::{chown, lchown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// User and group for servers; `None` when they run as whoever we are.
pub(crate) fn of_servers() -> Result<Option<(u32, u32)>> {
    if !is_root() {
        return Ok(None);
    }
    let passwd = fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
    let line = passwd.lines().find(|line| line.starts_with("postgres:"));
    let line = line.context("no user postgres: run `make provision`")?;
    let mut fields = line.split(':').skip(2);
    let uid = fields.next().context("user postgres without a number")?.parse()?;
    let gid = fields.next().context("user postgres without a group")?.parse()?;
    Ok(Some((uid, gid)))
}

/// Makes `command` run as the servers' user, in a folder that this user may enter.
pub(crate) fn run_as_server(command: &mut Command) -> Result<()> {
    command.current_dir("/");
    if let Some((uid, gid)) = of_servers()? {
        command.uid(uid).gid(gid);
    }
    Ok(())
}

/// Gives a file or folder to the servers' user.
pub(crate) fn give(path: &Path) -> Result<()> {
    if let Some((uid, gid)) = of_servers()? {
        chown(path, Some(uid), Some(gid)).with_context(|| format!("chown {}", path.display()))?;
    }
    Ok(())
}

/// Gives everything under `path` to the servers' user, without following links.
///
/// # Errors
///
/// When there is no such user, or we may not give files away.
pub fn give_all(path: &Path) -> Result<()> {
    let Some((uid, gid)) = of_servers()? else { return Ok(()) };
    let mut left = vec![path.to_owned()];
    while let Some(path) = left.pop() {
        lchown(&path, Some(uid), Some(gid)).with_context(|| format!("chown {}", path.display()))?;
        if fs::symlink_metadata(&path)?.is_dir() {
            for entry in fs::read_dir(&path)? {
                left.push(entry?.path());
            }
        }
    }
    Ok(())
}
