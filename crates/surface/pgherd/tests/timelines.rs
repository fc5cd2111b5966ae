//! Timelines: promoted upstreams are followed, live and after a restart, and the filter stays.

mod proof;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use pgtypes::{Lsn, Major};
use proof::client::{self, Client};
use proof::compare::{Excluded, Server, compare};
use proof::{FILTERED, Stretch, WITHOUT_DROP, binary};
use testkit::{
    Cluster, Link, PATIENCE, Relay, Session, Standby, Stop, amcheck, on_majors, same_contents,
};

/// From the promotion to the first row on the standbys behind the relay.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(10);

const FILL: &str = "create table if not exists t (g int, t text); \
     insert into t select g, repeat('x', 300) from generate_series(1, 2000) g";

/// A primary with `keep` and `drop1`.
fn primary(major: Major) -> anyhow::Result<Cluster> {
    let primary = Cluster::builder(major).set("autovacuum", "off").start()?;
    for database in ["keep", "drop1"] {
        primary.sql(&format!("create database {database}"))?;
        primary.sql_in(database, FILL)?;
    }
    Ok(primary)
}

/// A standby of `primary` that streams from `port` and has everything but `drop1`.
fn filtered(primary: &Cluster, port: u16) -> anyhow::Result<Standby> {
    let oid = primary.database_oid("drop1")?;
    Standby::of(primary).without_database(oid).via(port).name(FILTERED).start()
}

/// Writes on `server`, waits for both standbys, and checks what each of them holds.
fn both_follow(server: &Cluster, filtered: &Standby, whole: &Standby) -> anyhow::Result<()> {
    for database in ["keep", "drop1"] {
        server.sql_in(database, FILL)?;
    }
    filtered.wait_replayed(server)?;
    whole.wait_replayed(server)?;
    same_contents(server, filtered, "keep")?;
    for database in ["keep", "drop1"] {
        same_contents(server, whole, database)?;
    }
    let folder = filtered.data().join("base").join(server.database_oid("drop1")?.to_string());
    assert!(!folder.exists(), "{} came to the filtered standby", folder.display());
    Ok(())
}

fn timeline(server: &Cluster) -> anyhow::Result<String> {
    server.sql("select timeline_id from pg_control_checkpoint()")
}

on_majors! {
    [v12 V12, v15 V15, v18 V18]
    /// Scenario 20: the relay's upstream is a standby that is promoted, twice in a row and once
    /// more while the relay is away.
    fn promoted_upstreams_are_followed(major) {
        let primary = primary(major)?;
        let first = Standby::of(&primary).name("first").start()?;
        let second = Standby::of(&primary).via(first.port()).name("second").start()?;
        let third = Standby::of(&primary).via(second.port()).name("third").start()?;
        let mut relay = Relay::start(binary(), third.port(), WITHOUT_DROP)?;
        let filtered = filtered(&primary, relay.port())?;
        let whole = Standby::of(&primary).via(relay.port()).name("whole").start()?;
        filtered.wait_streaming()?;
        both_follow(&primary, &filtered, &whole)?;

        drop(primary);
        for promoted in [&first, &second] {
            promoted.promote()?;
            let began = Instant::now();
            both_follow(promoted, &filtered, &whole)?;
            assert!(began.elapsed() < FOLLOWED_WITHIN, "it took {:?}", began.elapsed());
        }
        // The upstream itself, at the end of a segment's worth of switches, without the relay.
        drop(first);
        drop(second);
        relay.stop()?;
        third.promote()?;
        third.checkpoint()?;
        assert_eq!(timeline(&third)?, "4");
        relay.run()?;
        both_follow(&third, &filtered, &whole)?;
        for standby in [&filtered, &whole] {
            amcheck(&third, "keep")?;
            standby.wait_replayed(&third)?;
            amcheck(standby, "keep")?;
            assert!(!standby.log().contains("PANIC"), "{}", standby.log_tail());
        }
        // Filtered standbys stay standbys that can be promoted.
        filtered.promote()?;
        filtered.sql_in("keep", FILL)?;
        Ok(())
    }
}

