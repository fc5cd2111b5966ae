//! The login is the server's: its methods, its errors, and every parameter as the client sent it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use testkit::{
    Auth, Client, Cluster, Major, PASSWORD, PATIENCE, Port, Relay, on_majors, run, run_failing,
};

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pgherd"))
}

const WRONG: &str = "battery staple";

/// Right, wrong and absent passwords with one method, as libpq sees them with and without a relay.
fn passwords(major: Major, auth: Auth) -> Result<()> {
    let primary = Cluster::builder(major).auth(auth).start()?;
    let mut relay = Relay::prepare(binary(), primary.port(), "")?;
    relay.argument("-vv");
    relay.run()?;
    let psql = |port: u16, password: Option<&str>| -> Result<_> {
        let mut psql = primary.client("psql", port)?;
        psql.envs(password.map(|password| ("PGPASSWORD", password)));
        psql.args(["-XAtw", "-d", "replication=true", "-c", "IDENTIFY_SYSTEM"]);
        Ok(psql)
    };
    let row = run(&mut psql(relay.port(), Some(PASSWORD))?)?;
    assert!(row.contains("|1|"), "{row}");
    for password in [Some(WRONG), None] {
        let direct = run_failing(&mut psql(primary.port(), password)?)?;
        let relayed = run_failing(&mut psql(relay.port(), password)?)?;
        let port = |text: String, port: u16| text.replace(&format!("port {port} "), "port ");
        assert_eq!(port(relayed, relay.port()), port(direct, primary.port()));
    }
    relay.wait_for_line("28P01", PATIENCE)?;
    let log = relay.program()?.text();
    for secret in [PASSWORD, WRONG, "SCRAM-SHA-256$", "md5"] {
        assert!(!log.contains(secret), "{secret:?} is in the log:\n{log}");
    }
    Ok(())
}

#[test]
fn passwords_in_clear_text() -> Result<()> {
    passwords(Major::V12, Auth::Password)
}

#[test]
fn passwords_hashed_with_md5() -> Result<()> {
    passwords(Major::V13, Auth::Md5)
}

#[test]
fn passwords_with_scram() -> Result<()> {
    passwords(Major::V15, Auth::Scram)?;
    passwords(Major::V18, Auth::Scram)
}

#[test]
fn a_wrong_password_has_the_servers_code() -> Result<()> {
    let primary = Cluster::builder(Major::V16).auth(Auth::Password).start()?;
    let relay = Relay::start(binary(), primary.port(), "")?;
    for (password, sqlstate) in [(PASSWORD, None), (WRONG, Some("28P01")), ("", Some("28P01"))] {
        let [direct, relayed] = [primary.port(), relay.port()].map(|port| -> Result<_> {
            let mut client = Client::connect(port)?;
            let asked = client.start(&[("user", "postgres"), ("replication", "true")])?;
            assert_eq!(asked.tags, "R");
            client.send_message(b'p', &[password.as_bytes(), b"\0"].concat())?;
            client.answer()
        });
        let (direct, relayed) = (direct?, relayed?);
        assert_eq!(relayed.error.as_ref().map(|error| error.sqlstate.as_str()), sqlstate);
        assert_eq!(relayed.error, direct.error);
        assert_eq!(relayed.tags, direct.tags);
    }
    Ok(())
}

