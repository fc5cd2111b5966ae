//! Everything that can die under load dies; afterwards nothing is lost and nothing is damaged.

mod proof;

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use pgtypes::{Lsn, Major};
use proof::load::{Load, nothing_lost};
use proof::{FILTERED, WITHOUT_DROP, binary, client, segment_name};
use testkit::{
    Cluster, Link, PATIENCE, Relay, Signal, Standby, Stop, amcheck, on_majors, same_contents,
};

const MB: u64 = 1 << 20;
/// Transactions of the load between two faults.
const BETWEEN: usize = 60;

/// A primary under load, a relay behind a link, and two standbys: without `drop1`, and with all.
struct Scene {
    primary: Cluster,
    link: Link,
    relay: Relay,
    filtered: Standby,
    whole: Standby,
}

impl Scene {
    fn new(builder: testkit::Builder) -> anyhow::Result<Self> {
        let primary = builder.start()?;
        for database in ["keep", "drop1"] {
            primary.sql(&format!("create database {database}"))?;
        }
        let link = Link::to(primary.port())?;
        let relay = Relay::start(binary(), link.port(), WITHOUT_DROP)?;
        let filtered = Standby::of(&primary)
            .without_database(primary.database_oid("drop1")?)
            .via(relay.port())
            .name(FILTERED)
            .start()?;
        let whole = Standby::of(&primary).via(relay.port()).name("whole").start()?;
        filtered.wait_streaming()?;
        whole.wait_streaming()?;
        Ok(Self { primary, link, relay, filtered, whole })
    }

    /// Both standbys have what they should, undamaged.
    fn check(&self) -> anyhow::Result<()> {
        amcheck(&self.primary, "keep")?;
        for (standby, databases) in
            [(&self.filtered, &["keep"][..]), (&self.whole, &["keep", "drop1"][..])]
        {
            standby.wait_replayed(&self.primary)?;
            for database in databases {
                same_contents(&self.primary, standby, database)?;
            }
            amcheck(standby, "keep")?;
            for trouble in ["PANIC", "incorrect resource manager data checksum"] {
                assert!(!standby.log().contains(trouble), "{}", standby.log_tail());
            }
        }
        let oid = self.primary.database_oid("drop1")?;
        let folder = self.filtered.data().join("base").join(oid.to_string());
        assert!(!folder.exists(), "{} came to the filtered standby", folder.display());
        Ok(())
    }
}

on_majors! {
    [v13 V13, v18 V18]
    /// Scenarios 21, 27 and 28: each process is killed or stopped in turn, and the link is cut.
    fn whatever_dies_under_load(major) {
        let mut scene = Scene::new(Cluster::builder(major).wal_segment_mb(1))?;
        let load = Load::start(&scene.primary, &["keep", "drop1", "keep"])?;
        for round in 0..2 {
            load.wait_for(BETWEEN)?;
            scene.relay.kill9()?;
            load.wait_for(BETWEEN)?;
            scene.relay.run()?;
            load.wait_for(BETWEEN)?;
            scene.link.cut()?;
            load.wait_for(BETWEEN)?;
            scene.filtered.kill9()?;
            scene.whole.stop(Stop::Immediate)?;
            load.wait_for(BETWEEN)?;
            scene.filtered.start()?;
            scene.whole.start()?;
            load.wait_for(BETWEEN)?;
            scene.primary.kill9()?;
            scene.primary.start()?;
            load.wait_for(BETWEEN)?;
            assert!(scene.relay.stop()?.success(), "SIGTERM is not an error");
            scene.relay.run()?;
            load.wait_for(BETWEEN)?;
            // With standbys connected: it must not wait for what the relay holds back.
            scene.filtered.wait_streaming()?;
            scene.whole.wait_streaming()?;
            let began = Instant::now();
            scene.primary.stop(if round == 0 { Stop::Fast } else { Stop::Immediate })?;
            assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
            scene.primary.start()?;
        }
        let acknowledged = load.stop()?;
        scene.check()?;
        nothing_lost(&scene.filtered, "keep", &acknowledged)?;
        nothing_lost(&scene.whole, "drop1", &acknowledged)?;
        Ok(())
    }
}

