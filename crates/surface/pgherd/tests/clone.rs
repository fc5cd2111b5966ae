//! `pgherd clone`: a whole standby or nothing.

mod partial;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use testkit::{
    Disk, Install, Link, Major, PATIENCE, Program, Signal, Standby, Traffic, on_majors, run,
    run_failing, wait_until,
};

use partial::{Folder, Stage, binary, verify};

/// `pgherd clone` as `berlin` into `folder`, with both tablespaces beside the data.
fn clone(stage: &Stage, folder: &Folder, more: &[&str]) -> Result<Command> {
    clone_as("berlin", stage, folder, more)
}

fn clone_as(name: &str, stage: &Stage, folder: &Folder, more: &[&str]) -> Result<Command> {
    let mut command = clone_with(&programs(stage.primary.major())?, name, stage, folder)?;
    command.args(more);
    Ok(command)
}

fn clone_with(programs: &Path, name: &str, stage: &Stage, folder: &Folder) -> Result<Command> {
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
fn programs(major: Major) -> Result<std::path::PathBuf> {
    let program = Install::of(major)?.client_command("pg_basebackup")?;
    let folder = Path::new(program.get_program()).parent();
    Ok(folder.context("a program in a folder")?.to_owned())
}

fn slots(stage: &Stage) -> Result<String> {
    stage.primary.sql("select coalesce(string_agg(slot_name, ','), '') from pg_replication_slots")
}

fn nothing_left(stage: &Stage, folder: &Folder) -> Result<()> {
    let left: Vec<_> = fs::read_dir(folder.path())?.collect();
    ensure!(left.is_empty(), "{left:?}");
    ensure!(slots(stage)?.is_empty(), "{}", slots(stage)?);
    Ok(())
}

/// Whole: nothing of the work is left, and a standby starts from it as it is.
fn check(stage: &Stage, folder: &Folder) -> Result<()> {
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

on_majors! {
    [v12 V12, v13 V13, v15 V15, v17 V17, v18 V18]
    /// Through the relay that runs; then the estimate, and the refusals.
    fn makes_a_standby(major) {
        let stage = Stage::new(major)?;
        let folder = Folder::new()?;
        let missing = run_failing(&mut clone_as("nobody", &stage, &folder, &[])?)?;
        ensure!(missing.contains("no configuration matches"), "{missing}");
        let mut without = clone_with(Path::new("/nonexistent"), "berlin", &stage, &folder)?;
        let missing = run_failing(&mut without)?;
        ensure!(missing.contains("no pg_basebackup") && missing.contains("--bin-dir"), "{missing}");
        let plan = partial::run(clone(&stage, &folder, &["--dry-run"])?.args(["-v"]))?;
        for line in ["configuration berlin", "keep", "drop1", "left out", "free"] {
            ensure!(plan.contains(line), "{line} is not in:\n{plan}");
        }
        nothing_left(&stage, &folder)?;
        let told = partial::run(&mut clone(&stage, &folder, &[])?)?;
        ensure!(told.contains("copied 3"), "{told}");
        let again = run_failing(&mut clone(&stage, &folder, &["--no-slot"])?)?;
        ensure!(again.contains("is not empty"), "{again}");
        check(&stage, &folder)
    }
}

/// Without a relay that runs the clone works as it would, and keeps what it decided.
#[test]
fn works_without_a_running_relay() -> Result<()> {
    let mut stage = Stage::new(Major::V16)?;
    let folder = Folder::new()?;
    stage.relay.stop()?;
    // The rights of a standby's role are enough.
    stage.primary.sql("create role repl login replication")?;
    let told = partial::run(clone(&stage, &folder, &[])?.env("PGUSER", "repl"))?;
    ensure!(told.contains("no relay answers"), "{told}");
    stage.relay.run()?;
    check(&stage, &folder)
}

/// Stopped in the middle: nothing is left, not even the slot.
#[test]
fn a_clone_that_is_stopped_leaves_nothing() -> Result<()> {
    let stage = Stage::new(Major::V17)?;
    for signal in [Signal::INT, Signal::TERM] {
        let folder = Folder::new()?;
        let (link, mut program) = half_made(&stage, &folder)?;
        program.signal(signal)?;
        link.set(Traffic::Pass);
        let status = program.wait(PATIENCE)?;
        assert_eq!(status.code(), Some(1), "{}", program.text());
        ensure!(program.text().contains("stopped"), "{}", program.text());
        nothing_left(&stage, &folder)?;
    }
    // The network goes away, and comes back before the slot has to be dropped.
    let folder = Folder::new()?;
    let (link, mut program) = half_made(&stage, &folder)?;
    link.set(Traffic::Pass);
    link.cut()?;
    assert_eq!(program.wait(PATIENCE)?.code(), Some(1), "{}", program.text());
    nothing_left(&stage, &folder)
}

/// The disk is full in the middle: the reason is told, and nothing is left.
#[test]
fn a_clone_on_a_full_disk_leaves_nothing() -> Result<()> {
    let stage = Stage::new(Major::V15)?;
    let folder = Folder::new()?;
    let Some(disk) = Disk::mount(128 * 1024)? else {
        eprintln!("not tried: only root can mount a small disk");
        return Ok(());
    };
    let data = folder.path().join("data");
    std::os::unix::fs::symlink(disk.path(), &data)?;
    let (link, mut program) = half_made(&stage, &folder)?;
    disk.fill()?;
    link.set(Traffic::Pass);
    assert_eq!(program.wait(PATIENCE)?.code(), Some(1), "{}", program.text());
    program.wait_for_line("No space left on device", PATIENCE)?;
    // The disk was there before.
    ensure!(fs::read_dir(disk.path())?.next().is_none(), "something is left");
    fs::remove_file(&data)?;
    nothing_left(&stage, &folder)
}

/// Killed in the middle: no server starts from what is there, and the next run begins anew.
#[test]
fn a_clone_that_is_killed_is_begun_anew() -> Result<()> {
    let stage = Stage::new(Major::V15)?;
    let folder = Folder::new()?;
    let (link, mut program) = half_made(&stage, &folder)?;
    program.kill9()?;
    let data = folder.path().join("data");
    ensure!(data.join(".pgherd-clone").exists() && !data.join("PG_VERSION").exists());
    assert_eq!(slots(&stage)?, "pgherd_berlin");
    link.set(Traffic::Pass);
    run(&mut clone(&stage, &folder, &[])?)?;
    drop(link);
    check(&stage, &folder)
}

/// Killed when the server has made the slot and nobody has heard of it.
#[test]
fn a_slot_that_was_just_made_is_not_left_behind() -> Result<()> {
    let stage = Stage::new(Major::V15)?;
    let folder = Folder::new()?;
    let real = programs(Major::V15)?;
    let deaf = folder.path().join("deaf");
    fs::create_dir(&deaf)?;
    for program in ["pg_basebackup", "pg_receivewal"] {
        let path = real.join(program);
        let text = format!(
            "#!/bin/bash\nexec {} \"$@\" 2> >(grep --line-buffered -v 'created replication slot' >&2)\n",
            path.display()
        );
        fs::write(deaf.join(program), text)?;
        fs::set_permissions(deaf.join(program), fs::Permissions::from_mode(0o755))?;
    }
    let link = Link::to(stage.relay.port())?;
    link.split(2048);
    let relay = format!("127.0.0.1:{}", link.port());
    let mut command = clone_with(&deaf, "berlin", &stage, &folder)?;
    let mut program = Program::start(command.args(["--relay", &relay]))?;
    wait_until("the slot", PATIENCE, || {
        ensure!(program.is_running()?, "{}", program.text());
        Ok((slots(&stage)? == "pgherd_berlin").then_some(()))
    })?;
    link.set(Traffic::Stall);
    program.kill9()?;
    link.set(Traffic::Pass);
    run(&mut clone(&stage, &folder, &[])?)?;
    drop(link);
    check(&stage, &folder)?;

    // A slot that is not from here stays.
    stage.primary.sql("select pg_create_physical_replication_slot('pgherd_other', true)")?;
    let folder = Folder::new()?;
    let told = run_failing(&mut clone(&stage, &folder, &["--slot", "pgherd_other"])?)?;
    ensure!(told.contains("already"), "{told}");
    ensure!(slots(&stage)?.contains("pgherd_other"), "{}", slots(&stage)?);
    Ok(())
}

/// A clone through a link that stopped halfway.
fn half_made(stage: &Stage, folder: &Folder) -> Result<(Link, Program)> {
    let link = Link::to(stage.relay.port())?;
    // So that it takes its time.
    link.split(2048);
    let relay = format!("127.0.0.1:{}", link.port());
    let mut program = Program::start(&mut clone(stage, folder, &["--relay", &relay])?)?;
    let journal = folder.path().join("data/.pgherd-clone/journal");
    wait_until("a backup under way", PATIENCE, || {
        ensure!(program.is_running()?, "{}", program.text());
        let text = fs::read_to_string(&journal).unwrap_or_default();
        // Files may be on their way before pg_basebackup asks for the slot.
        let has_slot = text.contains("pgherd_berlin") && slots(stage)? == "pgherd_berlin";
        Ok((has_slot && link.bytes_down() > 1 << 20).then_some(()))
    })?;
    link.set(Traffic::Stall);
    Ok((link, program))
}
