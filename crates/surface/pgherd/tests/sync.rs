//! Scenario 30: synchronous replication by `application_name` through the relay.

use std::path::Path;

use anyhow::Result;
use testkit::{Cluster, Major, PATIENCE, Relay, Standby, Stop, on_majors};

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pgherd"))
}

/// `s1` is filtered, `s2` is not: a commit must be confirmed by both ways.
const CONFIGURATIONS: &str = "
configurations:
  - s1:
      match: {application_name: s1}
      filter: {exclude_databases: [scratch]}
  - rest: {}
";

/// Starts a commit that has to wait for a standby, sees that it does, lets `free` end that, and
/// sees it end.
fn waits_until(primary: &Cluster, free: impl FnOnce() -> Result<()>) -> Result<()> {
    let mut session = primary.session("postgres")?;
    let pid = session.query("select pg_backend_pid()")?;
    std::thread::scope(|scope| -> Result<()> {
        let commit = scope.spawn(move || session.query("insert into t select 1"));
        let waits = format!("select wait_event from pg_stat_activity where pid = {pid}");
        primary.wait_for(&waits, "SyncRep", PATIENCE)?;
        free()?;
        commit.join().map_err(|_panic| anyhow::anyhow!("panicked"))??;
        Ok(())
    })
}

on_majors! {
    [v12 V12, v18 V18]
    /// What each level promises holds when the commit comes back: with `remote_apply` the row
    /// can be read on the standby.
    fn a_commit_waits_for_the_standby_at_every_level(major) {
        let mut primary = Cluster::builder(major).start()?;
        primary.sql("create table t(g int)")?;
        let relay = Relay::start(binary(), primary.port(), CONFIGURATIONS)?;
        let mut standby = Standby::of(&primary).via(relay.port()).name("s1").start()?;
        standby.wait_streaming()?;
        primary.set("synchronous_standby_names", "s1")?;
        let state = "select sync_state from pg_stat_replication where application_name = 's1'";
        primary.wait_for(state, "sync", PATIENCE)?;
        let mut session = primary.session("postgres")?;
        let mut rows = 0;
        for level in ["remote_write", "on", "remote_apply"] {
            session.query(&format!("set synchronous_commit = {level}"))?;
            for _ in 0..10 {
                session.query("insert into t select 1")?;
                rows += 1;
                if level == "remote_apply" {
                    assert_eq!(standby.sql("select count(*) from t")?, rows.to_string());
                }
            }
        }
        // Nothing else confirms it: without the standby a commit waits.
        standby.stop(Stop::Fast)?;
        waits_until(&primary, || standby.start())?;
        rows += 1;
        assert_eq!(primary.sql("select count(*) from t")?, rows.to_string());
        Ok(())
    }
}

#[test]
fn two_standbys_are_told_apart() -> Result<()> {
    let mut primary = Cluster::builder(Major::V15).start()?;
    primary.sql("create table t(g int)")?;
    let relay = Relay::start(binary(), primary.port(), CONFIGURATIONS)?;
    let mut s1 = Standby::of(&primary).via(relay.port()).name("s1").start()?;
    let s2 = Standby::of(&primary).via(relay.port()).name("s2").start()?;
    primary.set("synchronous_standby_names", "FIRST 1 (s1, s2)")?;
    let states = "select string_agg(application_name || ' ' || sync_state, ', ' order by 1) \
                  from (select * from pg_stat_replication order by application_name) r";
    primary.wait_for(states, "s1 sync, s2 potential", PATIENCE)?;
    primary.set("synchronous_standby_names", "2 (s1, s2)")?;
    primary.wait_for(states, "s1 sync, s2 sync", PATIENCE)?;
    let mut session = primary.session("postgres")?;
    session.query("set synchronous_commit = remote_apply")?;
    session.query("insert into t select 1")?;
    for standby in [&s1, &s2] {
        assert_eq!(standby.sql("select count(*) from t")?, "1");
    }
    s1.stop(Stop::Fast)?;
    primary.wait_for(states, "s2 sync", PATIENCE)?;
    waits_until(&primary, || s1.start())?;
    s1.stop(Stop::Fast)?;
    primary.set("synchronous_standby_names", "ANY 1 (s1, s2)")?;
    primary.wait_for("show synchronous_standby_names", "ANY 1 (s1, s2)", PATIENCE)?;
    session.query("insert into t select 3")?;
    assert_eq!(s2.sql("select count(*) from t where g = 3")?, "1");
    Ok(())
}