/// Shutdowns that wait for the standbys: nothing that the relay holds back may keep them.
#[test]
fn a_clean_shutdown_does_not_wait_for_the_relay() -> anyhow::Result<()> {
    if !testkit::private::wanted(Major::V16)? {
        return Ok(());
    }
    let mut scene = Scene::new(Cluster::builder(Major::V16))?;
    for how in [Stop::Fast, Stop::Smart, Stop::Fast] {
        scene.primary.sql_in(
            "drop1",
            "create table if not exists t (x text); \
            insert into t select repeat('x', g % 100) from generate_series(1, 3000) g",
        )?;
        // A receiver calls itself "streaming" before it has connected; the primary knows.
        let streaming = "select count(*) from pg_stat_replication where state = 'streaming'";
        scene.primary.wait_for(streaming, "2", PATIENCE)?;
        let began = Instant::now();
        scene.primary.stop(how)?;
        assert!(began.elapsed() < Duration::from_secs(5), "{how:?}: {:?}", began.elapsed());
        // All of it arrived, the shutdown checkpoint too.
        let shutdown = fs::read(scene.primary.data().join("global/pg_control"))?;
        let checkpoint = Lsn(u64::from_le_bytes(shutdown[32..40].try_into()?));
        let relay = scene.relay.program()?.text();
        for standby in [&scene.filtered, &scene.whole] {
            let replayed = standby.wait_replayed_to(checkpoint, PATIENCE);
            replayed.with_context(|| format!("{how:?}; {relay}"))?;
        }
        scene.primary.start()?;
    }
    Ok(())
}

on_majors! {
    [v14 V14, v17 V17]
    /// A primary that dies with half a record on disk goes on behind it with an
    /// OVERWRITE_CONTRECORD; standbys that have the first half get over it.
    fn half_a_record_is_given_up(major) {
        let builder = Cluster::builder(major).wal_segment_mb(1).set("autovacuum", "off");
        let mut scene = Scene::new(builder)?;
        scene.primary.sql_in("keep", "create table t (x text)")?;
        for database in ["drop1", "keep"] {
            scene.primary.switch_wal()?;
            scene.primary.sql_in("keep", "insert into t select repeat('a', 500) \
                from generate_series(1, 500)")?;
            scene.filtered.wait_replayed(&scene.primary)?;
            scene.whole.wait_replayed(&scene.primary)?;
            let begins = scene.primary.insert_lsn()?;
            // Seen up to the middle: the second segment is "not yet on disk" when it dies.
            let mut session = scene.primary.session(database)?;
            session.query(
                "select pg_logical_emit_message(false, '', repeat('m', 2500000)); \
                 select txid_current()",
            )?;
            let second = begins.round_down(MB) + MB;
            let mut stream = client::Client::connect(scene.relay.port(), FILTERED)?
                .start(begins.round_down(MB), 1)?;
            stream.take(second + 100_000)?;
            scene.relay.kill9()?;
            scene.filtered.stop(Stop::Immediate)?;
            scene.whole.stop(Stop::Immediate)?;
            scene.primary.stop(Stop::Immediate)?;
            for data in [scene.primary.data(), scene.filtered.data(), scene.whole.data()] {
                for number in 0..6 {
                    let name = segment_name(1, second + number * MB, MB);
                    fs::remove_file(data.join("pg_wal").join(name)).ok();
                }
            }
            scene.primary.start()?;
            let goes_on = scene.primary.insert_lsn()?;
            assert!(goes_on > second && goes_on < second + MB, "{goes_on}, not behind {second}");
            scene.relay.run()?;
            scene.filtered.start()?;
            scene.whole.start()?;
            scene.primary.sql_in("keep", "insert into t values ('behind')")?;
            scene.primary.sql_in("drop1", "create table if not exists u (x int)")?;
            scene.filtered.wait_replayed(&scene.primary)?;
            let log = scene.filtered.log();
            assert!(log.contains("OVERWRITE_CONTRECORD"), "{}", scene.filtered.log_tail());
            // From before it, in one go, and from the segment that was begun anew.
            let end = scene.primary.lsn()?;
            let whole = client::read(scene.relay.port(), FILTERED, begins.round_down(MB), end)?;
            let behind = client::read(scene.relay.port(), FILTERED, second, end)?;
            assert!(whole.get(second, end)? == behind.bytes);
        }
        scene.primary.sql_in("drop1", "create table if not exists t (x text)")?;
        scene.check()
    }
}

