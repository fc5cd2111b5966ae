//! Peak memory of the relay: alone, with streams, and with connections that do nothing.

use std::thread;

use anyhow::Result;
use pgtypes::{Lsn, Major};
use testkit::{Cluster, Workload};

use crate::Bench;
use crate::receiver::Receiver;
use crate::report::{Bar, Report, Samples};
use crate::route::{EXCLUDED, KEPT, Route};

/// 16 MB, and 512 KB a client, in MB.
const BASE_MB: f64 = 16.0;
const CLIENT_MB: f64 = 0.5;
const STREAMS: u16 = 50;
const IDLE: u16 = 200;

pub(crate) fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    let primary = Cluster::builder(Major::V15)
        .set("max_wal_senders", "220")
        .set("autovacuum", "off")
        .start()?;
    for database in [KEPT, EXCLUDED] {
        primary.sql(&format!("create database {database}"))?;
    }
    let start = primary.switch_wal()?;
    let start = Lsn(start.0.next_multiple_of(16 << 20));
    for round in 0..2 {
        for database in [KEPT, EXCLUDED] {
            Workload { rows: 4_000, round }.run(&primary, database)?;
        }
    }
    primary.switch_wal()?;
    let end = primary.lsn()?.round_down(16 << 20);

    let mut relay = Route::filtered(bench, &primary)?;
    judge("idle", 0, &mut relay, report)?;

    let port = relay.port;
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        streams.push(Receiver::connect(port)?);
    }
    thread::scope(|scope| {
        let threads: Vec<_> =
            streams.iter_mut().map(|it| scope.spawn(|| it.receive(start, end))).collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })?;
    judge(&format!("{STREAMS} filtered streams"), STREAMS, &mut relay, report)?;
    drop(streams);

    let mut relay = Route::filtered(bench, &primary)?;
    let idle: Vec<_> = (0..IDLE).map(|_| Receiver::connect(relay.port)).collect::<Result<_>>()?;
    judge(&format!("{IDLE} idle connections"), IDLE, &mut relay, report)?;
    drop(idle);
    Ok(())
}

fn judge(what: &str, clients: u16, relay: &mut Route, report: &mut Report) -> Result<()> {
    let peak_mb = relay.peak_rss_kb()? as f64 / 1024.0;
    let bar = Bar::AtMost(BASE_MB + CLIENT_MB * f64::from(clients));
    let value = format!("{peak_mb:.1} MB");
    report.add(&format!("memory, {what}: peak, MB"), &value, &Samples::new([peak_mb]), bar);
    Ok(())
}
