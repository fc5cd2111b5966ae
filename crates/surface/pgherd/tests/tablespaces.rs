//! Filters by tablespace: what is made in them, moved in and out of them, and dropped.

mod stage;
mod web;

use anyhow::{Context as _, Result, ensure};
use stage::{
    Relaying, absent, berlin, calm, disturb, fill, no_tablespace, serve, sound, standby_without,
    wait_blocked,
};
use testkit::{Cluster, Major, Standby, Stop, fingerprint, on_majors, same_contents};
use web::Web;

const FILTER: &str = "exclude_tablespaces: [\"cold*\"]";

/// Tables and indexes in several tablespaces of one database.
const SPREAD: &str = "
    create table here as select g, repeat('x', 100) t from generate_series(1, 2000) g;
    create table there tablespace cold as select g, repeat('x', 100) t from generate_series(1, 2000) g;
    create table fast tablespace hot as select g, repeat('x', 100) t from generate_series(1, 2000) g;
    create index on fast (g) tablespace hot;
";

/// The rows of one table are the same on both.
fn same_table(primary: &Cluster, standby: &Standby, database: &str, table: &str) -> Result<()> {
    let print = format!("select count(*), sum(hashtext(r::text)::bigint) from {table} r");
    assert_eq!(primary.sql_in(database, &print)?, standby.sql_in(database, &print)?, "{table}");
    Ok(())
}

/// The standby says that it does not have the file.
fn not_there(standby: &Standby, database: &str, table: &str) -> Result<()> {
    let error = standby.sql_in(database, &format!("select count(*) from {table}")).err();
    let error = format!("{:#}", error.with_context(|| format!("the standby has {table}"))?);
    assert!(error.contains("could not open file"), "{error}");
    Ok(())
}