/// A filtered client makes the relay log in itself, for the names.
#[test]
fn the_names_are_read_with_every_method() -> Result<()> {
    for (major, auth) in
        [(Major::V12, Auth::Password), (Major::V14, Auth::Md5), (Major::V18, Auth::Scram)]
    {
        let primary = Cluster::builder(major).auth(auth).start()?;
        let filter = "configurations: [{x: {filter: {exclude_databases: [postgres]}}}]";
        let mut relay = Relay::prepare(binary(), primary.port(), filter)?;
        relay.argument("-vv");
        relay.set_environment("PGPASSWORD", PASSWORD);
        relay.run()?;
        let lsn = pgtypes::Lsn(primary.lsn()?.0 - 1).to_string();
        let folder = tempfile::tempdir()?;
        let port = relay.port();
        let receive = |password: &str| -> Result<_> {
            let mut receive = primary.client("pg_receivewal", port)?;
            receive.env("PGPASSWORD", password).arg("-D").arg(folder.path());
            receive.args(["-n", "-w", "--endpos", &lsn]);
            Ok(receive)
        };
        run(&mut receive(PASSWORD)?)?;
        let log = relay.program()?.text();
        assert!(!log.contains(PASSWORD), "the password is in the log:\n{log}");

        // The client may come in and the relay may not.
        relay.stop()?;
        relay.set_environment("PGPASSWORD", WRONG);
        relay.run()?;
        std::fs::remove_dir_all(relay.state_dir())?;
        let refused = run_failing(&mut receive(PASSWORD)?)?;
        assert!(refused.contains("cannot read the names"), "{refused}");
        assert!(refused.contains("upstream.catalog"), "{refused}");
        assert!(!refused.contains(WRONG), "{refused}");
        let line = relay.wait_for_line("ERROR", PATIENCE)?;
        assert!(line.contains("password authentication failed"), "{line}");
        assert!(!line.contains(WRONG), "{line}");
    }
    Ok(())
}

/// Names that would do something when pasted into a connection string, a format or a log.
const NAMES: [&str; 7] = [
    "two words",
    "quote' host=evil port=1",
    "double\" \\'back\\slash",
    "%s%n%x",
    "host=evil dbname=other",
    "a\nsecond line ERROR x=1",
    "\u{1b}[31mred",
];

/// `application_name` of the walsenders that the server has.
fn application_names(primary: &Cluster) -> Result<String> {
    primary.sql("select application_name from pg_stat_activity where backend_type = 'walsender'")
}

on_majors! {
    [v12 V12, v18 V18]
    /// Whatever a client calls itself is just text, on the server as without a relay.
    fn names_are_passed_on_as_they_are(major) {
        let primary = Cluster::builder(major).start()?;
        let mut relay = Relay::start(binary(), primary.port(), "")?;
        let long = "n".repeat(9_900);
        for name in NAMES.into_iter().chain([long.as_str(), "ünï"]) {
            let [direct, relayed] = [primary.port(), relay.port()].map(|port| -> Result<_> {
                primary.wait_for(
                    "select count(*) from pg_stat_activity where backend_type = 'walsender'",
                    "0",
                    PATIENCE,
                )?;
                let mut client = Client::replication(port, name)?;
                assert_eq!(client.query("IDENTIFY_SYSTEM")?.value(1)?, "1", "{name:?}");
                application_names(&primary)
            });
            assert_eq!(relayed?, direct?, "{name:?}");
        }
        let lines = relay.program()?.lines();
        assert!(!lines.iter().any(|line| line.starts_with("second line")), "{lines:#?}");
        assert!(!lines.iter().any(|line| line.contains('\u{1b}')), "{lines:#?}");
        let longest = lines.iter().map(String::len).max();
        assert!(longest.is_some_and(|bytes| bytes < 500), "a line of {longest:?} bytes");
        assert!(relay.program()?.is_running()?);
        Ok(())
    }
}

