//! What the relay counts, against what `pg_waldump` and clients count themselves.

#![allow(clippy::indexing_slicing, reason = "of JSON, where what is missing is null")]

mod proof;
mod web;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use proof::{FILTERED, WITHOUT_DROP, client};
use testkit::{Auth, Cluster, Major, PASSWORD, on_majors, run, run_failing, waldump};
use web::Web;

/// Rows come in turn, so that the records of both databases are mixed.
const ROUNDS: u32 = 20;

on_majors! {
    [v13 V13, v18 V18]
    fn records_of_each_database_are_those_of_pg_waldump(major) {
        let primary = Cluster::builder(major).set("autovacuum", "off").start()?;
        primary.sql("create database keep; create database drop1")?;
        for database in ["keep", "drop1"] {
            primary.sql_in(database, "create table t (g int primary key, t text)")?;
        }
        let start = (primary.switch_wal()? + ((16 << 20) - 1)).round_down(16 << 20);
        for round in 0..ROUNDS {
            for (database, rows) in [("keep", 50), ("drop1", 80)] {
                primary.sql_in(database, &format!(
                    "insert into t select {round} * 100 + g, repeat('x', 50) from generate_series(1, {rows}) g"
                ))?;
            }
        }
        let end = primary.lsn()?;
        let mut expected: BTreeMap<u32, u64> = BTreeMap::new();
        for record in waldump(major, &primary.wal_dir(), start, end)? {
            if let Some(locator) = record.locators().first() {
                *expected.entry(locator.database).or_default() += 1;
            }
        }
        let web = Web::new()?;
        let relay = web.relay(primary.port(), WITHOUT_DROP)?;
        client::read(relay.port(), FILTERED, start, end)?;
        let things = web.json("/v1/relay/databases")?;
        let metrics = web.get("/metrics")?.body;
        for (name, passed) in [("keep", true), ("drop1", false)] {
            let oid = primary.database_oid(name)?;
            let records = expected.get(&oid).copied().unwrap_or_default();
            ensure!(records > u64::from(ROUNDS) * 50, "{expected:?} prove nothing");
            let (in_it, out_of_it) = if passed { (records, 0) } else { (0, records) };
            let found = things.as_array().context("a list")?.iter().find(|it| {
                it["kind"] == "database" && it["oid"] == oid
            });
            let told = &found.context("no such database")?["decisions"][0];
            ensure!(told["records_passed"] == in_it, "{name}: {told}, not {in_it}");
            ensure!(told["records_replaced"] == out_of_it, "{name}: {told}, not {out_of_it}");
            for (what, count) in [("passed", in_it), ("replaced", out_of_it)] {
                let sample = format!(
                    "pgherd_relay_database_records_{what}_total\
                     {{configuration=\"berlin\",database=\"{name}\",oid=\"{oid}\"}} {count}"
                );
                ensure!(metrics.lines().any(|line| line == sample), "no {sample} in\n{metrics}");
            }
        }
        Ok(())
    }
}

fn sent_bytes(web: &Web) -> Result<u64> {
    let status = web.json("/v1/relay/status")?;
    let all = status["configurations"].as_array().context("a list")?;
    let found = all.iter().find(|it| it["name"] == FILTERED).context("no configuration")?;
    found["sent_bytes"].as_u64().context("a number")
}

#[test]
fn a_filtered_backup_is_in_the_bytes() -> Result<()> {
    let primary = Cluster::builder(Major::V17).start()?;
    let web = Web::new()?;
    let relay = web.relay(primary.port(), WITHOUT_DROP)?;
    let folder = tempfile::tempdir()?;
    let mut backup = primary.client("pg_basebackup", relay.port())?;
    backup.env("PGAPPNAME", FILTERED).args(["-X", "none", "-c", "fast", "-F", "tar", "-D"]);
    run(backup.arg(folder.path()))?;
    let written = std::fs::metadata(folder.path().join("base.tar"))?.len();
    let sent = sent_bytes(&web)?;
    ensure!(sent >= written && sent < written + written / 10, "{sent} of {written}");
    Ok(())
}

/// The server refuses a password, and the relay counts it and slows down who sent it: not others.
#[test]
fn logins_that_the_server_refuses_are_counted_and_slowed_down() -> Result<()> {
    let primary = Cluster::builder(Major::V18).auth(Auth::Scram).start()?;
    let web = Web::new()?;
    let relay = web.relay(primary.port(), "")?;
    let login = |password: &str| -> Result<_> {
        let mut psql = primary.client("psql", relay.port())?;
        psql.env("PGPASSWORD", password);
        psql.args(["-XAtw", "-d", "replication=true", "-c", "IDENTIFY_SYSTEM"]);
        Ok(psql)
    };
    for pause in [250, 500, 1000] {
        let began = Instant::now();
        let refused = run_failing(&mut login("wrong")?)?;
        ensure!(refused.contains("password authentication failed"), "{refused}");
        ensure!(began.elapsed() >= Duration::from_millis(pause), "{:?}", began.elapsed());
    }
    let metrics = web.get("/metrics")?.body;
    ensure!(metrics.contains("\npgherd_relay_failed_logins_total 3\n"), "{metrics}");
    ensure!(web.json("/v1/relay/status")?["failed_logins"] == 3);
    let began = Instant::now();
    run(&mut login(PASSWORD)?)?;
    ensure!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    Ok(())
}
