//! An upstream that moves: the relay finds the right host and takes its clients along.

mod stage;

use anyhow::{Context as _, Result, ensure};
use stage::{absent, binary, calm, fill, serve, sound};
use testkit::{
    Client, Cluster, Link, Major, PATIENCE, Relay, Standby, Stop, Traffic, on_majors,
    same_contents, wait_until,
};

/// `berlin` is partial, `whole` is not.
fn configurations() -> String {
    serve(&[("berlin", "exclude_databases: [\"drop*\"]"), ("whole", "")])
}

/// A relay in front of these ports of 127.0.0.1; `more` are further keys of `upstream`.
fn relay(hosts: &[u16], more: &str) -> Result<Relay> {
    let mut relay = prepare(hosts, more)?;
    relay.run()?;
    Ok(relay)
}

fn prepare(hosts: &[u16], more: &str) -> Result<Relay> {
    let hosts: Vec<_> = hosts.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
    let upstream = format!(
        "hosts: [{}], watch_interval: 200ms, catalog: {{user: postgres}}, {more}",
        hosts.join(", ")
    );
    Relay::prepare_upstream(binary(), &upstream, &configurations())
}

/// A primary with `keep` and `drop1`.
fn primary(major: Major) -> Result<Cluster> {
    let primary = Cluster::builder(major).start()?;
    primary.sql("create database keep; create database drop1")?;
    fill(&primary, "keep", "t")?;
    fill(&primary, "drop1", "t")?;
    Ok(primary)
}

/// Standbys behind the relay: a partial one and a whole one.
struct Herd {
    partial: Standby,
    whole: Standby,
    pids: [Option<u32>; 2],
}

impl Herd {
    fn of(primary: &Cluster, port: u16) -> Result<Self> {
        let dropped = primary.database_oid("drop1")?;
        let partial = Standby::of(primary).via(port).name("berlin").without_database(dropped);
        let partial = partial.start()?;
        let whole = Standby::of(primary).via(port).name("whole").start()?;
        partial.wait_streaming()?;
        whole.wait_streaming()?;
        let pids = [partial.pid(), whole.pid()];
        Ok(Self { partial, whole, pids })
    }

    /// Both get what is written on `server` now, hold what they should, and never restarted.
    fn follows(&mut self, server: &Cluster, table: &str) -> Result<()> {
        fill(server, "keep", table)?;
        fill(server, "drop1", table)?;
        self.partial.wait_replayed(server)?;
        self.whole.wait_replayed(server)?;
        self.is_sound(server)
    }

    fn is_sound(&mut self, server: &Cluster) -> Result<()> {
        same_contents(server, &self.partial, "keep")?;
        for database in ["keep", "drop1"] {
            same_contents(server, &self.whole, database)?;
        }
        absent(&self.partial, server, "drop1")?;
        for standby in [&self.partial, &self.whole] {
            sound(standby, &[])?;
        }
        ensure!(self.partial.is_running()? && self.whole.is_running()?);
        ensure!([self.partial.pid(), self.whole.pid()] == self.pids, "a standby was restarted");
        Ok(())
    }
}

on_majors! {
    [v13 V13, v18 V18]
    /// The primary is killed, its standby promoted: all follow. The old primary comes back and is
    /// not taken, by a relay that was restarted meanwhile either.
    fn a_promoted_standby_is_followed_and_the_old_primary_is_not(major) {
        let mut old = primary(major)?;
        let new = Standby::of(&old).name("new").start()?;
        // The standby first: it has to be passed over.
        let mut relay = relay(&[new.port(), old.port()], "failover_wait: 60s")?;
        let mut herd = Herd::of(&old, relay.port())?;
        herd.follows(&old, "t1")?;
        new.wait_replayed(&old)?;
        old.kill9()?;
        new.promote()?;
        relay.wait_for_line("the upstream moved", PATIENCE)?;
        herd.follows(&new, "t2")?;

        old.start()?;
        relay.wait_for_line("stayed behind: not taken", PATIENCE)?;
        herd.follows(&new, "t3")?;
        relay.stop()?;
        old.sql("create table only_here()")?;
        relay.run()?;
        herd.follows(&new, "t4")?;
        // Alone, it is not taken either: clients wait for the new one.
        let mut new = new;
        relay.stop()?;
        new.stop(Stop::Fast)?;
        relay.run()?;
        relay.wait_for_line("stayed behind: not taken", PATIENCE)?;
        ensure!(herd.partial.receiver().is_none());
        new.start()?;
        herd.follows(&new, "t5")?;
        calm(&mut relay, &[])
    }
}

