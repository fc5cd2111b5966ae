//! `pgherd clone` as root, into a folder of somebody who means harm: nothing happens there with more
//! rights than that user has.

mod cloning;
mod partial;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::process::{Child, Command};

use anyhow::{Result, ensure};
use state::Document;
use testkit::{Major, give_to_servers, run, run_failing};

use cloning::clone;
use partial::{Folder, Stage};

/// A target that looks as if a clone had been killed in it.
struct Trap {
    stage: Stage,
    folder: Folder,
    /// A folder of root's, with a file.
    precious: Folder,
}

impl Trap {
    /// `None` where this is not root, and there is nothing to protect.
    fn new() -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: not root");
            return Ok(None);
        }
        let (stage, folder, precious) = (Stage::new(Major::V17)?, Folder::new()?, Folder::new()?);
        std::os::unix::fs::chown(precious.path(), Some(0), Some(0))?;
        fs::write(precious.path().join("file"), "precious")?;
        fs::create_dir_all(folder.path().join("data/.pgherd-clone"))?;
        Ok(Some(Self { stage, folder, precious }))
    }

    fn work(&self, name: &str) -> PathBuf {
        self.folder.path().join("data/.pgherd-clone").join(name)
    }

    fn arm(&self) -> Result<()> {
        for path in ["data", "data/.pgherd-clone"] {
            give_to_servers(&self.folder.path().join(path))?;
        }
        Ok(())
    }

    fn is_harmless(&self) -> Result<()> {
        assert_eq!(fs::read_to_string(self.precious.path().join("file"))?, "precious");
        assert_eq!(fs::read_dir(self.precious.path())?.count(), 1);
        Ok(())
    }
}

#[test]
fn what_a_journal_names_is_removed_with_the_owners_rights() -> Result<()> {
    for what in ["folders", "emptied"] {
        let Some(trap) = Trap::new()? else { return Ok(()) };
        let place = trap.precious.path().display();
        let (mut folders, mut emptied) = (String::new(), String::new());
        *(if what == "folders" { &mut folders } else { &mut emptied }) = format!("\"{place}\"");
        let made = format!(
            "{{\"target\":false,\"folders\":[{folders}],\"emptied\":[{emptied}],\"slot\":null}}"
        );
        Document::new(trap.work("journal")).save(&made)?;
        trap.arm()?;
        let refused = run_failing(&mut clone(&trap.stage, &trap.folder, &[])?)?;
        ensure!(refused.contains("cannot remove") && refused.contains("denied"), "{refused}");
        trap.is_harmless()?;
    }
    Ok(())
}

#[test]
fn links_are_followed_with_the_owners_rights() -> Result<()> {
    for name in ["lock", "input", "journal"] {
        let Some(trap) = Trap::new()? else { return Ok(()) };
        let new = trap.precious.path().join("new");
        symlink(&new, trap.work(name))?;
        trap.arm()?;
        let told = match name {
            // There is none, then, and it is replaced.
            "journal" => run(&mut clone(&trap.stage, &trap.folder, &[])?)?,
            _ => run_failing(&mut clone(&trap.stage, &trap.folder, &[])?)?,
        };
        ensure!(!new.exists(), "{name}: {told}");
        trap.is_harmless()?;
    }
    Ok(())
}

/// One that is ended, whatever comes of it.
struct Sleeper(Child);

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn processes_of_others_are_not_killed() -> Result<()> {
    let Some(trap) = Trap::new()? else { return Ok(()) };
    let file = trap.precious.path().join("file");
    fs::set_permissions(&file, Permissions::from_mode(0o666))?;
    let held = File::options().read(true).write(true).open(&file)?;
    held.lock()?;
    let mut sleeper = Sleeper(Command::new("sleep").arg("600").stdin(held.try_clone()?).spawn()?);
    symlink(&file, trap.work("input"))?;
    trap.arm()?;
    let refused = run_failing(&mut clone(&trap.stage, &trap.folder, &[])?)?;
    ensure!(refused.contains("is under way"), "{refused}");
    ensure!(sleeper.0.try_wait()?.is_none(), "it was killed");
    trap.is_harmless()
}

/// Where only root may make folders they are made, and removed, by root; and are the owner's.
#[test]
fn folders_that_only_root_may_make() -> Result<()> {
    let Some(trap) = Trap::new()? else { return Ok(()) };
    let target = trap.precious.path().join("a/b/data");
    let into_target = |more: &[&str]| -> Result<Command> {
        let mut into = clone(&trap.stage, &trap.folder, more)?;
        into.arg("--no-slot");
        let mut same = Command::new(into.get_program());
        same.env_clear().envs(into.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let mut arguments = into.get_args();
        while let Some(argument) = arguments.next() {
            same.arg(argument);
            if argument == "-D" {
                arguments.next();
                same.arg(&target);
            }
        }
        Ok(same)
    };
    // One that fails late: whoever logs in may not take backups.
    trap.stage.primary.sql("create role weak login")?;
    let failed = run_failing(&mut into_target(&["-U", "weak"])?)?;
    ensure!(failed.contains("pg_basebackup failed"), "{failed}");
    ensure!(!target.exists(), "{failed}");
    run(&mut into_target(&[])?)?;
    fs::rename(&target, trap.folder.path().join("other"))?;
    fs::remove_dir_all(trap.folder.path().join("data"))?;
    fs::rename(trap.folder.path().join("other"), trap.folder.path().join("data"))?;
    check_without_slot(&trap)
}

fn check_without_slot(trap: &Trap) -> Result<()> {
    let data = trap.folder.path().join("data");
    ensure!(data.join("PG_VERSION").exists() && data.join("standby.signal").exists());
    let standby = testkit::Standby::from_backup(trap.stage.primary.major(), &data).start()?;
    trap.stage.check_standby(&standby)
}
