//! The upstream moves, the relay is restarted.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::{Cluster, PATIENCE, Standby, Stop, Traffic, run, wait_until};

use super::world::{ALL_THREE, BOTH, SYNCHRONOUS, World, next_of};
use crate::check;
use crate::dice::Dice;

const SWITCHES: &str = "pgherd_relay_upstream_switches_total";

/// The primary goes, the next one takes over, and the old one comes back.
pub(crate) fn switch(world: &mut World, dice: &mut Dice) -> Result<()> {
    world.settle()?;
    let states = "select count(*) from pg_stat_replication where sync_state = 'sync'";
    world.primary.wait_for(states, "3", PATIENCE)?;
    let next = world.next.take().context("nobody is next")?;
    let moved = world.metric(SWITCHES)?;
    if dice.below(2) == 0 {
        world.tell("the primary is stopped, and the next one promoted");
        clean(world, &next)?;
    } else {
        world.tell("kill -9 of the primary, and the next one is promoted");
        killed(world, &next)?;
    }
    world.link.set(Traffic::Refuse);
    world.link.cut()?;
    next.promote()?;
    let mut old = std::mem::replace(&mut world.primary, next.into_cluster());
    world.primary.set(SYNCHRONOUS, BOTH)?;
    for writer in world.writers.values() {
        writer.retarget(&world.primary);
    }
    std::mem::swap(&mut world.link, &mut world.other);
    world.link.set(Traffic::Pass);
    world.settle().context("after the switch")?;
    let now = world.metric(SWITCHES)?;
    ensure!(now == moved + 1.0, "{now} switches are told instead of {}", moved + 1.0);
    world.switches += 1;
    follows(world)?;
    writes(world)?;
    comes_back(world, &mut old)?;
    rejoin(world, old, dice)
}

/// A shutdown waits until all who stream have everything.
fn clean(world: &mut World, next: &Standby) -> Result<()> {
    world.primary.stop(Stop::Fast)?;
    let received = "select pg_last_wal_receive_lsn()";
    let mut end = next.sql(received)?.parse()?;
    for standby in &world.standbys {
        end = std::cmp::max(end, standby.sql(received)?.parse()?);
    }
    next.wait_replayed_to(end, PATIENCE).context("the next primary is behind")?;
    Ok(())
}

/// Nothing behind the relay gets ahead of the next primary: a standby that is ahead would be
/// refused by the server itself.
fn killed(world: &mut World, next: &Standby) -> Result<()> {
    for link in [&world.link, &world.other] {
        link.set(Traffic::Stall);
    }
    let waiting = "select count(*) > 0 from pg_stat_activity where wait_event = 'SyncRep'";
    world.primary.wait_for(waiting, "t", PATIENCE)?;
    next.wait_replayed(&world.primary)?;
    world.primary.kill9()
}

/// The relay follows the primary that there is.
fn follows(world: &World) -> Result<()> {
    let link = world.link.port();
    let status = world.status()?;
    let address = status.pointer("/upstream/address").and_then(serde_json::Value::as_str);
    let address = address.unwrap_or("nothing");
    ensure!(address.ends_with(&format!(":{link}")), "{address} is followed, not :{link}");
    Ok(())
}

/// Commits are acknowledged.
fn writes(world: &World) -> Result<()> {
    for (database, writer) in &world.writers {
        let before = writer.count();
        wait_until(&format!("commits in {database}"), PATIENCE, || {
            Ok((writer.count() > before + 2).then_some(()))
        })?;
    }
    Ok(())
}

/// The old primary is there again, as if nothing had happened: nobody follows it.
fn comes_back(world: &mut World, old: &mut Cluster) -> Result<()> {
    world.tell("the old primary comes back as it was");
    let before = world.settle()?;
    old.start()?;
    world.other.retarget(old.port());
    world.other.set(Traffic::Pass);
    wait_until("the relay to see the old primary", PATIENCE, || {
        let status = world.status()?;
        let hosts = status.pointer("/upstream/hosts").and_then(serde_json::Value::as_array);
        let primaries = hosts.context("no hosts")?.iter();
        let primaries = primaries.filter(|it| it.get("role").is_some_and(|it| it == "primary"));
        Ok((primaries.count() == 2).then_some(()))
    })?;
    sleep(Duration::from_secs(1));
    let now = world.settle()?;
    ensure!(now == before, "streams before {before:?}, now {now:?}");
    follows(world)?;
    world.other.set(Traffic::Refuse);
    world.other.cut()?;
    old.stop(Stop::Fast)
}

/// The old primary becomes the next one.
fn rejoin(world: &mut World, mut old: Cluster, dice: &mut Dice) -> Result<()> {
    check::quiet(&old)?;
    let next = if dice.below(3) == 0 {
        world.tell("a new standby is made instead of it");
        drop(old);
        next_of(&world.primary, &world.trust)?
    } else {
        world.tell("pg_rewind makes it a standby");
        world.primary.checkpoint()?;
        let source = format!(
            "host={} port={} user=postgres dbname=postgres",
            world.primary.socket_dir().display(),
            world.primary.port()
        );
        let mut rewind = old.file_program("pg_rewind")?;
        rewind.arg("-D").arg(old.data()).arg(format!("--source-server={source}"));
        run(&mut rewind)?;
        old.set(SYNCHRONOUS, ALL_THREE)?;
        let extra = world.trust.between_servers();
        let mut next = Standby::rejoin(old, &world.primary, "next", &extra)?;
        next.start()?;
        next
    };
    world.other.retarget(next.port());
    world.other.set(Traffic::Pass);
    world.next = Some(next);
    world.settle().context("after the old primary came back")?;
    world.primary.set(SYNCHRONOUS, ALL_THREE)?;
    writes(world)
}

/// The relay is stopped or killed, and started.
pub(crate) fn restart(world: &mut World, dice: &mut Dice) -> Result<()> {
    world.keep_log()?;
    world.poller.away();
    if dice.below(2) == 0 {
        world.tell("SIGTERM of the relay");
        let status = world.relay.stop()?;
        ensure!(status.success(), "the relay ended with {status}");
    } else {
        world.tell("kill -9 of the relay");
        world.relay.kill9()?;
    }
    sleep(Duration::from_millis(dice.below(1500)));
    world.relay.run()?;
    let pid = world.relay.program()?.pid();
    wait_until("HTTP", PATIENCE, || {
        Ok(world.metric("pgherd_relay_uptime_seconds").is_ok().then_some(()))
    })?;
    world.poller.back(pid);
    world.settle().context("after the relay came back")?;
    follows(world)
}

/// Nothing happens for a while.
pub(crate) fn rest(world: &mut World, dice: &mut Dice) -> Result<()> {
    sleep(Duration::from_millis(dice.below(5000)));
    writes(world)?;
    follows(world)
}
