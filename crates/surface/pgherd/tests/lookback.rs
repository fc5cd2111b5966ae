//! Starts in the middle of a record: with what was noted before, without it, and when the
//! record's beginning is gone.

mod proof;

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use pgtypes::Lsn;
use proof::compare::{Excluded, Server, compare};
use proof::receive::{Receiver, fill_segment, same_files};
use proof::{FILTERED, Stretch, WITHOUT_DROP, binary, client, contains, segment_name};
use tempfile::TempDir;
use testkit::{Cluster, Relay, on_majors};

const MB: u64 = 1 << 20;
const MARKER: &str = "Zz-must-never-leave-zZ";
/// A start must not wait for anything: not for new WAL, not for a timeout.
const AT_ONCE: Duration = Duration::from_secs(5);

/// An idle primary with records of several segments, excluded ones and others.
struct Scene {
    primary: Cluster,
    relay: Relay,
    server: Server,
    start: Lsn,
    end: Lsn,
}

impl Scene {
    fn new(major: testkit::Major) -> anyhow::Result<Self> {
        let primary = Cluster::builder(major).wal_segment_mb(1).set("autovacuum", "off").start()?;
        primary.sql("create database keep")?;
        primary.sql("create database drop1")?;
        let start = (primary.switch_wal()? + (MB - 1)).round_down(MB);
        for (database, text) in [("drop1", MARKER), ("keep", "nothing special")] {
            let repeats = (3 << 20) / text.len();
            primary.sql_in(
                database,
                &format!(
                    "select pg_logical_emit_message(false, 'm', repeat('{text}', {repeats})); \
                     create table t as select '{text}' || g as t from generate_series(1, 9000) g; \
                     begin; select pg_logical_emit_message(true, 'm', repeat('{text}', {repeats})); \
                     insert into t values ('{text}'); commit; \
                     checkpoint; create index on t (t)"
                ),
            )?;
        }
        let end = primary.lsn()?;
        let relay = Relay::start(binary(), primary.port(), WITHOUT_DROP)?;
        let server = Server { major, segment_bytes: MB, timeline: 1 };
        Ok(Self { primary, relay, server, start, end })
    }

    fn read(&self, from: Lsn) -> anyhow::Result<Stretch> {
        let began = Instant::now();
        let stretch = client::read(self.relay.port(), FILTERED, from, self.end)?;
        assert!(began.elapsed() < AT_ONCE, "from {from} it took {:?}", began.elapsed());
        Ok(stretch)
    }

    /// The segments inside the range.
    fn segments(&self) -> Vec<Lsn> {
        let count = self.end.bytes_since(self.start) / MB;
        (0..=count).map(|number| self.start + number * MB).collect()
    }

    /// Stops the relay, forgets all that it knows, and starts it.
    fn forget(&mut self) -> anyhow::Result<()> {
        self.relay.stop()?;
        fs::remove_dir_all(self.relay.state_dir())?;
        self.relay.run()
    }

    fn same(&self, whole: &Stretch, from: Lsn) -> anyhow::Result<()> {
        let again = self.read(from)?;
        assert!(again.bytes == whole.get(from, self.end)?, "other bytes from {from}");
        Ok(())
    }
}

on_majors! {
    [v12 V12, v16 V16]
    /// Scenario 16: wherever a stream starts, whatever the relay remembers, the bytes are the same.
    fn the_same_bytes_from_every_start(major) {
        let mut scene = Scene::new(major)?;
        let whole = scene.read(scene.start)?;
        if testkit::Install::has_clients(major) {
            let original = client::read(scene.primary.port(), "direct", scene.start, scene.end)?;
            let databases = BTreeSet::from([scene.primary.database_oid("drop1")?]);
            let excluded = Excluded { databases, tablespaces: BTreeSet::new() };
            compare(scene.server, &original, &whole, &excluded)?;
        }
        let folder = TempDir::with_prefix("pgherd-marker-")?;
        whole.write(folder.path(), 1, MB)?;
        assert!(!contains(folder.path(), MARKER)? && contains(&scene.primary.wal_dir(), MARKER)?);

        let segments = scene.segments();
        assert!(segments.len() > 12, "{} segments", segments.len());
        for from in &segments {
            scene.same(&whole, *from)?;
        }
        // Not at a segment, not at a page, not at a record.
        for from in [8192, 8200, MB + 4000, 2 * MB + 12_345, 3 * MB - 1, 5 * MB + 17, 9 * MB - 3] {
            scene.same(&whole, scene.start + from)?;
        }
        scene.relay.stop()?;
        scene.relay.run()?;
        for from in segments.iter().step_by(3) {
            scene.same(&whole, *from)?;
        }
        scene.relay.kill9()?;
        scene.relay.run()?;
        for from in segments.iter().skip(1).step_by(3) {
            scene.same(&whole, *from)?;
        }
        // Nothing is known: each start looks back by itself.
        for from in segments.iter().skip(1).step_by(2) {
            scene.forget()?;
            scene.same(&whole, *from)?;
        }
        scene.forget()?;
        scene.same(&whole, scene.start + 2 * MB + 12_345)?;
        assert_eq!(scene.relay.alarms(), Vec::<String>::new());
        Ok(())
    }
}

