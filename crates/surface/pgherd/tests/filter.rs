//! A filtered standby: what it holds, and that what it holds is whole.

mod stage;

use anyhow::{Result, ensure};
use stage::{
    absent, berlin, binary, calm, fill, folders, named_without, serve, sound, standby_without,
};
use testkit::{
    Cluster, Major, PATIENCE, Relay, Stop, Workload, amcheck, on_each_major, on_majors,
    same_contents,
};

on_each_major! {
    /// Scenario 1, and databases that come and go while streaming.
    fn excluded_databases_never_reach_the_standby(major) {
        let primary = Cluster::builder(major).start()?;
        primary.sql("create database keep")?;
        primary.sql("create database drop1")?;
        let mut relay = berlin(&primary, "exclude_databases: [\"drop*\"]")?;
        let standby = standby_without(&primary, &relay, &["drop1"], &[])?;
        for database in ["keep", "drop1"] {
            fill(&primary, database, "t")?;
        }
        primary.sql("create database drop2; create database keep2")?;
        fill(&primary, "drop2", "t")?;
        fill(&primary, "keep2", "t")?;
        standby.wait_replayed(&primary)?;
        for database in ["keep", "keep2"] {
            same_contents(&primary, &standby, database)?;
        }
        for database in ["drop1", "drop2"] {
            absent(&standby, &primary, database)?;
        }
        primary.sql("drop database drop1; drop database keep2")?;
        standby.wait_replayed(&primary)?;
        sound(&standby, &[])?;
        calm(&mut relay, &[])
    }

    /// Scenario 8: writes of every kind at the same time in an excluded and in an included
    /// database, with page images compressed and with what logical decoding needs.
    fn every_kind_of_record(major) {
        let settings = [("wal_level", "logical"), ("wal_compression", "on")];
        let primary = Cluster::builder(major).set_all(&settings).start()?;
        both_kinds(&primary)
    }
}

on_majors! {
    [v12 V12, v13 V13, v18 V18]
    /// A server whose files are read again: before 14 it tells each setting in them to everybody
    /// who is connected, in the middle of the stream.
    fn a_reload_of_the_server_changes_nothing(major) {
        let mut primary = Cluster::builder(major).start()?;
        primary.sql("create database keep; create database drop1")?;
        let mut relay = berlin(&primary, "exclude_databases: [\"drop*\"]")?;
        let standby = standby_without(&primary, &relay, &["drop1"], &[])?;
        for (round, style) in ["German", "SQL", "ISO"].into_iter().enumerate() {
            primary.set("DateStyle", style)?;
            primary.wait_for("select split_part(current_setting('DateStyle'), ',', 1)", style, PATIENCE)?;
            for database in ["keep", "drop1"] {
                fill(&primary, database, &format!("t{round}"))?;
            }
            standby.wait_replayed(&primary)?;
        }
        let streams = "select count(*) from pg_stat_replication";
        ensure!(primary.sql(streams)? == "1", "the stream was not kept");
        same_contents(&primary, &standby, "keep")?;
        absent(&standby, &primary, "drop1")?;
        sound(&standby, &[])?;
        calm(&mut relay, &[])
    }
}

/// Page images compressed in each other way that there is.
#[test]
fn every_kind_of_record_in_lz4() -> Result<()> {
    both_kinds(&Cluster::builder(Major::V15).lz4_and_zstd().set("wal_compression", "lz4").start()?)
}

#[test]
fn every_kind_of_record_in_zstd() -> Result<()> {
    both_kinds(&Cluster::builder(Major::V15).lz4_and_zstd().set("wal_compression", "zstd").start()?)
}

/// With page images of every page that changes, and hint bits logged.
#[test]
fn every_kind_of_record_with_checksums() -> Result<()> {
    both_kinds(&Cluster::builder(Major::V18).data_checksums().start()?)
}

fn both_kinds(primary: &Cluster) -> Result<()> {
    primary.sql("create database keep")?;
    primary.sql("create database drop1")?;
    let mut relay = berlin(primary, "exclude_databases: [\"drop?\"]")?;
    let mut standby = standby_without(primary, &relay, &["drop1"], &[])?;
    let work = Workload { rows: 1000, round: 1 };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| work.run(primary, "drop1"));
        primary.checkpoint()?;
        work.run(primary, "keep")?;
        other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    amcheck(primary, "keep")?;
    // Prepared transactions that are still open when the standby starts again.
    for database in ["keep", "drop1"] {
        let open = format!("begin; create table p as select 1 x; prepare transaction '{database}'");
        primary.sql_in(database, &open)?;
    }
    // Scenario 9: one commit record that drops many files of the excluded database.
    primary.sql_in("drop1", "drop schema w1 cascade; vacuum full pg_class; vacuum full pg_proc")?;
    standby.wait_replayed(primary)?;
    for round in 0..2 {
        same_contents(primary, &standby, "keep")?;
        assert_eq!(work.probe(primary, "keep")?, work.probe(&standby, "keep")?);
        amcheck(&standby, "keep")?;
        absent(&standby, primary, "drop1")?;
        // Replays again from the last restart point.
        standby.stop(Stop::Immediate)?;
        standby.start()?;
        if round == 0 {
            for database in ["keep", "drop1"] {
                primary.sql_in(database, &format!("commit prepared '{database}'"))?;
            }
        }
        standby.wait_replayed(primary)?;
    }
    sound(&standby, &[])?;
    calm(&mut relay, &[])
}

