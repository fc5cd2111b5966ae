//! Which configuration a client gets: by name, user and source, the first that matches; and what
//! a client is told that none matches.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use testkit::{Client, Cluster, Major, PATIENCE, Port, Program, Relay, run_failing};

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pgherd"))
}

#[test]
fn a_client_that_nothing_matches_is_told_so() -> Result<()> {
    let primary = Cluster::builder(Major::V15).start()?;
    let more = "configurations: [{berlin: {match: {application_name: berlin}}}]";
    let mut relay = Relay::start(binary(), primary.port(), more)?;
    for name in ["Berlin", "berlin ", ""] {
        let mut client = Client::connect(relay.port())?;
        let answer = client.start(&[
            ("user", "postgres"),
            ("replication", "true"),
            ("application_name", name),
        ])?;
        let error = answer.error("28000")?;
        assert_eq!(error.severity, "FATAL");
        assert!(error.message.contains(&format!("{name:?}")), "{error}");
        assert!(error.hint.as_ref().is_some_and(|hint| hint.contains("application_name")));
        assert!(client.wait_closed(PATIENCE)?.is_empty());
    }
    // It did not reach the server.
    let seen = "select count(*) from pg_stat_activity where backend_type = 'walsender'";
    assert_eq!(primary.sql(seen)?, "0");
    let mut psql = primary.client("psql", relay.port())?;
    psql.args(["-X", "-d", "replication=true", "-c", "IDENTIFY_SYSTEM"]);
    let shown = run_failing(&mut psql)?;
    assert!(shown.contains("no configuration of this pgherd relay matches"), "{shown}");
    assert!(shown.contains("\"psql\"") && shown.contains("HINT:"), "{shown}");
    relay.wait_for_line("no configuration", PATIENCE)?;

    relay.reconfigure("configurations: []")?;
    relay.stop()?;
    relay.run()?;
    let mut client = Client::connect(relay.port())?;
    let answer = client.start(&[("user", "postgres"), ("replication", "true")])?;
    answer.error("28000")?;
    Ok(())
}

/// Who comes from where, and what of the list below that must be.
const LIST: &str = "
configurations:
  - name and user: {match: {application_name: both, user: repl}}
  - by name: {match: {application_name: both}}
  - never: {match: {application_name: both, source: 127.0.0.1}}
  - one address: {match: {source: 127.0.0.1, user: repl}}
  - network: {match: {source_ip: 127.0.0.0/8}}
  - ipv6: {match: {source: \"::1/128\"}}
  - socket: {match: {user: postgres}}
";

#[test]
fn the_first_that_matches_counts() -> Result<()> {
    let primary = Cluster::builder(Major::V18).start()?;
    primary.sql("create role repl replication login")?;
    let folder = tempfile::tempdir()?;
    let port = Port::reserve()?;
    let number = port.number();
    let config = folder.path().join("relay.yaml");
    let text = format!(
        "listen: [\"127.0.0.1:{number}\", \"[::1]:{number}\", \"unix:{dir}\"]\n\
         upstream: {{host: 127.0.0.1, port: {}}}\nstate_dir: {dir}/state\n{LIST}",
        primary.port(),
        dir = folder.path().display()
    );
    fs::write(&config, text)?;
    let mut command = Command::new(binary());
    let mut relay = Program::start(command.args(["relay", "-c"]).arg(&config))?;
    let socket = folder.path().join(format!(".s.PGSQL.{number}"));
    relay.wait_for_line(&socket.display().to_string(), PATIENCE)?;
    let ipv4 = || Client::connect(number);
    let ipv6 = || Client::connect_to(format!("[::1]:{number}").parse()?);
    let unix = || Client::connect_unix(&socket);
    for (client, name, user, expected) in [
        (ipv4()?, "both", "repl", Some("name and user")),
        (ipv6()?, "both", "postgres", Some("by name")),
        (unix()?, "both", "repl", Some("name and user")),
        (ipv4()?, "x", "repl", Some("one address")),
        (ipv4()?, "x", "postgres", Some("network")),
        (ipv6()?, "x", "postgres", Some("ipv6")),
        (unix()?, "x", "postgres", Some("socket")),
        (unix()?, "x", "repl", None),
    ] {
        let mut client = client;
        let seen = relay.lines().len();
        let answer =
            client.start(&[("user", user), ("replication", "true"), ("application_name", name)])?;
        match expected {
            Some(expected) => {
                answer.rows()?;
                let line = relay.wait_for_line_after(seen, "connected", PATIENCE)?;
                assert!(line.contains(&format!("configuration={expected:?}")), "{line}");
            }
            None => drop(answer.error("28000")?),
        }
    }
    Ok(())
}
