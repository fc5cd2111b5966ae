//! The cap on connections, and many that are idle (scenario 26).

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use testkit::{Client, Cluster, Major, PATIENCE, Relay, run, run_failing, wait_until};

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pgherd"))
}

const REPLICATION: [(&str, &str); 2] = [("user", "postgres"), ("replication", "true")];
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

#[test]
fn one_client_too_many_is_told_so() -> Result<()> {
    // libpq of different ages, which look for an error at different places.
    for major in [Major::V13, Major::V15, Major::V18] {
        let primary = Cluster::builder(major).start()?;
        let limits = "limits: {max_connections: 2}";
        let mut relay = Relay::start(binary(), primary.port(), limits)?;
        let first = Client::replication(relay.port(), "first")?;
        let _second = Client::connect(relay.port())?;
        let mut third = Client::connect(relay.port())?;
        let answer = third.start(&REPLICATION)?;
        let error = answer.error("53300")?;
        assert_eq!(
            (error.severity.as_str(), error.message.as_str()),
            ("FATAL", "sorry, too many clients already")
        );
        assert!(error.hint.as_ref().is_some_and(|hint| hint.contains("max_connections")));
        assert!(third.wait_closed(PATIENCE)?.is_empty());
        let port = relay.port();
        let psql = |sslmode: &str| -> Result<_> {
            let mut psql = primary.client("psql", port)?;
            psql.env("PGSSLMODE", sslmode);
            psql.args(["-XAt", "-d", "replication=true", "-c", "IDENTIFY_SYSTEM"]);
            Ok(psql)
        };
        for sslmode in ["disable", "prefer"] {
            let shown = run_failing(&mut psql(sslmode)?)?;
            assert!(shown.contains("sorry, too many clients already"), "{sslmode}: {shown}");
        }
        relay.wait_for_line("too many connections", PATIENCE)?;
        // A place that becomes free is anybody's.
        drop(first);
        wait_until("a place", PATIENCE, || Ok(run(&mut psql("prefer")?).ok()))?;
    }
    Ok(())
}

/// A crowd beyond the limit is turned away at once, whether it listens or not.
#[test]
fn a_crowd_beyond_the_limit_is_turned_away() -> Result<()> {
    let primary = Cluster::builder(Major::V15).start()?;
    let limits = "limits: {max_connections: 3}";
    let mut relay = Relay::start(binary(), primary.port(), limits)?;
    let mut inside = Client::replication(relay.port(), "inside")?;
    let _places = [Client::connect(relay.port())?, Client::connect(relay.port())?];
    let mut crowd: Vec<_> =
        (0..300).map(|_| Client::connect(relay.port())).collect::<Result<_>>()?;
    for client in &mut crowd {
        client.wait_closed(Duration::from_secs(10))?;
    }
    assert_eq!(inside.query("IDENTIFY_SYSTEM")?.value(1)?, "1");
    // Without the program's file; see `hostile.rs`.
    let peak = relay.program()?.peak_own_kb()?;
    assert!(peak < 8 << 10, "{peak} kB at the peak");
    Ok(())
}

#[test]
fn two_hundred_idle_connections_are_accepted_within_a_second() -> Result<()> {
    let primary = Cluster::builder(Major::V15).start()?;
    let mut relay = Relay::start(binary(), primary.port(), "")?;
    let start = Instant::now();
    let mut idle: Vec<_> =
        (0..200).map(|_| Client::connect(relay.port())).collect::<Result<_>>()?;
    for client in &mut idle {
        client.send(&SSL_REQUEST)?;
    }
    for client in &mut idle {
        assert_eq!(client.byte()?, b'N');
    }
    let took = start.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    // They cost the server nothing, and little here.
    let senders = "select count(*) from pg_stat_activity where backend_type = 'walsender'";
    assert_eq!(primary.sql(senders)?, "0");
    // Without the program's file; see `hostile.rs`.
    let peak = relay.program()?.peak_own_kb()?;
    assert!(peak < 8 << 10, "{peak} kB at the peak");
    // And each can go on whenever it likes.
    for client in idle.iter_mut().rev().take(5) {
        assert!(client.start(&REPLICATION)?.is_ready());
        assert_eq!(client.query("IDENTIFY_SYSTEM")?.value(1)?, "1");
    }
    Ok(())
}

/// The same with connections that are logged in, as far as the server has places.
#[test]
fn the_server_is_asked_for_as_many_places_as_clients_log_in() -> Result<()> {
    let primary = Cluster::builder(Major::V18).set("max_wal_senders", "40").start()?;
    let relay = Relay::start(binary(), primary.port(), "")?;
    let clients: Vec<_> =
        (0..40).map(|_| Client::replication(relay.port(), "idle")).collect::<Result<_>>()?;
    let senders = "select count(*) from pg_stat_activity where backend_type = 'walsender'";
    assert_eq!(primary.sql(senders)?, "40");
    drop(clients);
    primary.wait_for(senders, "0", PATIENCE)
}