on_majors! {
    [v13 V13, v17 V17]
    /// Streams on a timeline that has ended, from each kind of place, and what comes behind it.
    fn the_end_of_a_historic_timeline(major) {
        let primary = primary(major)?;
        let upstream = Standby::of(&primary).name("upstream").start()?;
        let start = primary.lsn()?.round_down(16 << 20);
        primary.sql_in("drop1", FILL)?;
        primary.sql_in("keep", FILL)?;
        upstream.wait_replayed(&primary)?;
        drop(primary);
        let relay = Relay::start(binary(), upstream.port(), WITHOUT_DROP)?;
        let live = Client::connect(relay.port(), FILTERED)?.start(start, 1)?;
        upstream.promote()?;
        upstream.sql_in("drop1", FILL)?;
        upstream.sql_in("keep", FILL)?;
        let end = upstream.lsn()?;

        // Live, and again when it is history: the same to the last byte.
        let (seen_live, next, switch, mut client) = live.into_end()?;
        assert_eq!((next, seen_live.end()), (2, switch));
        let rows = client.command("TIMELINE_HISTORY 2")?;
        let history = rows[0][1].clone().unwrap_or_default();
        assert!(history.contains(&switch.to_string()), "{history}");
        for from in [start, start + 8192, switch - 100, switch - 8, switch - 1] {
            let again = Client::connect(relay.port(), FILTERED)?.start(from, 1)?.into_end()?;
            assert!(again.0.bytes == seen_live.get(from, switch)?, "from {from}");
            assert_eq!((again.1, again.2), (2, switch));
        }
        // Exactly at the end there is nothing to stream: the same answer as the server's own.
        let ask = |port| -> anyhow::Result<_> {
            Client::connect(port, FILTERED)?
                .command(&format!("START_REPLICATION {switch} TIMELINE 1"))
        };
        assert_eq!(ask(relay.port())?, ask(upstream.port())?);
        assert_eq!(ask(relay.port())?[0], [Some("2".into()), Some(switch.to_string())]);
        let past = switch + 1;
        let refused = Client::connect(relay.port(), FILTERED)?.start(past, 1).unwrap_err();
        assert!(refused.to_string().contains("not in this server's history"), "{refused:#}");

        // The new timeline begins with a copy of the old one, filtered alike.
        let behind = client::read_timeline(relay.port(), FILTERED, 2, start, end)?;
        assert!(behind.get(start, switch)? == seen_live.bytes);
        let original = client::read_timeline(upstream.port(), "direct", 2, start, end)?;
        let server = Server { major, segment_bytes: 16 << 20, timeline: 2 };
        let databases = BTreeSet::from([upstream.database_oid("drop1")?]);
        let found =
            compare(server, &original, &behind, &Excluded { databases, ..Excluded::default() })?;
        assert!(found.replaced >= 4000, "{found:?}");
        for from in [switch, switch + 1, switch + 8192, end - 8] {
            let again = client::read_timeline(relay.port(), FILTERED, 2, from, end)?;
            assert!(again.bytes == behind.get(from, end)?, "from {from}");
        }
        Ok(())
    }
}

