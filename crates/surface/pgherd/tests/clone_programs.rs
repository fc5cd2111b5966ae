//! What the programs of PostgreSQL that make a clone can do to it: die, fail and say nothing, speak
//! another language.

mod cloning;
mod partial;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::Command;

use anyhow::{Result, bail, ensure};
use state::Document;
use testkit::{Major, PATIENCE, Traffic, run, run_failing, wait_until};

use cloning::{check, clone_with, half_made, nothing_left, programs};
use partial::{Folder, Stage};

/// The real programs, but for `name`, which is the script that `script` makes of the real one's path.
fn stand_in(name: &str, script: impl Fn(&str) -> String) -> Result<Folder> {
    let (bin, real) = (Folder::new()?, programs(Major::V17)?);
    for program in ["pg_basebackup", "pg_receivewal"] {
        let (path, real) = (bin.path().join(program), real.join(program));
        if program != name {
            symlink(real, path)?;
            continue;
        }
        fs::write(&path, format!("#!/bin/bash\n{}\n", script(&real.display().to_string())))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(bin)
}

/// Some files that it cannot open `pg_basebackup` only names, and ends with success.
#[test]
fn an_error_that_is_only_printed_counts() -> Result<()> {
    let stage = Stage::new(Major::V17)?;
    let folder = Folder::new()?;
    let error = "pg_basebackup: error: could not open file \"base/5/1\": Input/output error";
    let bin = stand_in("pg_basebackup", |real| {
        format!("{real} \"$@\" || exit; test \"$1\" = --version || echo '{error}' >&2")
    })?;
    let told = run_failing(&mut clone_with(bin.path(), "berlin", &stage, &folder)?)?;
    ensure!(told.contains(error), "{told}");
    nothing_left(&stage, &folder)
}

/// The processes that `pid` has started.
fn children(pid: u32) -> Result<Vec<u32>> {
    let mut children = Vec::new();
    for process in fs::read_dir("/proc")?.flatten() {
        let stat = fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        // `pid (comm) state ppid ...` (proc_pid_stat(5))
        let parent =
            stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        if parent == Some(pid) {
            children.extend(stat.split(' ').next().and_then(|it| it.parse::<u32>().ok()));
        }
    }
    Ok(children)
}

/// As the kernel does when there is no memory: the process that receives WAL lives on, and has the
/// same output.
#[test]
fn a_program_that_was_killed_is_noticed() -> Result<()> {
    let stage = Stage::new(Major::V17)?;
    let folder = Folder::new()?;
    let (link, mut program) = half_made(&stage, &folder)?;
    let killed = children(program.pid())?;
    let [killed] = killed.as_slice() else { bail!("children: {killed:?}") };
    wait_until("the one that receives WAL", PATIENCE, || {
        Ok((children(*killed)?.len() == 1).then_some(()))
    })?;
    run(Command::new("kill").args(["-KILL", &killed.to_string()]))?;
    link.set(Traffic::Pass);
    assert_eq!(program.wait(PATIENCE)?.code(), Some(1), "{}", program.text());
    ensure!(program.text().contains("pg_basebackup failed"), "{}", program.text());
    nothing_left(&stage, &folder)
}

/// A clone that was killed before it had made its slot, and a server that says so in its own language.
#[test]
fn a_slot_that_is_not_there_is_none_to_drop() -> Result<()> {
    let stage = Stage::new(Major::V17)?;
    let folder = Folder::new()?;
    let bin = stand_in("pg_receivewal", |real| {
        let german = "s/does not exist/existiert nicht/";
        format!("set -o pipefail\n{real} \"$@\" 2>&1 | sed '{german}' >&2")
    })?;
    let data = folder.path().join("data");
    fs::create_dir_all(data.join(".pgherd-clone"))?;
    let made = "{\"target\":true,\"folders\":[],\"emptied\":[],\"slot\":\"pgherd_berlin\"}";
    Document::new(data.join(".pgherd-clone/journal")).save(made)?;
    for path in [&data, &data.join(".pgherd-clone"), &data.join(".pgherd-clone/journal")] {
        testkit::give_to_servers(path)?;
    }
    run(&mut clone_with(bin.path(), "berlin", &stage, &folder)?)?;
    check(&stage, &folder)
}
