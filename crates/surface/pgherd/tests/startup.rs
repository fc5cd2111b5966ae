//! What comes before the login: requests for encryption, cancel requests, versions of the
//! protocol, and connections that are not for replication.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::{Client, Cluster, Major, PATIENCE, Relay, on_majors, run, run_failing, wait_until};

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pgherd"))
}

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 48];
const REPLICATION: [(&str, &str); 2] = [("user", "postgres"), ("replication", "true")];

#[test]
fn requests_for_encryption_are_answered_with_no() -> Result<()> {
    let primary = Cluster::builder(Major::V18).start()?;
    let relay = Relay::start(binary(), primary.port(), "")?;
    for requests in [&[GSS_REQUEST, SSL_REQUEST][..], &[SSL_REQUEST], &[GSS_REQUEST]] {
        let mut client = Client::connect(relay.port())?;
        for request in requests {
            client.send(request)?;
            assert_eq!(client.byte()?, b'N');
        }
        assert!(client.start(&REPLICATION)?.is_ready());
        assert_eq!(client.query("IDENTIFY_SYSTEM")?.value(1)?, "1");
    }
    Ok(())
}

#[test]
fn libpq_takes_the_no_for_an_answer() -> Result<()> {
    for major in [Major::V13, Major::V18] {
        let primary = Cluster::builder(major).start()?;
        let relay = Relay::start(binary(), primary.port(), "")?;
        let psql = |sslmode: &str, gssencmode: &str| -> Result<_> {
            let mut psql = primary.client("psql", relay.port())?;
            psql.env("PGSSLMODE", sslmode).env("PGGSSENCMODE", gssencmode);
            psql.args(["-XAt", "-d", "replication=true", "-c", "IDENTIFY_SYSTEM"]);
            Ok(psql)
        };
        for (sslmode, gssencmode) in [("prefer", "prefer"), ("allow", "disable")] {
            let row = run(&mut psql(sslmode, gssencmode)?)?;
            assert!(row.contains("|1|"), "{row}");
        }
        let refused = run_failing(&mut psql("require", "disable")?)?;
        assert!(refused.contains("server does not support SSL, but SSL was required"), "{refused}");
    }
    Ok(())
}

#[test]
fn a_client_that_begins_with_tls_is_cut_off_and_named_in_the_log() -> Result<()> {
    let primary = Cluster::builder(Major::V18).start()?;
    let mut relay = Relay::start(binary(), primary.port(), "")?;
    let mut client = Client::connect(relay.port())?;
    client.send(&[0x16, 3, 1, 0, 200, 1, 0, 0])?;
    assert!(client.wait_closed(PATIENCE)?.is_empty());
    relay.wait_for_line("TLS", PATIENCE)?;
    Ok(())
}

/// The statement that a relayed session runs, as the server shows it.
fn backends(primary: &Cluster, what: &str) -> Result<String> {
    primary.sql(&format!(
        "select count(*) from pg_stat_activity where backend_type = 'walsender' and {what}"
    ))
}

/// A base backup waits for the end of a checkpoint, which takes its time.
#[test]
fn a_cancel_request_reaches_the_server() -> Result<()> {
    for major in [Major::V12, Major::V18] {
        let primary = Cluster::builder(major)
            .set("checkpoint_timeout", "30min")
            .set("checkpoint_completion_target", "0.9")
            .start()?;
        primary.sql("create table t as select generate_series(1, 100000) g")?;
        let relay = Relay::start(binary(), primary.port(), "")?;
        let mut client = Client::connect(relay.port())?;
        let key = client.start(&REPLICATION)?.key.context("no key")?;
        client.send_query("BASE_BACKUP")?;
        wait_until("the backup to begin", PATIENCE, || {
            Ok((backends(&primary, "state = 'active'")? == "1").then_some(()))
        })?;

        let mut wrong = key.clone();
        wrong.last_mut().into_iter().for_each(|byte| *byte ^= 1);
        cancel(relay.port(), &wrong)?;
        wait_until("the server to tell of the wrong key", PATIENCE, || {
            Ok(primary.log().contains("wrong key in cancel request").then_some(()))
        })?;
        assert_eq!(backends(&primary, "state = 'active'")?, "1", "cancelled with a wrong key");

        cancel(relay.port(), &key)?;
        let answer = client.answer()?;
        answer.error("57014")?;
        ensure!(answer.is_ready(), "no longer usable after {:?}", answer.tags);
        assert_eq!(client.query("IDENTIFY_SYSTEM")?.value(1)?, "1");
    }
    Ok(())
}

/// Sends a cancel request; returns when the connection was closed, as libpq does.
fn cancel(port: u16, key: &[u8]) -> Result<()> {
    let length = u32::try_from(8 + key.len())?;
    let code = [4, 210, 22, 46];
    let mut client = Client::connect(port)?;
    client.send(&[&length.to_be_bytes()[..], &code, key].concat())?;
    ensure!(client.wait_closed(PATIENCE)?.is_empty(), "an answer to a cancel request");
    Ok(())
}