/// What was learned on a branch that nobody went on with does not count on the other one.
#[test]
fn fates_of_an_abandoned_branch() -> anyhow::Result<()> {
    if !testkit::private::wanted(Major::V16)? {
        return Ok(());
    }
    let mut primary = primary(Major::V16)?;
    let link = Link::to(primary.port())?;
    let upstream = Standby::of(&primary).via(link.port()).name("upstream").start()?;
    primary.sql_in("keep", FILL)?;
    let start = primary.lsn()?.round_down(16 << 20);
    upstream.wait_replayed(&primary)?;
    let segment_read = |port: u16, timeline, end: Lsn| -> anyhow::Result<Stretch> {
        client::read_timeline(port, FILTERED, timeline, start, end)
    };
    // The branch that will be lost: the standby does not get it, the relay sees it.
    link.set(testkit::Traffic::Refuse);
    link.cut()?;
    let create = |server: &Cluster, name: &str, oid: u32| -> anyhow::Result<Lsn> {
        server.sql(&format!("create database {name} oid {oid}"))?;
        server.sql_in(name, FILL)?;
        server.lsn()
    };
    let mut relay = Relay::start(binary(), primary.port(), WITHOUT_DROP)?;
    let mut end = create(&primary, "drop_here", 70_000)?;
    end = end.max(create(&primary, "keep_here", 70_001)?);
    primary.sql("drop database drop_here")?;
    primary.sql("alter database keep_here rename to other")?;
    let lost = segment_read(relay.port(), 1, end)?;
    primary.stop(Stop::Immediate)?;

    // The same OIDs with the names swapped.
    relay.stop()?;
    upstream.promote()?;
    relay.set_upstream(upstream.port())?;
    relay.run()?;
    let mut end = create(&upstream, "keep_there", 70_000)?;
    end = end.max(create(&upstream, "drop_there", 70_001)?);
    let (_, _, switch, _) = Client::connect(relay.port(), FILTERED)?.start(start, 1)?.into_end()?;
    assert!(switch < lost.end(), "the branches differ before {}", lost.end());
    let there = segment_read(relay.port(), 2, end)?;
    let original = client::read_timeline(upstream.port(), "direct", 2, start, end)?;
    let drop1 = upstream.database_oid("drop1")?;
    let databases = BTreeSet::from([drop1, 70_001]);
    let server = Server { major: Major::V16, segment_bytes: 16 << 20, timeline: 2 };
    let found = compare(server, &original, &there, &Excluded { databases, ..Excluded::default() })?;
    assert!(found.replaced > 2000, "{found:?}");
    relay.kill9()?;
    relay.run()?;
    assert!(segment_read(relay.port(), 2, end)? == there, "other bytes after a restart");
    Ok(())
}

on_majors! {
    [v14 V14, v18 V18]
    /// A standby as upstream gets its WAL in pieces of any size, and sends it on like that; when it
    /// is stopped it must not wait for bytes that the relay holds back.
    fn a_cascading_upstream_in_small_pieces(major) {
        let primary = primary(major)?;
        let link = Link::to(primary.port())?;
        link.split(997);
        let mut upstream = Standby::of(&primary).via(link.port()).name("upstream").start()?;
        let relay = Relay::start(binary(), upstream.port(), WITHOUT_DROP)?;
        let filtered = filtered(&primary, relay.port())?;
        let whole = Standby::of(&primary).via(relay.port()).name("whole").start()?;
        both_follow(&primary, &filtered, &whole)?;

        // Cut off in the middle of a record: its first part is all that will ever come.
        for round in 0..3 {
            let before = upstream.sql("select pg_last_wal_receive_lsn()")?;
            let writer = std::thread::spawn({
                let mut session = primary.session("drop1")?;
                move || {
                    session.query(
                        // Mostly headers: the cut is hardly ever between two records.
                        "insert into t select g from generate_series(1, 40000) g",
                    )
                }
            });
            upstream.wait_for(
                &format!("select pg_last_wal_receive_lsn() > '{before}'"), "t", PATIENCE,
            )?;
            link.set(testkit::Traffic::Stall);
            let how = if round == 1 { Stop::Smart } else { Stop::Fast };
            let began = Instant::now();
            upstream.stop(how)?;
            assert!(began.elapsed() < FOLLOWED_WITHIN, "{how:?} took {:?}", began.elapsed());
            link.set(testkit::Traffic::Pass);
            upstream.start()?;
            writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
            both_follow(&primary, &filtered, &whole)?;
        }
        for standby in [&filtered, &whole] {
            amcheck(&primary, "keep")?;
            standby.wait_replayed(&primary)?;
            amcheck(standby, "keep")?;
        }
        Ok(())
    }
}