/// A role whose name would do something in a connection string reads the names, for it is the
/// client's own that is used when no other is configured.
#[test]
fn the_names_are_read_by_whoever_the_client_is() -> Result<()> {
    let primary = Cluster::builder(Major::V16).set("log_connections", "on").start()?;
    primary.sql("create database drop1")?;
    let filter = "configurations: [{x: {filter: {exclude_databases: [\"drop*\"]}}}]";
    let at = primary.lsn()?;
    for user in ["quote' host=evil port=1", "back\\slash and d\u{f6}uble\" ", "%s dbname=other"] {
        let role = user.replace('"', "\"\"");
        primary.sql(&format!("create role \"{role}\" login replication"))?;
        // Nothing is known yet: the catalog has to be read.
        let mut relay = Relay::start(binary(), primary.port(), filter)?;
        let mut client = Client::connect(relay.port())?;
        client.start(&[("user", user), ("replication", "true")])?.rows()?;
        let answer = client.query(&format!("START_REPLICATION PHYSICAL {at}"))?;
        answer.rows().with_context(|| format!("{user:?}"))?;
        client.copy_data().with_context(|| format!("{user:?}"))?;
        let log = primary.log();
        let line = format!("user={user} database=postgres application_name=pgherd relay (names)");
        assert!(log.lines().any(|it| it.ends_with(&line)), "no {line:?} in\n{log}");
        relay.wait_for_line("drop1", PATIENCE)?;
        assert!(relay.alarms().is_empty(), "{:#?}", relay.alarms());
    }
    Ok(())
}

#[test]
fn users_and_databases_are_passed_on_as_they_are() -> Result<()> {
    let primary = Cluster::builder(Major::V15).start()?;
    let mut relay = Relay::start(binary(), primary.port(), "")?;
    let long = "u".repeat(9_900);
    let refused = |port: u16, name: &str| -> Result<_> {
        let mut client = Client::connect(port)?;
        let as_user = client.start(&[("user", name), ("replication", "true")])?.error;
        let mut client = Client::connect(port)?;
        let database = [("user", "postgres"), ("replication", "database"), ("database", name)];
        Ok((as_user.context("a user")?, client.start(&database)?.error.context("a database")?))
    };
    let (server, port) = (primary.port(), relay.port());
    // At the same time: a user who is refused has to wait for it.
    std::thread::scope(|scope| {
        let names = NAMES.into_iter().chain([long.as_str(), "ünï"]);
        let all: Vec<_> = names
            .map(|name| {
                let both = move || anyhow::Ok((refused(port, name)?, refused(server, name)?));
                (name, scope.spawn(both))
            })
            .collect();
        for (name, both) in all {
            let (relayed, direct) = both.join().expect("no panic")?;
            assert_eq!(relayed, direct, "{name:?}");
            let codes = (relayed.0.sqlstate.as_str(), relayed.1.sqlstate.as_str());
            assert_eq!(codes, ("28000", "3D000"));
        }
        anyhow::Ok(())
    })?;
    for line in relay.program()?.lines() {
        assert!(line.starts_with("20") && !line.contains('\u{1b}'), "{line:?}");
        assert!(line.len() < 500, "a line of {} bytes", line.len());
    }
    assert!(relay.program()?.is_running()?);
    Ok(())
}

/// As libpq makes them of `PGOPTIONS` and the like.
#[test]
fn every_startup_parameter_arrives() -> Result<()> {
    let primary = Cluster::builder(Major::V14).start()?;
    let relay = Relay::start(binary(), primary.port(), "")?;
    let [direct, relayed] = [primary.port(), relay.port()].map(|port| -> Result<_> {
        let mut client = Client::connect(port)?;
        let answer = client.start(&[
            ("user", "postgres"),
            ("replication", "true"),
            ("application_name", "berlin"),
            ("options", "-c wal_sender_timeout=12345 -c search_path=\"a\\ b\""),
            ("client_encoding", "LATIN1"),
            ("DateStyle", "German"),
            ("TimeZone", "Pacific/Chatham"),
            ("extra_float_digits", "3"),
        ])?;
        answer.rows()?;
        for (name, value) in [
            ("application_name", "berlin"),
            ("client_encoding", "LATIN1"),
            ("DateStyle", "German, DMY"),
            ("TimeZone", "Pacific/Chatham"),
            ("wal_sender_timeout", "12345ms"),
            ("search_path", "\"a b\""),
            ("extra_float_digits", "3"),
        ] {
            assert_eq!(client.query(&format!("SHOW {name}"))?.value(0)?, value, "{name}");
        }
        Ok(answer)
    });
    assert_eq!(relayed?.parameters, direct?.parameters);
    Ok(())
}

