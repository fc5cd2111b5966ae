//! Plain SQL through the relay, for configurations that let it through.

mod stage;

use std::fs;

use anyhow::{Result, ensure};
use stage::{absent, binary, calm, fill, serve};
use testkit::{
    Client, Cluster, Major, PATIENCE, Relay, Standby, Stop, on_majors, run, run_failing,
};

fn relay(hosts: &[&Cluster]) -> Result<Relay> {
    let hosts: Vec<_> = hosts.iter().map(|it| format!("\"127.0.0.1:{}\"", it.port())).collect();
    let upstream = format!(
        "hosts: [{}], watch_interval: 200ms, failover_wait: 60s, catalog: {{user: postgres}}",
        hosts.join(", ")
    );
    let mut list = serve(&[("berlin", "exclude_databases: [\"drop*\"]"), ("whole", "")]);
    list += "  - tools:\n      match: {application_name: tools}\n      sql: passthrough\n";
    let mut relay = Relay::prepare_upstream(binary(), &upstream, &list)?;
    relay.run()?;
    Ok(relay)
}

on_majors! {
    [v13 V13, v17 V17]
    /// The old primary is rewound through the relay, and comes back as a standby behind it.
    fn pg_rewind_brings_the_old_primary_back(major) {
        let mut old = Cluster::builder(major).set("wal_log_hints", "on").start()?;
        old.sql("create database keep; create database drop1")?;
        fill(&old, "keep", "t")?;
        fill(&old, "drop1", "t")?;
        let new = Standby::of(&old).start()?;
        let mut relay = relay(&[&old, &new])?;
        let dropped = old.database_oid("drop1")?;
        let partial = Standby::of(&old).via(relay.port()).name("berlin");
        let partial = partial.without_database(dropped).start()?;
        partial.wait_replayed(&old)?;
        new.wait_replayed(&old)?;
        new.promote()?;
        relay.wait_for_line("the upstream moved", PATIENCE)?;
        fill(&old, "keep", "nobody_gets_this")?;
        fill(&new, "keep", "t2")?;
        new.checkpoint()?;
        old.stop(Stop::Fast)?;

        let source = format!(
            "host=127.0.0.1 port={} user=postgres dbname=postgres application_name=tools",
            relay.port()
        );
        let mut rewind = old.file_program("pg_rewind")?;
        rewind.arg("-D").arg(old.data()).arg(format!("--source-server={source}"));
        run(&mut rewind)?;
        let signal = old.data().join("standby.signal");
        fs::write(&signal, "")?;
        testkit::give_to_servers(&signal)?;
        let conninfo =
            format!("host=127.0.0.1 port={} user=postgres application_name=whole", relay.port());
        old.set("primary_conninfo", &conninfo)?;
        old.start()?;
        fill(&new, "keep", "t3")?;
        let rows = "select count(*) from t2, (select count(*) from t3) x";
        old.wait_for("select pg_is_in_recovery()", "t", PATIENCE)?;
        testkit::wait_until("the row", PATIENCE, || {
            Ok(old.sql_in("keep", rows).is_ok_and(|it| it == "2000").then_some(()))
        })?;
        ensure!(old.sql_in("keep", "select from nobody_gets_this").is_err());
        partial.wait_replayed(&new)?;
        absent(&partial, &new, "drop1")?;
        calm(&mut relay, &[])
    }
}

/// SQL of any kind, for those only who are let through, and to where the upstream is.
#[test]
fn sql_is_for_one_configuration_and_goes_where_the_upstream_is() -> Result<()> {
    let primary = Cluster::builder(Major::V16).start()?;
    let new = Standby::of(&primary).start()?;
    let mut relay = relay(&[&primary, &new])?;
    let psql = |name: &str, sql: &str| -> Result<_> {
        let mut psql = primary.client("psql", relay.port())?;
        psql.args(["-XAtq", "-d", "postgres", "-c", sql]).env("PGAPPNAME", name);
        Ok(psql)
    };
    let big = "select length(string_agg(repeat('x', 1000), '')) from generate_series(1, 5000)";
    ensure!(run(&mut psql("tools", big)?)? == "5000000");
    let copied = run(&mut psql("tools", "copy (select generate_series(1, 200000)) to stdout")?)?;
    ensure!(copied.lines().count() == 200_000);
    for name in ["whole", "berlin", "nobody"] {
        let refused = run_failing(&mut psql(name, "select 1")?)?;
        ensure!(refused.contains("it takes replication connections only"), "{name}: {refused}");
    }
    // Replication is not what this configuration is kept from.
    Client::replication(relay.port(), "tools")?.query("IDENTIFY_SYSTEM")?.rows()?;
    let mut idle = Client::connect(relay.port())?;
    idle.start(&[("user", "postgres"), ("database", "postgres"), ("application_name", "tools")])?
        .rows()?;
    ensure!(idle.query("select pg_is_in_recovery()")?.value(0)? == "f");
    ensure!(idle.query("show port")?.value(0)? == primary.port().to_string());
    new.wait_replayed(&primary)?;
    new.promote()?;
    let told = idle.answer()?;
    let told = told.error("57P01")?;
    ensure!(told.severity == "FATAL" && told.message.contains("the upstream moved"), "{told}");
    idle.wait_closed(PATIENCE)?;
    ensure!(run(&mut psql("tools", "show port")?)? == new.port().to_string());
    calm(&mut relay, &[])
}