/// Scenario 2: templates and shared catalogs come along with what is named.
#[test]
fn included_databases_templates_and_shared_catalogs() -> Result<()> {
    let primary = Cluster::builder(Major::V17).start()?;
    primary.sql("create database keep; create database other")?;
    let mut relay = berlin(&primary, "include_databases: [keep, \"orders_*\"]")?;
    let standby = standby_without(&primary, &relay, &["other"], &[])?;
    primary.sql("create role visible; create database orders_eu; create database later")?;
    for database in ["keep", "orders_eu", "template1", "other", "later"] {
        fill(&primary, database, "t")?;
    }
    primary.sql("create table not_here as select 1 x")?;
    // Made from a template that the standby has as well, so the copy has the table.
    let copied = "create database orders_us strategy file_copy";
    primary.sql(copied)?;
    standby.wait_replayed(&primary)?;
    for database in ["keep", "orders_eu", "template1", "orders_us"] {
        same_contents(&primary, &standby, database)?;
    }
    absent(&standby, &primary, "other")?;
    absent(&standby, &primary, "later")?;
    assert_eq!(standby.sql("select rolname from pg_roles where rolname = 'visible'")?, "visible");
    let missing = "select count(*) from pg_class where relname = 'not_here'";
    assert_eq!(standby.sql(missing)?, "0", "postgres is not included");
    sound(&standby, &[])?;
    calm(&mut relay, &[])
}

/// Globs, and a backslash that makes them plain.
#[test]
fn globs_and_plain_names() -> Result<()> {
    let primary = Cluster::builder(Major::V18).start()?;
    let filter = r#"exclude_databases: ["t?", "*_old", 'odd\*', "it's", "with space", "gr?ße"]"#;
    let mut relay = berlin(&primary, filter)?;
    let standby = standby_without(&primary, &relay, &[], &[])?;
    let gone = ["t1", "x_old", "_old", "odd*", "it's", "with space", "größe"];
    let here = ["t", "t12", "x_older", "odd1", "T1", "its"];
    for database in gone.iter().chain(&here) {
        primary.sql(&format!("create database \"{database}\""))?;
        fill(&primary, database, "t")?;
    }
    standby.wait_replayed(&primary)?;
    for database in here {
        same_contents(&primary, &standby, database)?;
    }
    for database in gone {
        let name = database.replace('\'', "''");
        let left = folders(&standby, primary.database_oid(&name)?)?;
        assert!(left.is_empty(), "{database}: {left:?}");
    }
    sound(&standby, &[])?;
    calm(&mut relay, &[])
}

/// Scenario 4: ten standbys with a filter each, at once, of one primary through one relay.
#[test]
fn heavy_ten_standbys_get_what_is_theirs() -> Result<()> {
    const DATABASES: [&str; 4] = ["d0", "d1", "d2", "d3"];
    let primary = Cluster::builder(Major::V16).set("shared_buffers", "8MB").start()?;
    for database in DATABASES {
        primary.sql(&format!("create database {database}"))?;
    }
    // Each number has other bits, and so each standby other databases.
    let parts: Vec<_> = (1..=10_u32)
        .map(|number| {
            let bits = DATABASES.iter().enumerate();
            let (own, others): (Vec<_>, Vec<_>) =
                bits.partition(|(bit, _)| number & (1 << bit) != 0);
            let names = |list: &[(usize, &&'static str)]| -> Vec<&'static str> {
                list.iter().map(|(_, name)| **name).collect()
            };
            (format!("s{number}"), names(&own), names(&others))
        })
        .collect();
    let filters: Vec<_> = parts
        .iter()
        .enumerate()
        .map(|(number, (name, own, others))| match number % 2 {
            0 => (name, format!("include_databases: [postgres, {}]", own.join(", "))),
            _ => (name, format!("exclude_databases: [\"e*\", {}]", others.join(", "))),
        })
        .collect();
    let listed: Vec<_> = filters.iter().map(|(name, it)| (name.as_str(), it.as_str())).collect();
    let mut relay = Relay::start(binary(), primary.port(), &serve(&listed))?;
    let standbys: Vec<_> = parts
        .iter()
        .map(|(name, _, others)| named_without(name, &primary, &relay, others, &[]))
        .collect::<Result<_>>()?;
    primary.sql("create database e1; create table t as select 1 x")?;
    for database in DATABASES.iter().chain(&["e1"]) {
        fill(&primary, database, "t")?;
    }
    for (standby, (_, own, others)) in standbys.iter().zip(&parts) {
        standby.wait_streaming()?;
        standby.wait_replayed(&primary)?;
        for database in own.iter().chain(&["postgres"]) {
            same_contents(&primary, standby, database)?;
        }
        for database in others.iter().chain(&["e1"]) {
            absent(standby, &primary, database)?;
        }
        sound(standby, &[])?;
    }
    calm(&mut relay, &[])
}
