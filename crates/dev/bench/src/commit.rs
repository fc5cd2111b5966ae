//! Commits that wait for a standby: what a route adds to the time of each.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use pgtypes::Major;
use testkit::{Cluster, PATIENCE, Standby};

use crate::Bench;
use crate::report::{Bar, Report, Samples};
use crate::route::Route;

/// Milliseconds above direct, at the median.
const BAR: Bar = Bar::AtMost(0.05);
/// One small record and a commit: what is measured is the wait.
const SCRIPT: &str = "insert into t values (1);\n";

/// Milliseconds of one run.
#[derive(Clone, Copy)]
struct Run {
    p50: f64,
    p95: f64,
}

pub(crate) fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    let primary = Cluster::builder(Major::V15)
        .set("autovacuum", "off")
        .set("synchronous_commit", "on")
        .set("synchronous_standby_names", "")
        .start()?;
    primary.sql("create table t (x int)")?;
    let mut standby = Standby::of(&primary).start()?;
    let mut primary = primary;
    primary.set("synchronous_standby_names", "*")?;
    let mut routes = Route::all(bench, &primary)?;
    // It would go on as the synchronous standby after its client has gone.
    routes.retain(|route| !route.is_walbouncer());
    let (rounds, secs) = if bench.quick { (5, 1) } else { (15, 2) };
    let mut runs: BTreeMap<_, Vec<Run>> = BTreeMap::new();
    for round in 0..=rounds {
        for number in 0..routes.len() {
            let route = routes.get((number + round) % routes.len()).context("no route")?;
            take(route, &primary, &mut standby)?;
            let run = pgbench(&primary, secs)?;
            if round > 0 {
                runs.entry(route.name).or_default().push(run);
            }
        }
    }
    let direct = runs.get(Route::DIRECT).context("direct was not measured")?;
    for route in &routes {
        let runs = runs.get(route.name).context("a route was not taken")?;
        let median = |part: fn(&Run) -> f64| Samples::new(runs.iter().map(part)).median();
        let value = format!("p50 {:.3}, p95 {:.3} ms", median(|it| it.p50), median(|it| it.p95));
        let above = runs.iter().zip(direct).map(|(run, direct)| run.p50 - direct.p50);
        let bar = match route.name {
            Route::RELAY | Route::FILTERED => BAR,
            _ => Bar::None,
        };
        let what = format!("commit, {}: p50 above direct, ms", route.name);
        report.add(&what, &value, &Samples::new(above), bar);
    }
    Ok(())
}

/// Makes the standby stream on this route, and the primary wait for it.
fn take(route: &Route, primary: &Cluster, standby: &mut Standby) -> Result<()> {
    let name = route.name.replace([',', ' '], "-");
    let conninfo =
        format!("host=127.0.0.1 port={} user=postgres application_name={name}", route.port);
    standby.set("primary_conninfo", &conninfo)?;
    let state = "select string_agg(application_name || ' ' || sync_state, ',') \
                 from pg_stat_replication where state = 'streaming'";
    primary.wait_for(state, &format!("{name} sync"), PATIENCE)
}

/// Commits one by one for `secs` seconds.
fn pgbench(primary: &Cluster, secs: u32) -> Result<Run> {
    let folder = tempfile::tempdir()?;
    let script = folder.path().join("script.sql");
    fs::write(&script, SCRIPT)?;
    let mut command = Command::new(program()?);
    command.env_clear().env("LC_ALL", "C").current_dir(folder.path());
    command.args(["--no-vacuum", "--protocol=prepared", "--log", "--username=postgres"]);
    command.args([format!("--time={secs}"), format!("--port={}", primary.port())]);
    command.arg("--host").arg(primary.socket_dir()).arg("--file").arg(&script).arg("postgres");
    let output = command.output().context("start pgbench")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "pgbench failed: {said}");
    let mut times = Vec::new();
    for file in fs::read_dir(folder.path())? {
        let path = file?.path();
        if path != script {
            // client, transaction, microseconds, script, time
            let log = fs::read_to_string(path)?;
            let third = |line: &str| line.split(' ').nth(2)?.parse::<f64>().ok();
            times.extend(log.lines().filter_map(third));
        }
    }
    ensure!(!times.is_empty(), "pgbench logged no transaction: {said}");
    let times = Samples::new(times.iter().map(|microseconds| microseconds / 1e3));
    Ok(Run { p50: times.quantile(0.5), p95: times.quantile(0.95) })
}

/// The newest of Debian's: it works with every server.
fn program() -> Result<PathBuf> {
    let releases = fs::read_dir("/usr/lib/postgresql").context("no programs of PostgreSQL")?;
    let programs = releases.flatten().map(|release| release.path().join("bin/pgbench"));
    programs.filter(|path| path.exists()).max().context("no pgbench: run `make provision`")
}
