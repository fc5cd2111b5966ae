//! Disks in memory, which are full soon.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

/// A small disk; goes with the value.
#[derive(Debug)]
pub struct Disk(TempDir);

impl Disk {
    /// A disk of so many kilobytes; `None` when the system does not let us: for others than root.
    ///
    /// # Errors
    ///
    /// When there can be no folder for it.
    pub fn mount(size_kb: u32) -> Result<Option<Self>> {
        let folder = tempfile::Builder::new().prefix("pgherd-test-disk-").tempdir()?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size_kb}k"), "tmpfs"]);
        let mounted = mount.arg(folder.path()).output().is_ok_and(|it| it.status.success());
        Ok(mounted.then_some(Self(folder)))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all the room that is left, as a server's user might.
    ///
    /// # Errors
    ///
    /// When there cannot be a file.
    pub fn fill(&self) -> Result<()> {
        let path = self.path().join("filler");
        let mut filler = fs::File::create(&path)?;
        crate::give_to_servers(&path)?;
        while filler.write_all(&[1; 4096]).is_ok() {}
        Ok(())
    }

    /// Gives it back.
    ///
    /// # Errors
    ///
    /// When it was not taken.
    pub fn free(&self) -> Result<()> {
        fs::remove_file(self.path().join("filler")).context("free the disk")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.path()).status());
    }
}
