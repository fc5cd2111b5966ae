//! Filtered WAL, record by record beside the original, judged by `pg_waldump` of each major.

mod proof;

use std::collections::BTreeSet;

use pgtypes::{Lsn, Major};
use proof::compare::{Excluded, Found, Server, compare};
use proof::receive::segment_bytes;
use proof::{FILTERED, WITHOUT_DROP, binary, client, contains};
use tempfile::TempDir;
use testkit::{
    Builder, Cluster, Install, Relay, Standby, Workload, amcheck, on_majors, same_contents,
};

/// Only rows of excluded databases have this.
const MARKER: &str = "Zz-must-never-leave-zZ";

/// Resource managers that the workload uses in each database.
const KINDS: [&str; 14] = [
    "XLOG",
    "Storage",
    "Heap2",
    "Heap",
    "Btree",
    "Hash",
    "Gin",
    "Gist",
    "Sequence",
    "SPGist",
    "BRIN",
    "Generic",
    "LogicalMessage",
    "RelMap",
];

/// How a primary for a comparison differs from the usual one.
fn builder(major: Major, compression: &str) -> Builder {
    Cluster::builder(major).set_all(&[
        ("autovacuum", "off"),
        ("wal_compression", compression),
        ("wal_level", "logical"),
        ("wal_log_hints", "on"),
    ])
}

/// What makes records that the common workload does not: large ones, mixed transactions, the
/// marker, and databases that come and go.
fn extras(primary: &Cluster, round: u32, megabytes: u32) -> anyhow::Result<()> {
    for (database, text) in [("keep", "nothing special"), ("drop1", MARKER)] {
        primary.sql_in(
            database,
            &format!(
                "create table marked{round} as select g, '{text}' || g as t \
                 from generate_series(1, 3000) g; \
                 alter table marked{round} alter t set storage external; \
                 insert into marked{round} select g, repeat('{text}', 500) \
                 from generate_series(1, 20) g; \
                 create index on marked{round} (left(t, 100)); \
                 checkpoint; \
                 update marked{round} set g = g + 1 where g % 7 = 0; \
                 vacuum full marked{round}; \
                 select pg_logical_emit_message(false, '{text}', '{text}') is not null; \
                 select pg_logical_emit_message(true, '{text}', \
                 repeat('{text}', {megabytes} * 48000)) is not null; \
                 truncate marked{round}; \
                 vacuum full pg_class; reindex table pg_class; vacuum full pg_database"
            ),
        )?;
    }
    primary.sql(&format!("create database drop_new{round}"))?;
    primary.sql(&format!("create database keep_new{round}"))?;
    primary.sql_in(
        &format!("drop_new{round}"),
        &format!("create table x as select '{MARKER}' || g from generate_series(1, 2000) g"),
    )?;
    primary.sql_in(
        &format!("keep_new{round}"),
        "create table x as select 'fine' || g from generate_series(1, 2000) g",
    )?;
    Ok(())
}

/// The databases whose names begin with `drop`.
fn excluded(primary: &Cluster) -> anyhow::Result<Excluded> {
    let oids = primary.sql("select oid from pg_database where datname like 'drop%'")?;
    let databases: BTreeSet<u32> = oids.lines().map(str::parse).collect::<Result<_, _>>()?;
    Ok(Excluded { databases, tablespaces: BTreeSet::new() })
}

fn workload(primary: &Cluster, rows: u32, round: u32) -> anyhow::Result<()> {
    std::thread::scope(|scope| {
        let keep = scope.spawn(|| Workload { rows, round }.run(primary, "keep"));
        Workload { rows, round }.run(primary, "drop1")?;
        keep.join().map_err(|_| anyhow::anyhow!("the workload panicked"))?
    })
}

/// A primary with the two databases, a relay, and where to begin.
fn scene(builder: Builder) -> anyhow::Result<(Cluster, Relay, Lsn)> {
    let primary = builder.start()?;
    primary.sql("create database keep")?;
    primary.sql("create database drop1")?;
    let segment = segment_bytes(&primary)?;
    let start = (primary.switch_wal()? + (segment - 1)).round_down(segment);
    let relay = Relay::start(binary(), primary.port(), WITHOUT_DROP)?;
    Ok((primary, relay, start))
}

