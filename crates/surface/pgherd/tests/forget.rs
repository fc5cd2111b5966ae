//! A filter that changes between restarts, and the state that remembers the old one.

mod stage;

use anyhow::{Result, ensure};
use stage::{absent, berlin, calm, fill, forget, serve, sound, standby_without, wait_log};
use testkit::{Cluster, Major, Relay, Standby, Stop, same_contents};

/// Starts the relay again with another filter.
fn change(relay: &mut Relay, filter: &str) -> Result<()> {
    relay.stop()?;
    relay.reconfigure(&serve(&[("berlin", filter)]))?;
    relay.run()
}

/// A stricter filter: the standby goes on, and what it held so far stays as it was.
#[test]
fn a_stricter_filter_rules_from_then_on() -> Result<()> {
    let primary = Cluster::builder(Major::V16).start()?;
    primary.sql("create database keep; create database later; create database drop1")?;
    primary.sql("create tablespace cold location ''")?;
    for database in ["keep", "later", "drop1"] {
        fill(&primary, database, "t")?;
    }
    primary.sql_in("keep", "create table c tablespace cold as select 1 x")?;
    // An excluded name that was changed to another one does not loosen anything.
    let mut relay = berlin(&primary, "exclude_databases: [drop1]")?;
    let mut standby = standby_without(&primary, &relay, &["drop1"], &[])?;
    primary.sql("alter database drop1 rename to dropped")?;
    standby.wait_replayed(&primary)?;
    // Taken back before it made a difference.
    for filter in ["exclude_databases: [\"*\"]", "exclude_databases: [drop1]"] {
        change(&mut relay, filter)?;
        primary.sql("select txid_current()")?;
        standby.wait_replayed(&primary)?;
    }
    let strict = "exclude_databases: [drop1, later], exclude_tablespaces: [cold]";
    change(&mut relay, strict)?;
    // What is on its way in this segment still goes, for the standby asks for all of it again.
    primary.switch_wal()?;
    for database in ["keep", "later", "dropped"] {
        fill(&primary, database, "u")?;
    }
    primary.sql_in("keep", "insert into c values (2)")?;
    standby.restart()?;
    standby.wait_replayed(&primary)?;
    same_rows(&primary, &standby, "keep", "u")?;
    ensure!(standby.sql_in("keep", "table c")? == "1", "the tablespace is not kept up");
    ensure!(standby.sql_in("later", "select count(*) from t")? == "2000", "what it held stays");
    ensure!(standby.sql_in("later", "table u").is_err(), "the database is not kept up");
    absent(&standby, &primary, "dropped")?;
    // The old filter would include what was not kept up.
    change(&mut relay, "exclude_databases: [drop1]")?;
    let line = relay.wait_for_line("was loosened", testkit::PATIENCE)?;
    ensure!(line.contains("later") && line.contains("cold") && !line.contains("keep"), "{line}");
    calm(&mut relay, &["was loosened"])?;
    change(&mut relay, strict)?;
    // Dropped, it goes from the standby too.
    primary.sql("drop database later")?;
    standby.wait_replayed(&primary)?;
    sound(&standby, &["was loosened"])?;
    calm(&mut relay, &[])
}

fn same_rows(one: &Cluster, other: &Cluster, database: &str, table: &str) -> Result<()> {
    let print = format!("select count(*), sum(hashtext(r::text)::bigint) from {table} r");
    assert_eq!(one.sql_in(database, &print)?, other.sql_in(database, &print)?);
    Ok(())
}

/// A looser filter is refused, and so is none at all, until the state is forgotten; then a new
/// base backup works.
#[test]
fn a_looser_filter_needs_a_new_base_backup() -> Result<()> {
    let primary = Cluster::builder(Major::V17).start()?;
    primary.sql("create database drop1; create database drop2")?;
    let strict = "exclude_databases: [\"drop*\"]";
    let mut relay = berlin(&primary, strict)?;
    let mut standby = standby_without(&primary, &relay, &["drop1", "drop2"], &[])?;
    fill(&primary, "drop1", "t")?;
    standby.wait_replayed(&primary)?;
    let refused = forget(&relay)?;
    ensure!(!refused.status.success(), "forgot what a connected standby needs");
    ensure!(String::from_utf8_lossy(&refused.stderr).contains("in use"), "{refused:?}");

    for (filter, message) in [
        ("exclude_databases: [drop2]", "database \"drop1\" is included now"),
        ("include_databases: [\"drop*\"]", "\"drop1\", database \"drop2\" are included now"),
        ("", "\"drop1\", database \"drop2\" are included now"),
    ] {
        change(&mut relay, filter)?;
        fill(&primary, "drop1", &format!("t{}", filter.len()))?;
        relay.wait_for_line("was loosened", testkit::PATIENCE)?;
        wait_log(&standby, message)?;
        wait_log(&standby, "pgherd relay forget berlin")?;
        calm(&mut relay, &["was loosened"])?;
        absent(&standby, &primary, "drop1")?;
    }
    // The old filter again: nothing was lost.
    change(&mut relay, strict)?;
    standby.wait_replayed(&primary)?;
    absent(&standby, &primary, "drop1")?;
    sound(&standby, &["was loosened"])?;
    calm(&mut relay, &[])?;

    standby.stop(Stop::Fast)?;
    change(&mut relay, "exclude_databases: [drop2]")?;
    let forgot = forget(&relay)?;
    ensure!(forgot.status.success(), "{forgot:?}");
    ensure!(!forget(&relay)?.status.success(), "there is nothing left to forget");
    drop(standby);
    let standby = standby_without(&primary, &relay, &["drop2"], &[])?;
    fill(&primary, "drop1", "more")?;
    fill(&primary, "drop2", "more")?;
    standby.wait_replayed(&primary)?;
    same_contents(&primary, &standby, "drop1")?;
    absent(&standby, &primary, "drop2")?;
    sound(&standby, &[])?;
    calm(&mut relay, &[])
}

