//! Catch-up: how fast a client receives WAL that is there already, and what it costs.
//!
//! Twice: with `pg_receivewal`, which writes what it gets (into memory) and for which the bars
//! are drawn, and with a receiver that throws it away and so leaves the routes further apart.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pgtypes::{Lsn, Major};
use testkit::{Cluster, Workload};

use crate::receiver::Receiver;
use crate::report::{Bar, Report, Samples};
use crate::route::{EXCLUDED, KEPT, Route};
use crate::{Bench, folder_in_memory};

const SEGMENT_BYTES: u64 = 16 << 20;
/// Rows of one round of the workload: about 40 MB of WAL.
const ROWS: u32 = 10_000;

/// WAL that is waiting on a server, from the begin of a segment to that of another.
struct Backlog {
    primary: Cluster,
    start: Lsn,
    end: Lsn,
}

/// Holds a server with so much WAL until it is killed.
pub(crate) fn hold(major: Major, bytes: u64) -> Result<()> {
    let Backlog { primary, start, end } = Backlog::make(major, bytes)?;
    println!("port {}, WAL from {start} to {end}", primary.port());
    loop {
        thread::park();
    }
}

/// Receives that WAL through `port`, again and again.
pub(crate) fn receive(port: u16, start: Lsn, end: Lsn, times: u32) -> Result<()> {
    for _ in 0..times {
        let started = Instant::now();
        Receiver::connect(port)?.receive(start, end)?;
        let gigabytes = end.bytes_since(start) as f64 / 1e9;
        println!("{:.3} GB/s", gigabytes / started.elapsed().as_secs_f64());
    }
    Ok(())
}

/// What one run took.
#[derive(Clone, Copy)]
struct Run {
    gigabytes_a_second: f64,
    cpu_secs_a_gigabyte: f64,
}

#[derive(Clone, Copy)]
enum Client {
    PgReceivewal,
    Lean,
}

pub(crate) fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    for major in &bench.majors {
        let backlog = Backlog::make(*major, if bench.quick { 256 << 20 } else { 1 << 30 })?;
        let mut routes = Route::all(bench, &backlog.primary)?;
        for client in [Client::PgReceivewal, Client::Lean] {
            let rounds = if bench.quick { 3 } else { 13 };
            let runs = backlog.compare(&mut routes, client, rounds)?;
            judge(client, *major, &routes, &runs, report)?;
        }
    }
    Ok(())
}

impl Backlog {
    /// Writes `bytes` of mixed WAL, half of it in a database that filters leave out.
    fn make(major: Major, bytes: u64) -> Result<Self> {
        let primary = Cluster::builder(major)
            .set("autovacuum", "off")
            .set("shared_buffers", "256MB")
            .start()?;
        for database in [KEPT, EXCLUDED] {
            primary.sql(&format!("create database {database}"))?;
        }
        primary.switch_wal()?;
        let start = next_segment(primary.lsn()?);
        for round in 0.. {
            if primary.lsn()?.bytes_since(start) > bytes {
                break;
            }
            let fill = |database| Workload { rows: ROWS, round }.run(&primary, database);
            thread::scope(|scope| {
                let kept = scope.spawn(|| fill(KEPT));
                fill(EXCLUDED)?;
                kept.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })?;
        }
        primary.checkpoint()?;
        let end = primary.lsn()?.round_down(SEGMENT_BYTES);
        // Something after the end: waiting at the very tail is another matter than catching up.
        for _ in 0..2 {
            primary.sql_in(KEPT, "create table tail as select 1; drop table tail")?;
            primary.switch_wal()?;
        }
        Ok(Self { primary, start, end })
    }

    fn gigabytes(&self) -> f64 {
        self.end.bytes_since(self.start) as f64 / 1e9
    }