/// Of two standbys that were both promoted, to timelines of the same number, only the one that
/// clients were led to is followed, whatever becomes of it.
#[test]
fn a_second_promoted_standby_is_not_taken() -> Result<()> {
    let mut old = primary(Major::V17)?;
    let mut first = Standby::of(&old).name("first").start()?;
    let second = Standby::of(&old).name("second").start()?;
    let link = Link::to(second.port())?;
    let hosts = [old.port(), link.port(), first.port()];
    let mut relay = relay(&hosts, "failover_wait: 300ms")?;
    let mut herd = Herd::of(&old, relay.port())?;
    herd.follows(&old, "t1")?;
    second.wait_replayed(&old)?;
    second.sql("alter system set primary_conninfo = ''")?;
    second.sql("select pg_reload_conf()")?;
    wait_until("the second to stay behind", PATIENCE, || {
        Ok(second.sql("select count(*) from pg_stat_wal_receiver")?.eq("0").then_some(()))
    })?;
    herd.follows(&old, "t2")?;
    first.wait_replayed(&old)?;
    old.kill9()?;
    first.promote()?;
    herd.follows(&first, "t3")?;
    second.promote()?;
    second.sql("alter system reset primary_conninfo")?;
    second.sql("create table only_here()")?;
    herd.follows(&first, "t4")?;

    let refused = |relay: &mut Relay| -> Result<()> {
        let line = relay.wait_for_line("was promoted beside the one", PATIENCE)?;
        ensure!(line.contains("PGH0403") && line.contains("left timeline 1 at"), "{line}");
        let told = Client::replication(relay.port(), "whole").err().context("a client came in")?;
        let told = format!("{told:#}");
        ensure!(told.contains("57P03") && told.contains("left timeline 1 at"), "{told}");
        Ok(())
    };
    first.stop(Stop::Fast)?;
    refused(&mut relay)?;
    // What was followed outlives the relay.
    relay.stop()?;
    relay.run()?;
    refused(&mut relay)?;
    ensure!(herd.partial.receiver().is_none() && herd.whole.receiver().is_none());
    for standby in [&herd.partial, &herd.whole] {
        ensure!(standby.sql("select count(*) from pg_class where relname = 'only_here'")? == "0");
    }
    first.start()?;
    herd.follows(&first, "t5")?;

    // Nor is what comes after it, though its timeline is newer than the one that is served.
    let third = Standby::of(&second).start()?;
    third.wait_replayed(&second)?;
    third.promote()?;
    link.retarget(third.port());
    link.cut()?;
    let line = relay.wait_for_line("is on timeline 3, which left timeline 2", PATIENCE)?;
    ensure!(line.contains("clients were led to timeline 2"), "{line}");
    herd.follows(&first, "t6")?;
    calm(&mut relay, &["was promoted beside the one", "no host of the upstream fits"])
}

on_majors! {
    [v13 V13, v14 V14]
    /// A primary whose transactions are read-only unless they say otherwise is a primary.
    fn a_primary_that_is_read_only_by_default_is_followed(major) {
        let primary = primary(major)?;
        let standby = Standby::of(&primary).start()?;
        let mut relay = relay(&[standby.port(), primary.port()], "failover_wait: 5s")?;
        primary.sql("alter system set default_transaction_read_only = on")?;
        primary.sql("select pg_reload_conf()")?;
        let mut client = Client::replication(relay.port(), "whole")?;
        ensure!(client.query("SHOW port")?.value(0)? == primary.port().to_string());
        calm(&mut relay, &[])
    }
}