/// The same by `pg_receivewal`: what different receivers hold of a segment is the same file.
#[test]
fn receivers_with_different_starts_hold_the_same_files() -> anyhow::Result<()> {
    if !testkit::private::wanted(testkit::Major::V17)? {
        return Ok(());
    }
    let mut scene = Scene::new(testkit::Major::V17)?;
    let end = fill_segment(&scene.primary)?;
    let receive = |relay: &Relay, number: u64| {
        let start = scene.start + number * MB;
        Receiver::start(&scene.primary, relay.port(), FILTERED, start, end)?.finish()
    };
    let trim = |folder: &TempDir, number: u64| -> anyhow::Result<()> {
        for number in 0..number {
            let name = segment_name(1, scene.start + number * MB, MB);
            fs::remove_file(folder.path().join(name)).ok();
        }
        // The empty segment that set the start.
        let before = scene.start + number * MB - MB;
        let name = segment_name(1, before, MB);
        fs::remove_file(folder.path().join(name)).ok();
        Ok(())
    };
    for number in [2, 5] {
        scene.relay.stop()?;
        fs::remove_dir_all(scene.relay.state_dir()).ok();
        scene.relay.run()?;
        let late = receive(&scene.relay, number)?;
        scene.relay.kill9()?;
        scene.relay.run()?;
        let early = receive(&scene.relay, 0)?;
        fs::remove_file(early.path().join(segment_name(1, scene.start - MB, MB)))?;
        trim(&early, number)?;
        trim(&late, number)?;
        assert!(same_files(early.path(), late.path())? > 5);
        assert!(!contains(late.path(), MARKER)?);
        assert!(!contains(early.path(), MARKER)?);
    }
    Ok(())
}

/// The beginning of the record is gone: the stream starts nevertheless, says so, and is right
/// from the next record on.
#[test]
fn a_beginning_that_is_gone() -> anyhow::Result<()> {
    if !testkit::private::wanted(testkit::Major::V15)? {
        return Ok(());
    }
    let mut scene = Scene::new(testkit::Major::V15)?;
    let whole = scene.read(scene.start)?;
    let original = client::read(scene.primary.port(), "direct", scene.start, scene.end)?;
    scene.forget()?;
    let from = scene.start + 2 * MB;
    let gone = scene.primary.wal_dir().join(segment_name(1, from - MB, MB));
    fs::rename(&gone, gone.with_extension("gone"))?;

    let stretch = scene.read(from)?;
    let tail = u64::from(u32::from_le_bytes(original.get(from + 16, from + 20)?.try_into()?));
    let pages = tail / (8192 - 24) + 1;
    let record_end = from + tail + pages * 24 + 40;
    let behind = (record_end + 8192).round_down(8192);
    assert!(tail > MB, "{tail} bytes of the record are left");
    assert!(stretch.get(from, from + tail)? == original.get(from, from + tail)?);
    assert!(stretch.get(behind, scene.end)? == whole.get(behind, scene.end)?);
    let warning = scene.relay.wait_for_line("does not have the WAL before", AT_ONCE)?;
    assert!(warning.contains("WARN") && warning.contains(&from.to_string()), "{warning}");
    // Only what cannot be known is let through, and the answer is not kept: once the WAL is
    // there again, the same start gives the right bytes.
    fs::rename(gone.with_extension("gone"), &gone)?;
    scene.same(&whole, from)?;
    Ok(())
}

/// Records of 60 MB in segments of the usual size, and a relay that knows nothing of them:
/// it looks back over several segments, and the bytes are the same.
#[test]
fn records_of_sixty_megabytes() -> anyhow::Result<()> {
    if !testkit::private::wanted(testkit::Major::V15)? {
        return Ok(());
    }
    const SEGMENT: u64 = 16 * MB;
    let primary = Cluster::builder(testkit::Major::V15).set("autovacuum", "off").start()?;
    primary.sql("create database keep")?;
    primary.sql("create database drop1")?;
    let start = (primary.switch_wal()? + (SEGMENT - 1)).round_down(SEGMENT);
    for (database, text) in [("drop1", MARKER), ("keep", "nothing special")] {
        let repeats = (60 << 20) / text.len();
        let message = format!("pg_logical_emit_message(true, 'm', repeat('{text}', {repeats}))");
        primary.sql_in(database, &format!("select {message}; create table t ()"))?;
    }
    let end = primary.lsn()?;
    let relay = Relay::start(binary(), primary.port(), WITHOUT_DROP)?;
    let server = Server { major: testkit::Major::V15, segment_bytes: SEGMENT, timeline: 1 };
    let mut scene = Scene { primary, relay, server, start, end };

    let original = client::read(scene.primary.port(), "direct", start, end)?;
    let whole = scene.read(start)?;
    let databases = BTreeSet::from([scene.primary.database_oid("drop1")?]);
    let excluded = Excluded { databases, tablespaces: BTreeSet::new() };
    let found = compare(scene.server, &original, &whole, &excluded)?;
    assert!(found.replaced > 1, "{} records were replaced", found.replaced);
    for segment in [3, 6] {
        scene.forget()?;
        scene.same(&whole, start + segment * SEGMENT)?;
    }
    assert_eq!(scene.relay.alarms(), Vec::<String>::new());
    Ok(())
}