    /// Takes every route in turn, each time in another order.
    fn compare(
        &self,
        routes: &mut [Route],
        client: Client,
        rounds: usize,
    ) -> Result<BTreeMap<&'static str, Vec<Run>>> {
        let mut runs: BTreeMap<_, Vec<_>> = BTreeMap::new();
        // The first round only warms up.
        for round in 0..=rounds {
            let count = routes.len();
            for number in 0..count {
                let route = routes.get_mut((number + round) % count).context("no route")?;
                if route.is_walbouncer() && matches!(client, Client::Lean) {
                    continue;
                }
                let run = self.run(route, client).with_context(|| route.name.to_owned())?;
                if round > 0 {
                    runs.entry(route.name).or_default().push(run);
                }
            }
        }
        Ok(runs)
    }

    fn run(&self, route: &mut Route, client: Client) -> Result<Run> {
        let cpu_before = route.cpu_secs()?;
        let elapsed = match client {
            Client::PgReceivewal => self.pg_receivewal(route.port)?,
            Client::Lean => {
                let started = Instant::now();
                Receiver::connect(route.port)?.receive(self.start, self.end)?;
                started.elapsed()
            }
        };
        let cpu_secs = route.cpu_secs()? - cpu_before;
        Ok(Run {
            gigabytes_a_second: self.gigabytes() / elapsed.as_secs_f64(),
            cpu_secs_a_gigabyte: cpu_secs / self.gigabytes(),
        })
    }

    fn pg_receivewal(&self, port: u16) -> Result<Duration> {
        let folder = folder_in_memory()?;
        // It goes on behind the last complete segment that it finds.
        let before = (self.start.0 / SEGMENT_BYTES) - 1;
        let segments_a_file = (1 << 32) / SEGMENT_BYTES;
        let (high, low) = (before / segments_a_file, before % segments_a_file);
        let file = File::create(folder.path().join(format!("00000001{high:08X}{low:08X}")))?;
        file.set_len(SEGMENT_BYTES)?;
        let mut command = self.primary.install().client_command("pg_receivewal")?;
        command.args(["--no-loop", "--no-sync", "--host", "127.0.0.1", "--user", "postgres"]);
        command.args(["--port", &port.to_string(), "--endpos", &self.end.to_string()]);
        command.arg("--directory").arg(folder.path());
        let started = Instant::now();
        let output = command.output().context("start pg_receivewal")?;
        let elapsed = started.elapsed();
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "pg_receivewal failed: {said}");
        let received = fs::read_dir(folder.path())?.count() as u64 - 1;
        let expected = self.end.bytes_since(self.start) / SEGMENT_BYTES;
        ensure!(received >= expected, "{received} segments instead of {expected}: {said}");
        Ok(elapsed)
    }
}

fn next_segment(position: Lsn) -> Lsn {
    Lsn(position.0.next_multiple_of(SEGMENT_BYTES))
}

/// Holds each route against the pump.
fn judge(
    client: Client,
    major: Major,
    routes: &[Route],
    runs: &BTreeMap<&'static str, Vec<Run>>,
    report: &mut Report,
) -> Result<()> {
    let pump = runs.get(Route::PUMP).context("the pump was not measured")?;
    let (client, has_bars) = match client {
        Client::PgReceivewal => (format!("pg_receivewal {major}"), true),
        Client::Lean => (format!("lean receiver {major}"), false),
    };
    for route in routes {
        let Some(runs) = runs.get(route.name) else { continue };
        let (speed_bar, cpu_bar) = match route.name {
            Route::RELAY if has_bars => (Bar::AtLeast(0.95), Bar::AtMost(1.15)),
            Route::FILTERED if has_bars => (Bar::AtLeast(0.85), Bar::AtMost(1.4)),
            _ => (Bar::None, Bar::None),
        };
        let name = route.name;
        let ratios = |part: fn(&Run) -> f64| {
            Samples::new(runs.iter().zip(pump).map(|(run, pump)| part(run) / part(pump)))
        };
        let median = |part: fn(&Run) -> f64| Samples::new(runs.iter().map(part)).median();
        let speed = format!("{:.2} GB/s", median(|run| run.gigabytes_a_second));
        let speeds = ratios(|run| run.gigabytes_a_second);
        report.add(&format!("{client}, {name}: speed / pump's"), &speed, &speeds, speed_bar);
        if name != Route::DIRECT {
            let cpu = format!("{:.2} s/GB", median(|run| run.cpu_secs_a_gigabyte));
            let cpus = ratios(|run| run.cpu_secs_a_gigabyte);
            report.add(&format!("{client}, {name}: CPU / pump's"), &cpu, &cpus, cpu_bar);
        }
    }
    Ok(())
}