/// Reads the same WAL twice, direct and filtered, and compares.
fn compare_all(primary: &Cluster, relay: &Relay, start: Lsn) -> anyhow::Result<Found> {
    let end = primary.lsn()?;
    let filtered = client::read(relay.port(), FILTERED, start, end)?;
    let original = client::read(primary.port(), "direct", start, end)?;
    let server =
        Server { major: primary.major(), segment_bytes: segment_bytes(primary)?, timeline: 1 };
    let found = compare(server, &original, &filtered, &excluded(primary)?)?;
    for (stretch, expected) in [(&original, true), (&filtered, false)] {
        let folder = TempDir::with_prefix("pgherd-marker-")?;
        stretch.write(folder.path(), 1, server.segment_bytes)?;
        assert_eq!(contains(folder.path(), MARKER)?, expected, "the marker in what came out");
    }
    Ok(found)
}

on_majors! {
    [v13 V13, v15 V15, v16 V16, v17 V17, v18 V18]
    /// Scenario 6 and 18: exactly the records of excluded databases are no-ops.
    fn only_the_excluded_records_are_gone(major) {
        let (primary, relay, start) = scene(builder(major, "on"))?;
        workload(&primary, 1000, 1)?;
        extras(&primary, 1, 1)?;
        let found = compare_all(&primary, &relay, start)?;
        found.require(&KINDS)?;
        assert!(found.replaced > 10_000, "{found:?}");
        assert!(found.bytes > 8 << 20, "{found:?}");
        Ok(())
    }
}

/// The compressions that only Debian's server has, and none.
#[test]
fn page_images_in_every_compression() -> anyhow::Result<()> {
    if !testkit::private::wanted(Major::V15)? {
        return Ok(());
    }
    for compression in ["lz4", "zstd", "off"] {
        let (primary, relay, start) = scene(builder(Major::V15, compression).lz4_and_zstd())?;
        workload(&primary, 1000, 1)?;
        extras(&primary, 1, 1)?;
        let found = compare_all(&primary, &relay, start)?;
        found.require(&KINDS)?;
        assert!(found.replaced > 10_000, "{found:?}");
    }
    Ok(())
}

on_majors! {
    [v12 V12, v14 V14]
    /// The majors without a `pg_waldump` of their own: a standby's replay is the judge.
    fn a_standby_replays_it_all(major) {
        let primary = builder(major, "on").start()?;
        primary.sql("create database keep")?;
        primary.sql("create database drop1")?;
        let relay = Relay::start(binary(), primary.port(), WITHOUT_DROP)?;
        let standby = Standby::of(&primary)
            .without_database(primary.database_oid("drop1")?)
            .via(relay.port())
            .name(FILTERED)
            .start()?;
        workload(&primary, 1000, 1)?;
        extras(&primary, 1, 1)?;
        standby.wait_replayed(&primary)?;
        for database in ["keep", "keep_new1"] {
            same_contents(&primary, &standby, database)?;
            amcheck(&primary, database)?;
            standby.wait_replayed(&primary)?;
            amcheck(&standby, database)?;
        }
        assert!(contains(&primary.wal_dir(), MARKER)?);
        assert!(!contains(&standby.data(), MARKER)?, "something of an excluded database came");
        Ok(())
    }
}

mod big {
    use super::*;

    /// WAL of each server: five of them make more than 1 GB.
    const BYTES_EACH: u64 = 230 << 20;

    fn on(major: Major, builder: Builder) -> anyhow::Result<Found> {
        let (primary, relay, start) = scene(builder)?;
        let mut round = 0;
        while primary.lsn()?.bytes_since(start) < BYTES_EACH {
            round += 1;
            workload(&primary, 6000, round)?;
            extras(&primary, round, 8)?;
        }
        let found = compare_all(&primary, &relay, start)?;
        found.require(&KINDS)?;
        println!(
            "PostgreSQL {major}: {} MB of WAL, {} records, {} replaced",
            found.bytes >> 20,
            found.records,
            found.replaced
        );
        Ok(found)
    }

    /// `make test-big`: more than 1 GB of mixed WAL, compared record by record.
    #[test]
    #[ignore = "takes minutes; `make test-big` runs it"]
    fn heavy_more_than_a_gigabyte() -> anyhow::Result<()> {
        let mut all = Found::default();
        for major in Install::majors()?.into_iter().filter(|major| Install::has_clients(*major)) {
            all.add(on(major, builder(major, "on"))?);
        }
        for compression in ["lz4", "zstd"] {
            all.add(on(Major::V15, builder(Major::V15, compression).lz4_and_zstd())?);
        }
        println!(
            "in all: {} MB of WAL, {} records, {} replaced: {:?}",
            all.bytes >> 20,
            all.records,
            all.replaced,
            all.replaced_kinds
        );
        assert!(all.bytes > 1 << 30, "{} bytes", all.bytes);
        Ok(())
    }
}