const PAGE: u64 = 8192;

/// Writes messages until the next record begins `room` bytes before the end of its page, and tells
/// where that is.
fn end_of_page(session: &mut Session, room: u64) -> anyhow::Result<Lsn> {
    /// What a message of 256 bytes and more has beside them: the heads of the record and of the
    /// message, and its prefix.
    const AROUND: u64 = 24 + 5 + 24 + 2;
    for _ in 0..10 {
        let at: Lsn = session.query("select pg_current_wal_insert_lsn()")?.parse()?;
        let left = PAGE - at.0 % PAGE;
        if left == room {
            return Ok(at);
        }
        // Too little for a message of that kind: on to the next page.
        let length = left.checked_sub(room + AROUND).filter(|it| *it >= 256).unwrap_or(1024);
        session
            .query(&format!("select pg_logical_emit_message(false, 'x', repeat('x', {length}))"))?;
    }
    anyhow::bail!("no record ends {room} bytes before the end of a page")
}

on_majors! {
    [v13 V13, v17 V17]
    /// The primary is lost when a standby has the beginning of a record, too little of it for the
    /// relay to tell what it is about, and the standby is promoted: what is held back comes before
    /// the end of the timeline, as the server itself sends it.
    fn a_timeline_that_ends_behind_the_beginning_of_a_record(major) {
        // Less than the record's own head, or than what names its database.
        let room = if major == Major::V13 { 16 } else { 32 };
        let mut primary = primary(major)?;
        let upstream = Standby::of(&primary).name("upstream").start()?;
        let relay = Relay::start(binary(), upstream.port(), WITHOUT_DROP)?;
        let filtered = filtered(&primary, relay.port())?;
        let whole = Standby::of(&primary).via(relay.port()).name("whole").start()?;
        let start = primary.lsn()?.round_down(16 << 20);
        let mut direct = Client::connect(upstream.port(), "direct")?;
        // Before 15 a standby wants to be asked this first.
        direct.command("IDENTIFY_SYSTEM")?;
        let mut direct = direct.start(start, 1)?;
        let mut live = Client::connect(relay.port(), FILTERED)?.start(start, 1)?;
        both_follow(&primary, &filtered, &whole)?;

        // Nobody waits for this transaction, so it is flushed as far as its pages are full.
        let mut session = primary.session("drop1")?;
        session.query("begin")?;
        session.query("insert into t values (0, 'the first of the page')")?;
        let switch = end_of_page(&mut session, room)?;
        session.query("insert into t select 0, repeat('x', 300)")?;
        let end = switch + room;
        primary.wait_for("select pg_current_wal_flush_lsn()", &end.to_string(), PATIENCE)?;
        let sent = format!("select count(*) from pg_stat_replication where sent_lsn = '{end}'");
        upstream.wait_for(&sent, "4", PATIENCE)?;
        let mut original = direct.take(end)?;
        let known = live.take(switch)?;
        primary.stop(Stop::Immediate)?;
        upstream.promote()?;

        let (rest, next, told, _) = direct.into_end()?;
        assert_eq!((rest.bytes.len(), next, told), (0, 2, switch));
        let (held, next, told, _) = live.into_end()?;
        assert_eq!((held.start, held.end(), next, told), (switch, end, 2, switch));
        assert!(held.bytes == original.get(switch, end)?, "other bytes behind {switch}");
        let databases = BTreeSet::from([upstream.database_oid("drop1")?]);
        let server = Server { major, segment_bytes: 16 << 20, timeline: 1 };
        original.bytes.truncate(known.bytes.len());
        let excluded = Excluded { databases, ..Excluded::default() };
        let found = compare(server, &original, &known, &excluded)?;
        assert!(found.replaced > 2000, "{found:?}");
        // Standbys that got these bytes go on.
        both_follow(&upstream, &filtered, &whole)?;
        Ok(())
    }
}