/// The decisions are about the OIDs of one cluster.
#[test]
fn another_cluster_is_refused() -> Result<()> {
    let primary = Cluster::builder(Major::V18).start()?;
    let other = Cluster::builder(Major::V18).fresh_initdb().start()?;
    let mut relay = berlin(&primary, "exclude_databases: [\"drop*\"]")?;
    let standby = standby_without(&primary, &relay, &[], &[])?;
    standby.wait_replayed(&primary)?;
    drop(standby);
    relay.stop()?;
    relay.set_upstream(other.port())?;
    relay.run()?;
    // Without a stream it does not become consistent.
    let mut standby = Standby::of(&other).via(relay.port()).name("berlin").prepare()?;
    standby.spawn()?;
    wait_log(&standby, "was used with the cluster")?;
    calm(&mut relay, &["was used with the cluster"])?;
    // Made known with the command of which the message tells.
    standby.stop(Stop::Fast)?;
    ensure!(forget(&relay)?.status.success(), "cannot forget");
    standby.start()?;
    standby.wait_streaming()?;
    other.sql("create database drop1; create database keep")?;
    fill(&other, "keep", "t")?;
    standby.wait_replayed(&other)?;
    same_contents(&other, &standby, "keep")?;
    absent(&standby, &other, "drop1")
}

/// A filter with nothing in it is a filter: what is written into it later counts.
#[test]
fn from_an_empty_filter_to_a_strict_one() -> Result<()> {
    let primary = Cluster::builder(Major::V15).start()?;
    primary.sql("create database drop1")?;
    let yaml =
        "configurations:\n  - berlin:\n      match: {application_name: berlin}\n      filter: {}\n";
    let mut relay = Relay::start(stage::binary(), primary.port(), yaml)?;
    let standby = standby_without(&primary, &relay, &[], &[])?;
    fill(&primary, "drop1", "t")?;
    standby.wait_replayed(&primary)?;
    change(&mut relay, "exclude_databases: [drop1]")?;
    primary.switch_wal()?;
    fill(&primary, "drop1", "u")?;
    standby.wait_replayed(&primary)?;
    ensure!(standby.sql_in("drop1", "table u").is_err(), "the database is kept up");
    sound(&standby, &[])?;
    calm(&mut relay, &[])
}

/// A database that the catalog does not show yet is not forgotten when the filter changes.
#[test]
fn a_looser_filter_while_a_database_is_made() -> Result<()> {
    let primary = Cluster::builder(Major::V18).start()?;
    let strict = "exclude_databases: [\"drop*\"]";
    let mut relay = berlin(&primary, strict)?;
    let standby = standby_without(&primary, &relay, &[], &[])?;
    std::thread::scope(|scope| {
        let mut holder = stage::hold_creation(&primary)?;
        let creator = scope.spawn(|| primary.session("postgres")?.query("create database drop1"));
        stage::wait_blocked(&primary, "create database")?;
        // Nothing else would send the row before its transaction ends.
        primary.switch_wal()?;
        standby.wait_replayed(&primary)?;
        change(&mut relay, "exclude_databases: [other]")?;
        relay.wait_for_line("database \"drop1\" is included now", testkit::PATIENCE)?;
        holder.query("rollback")?;
        creator.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    calm(&mut relay, &["was loosened"])?;
    change(&mut relay, strict)?;
    fill(&primary, "drop1", "t")?;
    standby.wait_replayed(&primary)?;
    absent(&standby, &primary, "drop1")?;
    sound(&standby, &["was loosened"])?;
    calm(&mut relay, &[])
}