/// Behind the relay stands the only synchronous standby: what a client was told is committed is
/// there, whoever dies.
#[test]
fn no_acknowledged_commit_is_lost() -> anyhow::Result<()> {
    if !testkit::private::wanted(Major::V15)? {
        return Ok(());
    }
    let mut scene = Scene::new(Cluster::builder(Major::V15))?;
    scene.primary.set("synchronous_standby_names", FILTERED)?;
    scene.primary.wait_for(
        &format!(
            "select sync_state from pg_stat_replication where application_name = '{FILTERED}'"
        ),
        "sync",
        PATIENCE,
    )?;
    let load = Load::start(&scene.primary, &["keep", "drop1"])?;
    for _ in 0..3 {
        load.wait_for(BETWEEN)?;
        scene.relay.kill9()?;
        scene.relay.run()?;
        load.wait_for(BETWEEN)?;
        scene.filtered.kill9()?;
        scene.filtered.start()?;
        load.wait_for(BETWEEN)?;
        scene.primary.kill9()?;
        scene.primary.start()?;
    }
    load.wait_for(BETWEEN)?;
    // The primary dies for good at some moment, and the standby takes over.
    scene.relay.kill9()?;
    scene.primary.kill9()?;
    let acknowledged = load.stop()?;
    assert!(acknowledged.len() > 10 * BETWEEN);
    scene.filtered.promote()?;
    nothing_lost(&scene.filtered, "keep", &acknowledged)?;
    amcheck(&scene.filtered, "keep")
}

/// Scenario 21: the upstream keeps what a standby behind the relay still needs, and no more, over
/// the deaths of both.
#[test]
fn a_slot_keeps_what_is_needed() -> anyhow::Result<()> {
    if !testkit::private::wanted(Major::V16)? {
        return Ok(());
    }
    let builder = Cluster::builder(Major::V16).wal_segment_mb(1);
    let settings = [("wal_keep_size", "0"), ("max_wal_size", "4MB"), ("min_wal_size", "2MB")];
    let mut scene = Scene::new(builder.set_all(&settings))?;
    scene.primary.sql("select pg_create_physical_replication_slot('berlin')")?;
    scene.filtered.set("primary_slot_name", "berlin")?;
    scene.filtered.restart()?;
    let slot = |what: &str| format!("select {what} from pg_replication_slots");
    scene.primary.wait_for(&slot("active"), "t", PATIENCE)?;
    let load = Load::start(&scene.primary, &["keep", "drop1"])?;
    let first = scene.primary.sql(&slot("restart_lsn"))?;
    for _ in 0..2 {
        load.wait_for(BETWEEN)?;
        scene.filtered.kill9()?;
        scene.relay.kill9()?;
        let left: Lsn = scene.primary.insert_lsn()?;
        while scene.primary.insert_lsn()?.bytes_since(left) < 3 * MB {
            load.wait_for(BETWEEN)?;
        }
        scene.primary.checkpoint()?;
        fs::remove_dir_all(scene.relay.state_dir())?;
        scene.relay.run()?;
        scene.filtered.start()?;
        scene.filtered.wait_replayed(&scene.primary)?;
    }
    load.stop()?;
    scene.filtered.wait_replayed(&scene.primary)?;
    let moved =
        format!("select restart_lsn > '{first}'::pg_lsn + 4 * 1048576 from pg_replication_slots");
    scene.primary.wait_for(&moved, "t", PATIENCE)?;
    same_contents(&scene.primary, &scene.filtered, "keep")?;
    amcheck(&scene.primary, "keep")?;
    scene.filtered.wait_replayed(&scene.primary)?;
    amcheck(&scene.filtered, "keep")?;
    assert!(!scene.filtered.log().contains("checksum"), "{}", scene.filtered.log_tail());
    Ok(())
}

/// A relay that is stopped for a while: the standby finds it again, and no memory grows.
#[test]
fn a_relay_that_stands_still() -> anyhow::Result<()> {
    if !testkit::private::wanted(Major::V12)? {
        return Ok(());
    }
    let mut scene = Scene::new(Cluster::builder(Major::V12))?;
    let load = Load::start(&scene.primary, &["keep", "drop1"])?;
    for _ in 0..3 {
        scene.relay.program()?.signal(Signal::STOP)?;
        load.wait_for(3 * BETWEEN)?;
        scene.relay.program()?.signal(Signal::CONT)?;
        load.wait_for(BETWEEN)?;
    }
    load.stop()?;
    scene.check()
}
