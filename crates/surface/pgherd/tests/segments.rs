//! Segments of 1 MB to 1 GB, and switches at every kind of place.

mod proof;

use std::collections::BTreeSet;

use pgtypes::{Lsn, Major};
use proof::client::{self, Client};
use proof::compare::{Excluded, Server, compare};
use proof::{FILTERED, Stretch, WITHOUT_DROP, binary};
use testkit::{Cluster, Relay, on_majors};

const MB: u64 = 1 << 20;
/// `XLOG_SWITCH`: a record header and nothing else.
const SWITCH_BYTES: u64 = 24;
const PAGE_BYTES: u64 = 8192;
const PAGE_HEADER_BYTES: u64 = 24;
/// Header of the record, header of long main data, `xl_logical_message`, and an empty prefix.
const MESSAGE_HEAD_BYTES: u64 = 24 + 5 + 24 + 1;

struct Scene {
    primary: Cluster,
    relay: Relay,
    server: Server,
    excluded: Excluded,
}

impl Scene {
    fn new(major: Major, megabytes: u32) -> anyhow::Result<Self> {
        let primary = Cluster::builder(major)
            .wal_segment_mb(megabytes)
            .set_all(&[("autovacuum", "off"), ("wal_init_zero", "off")])
            .start()?;
        for database in ["keep", "drop1"] {
            primary.sql(&format!("create database {database}"))?;
            primary.sql_in(database, "create table t (g int, t text)")?;
        }
        let relay = Relay::start(binary(), primary.port(), WITHOUT_DROP)?;
        let segment_bytes = u64::from(megabytes) * MB;
        let server = Server { major, segment_bytes, timeline: 1 };
        let databases = BTreeSet::from([primary.database_oid("drop1")?]);
        let excluded = Excluded { databases, tablespaces: BTreeSet::new() };
        Ok(Self { primary, relay, server, excluded })
    }

    /// Where the segment after `at` begins.
    fn after(&self, at: Lsn) -> Lsn {
        (at + (self.server.segment_bytes - 1)).round_down(self.server.segment_bytes)
    }

    /// Writes rows to both databases.
    fn rows(&self, rows: u32) -> anyhow::Result<()> {
        for database in ["drop1", "keep"] {
            let sql = format!(
                "insert into t select g, repeat('{database}', 20) from generate_series(1, {rows}) g"
            );
            self.primary.sql_in(database, &sql)?;
        }
        Ok(())
    }

    /// Reads a range direct and filtered, and compares it record by record.
    fn compare(&self, start: Lsn, end: Lsn) -> anyhow::Result<(Stretch, u64)> {
        let original = client::read(self.primary.port(), "direct", start, end)?;
        let filtered = client::read(self.relay.port(), FILTERED, start, end)?;
        let found = compare(self.server, &original, &filtered, &self.excluded)?;
        Ok((filtered, found.replaced))
    }

    /// Fills the segment up to `room` bytes before its end, with a record about `database`.
    fn leave_room(&self, database: &str, room: u64) -> anyhow::Result<()> {
        let mut session = self.primary.session(database)?;
        for _ in 0..20 {
            let at: Lsn = session.query("select pg_current_wal_insert_lsn()")?.parse()?;
            let target = self.after(at) - room;
            let borders = target.0 / PAGE_BYTES - at.0 / PAGE_BYTES;
            let space = target.bytes_since(at).saturating_sub(borders * PAGE_HEADER_BYTES);
            let Some(length) = space.checked_sub(MESSAGE_HEAD_BYTES).filter(|it| *it > 300) else {
                session.query("select pg_switch_wal()")?;
                continue;
            };
            session.query(&format!(
                "select pg_logical_emit_message(false, '', repeat('{}', {length}))",
                database.get(..1).unwrap_or("x")
            ))?;
            if session.query("select pg_current_wal_insert_lsn()")? == target.to_string() {
                return Ok(());
            }
        }
        anyhow::bail!("the server always wrote something in between")
    }
}

/// Scenario 17: the WAL on both sides of a switch, and what a switch leaves of its segment.
fn switches(major: Major, megabytes: u32, times: u32) -> anyhow::Result<()> {
    if !testkit::private::wanted(major)? {
        return Ok(());
    }
    let scene = Scene::new(major, megabytes)?;
    scene.primary.switch_wal()?;
    scene.rows(10)?;
    let mut start = scene.primary.lsn()?.round_down(scene.server.segment_bytes);
    let first = start;
    for time in 1..=times {
        scene.rows(700 * time)?;
        let switched = scene.primary.switch_wal()?;
        scene.rows(10)?;
        let (_, replaced) = scene.compare(start, switched)?;
        assert!(replaced > u64::from(700 * time), "{replaced} records were replaced");
        start = scene.after(switched);
    }
    let (last, replaced) = scene.compare(start, scene.primary.lsn()?)?;
    assert!(replaced >= 10, "{replaced} records were replaced behind the last switch");

    // In one go over all switches: in step with the original, as it is too much to keep.
    let mut original = Client::connect(scene.primary.port(), "direct")?.start(first, 1)?;
    let mut filtered = Client::connect(scene.relay.port(), FILTERED)?.start(first, 1)?;
    let mut differ = 0;
    while filtered.at() < start {
        let until = start.min(filtered.at() + MB);
        differ += u32::from(original.take(until)? != filtered.take(until)?);
    }
    assert!((1..=10 * times).contains(&differ), "{differ} of the megabytes differ");
    assert!(filtered.take(last.end())? == last);
    Ok(())
}

#[test]
fn switches_in_segments_of_1_mb() -> anyhow::Result<()> {
    switches(Major::V13, 1, 5)
}

#[test]
fn switches_in_segments_of_16_mb() -> anyhow::Result<()> {
    switches(Major::V15, 16, 3)
}

#[test]
fn switches_in_segments_of_64_mb() -> anyhow::Result<()> {
    switches(Major::V17, 64, 2)
}

#[test]
fn heavy_switches_in_segments_of_1_gb() -> anyhow::Result<()> {
    switches(Major::V18, 1024, 1)
}

on_majors! {
    [v13 V13, v18 V18]
    /// Switch records that end with their segment, or go over its end and empty the next one.
    fn a_switch_at_the_end_of_a_segment(major) {
        let scene = Scene::new(major, 1)?;
        scene.primary.switch_wal()?;
        scene.rows(10)?;
        let start = scene.primary.lsn()?.round_down(MB);
        let mut borders = Vec::new();
        for database in ["drop1", "keep"] {
            for room in [SWITCH_BYTES, 16, 8, 32] {
                scene.leave_room(database, room)?;
                let border = scene.after(scene.primary.insert_lsn()?);
                scene.primary.switch_wal()?;
                // A switch record that goes over the end empties the segment behind it as well.
                let next = if room < SWITCH_BYTES { border + MB } else { border };
                assert_eq!(scene.primary.insert_lsn()?.round_down(MB), next, "room {room}");
                scene.rows(20)?;
                borders.extend([border, border + MB]);
            }
        }
        let (whole, replaced) = scene.compare(start, scene.primary.lsn()?)?;
        assert!(replaced > 8 * 20, "{replaced} records were replaced");
        // Each of these segments, empty ones too, is a place to start.
        for border in borders.into_iter().filter(|border| *border < whole.end()) {
            let again = client::read(scene.relay.port(), FILTERED, border, whole.end())?;
            assert!(again.bytes == whole.get(border, whole.end())?, "from {border}");
        }
        Ok(())
    }
}
