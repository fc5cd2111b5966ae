//! Switches under load: the primary is killed and its standby promoted, again and again, with
//! synchronous standbys behind the relay.

mod stage;

use anyhow::{Context as _, Result, ensure};
use stage::{absent, binary, calm, serve, sound};
use testkit::{
    Cluster, Link, Major, PATIENCE, Relay, Session, Standby, Traffic, same_contents, wait_until,
};

/// How often the upstream moves; `make switches` sets it.
const SWITCHES_VARIABLE: &str = "PGHERD_SWITCHES";
const SWITCHES: usize = 2;

/// A commit is acknowledged when all three have it.
const SYNCHRONOUS: (&str, &str) = ("synchronous_standby_names", "3 (next, berlin, whole)");

/// Commits rows until the server is gone: the numbers of those that were acknowledged.
fn load(mut session: Session, first: u64) -> Vec<u64> {
    let mut acknowledged = Vec::new();
    for number in first.. {
        let insert = format!("insert into t values ({number}, repeat('x', {}))", number % 500);
        if session.query(&insert).is_err() {
            break;
        }
        acknowledged.push(number);
    }
    acknowledged
}

/// The next primary, a standby of this one that is synchronous.
fn next_of(primary: &Cluster) -> Result<Standby> {
    let (name, value) = SYNCHRONOUS;
    Standby::of(primary).name("next").set(name, value).start()
}

struct Switches {
    relay: Relay,
    /// One for each host of the relay; servers come and go behind them.
    links: [Link; 2],
    partial: Standby,
    whole: Standby,
    acknowledged: Vec<u64>,
}

impl Switches {
    /// Load on `primary`; then it is killed and `next` promoted.
    fn switch(&mut self, primary: &mut Cluster, next: &Standby) -> Result<()> {
        let states = "select count(*) from pg_stat_replication where sync_state = 'sync'";
        primary.wait_for(states, "3", PATIENCE)?;
        let first = self.acknowledged.last().map_or(1, |last| last + 2);
        let before = primary.sql_in("keep", "select count(*) from t")?.parse::<u64>()?;
        let session = primary.session("keep")?;
        let loading = std::thread::spawn(move || load(session, first));
        let rows = |at_least: u64| {
            wait_until("rows", PATIENCE, || {
                let rows = primary.sql_in("keep", "select count(*) from t")?.parse::<u64>()?;
                Ok((rows >= at_least).then_some(()))
            })
        };
        rows(before + 50)?;
        // The relay is cut off first, in the middle of the load. So nothing behind it gets ahead
        // of the next primary, which is up to date before the old one dies: a standby that is
        // ahead would be refused by the server itself.
        self.links.iter().for_each(|link| link.set(Traffic::Stall));
        let waiting = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
        primary.wait_for(waiting, "1", PATIENCE)?;
        next.wait_replayed(primary)?;
        primary.kill9()?;
        let acknowledged = loading.join().map_err(|_panic| anyhow::anyhow!("panicked"))?;
        ensure!(acknowledged.len() >= 50, "only {} commits", acknowledged.len());
        self.acknowledged.extend(acknowledged);
        next.promote()?;
        self.links.iter().for_each(|link| link.set(Traffic::Pass));
        self.relay.wait_for_line("the upstream moved", PATIENCE)?;
        self.partial.wait_replayed(next)?;
        self.whole.wait_replayed(next)?;
        self.check(next)
    }

    /// Every acknowledged row is on every server.
    fn check(&self, primary: &Cluster) -> Result<()> {
        for server in [primary, &self.partial, &self.whole] {
            let rows = server.sql_in("keep", "select g from t")?;
            let rows: std::collections::HashSet<_> = rows.lines().collect();
            let lost = self.acknowledged.iter();
            let lost: Vec<_> = lost.filter(|it| !rows.contains(it.to_string().as_str())).collect();
            ensure!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        }
        Ok(())
    }
}

#[test]
fn back_and_forth_under_load() -> Result<()> {
    let switches = std::env::var(SWITCHES_VARIABLE).ok();
    let switches = switches.map_or(Ok(SWITCHES), |it| it.parse()).context(SWITCHES_VARIABLE)?;
    let mut primary = Cluster::builder(Major::V17).start()?;
    primary.sql("create database keep; create database drop1")?;
    for database in ["keep", "drop1"] {
        primary.sql_in(database, "create table t (g int, t text)")?;
    }
    let links = [Link::to(primary.port())?, Link::to(primary.port())?];
    links[1].set(Traffic::Refuse);
    let upstream = format!(
        "hosts: [\"127.0.0.1:{}\", \"127.0.0.1:{}\"], watch_interval: 200ms, \
         failover_wait: 60s, catalog: {{user: postgres}}",
        links[0].port(),
        links[1].port()
    );
    let list = serve(&[("berlin", "exclude_databases: [\"drop*\"]"), ("whole", "")]);
    let mut relay = Relay::prepare_upstream(binary(), &upstream, &list)?;
    relay.run()?;
    let dropped = primary.database_oid("drop1")?;
    let partial = Standby::of(&primary).via(relay.port()).name("berlin").without_database(dropped);
    let partial = partial.start()?;
    let whole = Standby::of(&primary).via(relay.port()).name("whole").start()?;
    let pids = [partial.pid(), whole.pid()];
    let mut next = next_of(&primary)?;
    let (name, value) = SYNCHRONOUS;
    primary.set(name, value)?;

    let mut run = Switches { relay, links, partial, whole, acknowledged: Vec::new() };
    let mut old: Cluster = primary;
    for number in 0..switches {
        let link = &run.links[(number + 1) % 2];
        link.retarget(next.port());
        link.set(Traffic::Pass);
        run.switch(&mut old, &next).with_context(|| format!("switch {number}"))?;
        // The old one leaves; its place is for the standby of the new one.
        run.links[number % 2].set(Traffic::Refuse);
        run.links[number % 2].cut()?;
        let after = next_of(&next)?;
        old = std::mem::replace(&mut next, after).into_cluster();
    }
    let primary = old;
    primary.sql_in("drop1", "insert into t select 1")?;
    let Switches { mut relay, mut partial, mut whole, .. } = run;
    for standby in [&partial, &whole] {
        standby.wait_replayed(&primary)?;
        same_contents(&primary, standby, "keep")?;
        sound(standby, &[])?;
    }
    same_contents(&primary, &whole, "drop1")?;
    absent(&partial, &primary, "drop1")?;
    ensure!(partial.is_running()? && whole.is_running()?);
    ensure!([partial.pid(), whole.pid()] == pids, "a standby was restarted");
    calm(&mut relay, &[])
}
