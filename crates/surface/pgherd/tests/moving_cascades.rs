//! Cascades whose upstream moves: a relay behind a relay, a standby behind a partial standby, an
//! upstream that is a standby itself.

mod stage;

use anyhow::Result;
use stage::{absent, binary, calm, fill, serve, sound};
use testkit::{Cluster, Major, PATIENCE, Relay, Standby, same_contents};

/// What a relay's own connections are called.
const OWN: &str = "  - names:\n      match: {application_name: \"pgherd relay (names)\"}\n      \
                   sql: passthrough\n";

fn relay(hosts: &[u16], target: &str, list: &str) -> Result<Relay> {
    let hosts: Vec<_> = hosts.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
    let upstream = format!(
        "hosts: [{}], target: {target}, watch_interval: 200ms, failover_wait: 60s, \
         catalog: {{user: postgres}}",
        hosts.join(", ")
    );
    let mut relay = Relay::prepare_upstream(binary(), &upstream, list)?;
    relay.run()?;
    Ok(relay)
}

fn primary(major: Major) -> Result<Cluster> {
    let primary = Cluster::builder(major).start()?;
    primary.sql("create database keep; create database drop1; create database late1")?;
    for database in ["keep", "drop1", "late1"] {
        fill(&primary, database, "t")?;
    }
    Ok(primary)
}

/// The second relay sees what is behind the first one, which lets its SQL through, and goes along
/// when the first one moves; each takes its part out.
#[test]
fn a_relay_behind_a_relay_moves_with_it() -> Result<()> {
    let mut old = primary(Major::V16)?;
    let new = Standby::of(&old).start()?;
    let list = serve(&[("berlin", "exclude_databases: [\"drop*\"]")]) + OWN;
    let mut first = relay(&[old.port(), new.port()], "primary", &list)?;
    let list = serve(&[("berlin", "exclude_databases: [\"late*\"]")]);
    let mut second = relay(&[first.port()], "primary", &list)?;
    let (dropped, late) = (old.database_oid("drop1")?, old.database_oid("late1")?);
    let standby = Standby::of(&old).via(second.port()).name("berlin");
    let standby = standby.without_database(dropped).without_database(late).start()?;
    standby.wait_replayed(&old)?;
    new.wait_replayed(&old)?;
    old.kill9()?;
    new.promote()?;
    new.sql("create database keep2; create database drop2; create database late2")?;
    for database in ["keep2", "drop2", "late2"] {
        fill(&new, database, "t")?;
    }
    standby.wait_replayed(&new)?;
    for database in ["keep", "keep2"] {
        same_contents(&new, &standby, database)?;
    }
    for database in ["drop1", "drop2", "late1", "late2"] {
        absent(&standby, &new, database)?;
    }
    sound(&standby, &[])?;
    first.wait_for_line("the upstream moved", PATIENCE)?;
    calm(&mut first, &[])?;
    calm(&mut second, &[])
}

/// The upstream is a standby and is promoted where it is; a standby behind the partial one goes along.
#[test]
fn a_standby_that_is_promoted_where_it_is() -> Result<()> {
    let old = primary(Major::V14)?;
    let upstream = Standby::of(&old).start()?;
    let list = serve(&[("berlin", "exclude_databases: [\"drop*\"]")]);
    let mut relay = relay(&[upstream.port()], "prefer-standby", &list)?;
    let dropped = old.database_oid("drop1")?;
    let partial = Standby::of(&old).via(relay.port()).name("berlin").without_database(dropped);
    let partial = partial.start()?;
    let behind = Standby::of(&old).via(partial.port()).without_database(dropped).start()?;
    fill(&old, "keep", "t1")?;
    for standby in [&upstream, &partial, &behind] {
        standby.wait_replayed(&old)?;
    }
    drop(old);
    upstream.promote()?;
    fill(&upstream, "keep", "t2")?;
    fill(&upstream, "drop1", "t2")?;
    for standby in [&partial, &behind] {
        standby.wait_replayed(&upstream)?;
        same_contents(&upstream, standby, "keep")?;
        absent(standby, &upstream, "drop1")?;
        sound(standby, &[])?;
    }
    calm(&mut relay, &[])
}
