//! What `pgherd clone` refuses before it does anything, and in which words.

mod cloning;
mod partial;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use testkit::{Install, Major, PATIENCE, Standby, run_failing};

use cloning::{clone, nothing_left, slots};
use partial::{Folder, Stage, run};

/// The same without an option and its values.
fn without(option: &str, command: &Command) -> Command {
    let mut same = Command::new(command.get_program());
    let mut arguments = command.get_args();
    while let Some(argument) = arguments.next() {
        if argument == option {
            arguments.next();
        } else {
            same.arg(argument);
        }
    }
    same.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    same
}

/// Fails for this reason, before the table of sizes.
fn refused(command: &mut Command, reason: &str) -> Result<()> {
    let told = run_failing(command)?;
    ensure!(told.contains(reason), "no {reason:?} in {told}");
    ensure!(!told.contains("databases:") && !told.contains("panicked"), "{told}");
    Ok(())
}

#[test]
fn what_needs_no_table_of_sizes_comes_before_it() -> Result<()> {
    let stage = Stage::new(Major::V17)?;
    let folder = Folder::new()?;
    let places = Folder::new()?;
    let file = places.path().join("passwords");
    let passfile = file.display().to_string();
    let clone = |more: &[&str]| clone(&stage, &folder, more);

    refused(&mut clone(&["--relay", "nonsense"])?, "--relay: write HOST:PORT")?;
    refused(&mut clone(&["--relay", "127.0.0.1:1"])?, "no pgherd relay answers at 127.0.0.1:1")?;
    let mut nobody = without("--owner", &clone(&[])?);
    refused(nobody.args(["--owner", "no-such-user"]), "there is no user \"no-such-user\"")?;
    let mapping = "/nonexistent/old=/nonexistent/new";
    refused(&mut clone(&["-T", mapping])?, "-T: no tablespace is at /nonexistent/old")?;
    let mut elsewhere = without("-T", &clone(&[])?);
    let fast = stage.primary.tablespaces_dir().join("fast").display().to_string();
    let in_use = format!("{fast} is not empty, where tablespace fast would go: -T {fast}=NEW");
    refused(&mut elsewhere, &in_use)?;
    let told = run_failing(elsewhere.arg("--dry-run"))?;
    ensure!(told.contains("databases:") && told.contains(&format!("STOP  {in_use}")), "{told}");

    refused(&mut clone(&["--passfile", &passfile])?, "cannot read the password file")?;
    fs::write(&file, "*:*:*:*:word\n")?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
    refused(&mut clone(&["--passfile", &passfile])?, "can be read by others")?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    if rustix::process::geteuid().is_root() {
        refused(&mut clone(&["--passfile", &passfile])?, "is not of the user with the number")?;
    }
    testkit::give_to_servers(&file)?;
    run(&mut clone(&["--passfile", &passfile, "--dry-run"])?)?;
    nothing_left(&stage, &folder)
}

#[test]
fn the_standby_itself_is_not_touched() -> Result<()> {
    let stage = Stage::new(Major::V17)?;
    let folder = Folder::new()?;
    run(&mut clone(&stage, &folder, &[])?)?;
    ensure!(stage.relay.alarms().is_empty(), "{:?}", stage.relay.alarms());
    let data = folder.path().join("data");
    let standby = Standby::from_backup(stage.primary.major(), &data).start()?;
    stage.check_standby(&standby)?;

    // The usual mistake. That the slot is taken would be the lesser of the two.
    let other = Folder::new()?;
    let mut same = without("-D", &clone(&stage, &other, &[])?);
    same.arg("-D").arg(standby.data());
    let not_empty = format!("{} is not empty", standby.data().display());
    refused(&mut same, &not_empty)?;
    let told = run_failing(same.arg("--dry-run"))?;
    let advice = "; choose another --slot; drop it only when its standby is gone";
    let active = format!("there is a replication slot \"pgherd_berlin\" already (active){advice}");
    for part in ["databases:", "free", &format!("STOP  {not_empty}"), &format!("STOP  {active}")] {
        ensure!(told.contains(part), "no {part:?} in {told}");
    }
    refused(&mut clone(&stage, &other, &[])?, &active)?;
    drop(standby);
    stage.primary.wait_for("select active from pg_replication_slots", "f", PATIENCE)?;
    let away = format!("already (kept for a standby that is away){advice}");
    refused(&mut clone(&stage, &other, &[])?, &away)?;
    assert_eq!(slots(&stage)?, "pgherd_berlin");
    run(&mut clone(&stage, &other, &["--slot", "another", "--dry-run"])?)?;
    ensure!(fs::read_dir(other.path())?.next().is_none(), "something was made");
    Ok(())
}

#[test]
fn a_backup_without_a_name_is_told_where_it_goes() -> Result<()> {
    let stage = Stage::new(Major::V17)?;
    let folder = Folder::new()?;
    let mut backup = Install::of(Major::V17)?.client_command("pg_basebackup")?;
    let conninfo = format!("host=127.0.0.1 port={} user=postgres", stage.relay.port());
    let data: &Path = &folder.path().join("data");
    let told = run_failing(backup.arg("-d").arg(conninfo).arg("-D").arg(data))?;
    ensure!(told.contains("in primary_conninfo, or in pg_basebackup -d, to one"), "{told}");
    Ok(())
}