/// Two more than the server takes: its own words.
#[test]
fn the_servers_own_limits_are_told_in_its_words() -> Result<()> {
    let primary = Cluster::builder(Major::V17).set("max_wal_senders", "1").start()?;
    let relay = Relay::start(binary(), primary.port(), "")?;
    let _first = Client::replication(relay.port(), "first")?;
    let mut second = Client::connect(relay.port())?;
    let answer = second.start(&[("user", "postgres"), ("replication", "true")])?;
    let error = answer.error("53300")?;
    assert!(error.message.contains("max_wal_senders"), "{error}");
    Ok(())
}

/// Accepts and says nothing, as a host behind a broken firewall.
#[test]
fn an_upstream_that_says_nothing_is_told_apart_from_a_slow_client() -> Result<()> {
    let silent = std::net::TcpListener::bind("127.0.0.1:0")?;
    let limits = "limits: {startup_timeout: 1s}";
    let mut relay = Relay::start(binary(), silent.local_addr()?.port(), limits)?;
    let mut client = Client::connect(relay.port())?;
    let answer = client.start(&[("user", "postgres"), ("replication", "true")])?;
    let error = answer.error("08006")?;
    assert!(error.message.contains("upstream server does not answer"), "{error}");
    relay.wait_for_line("upstream does not answer", PATIENCE)?;

    let primary = Cluster::builder(Major::V15).auth(Auth::Password).start()?;
    relay.stop()?;
    relay.set_upstream(primary.port())?;
    relay.run()?;
    let mut client = Client::connect(relay.port())?;
    client.start(&[("user", "postgres"), ("replication", "true")])?;
    let answer = client.answer()?;
    assert!(answer.error("08P01")?.message.contains("took too long to log in"));
    assert!(client.wait_closed(Duration::from_secs(5))?.is_empty());
    Ok(())
}

#[test]
fn a_command_sent_with_the_startup_packet_waits_for_its_turn() -> Result<()> {
    let primary = Cluster::builder(Major::V15).start()?;
    let relay = Relay::start(binary(), primary.port(), "")?;
    let mut client = Client::connect(relay.port())?;
    let params = [("user", "postgres"), ("replication", "true")];
    let mut bytes = pgproto::startup::Startup::build(0, &params)?.raw;
    pgproto::frontend::query("IDENTIFY_SYSTEM", &mut bytes);
    pgproto::frontend::query("SHOW wal_segment_size", &mut bytes);
    pgproto::frontend::query("SELECT 1", &mut bytes);
    client.send(&bytes)?;
    assert!(client.answer()?.is_ready());
    assert_eq!(client.answer()?.value(1)?, "1");
    assert_eq!(client.answer()?.value(0)?, "16MB");
    client.answer()?.error("0A000")?;
    Ok(())
}

#[test]
fn the_unix_socket_of_the_upstream_will_do() -> Result<()> {
    let primary = Cluster::builder(Major::V18).start()?;
    let port = Port::reserve()?;
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("relay.yaml");
    let text = format!(
        "listen: \"127.0.0.1:{}\"\nupstream: {{host: {}, port: {}}}\nstate_dir: {}\n",
        port.number(),
        primary.socket_dir().display(),
        primary.port(),
        folder.path().display(),
    );
    std::fs::write(&config, text)?;
    let mut command = std::process::Command::new(binary());
    let mut relay = testkit::Program::start(command.args(["relay", "-c"]).arg(&config))?;
    relay.wait_for_line("listening", PATIENCE)?;
    let mut client = Client::replication(port.number(), "x")?;
    assert_eq!(client.query("IDENTIFY_SYSTEM")?.value(1)?, "1");
    Ok(())
}
