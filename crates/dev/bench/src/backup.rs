//! Base backups: `pgherd clone` against `pg_basebackup` as users call them, and what leaving a
//! share out saves.
//!
//! All go to a disk, with the WAL, and sync what they wrote. The first clone's filter excludes
//! nothing that is there: the relay looks into every byte and keeps it. The server reads and
//! sends everything whatever is left out, so time is saved behind the relay only.

use std::iter;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use pgtypes::Major;
use testkit::{Cluster, Relay};

use crate::Bench;
use crate::report::{Bar, Report, Samples};

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
        let rounds = if bench.quick { 2 } else { 8 };
        backups(bench, &primary, &relay, rounds, report)?;
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

/// First `pg_basebackup` as it is and a clone with everything, then clones with more and more left
/// out. Each in turn forwards and backwards, as what one leaves to the disk is the next one's
/// burden; the first round only warms up.
fn backups(
    bench: &Bench,
    primary: &Cluster,
    relay: &Relay,
    rounds: usize,
    report: &mut Report,
) -> Result<()> {
    let major = primary.major();
    let take = |out: Option<usize>| -> Result<Duration> {
        let folder = tempfile::tempdir()?;
        let mut command = match out {
            None => direct(primary)?,
            Some(out) => clone(bench, major, relay, out)?,
        };
        time(command.arg("-D").arg(folder.path().join("data")))
    };
    let in_turn = |ways: &[Option<usize>]| -> Result<Vec<Vec<Duration>>> {
        let mut times = vec![Vec::new(); ways.len()];
        for round in 0..=rounds {
            let mut turn: Vec<_> = iter::zip(ways, &mut times).collect();
            if round % 2 == 1 {
                turn.reverse();
            }
            for (way, times) in turn {
                let took = take(*way)?;
                if round > 0 {
                    times.push(took);
                }
            }
        }
        Ok(times)
    };
    let mut add = |what: &str, of: &[Duration], ratios: Samples, bar| {
        let took = format!("{:.2} s", Samples::new(seconds(of)).median());
        report.add(&format!("base backup to disk, {major}: {what}"), &took, &ratios, bar);
    };
    let times = in_turn(&[None, Some(0)])?;
    let [direct, whole] = times.as_slice() else { bail!("two ways have {} times", times.len()) };
    add("pg_basebackup", direct, ratios(direct, direct), Bar::None);
    let what = "pgherd clone, speed / pg_basebackup's";
    add(what, whole, ratios(direct, whole), Bar::AtLeast(SPEED));
    let ways: Vec<_> = (0..DATABASES).map(Some).collect();
    let shares = in_turn(&ways)?;
    for (out, (before, times)) in iter::zip(&shares, shares.iter().skip(1)).enumerate() {
        let what = format!(
            "pgherd clone, {} of {DATABASES} databases left out, time / with {out}",
            out + 1
        );
        add(&what, times, ratios(times, before), Bar::AtMost(1.0));
    }
    Ok(())
}

/// As it is, to the place that is still to be named.
fn direct(primary: &Cluster) -> Result<Command> {
    let mut command = primary.client("pg_basebackup", primary.port())?;
    command.args(["--checkpoint", "fast", "-R"]);
    Ok(command)
}

/// To the place that is still to be named, with the filter that leaves out `out` databases.
fn clone(bench: &Bench, major: Major, relay: &Relay, out: usize) -> Result<Command> {
    let install = testkit::Install::of(major)?;
    let program = install.client_command("pg_basebackup")?;
    let programs = std::path::Path::new(program.get_program()).parent().context("no folder")?;
    let mut command = Command::new(&bench.pgherd);
    command.arg("clone").arg("-c").arg(relay.config()).args([
        "--as",
        &format!("out{out}"),
        "--no-slot",
    ]);
    command.arg("--bin-dir").arg(programs).env("PGUSER", "postgres");
    if rustix::process::geteuid().is_root() {
        command.args(["--owner", "postgres"]);
    }
    Ok(command)
}

/// Begins with a disk that has nothing left to do of what came before.
fn time(command: &mut Command) -> Result<Duration> {
    rustix::fs::sync();
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