on_majors! {
    [v12 V12, v17 V17, v18 V18]
    /// What the server says about versions and options arrives as it says it.
    fn versions_of_the_protocol_are_negotiated_by_the_server(major) {
        let primary = Cluster::builder(major).start()?;
        let relay = Relay::start(binary(), primary.port(), "")?;
        for minor in [0, 2] {
            let [direct, relayed] = [primary.port(), relay.port()].map(|port| -> Result<_> {
                let mut client = Client::connect(port)?;
                let params = [REPLICATION[0], REPLICATION[1], ("_pq_.nonesuch", "1")];
                let answer = client.start_minor(minor, &params)?;
                answer.rows()?;
                assert_eq!(client.query("IDENTIFY_SYSTEM")?.value(1)?, "1");
                Ok(answer)
            });
            let (direct, relayed) = (direct?, relayed?);
            assert_eq!(relayed.negotiated, direct.negotiated, "3.{minor}");
            assert!(relayed.negotiated.is_some_and(|text| text.ends_with(b"_pq_.nonesuch\0")));
            assert_eq!(relayed.tags, direct.tags, "3.{minor}");
            let key_bytes = relayed.key.map_or(0, |key| key.len());
            let long = major == Major::V18 && minor == 2;
            assert_eq!(key_bytes, if long { 36 } else { 8 }, "3.{minor}");
        }
        Ok(())
    }
}

/// The one request of a 3.2 client that is longer than before.
#[test]
fn a_long_cancel_key_is_passed_on() -> Result<()> {
    let primary = Cluster::builder(Major::V18).start()?;
    let relay = Relay::start(binary(), primary.port(), "")?;
    let mut client = Client::connect(relay.port())?;
    let key = client.start_minor(2, &REPLICATION)?.key.context("no key")?;
    primary.sql("create table t as select generate_series(1, 100000) g")?;
    client.send_query("BASE_BACKUP")?;
    wait_until("the backup to begin", PATIENCE, || {
        Ok((backends(&primary, "state = 'active'")? == "1").then_some(()))
    })?;
    cancel(relay.port(), &key)?;
    client.answer()?.error("57014")?;
    Ok(())
}

#[test]
fn only_replication_connections_are_taken() -> Result<()> {
    let primary = Cluster::builder(Major::V15).start()?;
    let relay = Relay::start(binary(), primary.port(), "")?;
    for value in [None, Some("false"), Some("0"), Some("off")] {
        let mut client = Client::connect(relay.port())?;
        let more = value.map(|value| ("replication", value));
        let params: Vec<_> = [("user", "postgres")].into_iter().chain(more).collect();
        let answer = client.start(&params)?;
        let error = answer.error("0A000")?;
        assert_eq!(error.severity, "FATAL");
        assert!(error.message.contains("replication connections only"), "{error}");
        assert!(error.hint.is_some());
        assert!(client.wait_closed(PATIENCE)?.is_empty());
    }
    let mut client = Client::connect(relay.port())?;
    let answer = client.start(&[("user", "postgres"), ("replication", "maybe")])?;
    assert!(answer.error("22023")?.message.contains("\"replication\""));

    let mut psql = primary.client("psql", relay.port())?;
    let shown = run_failing(psql.args(["-X", "-c", "select 1"]))?;
    assert!(shown.contains("it takes replication connections only"), "{shown}");
    Ok(())
}

#[test]
fn packets_that_a_server_refuses_are_refused_with_its_codes() -> Result<()> {
    let primary = Cluster::builder(Major::V15).start()?;
    let relay = Relay::start(binary(), primary.port(), "")?;
    let packets: [(&[u8], &str); 3] = [
        (b"\x00\x04\x00\x00user\0x\0\0", "0A000"),
        (b"\x00\x03\x00\x00user\0x\0", "08P01"),
        (b"\x00\x03\x00\x00replication\0true\0\0", "28000"),
    ];
    for (packet, sqlstate) in packets {
        for port in [primary.port(), relay.port()] {
            let length = u32::try_from(4 + packet.len())?.to_be_bytes();
            let mut client = Client::connect(port)?;
            client.send(&[&length[..], packet].concat())?;
            let answer = client.answer()?;
            assert_eq!(answer.error(sqlstate)?.severity, "FATAL");
        }
    }
    Ok(())
}

#[test]
fn an_upstream_that_cannot_be_reached_is_named() -> Result<()> {
    let unused = testkit::Port::reserve()?;
    let mut relay = Relay::start(binary(), unused.number(), "")?;
    let mut client = Client::connect(relay.port())?;
    let answer = client.start(&REPLICATION)?;
    let error = answer.error("08001")?;
    assert_eq!(error.severity, "FATAL");
    assert!(error.message.contains(&format!("127.0.0.1:{}", unused.number())), "{error}");
    let line = relay.wait_for_line("ERROR", Duration::from_secs(5))?;
    assert!(line.contains("cannot connect"), "{line}");
    Ok(())
}

/// The only server of these tests that is none: nobody has a PostgreSQL of the future.
#[test]
fn an_unknown_version_is_refused_with_a_sentence() -> Result<()> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let mut relay = Relay::start(binary(), listener.local_addr()?.port(), "")?;
    let mut login = b"R\0\0\0\x08\0\0\0\0".to_vec();
    pgproto::frame::write(b'S', b"server_version\x0019devel (Debian 19~~)\0", &mut login);
    pgproto::backend::ready_for_query(b'I', &mut login);
    let server = std::thread::spawn(move || -> Result<()> {
        let (mut stream, _) = listener.accept()?;
        std::io::Write::write_all(&mut stream, &login)?;
        // Stays until the relay goes.
        std::io::copy(&mut stream, &mut std::io::sink()).ok();
        Ok(())
    });
    let mut client = Client::connect(relay.port())?;
    let answer = client.start(&REPLICATION)?;
    let error = answer.error("0A000")?;
    assert_eq!(error.severity, "FATAL");
    assert!(error.message.contains("19devel") && error.message.contains("12 to 18"), "{error}");
    assert!(error.hint.as_ref().is_some_and(|hint| hint.contains("pgherd")));
    assert!(client.wait_closed(PATIENCE)?.is_empty());
    relay.wait_for_line("19devel", PATIENCE)?;
    server.join().map_err(|_panic| anyhow::anyhow!("panicked"))?
}
