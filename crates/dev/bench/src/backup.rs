//! Base backups: `pgherd clone` against `pg_basebackup` as users call them, and what leaving a
//! share out saves.
//!
//! The clone's filter excludes nothing that is there: the relay looks into every byte and keeps
//! it. Both go to a disk, with the WAL, and sync what they wrote. The rest is measured in memory
//! and without WAL, so that the ways are further apart; the pump shows what a third process
//! costs there.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pgtypes::Major;
use testkit::{Cluster, Relay};

use crate::report::{Bar, Report, Samples};
use crate::route::Route;
use crate::{Bench, folder_in_memory};

/// Share of the speed of `pg_basebackup`.
const SPEED: f64 = 0.9;
/// Of this many databases of the same size up to all but one are left out.
const DATABASES: usize = 4;
/// Rows of one database: 125 have a megabyte.
const ROWS: u32 = 25_000;
const ROWS_QUICK: u32 = 2_500;

/// A configuration for each number of databases that are left out.
const CONFIGURATIONS: &str = "
configurations:
  - out0:
      match: {application_name: out0}
      filter: {exclude_databases: [nobody]}
  - out1:
      match: {application_name: out1}
      filter: {exclude_databases: [d1]}
  - out2:
      match: {application_name: out2}
      filter: {exclude_databases: [d1, d2]}
  - out3:
      match: {application_name: out3}
      filter: {exclude_databases: [d1, d2, d3]}
";

pub(crate) fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    for major in bench.majors.iter().copied() {
        let primary = Cluster::builder(major).set("autovacuum", "off").start()?;
        for number in 0..DATABASES {
            fill(&primary, number, if bench.quick { ROWS_QUICK } else { ROWS })?;
        }
        let relay = Relay::start(&bench.pgherd, primary.port(), CONFIGURATIONS)?;
        let rounds = if bench.quick { 2 } else { 7 };
        clones(bench, &primary, &relay, rounds, report)?;
        shares(&primary, &relay, rounds, report)?;
    }
    Ok(())
}

fn fill(primary: &Cluster, number: usize, rows: u32) -> Result<()> {
    primary.sql(&format!("create database d{number}"))?;
    // Rows that fill a page: little work for the server, and 8 kB each.
    primary.sql_in(
        &format!("d{number}"),
        &format!(
            "create table t (v text); alter table t alter v set storage plain; \
             insert into t select repeat(md5(g::text), 250) from generate_series(1, {rows}) g; \
             vacuum t"
        ),
    )?;
    primary.checkpoint()
}

/// `pg_basebackup` as it is, and `pgherd clone`, in turn; the first round only warms up.
fn clones(
    bench: &Bench,
    primary: &Cluster,
    relay: &Relay,
    rounds: usize,
    report: &mut Report,
) -> Result<()> {
    let major = primary.major();
    let (mut direct, mut cloned) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let folder = tempfile::tempdir()?;
        let mut command = primary.client("pg_basebackup", primary.port())?;
        command.args(["--checkpoint", "fast", "-R", "-D"]).arg(folder.path().join("data"));
        let plain = time(&mut command)?;
        let folder = tempfile::tempdir()?;
        let clone = time(clone(bench, major, relay)?.arg("-D").arg(folder.path().join("data")))?;
        if round > 0 {
            direct.push(plain);
            cloned.push(clone);
        }
    }
    let took = |times: &[Duration]| format!("{:.2} s", Samples::new(seconds(times)).median());
    let what = format!("base backup to disk, {major}: pg_basebackup");
    report.add(&what, &took(&direct), &ratios(&direct, &direct), Bar::None);
    let what = format!("base backup to disk, {major}: pgherd clone, speed / pg_basebackup's");
    report.add(&what, &took(&cloned), &ratios(&direct, &cloned), Bar::AtLeast(SPEED));
    Ok(())
}

fn clone(bench: &Bench, major: Major, relay: &Relay) -> Result<Command> {
    let install = testkit::Install::of(major)?;
    let program = install.client_command("pg_basebackup")?;
    let programs = std::path::Path::new(program.get_program()).parent().context("no folder")?;
    let mut command = Command::new(&bench.pgherd);
    command.arg("clone").arg("-c").arg(relay.config()).args(["--as", "out0", "--no-slot"]);
    command.arg("--bin-dir").arg(programs).env("PGUSER", "postgres");
    if rustix::process::geteuid().is_root() {
        command.args(["--owner", "postgres"]);
    }
    Ok(command)
}

/// Backups in memory: directly, through the pump, and through the relay with ever more left out.
fn shares(primary: &Cluster, relay: &Relay, rounds: usize, report: &mut Report) -> Result<()> {
    let major = primary.major();
    let pump = Route::pump(primary)?;
    let mut names = vec!["direct".to_owned(), "pump".to_owned()];
    names.extend((0..DATABASES).map(|out| format!("out{out}")));
    let mut times = vec![Vec::new(); names.len()];
    for round in 0..=rounds {
        for (name, times) in names.iter().zip(&mut times) {
            let port = match name.as_str() {
                "direct" => primary.port(),
                "pump" => pump.port,
                _ => relay.port(),
            };
            let folder = folder_in_memory()?;
            let mut command = primary.client("pg_basebackup", port)?;
            command.env("PGAPPNAME", name);
            command.args(["-X", "none", "--no-sync", "--checkpoint", "fast", "-D"]);
            let took = time(command.arg(folder.path().join("data")))?;
            if round > 0 {
                times.push(took);
            }
        }
    }
    let [direct, pump, through @ ..] = times.as_slice() else { return Ok(()) };
    let mut add = |what: String, of: &[Duration], ratios: Samples, bar| {
        let took = format!("{:.2} s", Samples::new(seconds(of)).median());
        report.add(&format!("base backup in memory, {major}: {what}"), &took, &ratios, bar);
    };
    add("pump, speed / direct's".to_owned(), pump, ratios(direct, pump), Bar::None);
    let mut before: Option<&Vec<Duration>> = None;
    for (out, times) in through.iter().enumerate() {
        if let Some(before) = before {
            let what = format!("{out} of {DATABASES} databases left out, time / with {}", out - 1);
            add(what, times, ratios(times, before), Bar::AtMost(1.0));
        } else {
            let what = "relay, all kept, speed / direct's".to_owned();
            add(what, times, ratios(direct, times), Bar::None);
        }
        before = Some(times);
    }
    Ok(())
}

fn time(command: &mut Command) -> Result<Duration> {
    let started = Instant::now();
    let output = command.output().context("take a base backup")?;
    let elapsed = started.elapsed();
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} failed: {said}", command.get_program().display());
    Ok(elapsed)
}

fn seconds(times: &[Duration]) -> impl Iterator<Item = f64> {
    times.iter().map(Duration::as_secs_f64)
}

/// How long `ones` took in units of `others`, pair by pair.
fn ratios(ones: &[Duration], others: &[Duration]) -> Samples {
    Samples::new(seconds(ones).zip(seconds(others)).map(|(one, other)| one / other))
}
