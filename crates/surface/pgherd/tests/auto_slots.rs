//! `slot: auto`: the relay makes the slots of a configuration, also where the upstream moves to.

mod stage;

use anyhow::{Context as _, Result, ensure};
use stage::{binary, calm, fill, serve, sound};
use testkit::{
    Client, Cluster, Major, PATIENCE, Relay, Standby, Stop, on_majors, run, same_contents,
};

fn relay(hosts: &[&Cluster]) -> Result<Relay> {
    let hosts: Vec<_> = hosts.iter().map(|it| format!("\"127.0.0.1:{}\"", it.port())).collect();
    let upstream = format!(
        "hosts: [{}], watch_interval: 200ms, failover_wait: 60s, catalog: {{user: postgres}}",
        hosts.join(", ")
    );
    let list = serve(&[("berlin", "exclude_databases: [\"drop*\"]"), ("whole", "")]);
    let list = list.replace("      match:", "      slot: auto\n      match:");
    let mut relay = Relay::prepare_upstream(binary(), &upstream, &list)?;
    relay.run()?;
    Ok(relay)
}

const SLOTS: &str = "select string_agg(slot_name || ' ' || active, ', ' order by slot_name) \
                     from pg_replication_slots";

fn forget(relay: &Relay, name: &str) -> Result<String> {
    let mut command = std::process::Command::new(binary());
    command.args(["relay", "forget", name, "-c"]).arg(relay.config());
    run(&mut command)
}

on_majors! {
    [v13 V13, v17 V17]
    /// Made for each configuration, used, made again on the new primary, dropped when forgotten.
    fn slots_move_with_the_upstream(major) {
        let mut old = Cluster::builder(major).start()?;
        old.sql("create database keep; create database drop1")?;
        let new = Standby::of(&old).start()?;
        let mut relay = relay(&[&old, &new])?;
        let dropped = old.database_oid("drop1")?;
        let partial = Standby::of(&old).via(relay.port()).name("berlin");
        let mut partial = partial.without_database(dropped).start()?;
        let mut whole = Standby::of(&old).via(relay.port()).name("whole").start()?;
        let both = "pgherd_berlin true, pgherd_whole true";
        old.wait_for(SLOTS, both, PATIENCE)?;
        // It keeps what a standby that is away needs.
        whole.stop(Stop::Fast)?;
        fill(&old, "keep", "t1")?;
        old.wait_for(SLOTS, "pgherd_berlin true, pgherd_whole false", PATIENCE)?;
        old.sql("checkpoint")?;
        whole.start()?;
        whole.wait_replayed(&old)?;
        new.wait_replayed(&old)?;
        old.kill9()?;
        new.promote()?;
        fill(&new, "keep", "t2")?;
        new.wait_for(SLOTS, both, PATIENCE)?;
        for standby in [&partial, &whole] {
            standby.wait_replayed(&new)?;
            same_contents(&new, standby, "keep")?;
            sound(standby, &[])?;
        }
        calm(&mut relay, &[])?;
        partial.stop(Stop::Fast)?;
        new.wait_for(SLOTS, "pgherd_berlin false, pgherd_whole true", PATIENCE)?;
        let said = forget(&relay, "berlin")?;
        ensure!(said.contains("dropped replication slot pgherd_berlin on"), "{said}");
        new.wait_for(SLOTS, "pgherd_whole true", PATIENCE)?;
        Ok(())
    }
}

/// On a new primary that does not have the WAL any more there is a clear error, and no slot.
#[test]
fn a_new_primary_without_the_wal_is_no_place_for_a_slot() -> Result<()> {
    let mut old = Cluster::builder(Major::V15).set("wal_keep_size", "0").start()?;
    let new = Standby::of(&old).start()?;
    let mut relay = relay(&[&old, &new])?;
    let mut whole = Standby::of(&old).via(relay.port()).name("whole").start()?;
    whole.wait_streaming()?;
    let needed = whole.lsn()?.round_down(16 << 20);
    whole.stop(Stop::Fast)?;
    new.wait_replayed(&old)?;
    old.kill9()?;
    new.promote()?;
    for round in 0..3 {
        fill(&new, "postgres", &format!("t{round}"))?;
        new.sql("select pg_switch_wal()")?;
        new.checkpoint()?;
    }
    let oldest = "select min(name) from pg_ls_waldir() where name like '0000000_00000000%'";
    let oldest = new.sql(oldest)?;
    ensure!(!oldest.ends_with(&format!("{:02X}", needed.0 >> 24)), "{oldest} is still there");
    whole.start()?;
    stage::wait_log(&whole, "no replication slot was kept for this client there")?;
    whole.stop(Stop::Fast)?;
    new.wait_for(SLOTS, "", PATIENCE)?;
    relay.wait_for_line("the upstream does not have the WAL that the standby needs", PATIENCE)?;
    calm(&mut relay, &[])
}

/// A client's own slot is its own, unless it was made through the relay: then it moves too.
#[test]
fn slots_that_clients_name() -> Result<()> {
    let mut old = Cluster::builder(Major::V16).start()?;
    let new = Standby::of(&old).start()?;
    let mut relay = relay(&[&old, &new])?;
    let start = |slot: &str| -> Result<testkit::Answer> {
        let mut client = Client::replication(relay.port(), "berlin")?;
        let at = new.lsn()?.round_down(16 << 20);
        client.query(&format!("START_REPLICATION SLOT {slot} PHYSICAL {at}"))
    };
    let mut client = Client::replication(relay.port(), "berlin")?;
    client.query("CREATE_REPLICATION_SLOT noted PHYSICAL RESERVE_WAL")?.rows()?;
    start("noted")?.rows()?;
    start("typo")?.error("42704")?;
    new.wait_replayed(&old)?;
    old.kill9()?;
    new.promote()?;
    client.wait_closed(PATIENCE)?;
    start("noted")?.rows()?;
    start("typo")?.error("42704")?;
    let slots = new.sql("select string_agg(slot_name, ',') from pg_replication_slots")?;
    ensure!(slots == "noted", "{slots}");
    relay.stop().context("stop")?;
    Ok(())
}