/// What a client is told when no host fits, and that another cluster never does.
#[test]
fn another_cluster_is_refused_and_each_host_is_named() -> Result<()> {
    let mut primary = primary(Major::V15)?;
    let standby = Standby::of(&primary).start()?;
    let stranger = Cluster::builder(Major::V15).fresh_initdb().start()?;
    let link = Link::to(standby.port())?;
    let mut relay = relay(&[link.port(), primary.port()], "failover_wait: 300ms")?;
    let mut herd = Herd::of(&primary, relay.port())?;
    herd.follows(&primary, "t1")?;
    link.retarget(stranger.port());
    link.cut()?;
    relay.wait_for_line("is of another cluster: refused", PATIENCE)?;
    herd.follows(&primary, "t2")?;
    primary.stop(Stop::Fast)?;
    relay.wait_for_line("no host of the upstream fits now", PATIENCE)?;
    let refused = Client::replication(relay.port(), "whole").err().context("a client came in")?;
    let refused = format!("{refused:#}");
    for part in [
        "57P03".to_owned(),
        format!("127.0.0.1:{} is cluster", link.port()),
        format!("127.0.0.1:{} ", primary.port()),
    ] {
        ensure!(refused.contains(&part), "{part} is not in {refused}");
    }
    // Also by a relay that begins with nothing but the stranger there.
    relay.stop()?;
    relay.run()?;
    relay.wait_for_line("is of another cluster: refused", PATIENCE)?;
    primary.start()?;
    fill(&primary, "keep", "t3")?;
    herd.partial.wait_replayed(&primary)?;
    herd.whole.wait_replayed(&primary)?;
    herd.is_sound(&primary)?;
    calm(&mut relay, &["is of another cluster: refused"])?;
    // Unless the relay is told to forget.
    relay.stop()?;
    primary.stop(Stop::Fast)?;
    let mut forget = std::process::Command::new(binary());
    forget.args(["relay", "forget", "--upstream", "-c"]).arg(relay.config());
    testkit::run(&mut forget)?;
    relay.run()?;
    Client::replication(relay.port(), "whole")?.query("IDENTIFY_SYSTEM")?.rows()?;
    calm(&mut relay, &[])
}

/// The relay starts without any host, holds who comes, and serves when one is there.
#[test]
fn a_relay_without_a_host_waits() -> Result<()> {
    let mut primary = primary(Major::V17)?;
    let mut relay = prepare(&[primary.port()], "failover_wait: 60s")?;
    relay.run()?;
    let mut herd = Herd::of(&primary, relay.port())?;
    relay.stop()?;
    primary.stop(Stop::Fast)?;
    relay.run()?;
    let port = relay.port();
    let held = std::thread::spawn(move || Client::replication(port, "whole").map(drop));
    relay.wait_for_line("does not fit", PATIENCE)?;
    primary.start()?;
    held.join().map_err(|_panic| anyhow::anyhow!("panicked"))??;
    herd.follows(&primary, "t1")?;
    calm(&mut relay, &[])
}

/// Each target leads to its host; a standby that is promoted is left, one that comes is preferred.
#[test]
fn each_target_leads_to_its_host() -> Result<()> {
    let primary = primary(Major::V16)?;
    let first = Standby::of(&primary).name("first").start()?;
    let mut second = Standby::of(&primary).name("second").start()?;
    let ports = [primary.port(), first.port(), second.port()];
    let served = |relay: &Relay| -> Result<u16> {
        let mut client = Client::replication(relay.port(), "whole")?;
        Ok(client.query("SHOW port")?.value(0)?.parse()?)
    };
    for (target, expected) in [("any", 0), ("primary", 0), ("standby", 1), ("prefer-standby", 1)] {
        let mut relay = relay(&ports, &format!("target: {target}"))?;
        ensure!(served(&relay)? == ports[expected], "{target}");
        calm(&mut relay, &[])?;
    }
    let mut relay = relay(&ports, "target: standby")?;
    let mut herd = Herd::of(&primary, relay.port())?;
    herd.follows(&primary, "t1")?;
    // No standby any more: then it is one.
    first.promote()?;
    relay.wait_for_line("the upstream moved", PATIENCE)?;
    ensure!(served(&relay)? == second.port());
    herd.follows(&primary, "t2")?;
    second.stop(Stop::Fast)?;
    let gone = relay.wait_for_line("no host of the upstream fits now", PATIENCE)?;
    ensure!(gone.contains(&second.port().to_string()), "{gone}");
    second.start()?;
    herd.follows(&primary, "t3")?;
    calm(&mut relay, &[])
}