on_majors! {
    [v12 V12, v14 V14, v15 V15, v18 V18]
    /// Scenarios 3 and 14: excluded tablespaces come and go; tables move in and out of them.
    fn excluded_tablespaces_never_reach_the_standby(major) {
        // Without in-place tablespaces a server dies of a plain folder in pg_tblspc.
        let primary = Cluster::builder(major).start()?;
        primary.sql("create database keep")?;
        primary.create_tablespace("cold")?;
        primary.sql("create tablespace hot location ''")?;
        let mut relay = berlin(&primary, FILTER)?;
        let mut standby = standby_without(&primary, &relay, &[], &["cold"])?;
        primary.sql_in("keep", SPREAD)?;
        primary.create_tablespace("cold later")?;
        primary.sql("create tablespace warm location ''")?;
        primary.sql_in("keep", "create table c tablespace \"cold later\" as select 1 x;
            create table w tablespace warm as select 1 x; alter table there set tablespace warm;
            alter table fast set tablespace cold; vacuum full c; truncate c; insert into c values (1)")?;
        standby.wait_replayed(&primary)?;
        for table in ["here", "there", "w"] {
            same_table(&primary, &standby, "keep", table)?;
        }
        not_there(&standby, "keep", "fast")?;
        not_there(&standby, "keep", "c")?;
        no_tablespace(&standby, &primary, "cold")?;
        no_tablespace(&standby, &primary, "cold later")?;
        let cold = primary.tablespace_oid("cold later")?;
        primary.sql_in("keep", "drop table c; drop tablespace \"cold later\"")?;
        primary.sql_in("keep", "alter table fast set tablespace pg_default; drop table w")?;
        primary.sql("drop tablespace warm").err().context("there is still in it")?;
        standby.restart()?;
        standby.wait_replayed(&primary)?;
        same_table(&primary, &standby, "keep", "fast")?;
        assert!(!standby.data().join("pg_tblspc").join(cold.to_string()).exists());
        sound(&standby, &[])?;
        calm(&mut relay, &[])
    }
}

/// Only what is named, and `pg_default`.
#[test]
fn included_tablespaces() -> Result<()> {
    let primary = Cluster::builder(Major::V15).start()?;
    primary.sql("create database keep; create tablespace hot location ''")?;
    primary.create_tablespace("cold")?;
    let mut relay = berlin(&primary, "include_tablespaces: [hot, \"nvme?\"]")?;
    let standby = standby_without(&primary, &relay, &[], &["cold"])?;
    primary.sql_in("keep", SPREAD)?;
    primary.sql("create tablespace nvme1 location ''; create tablespace nvme10 location ''")?;
    primary.sql_in(
        "keep",
        "create table n1 tablespace nvme1 as select 1 x; \
         create table n10 tablespace nvme10 as select 1 x",
    )?;
    standby.wait_replayed(&primary)?;
    for table in ["here", "fast", "n1"] {
        same_table(&primary, &standby, "keep", table)?;
    }
    not_there(&standby, "keep", "there")?;
    not_there(&standby, "keep", "n10")?;
    no_tablespace(&standby, &primary, "nvme10")?;
    sound(&standby, &[])?;
    calm(&mut relay, &[])
}

/// Scenario 4: rules for databases and tablespaces together.
#[test]
fn both_rules_together() -> Result<()> {
    let primary = Cluster::builder(Major::V18).start()?;
    primary
        .sql("create database keep; create database drop1; create tablespace hot location ''")?;
    primary.create_tablespace("cold")?;
    let filter = "include_databases: [keep], include_tablespaces: [hot, \"cold*\"], \
                  exclude_tablespaces: [cold]";
    let mut relay = berlin(&primary, filter)?;
    let standby = standby_without(&primary, &relay, &["drop1"], &["cold"])?;
    primary.sql_in("keep", SPREAD)?;
    primary.sql_in("drop1", SPREAD)?;
    standby.wait_replayed(&primary)?;
    same_table(&primary, &standby, "keep", "here")?;
    same_table(&primary, &standby, "keep", "fast")?;
    not_there(&standby, "keep", "there")?;
    absent(&standby, &primary, "drop1")?;
    no_tablespace(&standby, &primary, "cold")?;
    sound(&standby, &[])?;
    calm(&mut relay, &[])
}

/// A database whose catalogs are in an excluded tablespace is excluded as a whole.
#[test]
fn a_database_whose_home_is_excluded() -> Result<()> {
    let primary = Cluster::builder(Major::V16).start()?;
    primary.create_tablespace("cold")?;
    primary.sql("create database old tablespace cold; create tablespace hot location ''")?;
    let mut relay = berlin(&primary, FILTER)?;
    let mut standby = standby_without(&primary, &relay, &["old"], &["cold"])?;
    primary.sql("create database new1 tablespace cold")?;
    primary.sql("create database new2 tablespace cold strategy file_copy")?;
    for database in ["old", "new1"] {
        primary.sql_in(database, "create table t tablespace hot as select 1 x")?;
    }
    fill(&primary, "new2", "t")?;
    standby.wait_replayed(&primary)?;
    for database in ["old", "new1", "new2"] {
        absent(&standby, &primary, database)?;
    }
    // Copied to where it could be, from what is not there.
    primary.sql("create database lost template new2 tablespace hot strategy file_copy")?;
    fill(&primary, "lost", "u")?;
    standby.restart()?;
    standby.wait_replayed(&primary)?;
    absent(&standby, &primary, "lost")?;
    sound(&standby, &[])?;
    calm(&mut relay, &["excluded template"])
}

on_majors! {
    [v12 V12, v15 V15, v18 V18]
    /// Scenario 15: into an excluded tablespace and back, with changes in between.
    fn a_database_moves_out_and_back(major) {
        for (away, relaying) in [(false, Relaying::Stays), (true, Relaying::Killed)] {
            let primary = Cluster::builder(major).start()?;
            primary.sql("create database keep; create database mover; create tablespace hot location ''; create tablespace home location ''")?;
            primary.create_tablespace("cold")?;
            let web = Web::new()?;
            let mut relay = web.relay(primary.port(), &serve(&[("berlin", FILTER)]))?;
            let mut standby = standby_without(&primary, &relay, &[], &["cold"])?;
            primary.sql_in("mover", SPREAD)?;
            primary.sql_in("mover", "drop table there")?;
            standby.wait_replayed(&primary)?;
            if away {
                standby.stop(Stop::Fast)?;
            }
            primary.sql("alter database mover set tablespace home")?;
            primary.sql_in("mover", "insert into here values (0, 'in home')")?;
            if !away {
                standby.wait_replayed(&primary)?;
                same_table(&primary, &standby, "mover", "here")?;
            }
            primary.sql("alter database mover set tablespace cold")?;
            primary.sql_in("mover", "insert into here values (0, 'in cold')")?;
            disturb(&mut relay, relaying)?;
            if away {
                standby.start()?;
            }
            standby.wait_replayed(&primary)?;
            absent_home(&standby, &primary, "mover")?;
            calm(&mut relay, &[])?;
            if away {
                standby.stop(Stop::Fast)?;
            }
            primary.sql("alter database mover set tablespace pg_default")?;
            primary.sql_in("mover", "insert into here values (0, 'back'); vacuum full here")?;
            fill(&primary, "mover", "more")?;
            fill(&primary, "keep", "t")?;
            if away {
                standby.start()?;
            }
            standby.wait_replayed(&primary)?;
            calm(&mut relay, &["moved back from an excluded tablespace"])?;
            alarms(&web, 1)?;
            absent_home(&standby, &primary, "mover")?;
            same_contents(&primary, &standby, "keep")?;
            // It stays so, whoever restarts.
            disturb(&mut relay, Relaying::Killed)?;
            primary.sql_in("mover", "insert into here values (0, 'again')")?;
            standby.stop(Stop::Immediate)?;
            standby.start()?;
            standby.wait_replayed(&primary)?;
            absent_home(&standby, &primary, "mover")?;
            sound(&standby, &[])?;
            // It was told; the same WAL again is no news.
            alarms(&web, 0)?;
        }
        Ok(())
    }
}

/// How many alarms the relay has counted since its start.
fn alarms(web: &Web, expected: u64) -> Result<()> {
    let metrics = web.get("/metrics")?.body;
    let sample = format!("pgherd_relay_alarms_total {expected}");
    ensure!(metrics.lines().any(|line| line == sample), "no {sample} in\n{metrics}");
    Ok(())
}

/// The standby has not the catalogs of a database, whatever else of it may be left.
fn absent_home(standby: &Standby, primary: &Cluster, database: &str) -> Result<()> {
    let error = standby.sql_in(database, "select 1").err();
    let error = format!("{:#}", error.with_context(|| format!("the standby has {database}"))?);
    assert!(error.contains("does not exist"), "{error}");
    let oid = primary.database_oid(database)?.to_string();
    assert!(!standby.data().join("base").join(oid).exists());
    Ok(())
}

/// A move into an excluded tablespace that is undone leaves the standby as it was: whole.
#[test]
fn an_aborted_move_changes_nothing() -> Result<()> {
    let primary = Cluster::builder(Major::V17).start()?;
    primary.sql("create database mover")?;
    primary.create_tablespace("cold")?;
    fill(&primary, "mover", "t")?;
    let mut relay = berlin(&primary, FILTER)?;
    let mut standby = standby_without(&primary, &relay, &[], &["cold"])?;
    // The row of pg_database is locked, so the move stops behind its record.
    let mut holder = primary.session("postgres")?;
    holder.query("begin")?;
    holder.query("select 1 from pg_database where datname = 'mover' for update")?;
    std::thread::scope(|scope| -> Result<()> {
        let mover = scope.spawn(|| primary.sql("alter database mover set tablespace cold"));
        wait_blocked(&primary, "alter database")?;
        stage::cancel(&primary, "alter database")?;
        let moved = mover.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        moved.err().context("the move went through")?;
        Ok(())
    })?;
    holder.query("rollback")?;
    fill(&primary, "mover", "u")?;
    standby.wait_replayed(&primary)?;
    same_contents(&primary, &standby, "mover")?;
    relay.kill9()?;
    relay.run()?;
    primary.sql_in("mover", "insert into u select 1, 'more'")?;
    standby.restart()?;
    standby.wait_replayed(&primary)?;
    same_contents(&primary, &standby, "mover")?;
    sound(&standby, &[])?;
    calm(&mut relay, &[])
}

/// While the standby is away a database is made in an excluded tablespace and moved to another
/// one: the catalog shows nothing of it, and the standby cannot have its files.
#[test]
fn made_in_an_excluded_tablespace_and_moved_before_anybody_looks() -> Result<()> {
    let primary = Cluster::builder(Major::V16).start()?;
    primary.create_tablespace("cold")?;
    let mut relay = berlin(&primary, FILTER)?;
    let mut standby = standby_without(&primary, &relay, &[], &["cold"])?;
    standby.wait_replayed(&primary)?;
    standby.stop(Stop::Fast)?;
    primary.sql("create database sly tablespace cold")?;
    fill(&primary, "sly", "t")?;
    primary.sql("alter database sly set tablespace pg_default")?;
    primary.sql_in("sly", "update t set t = 'other'; create table u as select 1 x")?;
    standby.start()?;
    standby.wait_replayed(&primary)?;
    absent(&standby, &primary, "sly")?;
    primary.sql_in("sly", "checkpoint; update t set t = 'third'")?;
    standby.wait_replayed(&primary)?;
    absent(&standby, &primary, "sly")?;
    sound(&standby, &[])?;
    calm(&mut relay, &["moved back from an excluded tablespace"])
}

/// Tablespaces that are made, filled and dropped while the relay is down.
#[test]
fn tablespaces_that_nobody_saw() -> Result<()> {
    let primary = Cluster::builder(Major::V14).start()?;
    primary.sql("create database keep; create tablespace hot location ''")?;
    let mut relay = berlin(&primary, FILTER)?;
    let standby = standby_without(&primary, &relay, &[], &[])?;
    standby.wait_replayed(&primary)?;
    relay.stop()?;
    primary.create_tablespace("cold")?;
    primary.sql("create tablespace brief location ''; create tablespace colder location ''")?;
    primary.sql_in("keep", SPREAD)?;
    primary.sql_in(
        "keep",
        "create table b tablespace brief as select 1 x; create table c tablespace colder as select 1 x;
         alter table b set tablespace hot; drop table c; alter table there set tablespace brief;
         alter table there set tablespace pg_default; drop tablespace brief; drop tablespace colder",
    )?;
    relay.run()?;
    standby.wait_replayed(&primary)?;
    assert!(fingerprint(&standby, "keep")?.len() > 4);
    same_contents(&primary, &standby, "keep")?;
    no_tablespace(&standby, &primary, "cold")?;
    sound(&standby, &[])?;
    calm(&mut relay, &[])
}

/// Even `pg_default` can be excluded: the templates stay, for new databases are made of them.
#[test]
fn without_the_default_tablespace() -> Result<()> {
    let primary = Cluster::builder(Major::V16).start()?;
    primary.sql("create tablespace hot location ''; create database other")?;
    primary.sql("create database keep tablespace hot")?;
    let mut relay = berlin(&primary, "exclude_tablespaces: [pg_default]")?;
    let mut standby = standby_without(&primary, &relay, &["other"], &[])?;
    fill(&primary, "template1", "t")?;
    primary.sql("create database copied tablespace hot strategy file_copy")?;
    primary.sql("create database logged tablespace hot; create database other2")?;
    for database in ["keep", "copied", "logged", "other", "other2"] {
        fill(&primary, database, "u")?;
    }
    standby.restart()?;
    standby.wait_replayed(&primary)?;
    for database in ["keep", "copied", "logged", "template1"] {
        same_contents(&primary, &standby, database)?;
    }
    absent(&standby, &primary, "other")?;
    absent(&standby, &primary, "other2")?;
    sound(&standby, &[])?;
    calm(&mut relay, &[])
}
