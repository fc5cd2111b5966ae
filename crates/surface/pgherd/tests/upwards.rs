//! What a standby sends upstream arrives as it sent it: positions, feedback, slots; and
//! `pg_receivewal` does what it does directly.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pgproto::copy::{HotStandbyFeedback, StandbyStatus};
use pgproto::frame::backend;
use pgtypes::Lsn;
use testkit::{
    Client, Cluster, Major, PATIENCE, Program, Relay, Signal, Standby, on_majors, run, run_failing,
};

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pgherd"))
}

const CONFIGURATIONS: &str = "
configurations:
  - part:
      match: {application_name: part}
      filter: {exclude_databases: [nonesuch]}
  - all: {}
";

const NAMES: [&str; 2] = ["all", "part"];

on_majors! {
    [v12 V12, v18 V18]
    /// Odd positions and times, each another one, so that none can be mistaken for another.
    fn positions_and_times_arrive_as_they_were_sent(major) {
        let primary = Cluster::builder(major).start()?;
        primary.sql("create table t as select generate_series(1, 10000)")?;
        let relay = Relay::start(binary(), primary.port(), CONFIGURATIONS)?;
        for name in NAMES {
            let end = primary.lsn()?;
            let mut client = Client::replication(relay.port(), name)?;
            assert_eq!(client.query(&format!("START_REPLICATION {end}"))?.tags, "W");
            let status = StandbyStatus {
                write: end - 11,
                flush: end - 222,
                apply: end - 3333,
                // 2001-02-03 04:05:06.789 UTC, in microseconds since 2000.
                sent_at_micros: 34_488_306_789_000,
                reply_requested: false,
            };
            client.send_message(backend::COPY_DATA, &status.to_bytes())?;
            let seen = format!(
                "select write_lsn, flush_lsn, replay_lsn, {} from pg_stat_replication \
                 where application_name = '{name}'",
                "reply_time at time zone 'UTC'"
            );
            let time = "2001-02-03 04:05:06.789";
            let sent = format!("{}|{}|{}|{time}", status.write, status.flush, status.apply);
            primary.wait_for(&seen, &sent, PATIENCE)?;

            // The server answers a status that asks for it.
            let asking = StandbyStatus { reply_requested: true, ..status };
            client.send_message(backend::COPY_DATA, &asking.to_bytes())?;
            client.set_read_timeout(Duration::from_secs(5))?;
            while client.copy_data()?.first() != Some(&b'k') {}
        }
        Ok(())
    }
}

on_majors! {
    [v12 V12, v18 V18]
    /// Scenario 31, by the numbers.
    fn both_xmins_of_the_feedback_arrive(major) {
        let primary = Cluster::builder(major).start()?;
        let relay = Relay::start(binary(), primary.port(), CONFIGURATIONS)?;
        for name in NAMES {
            let mut client = Client::replication(relay.port(), name)?;
            client.query(&format!("CREATE_REPLICATION_SLOT {name} PHYSICAL RESERVE_WAL"))?.rows()?;
            let next: u32 = primary.sql("select txid_current()")?.parse()?;
            let end = primary.lsn()?;
            let start = format!("START_REPLICATION SLOT {name} PHYSICAL {end}");
            assert_eq!(client.query(&start)?.tags, "W");
            let feedback = HotStandbyFeedback {
                sent_at_micros: 1,
                xmin: next - 1,
                xmin_epoch: 0,
                catalog_xmin: next - 2,
                catalog_xmin_epoch: 0,
            };
            client.send_message(backend::COPY_DATA, &feedback.to_bytes())?;
            let seen = format!(
                "select xmin, catalog_xmin from pg_replication_slots where slot_name = '{name}'"
            );
            primary.wait_for(&seen, &format!("{}|{}", next - 1, next - 2), PATIENCE)?;
            // And that the standby needs nothing any more.
            let nothing = HotStandbyFeedback { xmin: 0, catalog_xmin: 0, ..feedback };
            client.send_message(backend::COPY_DATA, &nothing.to_bytes())?;
            primary.wait_for(&seen, "|", PATIENCE)?;
        }
        Ok(())
    }
}