/// A host that keeps silent, as behind a cut cable, is left as soon as another one fits.
#[test]
fn a_silent_primary_is_left() -> Result<()> {
    let primary = primary(Major::V14)?;
    let new = Standby::of(&primary).name("new").start()?;
    let link = Link::to(primary.port())?;
    let mut relay = relay(&[link.port(), new.port()], "failover_wait: 60s")?;
    let mut herd = Herd::of(&primary, relay.port())?;
    herd.follows(&primary, "t1")?;
    new.wait_replayed(&primary)?;
    link.set(Traffic::Stall);
    new.promote()?;
    relay.wait_for_line("the upstream moved", PATIENCE)?;
    herd.follows(&new, "t2")?;
    // It is back, and still takes writes: nobody comes.
    link.set(Traffic::Pass);
    relay.wait_for_line("stayed behind: not taken", PATIENCE)?;
    herd.follows(&new, "t3")?;
    calm(&mut relay, &[])
}

/// A standby that has more than the new primary gets what the server itself has for it, and finds
/// in its history that it went another way; nothing else happens to it.
#[test]
fn a_standby_that_is_ahead_finds_out() -> Result<()> {
    let mut old = primary(Major::V17)?;
    let link = Link::to(old.port())?;
    let new = Standby::of(&old).via(link.port()).start()?;
    let mut relay = relay(&[old.port(), new.port()], "failover_wait: 60s")?;
    let mut herd = Herd::of(&old, relay.port())?;
    new.wait_replayed(&old)?;
    link.set(Traffic::Stall);
    herd.follows(&old, "only_here")?;
    old.kill9()?;
    new.promote()?;
    relay.wait_for_line("the upstream moved", PATIENCE)?;
    for standby in [&herd.partial, &herd.whole] {
        stage::wait_log(standby, "before current recovery point")?;
        ensure!(standby.sql_in("keep", "select count(*) from only_here")? == "2000");
    }
    ensure!(herd.partial.is_running()? && herd.whole.is_running()?);
    calm(&mut relay, &[])
}

on_majors! {
    [v12 V12, v18 V18]
    /// A role without any privilege may look at the hosts.
    fn any_role_that_may_log_in_sees_enough(major) {
        let primary = primary(major)?;
        primary.sql("create role watcher login")?;
        let new = Standby::of(&primary).start()?;
        new.wait_replayed(&primary)?;
        for (target, expected) in [("primary", &primary), ("standby", &*new)] {
            let upstream = format!(
                "hosts: [\"127.0.0.1:{}\", \"127.0.0.1:{}\"], target: {target}, \
                 catalog: {{user: watcher}}",
                primary.port(),
                new.port()
            );
            let mut relay = Relay::prepare_upstream(binary(), &upstream, &configurations())?;
            relay.run()?;
            let mut client = Client::replication(relay.port(), "whole")?;
            assert_eq!(client.query("SHOW port")?.value(0)?, expected.port().to_string());
            calm(&mut relay, &[])?;
        }
        new.promote()?;
        let mut relay = relay(&[primary.port(), new.port()], "target: primary")?;
        let mut client = Client::replication(relay.port(), "whole")?;
        assert_eq!(client.query("SHOW port")?.value(0)?, new.port().to_string());
        calm(&mut relay, &[])
    }
}
