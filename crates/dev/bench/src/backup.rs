//! Base backups: of the same bytes directly and through the relay, and what leaving a share
//! out saves.
//!
//! The filter of the first comparison excludes nothing that is there: the relay looks into
//! every byte and keeps it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use testkit::Cluster;

use crate::report::{Bar, Report, Samples};
use crate::route::{EXCLUDED, KEPT, Route};
use crate::{Bench, folder_in_memory};

/// Share of the direct backup's speed.
const SPEED: f64 = 0.9;
/// A table of this many rows has about a megabyte for each 128.
const ROWS: u32 = 64_000;
const ROWS_QUICK: u32 = 6_400;

pub(crate) fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    for major in bench.majors.iter().copied() {
        let primary = Cluster::builder(major).set("autovacuum", "off").start()?;
        let rows = if bench.quick { ROWS_QUICK } else { ROWS };
        fill(&primary, KEPT, rows)?;
        let same = compare(bench, &primary)?;
        let share = ratios(&same.direct, &same.filtered);
        let what = format!("base backup of the same bytes, {major}: filtered / direct");
        let value = format!("{:.2} s", Samples::new(seconds(&same.filtered)).median());
        report.add(&what, &value, &share, Bar::AtLeast(SPEED));
        let what = format!("base backup of the same bytes, {major}: pump / direct");
        let value = format!("{:.2} s", Samples::new(seconds(&same.pump)).median());
        report.add(&what, &value, &ratios(&same.direct, &same.pump), Bar::None);
        // As much again, and left out: it is read and sent to the relay, and goes no further.
        fill(&primary, EXCLUDED, rows)?;
        let half = compare(bench, &primary)?;
        let what = format!("base backup with half of it left out, {major}: pump / filtered time");
        let value = format!("{:.2} s", Samples::new(seconds(&half.filtered)).median());
        report.add(&what, &value, &ratios(&half.pump, &half.filtered), Bar::AtLeast(1.0));
    }
    Ok(())
}

fn fill(primary: &Cluster, database: &str, rows: u32) -> Result<()> {
    primary.sql(&format!("create database {database}"))?;
    // Rows that fill a page: little work for the server, and 8 kB each.
    primary.sql_in(
        database,
        &format!(
            "create table t (v text); alter table t alter v set storage plain; \
             insert into t select repeat(md5(g::text), 250) from generate_series(1, {rows}) g; \
             vacuum t"
        ),
    )?;
    primary.checkpoint()
}

#[derive(Default)]
struct Times {
    direct: Vec<Duration>,
    /// Through a pump that looks at nothing: what a third process costs on this machine.
    pump: Vec<Duration>,
    filtered: Vec<Duration>,
}

/// Both in turn; the first round only warms up.
fn compare(bench: &Bench, primary: &Cluster) -> Result<Times> {
    let (pump, relay) = (Route::pump(primary)?, Route::filtered(bench, primary)?);
    let mut times = Times::default();
    let rounds = if bench.quick { 2 } else { 7 };
    for round in 0..=rounds {
        let direct = backup(primary, primary.port())?;
        let pumped = backup(primary, pump.port)?;
        let filtered = backup(primary, relay.port)?;
        if round > 0 {
            times.pump.push(pumped);
            times.direct.push(direct);
            times.filtered.push(filtered);
        }
    }
    Ok(times)
}

fn backup(primary: &Cluster, port: u16) -> Result<Duration> {
    let folder = folder_in_memory()?;
    let mut command = primary.client("pg_basebackup", port)?;
    command.args(["-X", "none", "--no-sync", "--checkpoint", "fast", "-D"]);
    command.arg(folder.path().join("data"));
    let started = Instant::now();
    let output = command.output().context("run pg_basebackup")?;
    let elapsed = started.elapsed();
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "pg_basebackup failed: {said}");
    Ok(elapsed)
}

fn seconds(times: &[Duration]) -> impl Iterator<Item = f64> {
    times.iter().map(Duration::as_secs_f64)
}

/// Speed against speed, pair by pair.
fn ratios(direct: &[Duration], filtered: &[Duration]) -> Samples {
    Samples::new(seconds(direct).zip(seconds(filtered)).map(|(direct, filtered)| direct / filtered))
}