/// Scenarios 21 and 31 with a real standby: its slot, its feedback, and the catalog rows that a
/// logical slot on it needs.
#[test]
fn a_standby_with_a_slot_and_feedback_holds_the_primary_back() -> Result<()> {
    let primary = Cluster::builder(Major::V17).set("wal_level", "logical").start()?;
    primary.sql("create table t(g int); select pg_create_physical_replication_slot('berlin')")?;
    let relay = Relay::start(binary(), primary.port(), CONFIGURATIONS)?;
    let mut standby = Standby::of(&primary)
        .via(relay.port())
        .name("part")
        .slot("berlin")
        .set("hot_standby_feedback", "on")
        .set("wal_receiver_status_interval", "1s")
        .start()?;
    standby.wait_streaming()?;
    let slot = |what: &str| format!("select {what} from pg_replication_slots");
    primary.wait_for(&slot("active"), "t", PATIENCE)?;
    primary.wait_for(&slot("xmin is not null"), "t", PATIENCE)?;
    let before = primary.sql(&slot("restart_lsn"))?;
    primary.sql("insert into t select generate_series(1, 100000)")?;
    standby.wait_replayed(&primary)?;
    let flushed = primary.lsn()?;
    primary.wait_for(&slot(&format!("restart_lsn >= '{flushed}'")), "t", PATIENCE)?;
    assert_ne!(primary.sql(&slot("restart_lsn"))?, before);
    let stat = format!("replay_lsn >= '{flushed}' and backend_xmin is null");
    let stat = format!("select {stat} from pg_stat_replication where application_name = 'part'");
    primary.wait_for(&stat, "t", PATIENCE)?;

    // A query on the standby holds the xmin; a logical slot on it holds the catalog's.
    let mut query = standby.session("postgres")?;
    query.query("begin isolation level repeatable read")?;
    query.query("select count(*) from t")?;
    primary.sql("insert into t select 1; insert into t select 2; insert into t select 3")?;
    standby.wait_replayed(&primary)?;
    let held: u32 = primary.sql("select txid_current()")?.parse()?;
    primary.wait_for(&slot(&format!("xmin::text::int < {held}")), "t", PATIENCE)?;
    std::thread::scope(|scope| {
        // It waits for a record of running transactions.
        let made = scope.spawn(|| {
            standby.sql("select pg_create_logical_replication_slot('l', 'test_decoding')")
        });
        while !made.is_finished() {
            primary.sql("select pg_log_standby_snapshot()")?;
            std::thread::sleep(Duration::from_millis(100));
        }
        made.join().map_err(|_panic| anyhow::anyhow!("panicked"))?
    })?;
    primary.wait_for(&slot("catalog_xmin is not null"), "t", PATIENCE)?;
    standby.stop(testkit::Stop::Fast)?;
    primary.wait_for(&slot("active"), "f", PATIENCE)
}

on_majors! {
    [v13 V13, v18 V18]
    fn a_receiver_may_make_its_own_temporary_slot(major) {
        let primary = Cluster::builder(major).start()?;
        let relay = Relay::start(binary(), primary.port(), CONFIGURATIONS)?;
        let mut standby = Standby::of(&primary)
            .via(relay.port())
            .name("part")
            .set("wal_receiver_create_temp_slot", "on")
            .start()?;
        standby.wait_streaming()?;
        let slots = "select count(*) from pg_replication_slots where temporary and active";
        primary.wait_for(slots, "1", PATIENCE)?;
        primary.sql("create table t as select generate_series(1, 1000)")?;
        standby.wait_replayed(&primary)?;
        standby.stop(testkit::Stop::Fast)?;
        primary.wait_for(slots, "0", PATIENCE)
    }
}

fn receivewal(primary: &Cluster, port: u16, name: &str, folder: &Path) -> Result<Command> {
    let mut receive = primary.client("pg_receivewal", port)?;
    receive.env("PGAPPNAME", name).arg("-D").arg(folder).args(["-n", "--synchronous"]);
    Ok(receive)
}

