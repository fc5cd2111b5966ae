//! What the tests of `pgherd clone` share: the command, one that is stopped halfway, and what a
//! clone has to be.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use testkit::{Install, Link, Major, PATIENCE, Program, Standby, Traffic, wait_until};

use crate::partial::{Folder, Stage, binary, verify};

/// `pgherd clone` as `berlin` into `folder`, with both tablespaces beside the data.
pub(crate) fn clone(stage: &Stage, folder: &Folder, more: &[&str]) -> Result<Command> {
    clone_as("berlin", stage, folder, more)
}

pub(crate) fn clone_as(
    name: &str,
    stage: &Stage,
    folder: &Folder,
    more: &[&str],
) -> Result<Command> {
    let mut command = clone_with(&programs(stage.primary.major())?, name, stage, folder)?;
    command.args(more);
    Ok(command)
}

pub(crate) fn clone_with(
    programs: &Path,
    name: &str,
    stage: &Stage,
    folder: &Folder,
) -> Result<Command> {
    let mut command = Command::new(binary());
    command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", "/nonexistent");
    command.arg("clone").arg("-c").arg(stage.relay.config()).args(["--as", name]);
    command.env("PGUSER", "postgres").arg("-D").arg(folder.path().join("data"));
    for tablespace in ["fast", "archive"] {
        let from = stage.primary.tablespaces_dir().join(tablespace);
        let to = folder.path().join(tablespace);
        command.arg("-T").arg(format!("{}={}", from.display(), to.display()));
    }
    command.arg("--bin-dir").arg(programs);
    if rustix::process::geteuid().is_root() {
        command.args(["--owner", "postgres"]);
    }
    Ok(command)
}

/// The folder of a major's client programs, or a later one's where there are none.
pub(crate) fn programs(major: Major) -> Result<std::path::PathBuf> {
    let program = Install::of(major)?.client_command("pg_basebackup")?;
    let folder = Path::new(program.get_program()).parent();
    Ok(folder.context("a program in a folder")?.to_owned())
}

pub(crate) fn slots(stage: &Stage) -> Result<String> {
    stage.primary.sql("select coalesce(string_agg(slot_name, ','), '') from pg_replication_slots")
}

pub(crate) fn nothing_left(stage: &Stage, folder: &Folder) -> Result<()> {
    let left: Vec<_> = fs::read_dir(folder.path())?.collect();
    ensure!(left.is_empty(), "{left:?}");
    ensure!(slots(stage)?.is_empty(), "{}", slots(stage)?);
    Ok(())
}

/// Whole: nothing of the work is left, and a standby starts from it as it is.
pub(crate) fn check(stage: &Stage, folder: &Folder) -> Result<()> {
    let data = folder.path().join("data");
    ensure!(!data.join(".pgherd-clone").exists());
    verify(&stage.primary, &data, &[])?;
    stage.check_files(&data)?;
    ensure!(data.join("standby.signal").exists());
    let standby = Standby::from_backup(stage.primary.major(), &data).start()?;
    stage.check_standby(&standby)?;
    let active = "select active from pg_replication_slots where slot_name = 'pgherd_berlin'";
    assert_eq!(stage.primary.sql(active)?, "t");
    Ok(())
}

/// A clone through a link that stopped halfway.
pub(crate) fn half_made(stage: &Stage, folder: &Folder) -> Result<(Link, Program)> {
    half_made_by(stage, folder, |command| command)
}

/// The same of the command that `by` makes of it.
pub(crate) fn half_made_by(
    stage: &Stage,
    folder: &Folder,
    by: impl FnOnce(Command) -> Command,
) -> Result<(Link, Program)> {
    let link = Link::to(stage.relay.port())?;
    // So that it takes its time.
    link.split(2048);
    let relay = format!("127.0.0.1:{}", link.port());
    let mut command = by(clone(stage, folder, &["--relay", &relay])?);
    let mut program = Program::start(&mut command)?;
    wait_for_half(stage, folder, &mut program, || link.bytes_down())?;
    link.set(Traffic::Stall);
    Ok((link, program))
}

/// Waits until it has its slot, and a part of the files.
pub(crate) fn wait_for_half(
    stage: &Stage,
    folder: &Folder,
    program: &mut Program,
    bytes: impl Fn() -> u64,
) -> Result<()> {
    let journal = folder.path().join("data/.pgherd-clone/journal");
    wait_until("a backup under way", PATIENCE, || {
        ensure!(program.is_running()?, "{}", program.text());
        let text = fs::read_to_string(&journal).unwrap_or_default();
        // Files may be on their way before pg_basebackup asks for the slot.
        let has_slot = text.contains("pgherd_berlin") && slots(stage)? == "pgherd_berlin";
        Ok((has_slot && bytes() > 1 << 20).then_some(()))
    })
}