on_majors! {
    [v12 V12, v15 V15, v18 V18]
    fn pg_receivewal_makes_uses_and_drops_slots(major) {
        let primary = Cluster::builder(major).wal_segment_mb(1).start()?;
        let relay = Relay::start(binary(), primary.port(), CONFIGURATIONS)?;
        for name in NAMES {
            let folder = tempfile::tempdir()?;
            let receive = || receivewal(&primary, relay.port(), name, folder.path());
            let mut create = primary.client("pg_receivewal", relay.port())?;
            create.env("PGAPPNAME", name);
            run(create.args(["--create-slot", "-S", name]))?;
            let slot = |what: &str| format!("select {what} from pg_replication_slots");
            assert_eq!(primary.sql(&slot("slot_name, slot_type"))?, format!("{name}|physical"));
            let end = primary.lsn()? - 1;
            run(receive()?.args(["-S", name, "--endpos", &end.to_string()]))?;
            let mut running = Program::start(receive()?.args(["-S", name]))?;
            primary.sql(&format!("create table {name}_ as select generate_series(1, 50000)"))?;
            let reached = format!("restart_lsn >= '{}'", primary.lsn()?);
            primary.wait_for(&slot(&reached), "t", PATIENCE)?;
            running.signal(Signal::INT)?;
            assert!(running.wait(PATIENCE)?.success(), "{}", running.text());
            let files = std::fs::read_dir(folder.path())?.count();
            assert!(files >= 3, "{files} files of WAL");
            let unknown = run_failing(receive()?.args(["-S", "nosuch"]))?;
            assert!(unknown.contains("\"nosuch\" does not exist"), "{unknown}");
            let mut drop_slot = primary.client("pg_receivewal", relay.port())?;
            run(drop_slot.env("PGAPPNAME", name).args(["--drop-slot", "-S", name]))?;
            assert_eq!(primary.sql(&slot("count(*)"))?, "0");
        }
        Ok(())
    }
}

/// Scenario 19. Idle is idle: nothing comes behind the record that is waited for.
#[test]
fn the_tail_of_an_idle_primary_comes_as_fast_as_directly() -> Result<()> {
    let primary = Cluster::builder(Major::V15).set("autovacuum", "off").start()?;
    primary.sql("create table t as select generate_series(1, 1000)")?;
    let relay = Relay::start(binary(), primary.port(), CONFIGURATIONS)?;
    let end = primary.lsn()? - 1;
    let took = |port: u16, name: &str| -> Result<Duration> {
        let mut best = Duration::MAX;
        for _ in 0..3 {
            let folder = tempfile::tempdir()?;
            let start = Instant::now();
            run(receivewal(&primary, port, name, folder.path())?
                .args(["--endpos", &end.to_string()]))?;
            best = best.min(start.elapsed());
        }
        Ok(best)
    };
    let direct = took(primary.port(), "direct")?;
    for name in NAMES {
        let relayed = took(relay.port(), name)?;
        assert!(
            relayed < direct * 2 + Duration::from_millis(500),
            "{name}: {relayed:?} {direct:?}"
        );
    }
    Ok(())
}

/// Each commit is there though nothing follows it. A server now and then sleeps over one until
/// something wakes it, without a relay too: a status wakes it, and would not make a relay let go
/// of what it holds.
#[test]
fn what_is_flushed_is_there_at_once() -> Result<()> {
    let primary = Cluster::builder(Major::V18).set("autovacuum", "off").start()?;
    primary.sql("create table t(g int)")?;
    let relay = Relay::start(binary(), primary.port(), CONFIGURATIONS)?;
    let mut session = primary.session("postgres")?;
    for name in NAMES {
        let mut at = primary.lsn()?;
        let mut client = Client::replication(relay.port(), name)?;
        assert_eq!(client.query(&format!("START_REPLICATION {at}"))?.tags, "W");
        for number in 0..50 {
            session.query("insert into t values (1)")?;
            let flushed: Lsn = session.query("select pg_current_wal_flush_lsn()")?.parse()?;
            client.set_read_timeout(Duration::from_millis(300))?;
            while at < flushed {
                let payload = client.copy_data().or_else(|_timeout| {
                    client.send_message(backend::COPY_DATA, &asking(at).to_bytes())?;
                    client.set_read_timeout(Duration::from_secs(2))?;
                    client.copy_data()
                });
                let payload =
                    payload.with_context(|| format!("{name}, {number}: {at} of {flushed}"))?;
                if payload.first() == Some(&b'w') {
                    at += u64::try_from(payload.len() - 25)?;
                }
            }
        }
    }
    Ok(())
}

/// A status that wants an answer.
const fn asking(at: Lsn) -> StandbyStatus {
    StandbyStatus { write: at, flush: at, apply: at, sent_at_micros: 0, reply_requested: true }
}
