//! Peers that are gone without a word, that stand still, and that read slower than WAL comes.

mod host;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use host::Host;
use pgtypes::Lsn;
use testkit::{
    Auth, Cluster, Link, Major, PASSWORD, PATIENCE, Port, Program, Relay, Standby, Traffic, run,
    wait_until,
};

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pgherd"))
}

/// Configurations for a filtered and an unfiltered client, and short timeouts.
const SETTINGS: &str = "
limits: {peer_timeout: 2s, startup_timeout: 2s}
configurations:
  - part:
      match: {application_name: part}
      filter: {exclude_databases: [nonesuch]}
  - all: {}
";

const SENDERS: &str = "select count(*) from pg_stat_activity where backend_type = 'walsender'";

/// A relay with a configuration of our own, on `host` or here.
fn start_relay(host: Option<&Host>, folder: &Path, text: &str) -> Result<Program> {
    let config = folder.join("relay.yaml");
    fs::write(&config, format!("{text}state_dir: {}\n{SETTINGS}", folder.display()))?;
    let mut command = Command::new(binary());
    command.args(["relay", "-c"]).arg(&config);
    let mut command = host.map_or(command_of(&config), |host| host.program(&command));
    let mut relay = Program::start(&mut command)?;
    relay.wait_for_line("listening", PATIENCE)?;
    Ok(relay)
}

fn command_of(config: &Path) -> Command {
    let mut command = Command::new(binary());
    command.args(["relay", "-c"]).arg(config);
    command
}

/// How long a dead peer may stay: its timeout of 2 s, and time for a busy machine.
const NOTICED: Duration = Duration::from_secs(6);

/// Scenario 27: a client behind a cut cable, while WAL is written and while nothing is.
fn client_vanishes(name: &str, busy: bool) -> Result<()> {
    let Some(host) = Host::new()? else { return Ok(()) };
    let primary = Cluster::builder(Major::V16).set("wal_sender_timeout", "0").start()?;
    primary.sql("create table t(g int)")?;
    let port = Port::reserve()?;
    let folder = tempfile::tempdir()?;
    let text = format!(
        "listen: \"{}:{}\"\nupstream: {{host: 127.0.0.1, port: {}}}\n",
        host.here,
        port.number(),
        primary.port()
    );
    let mut relay = start_relay(None, folder.path(), &text)?;
    let files = relay.open_files()?;
    let mut receive = primary.client("pg_receivewal", port.number())?;
    receive.env("PGHOST", &host.here).env("PGAPPNAME", name);
    receive.args(["-s", "1", "-D"]).arg(folder.path());
    let _client = Program::start(&mut host.program(&receive))?;
    primary.wait_for(
        // All has arrived: the last message is not cut.
        "select write_lsn >= pg_current_wal_flush_lsn() from pg_stat_replication",
        "t",
        PATIENCE,
    )?;
    host.vanish()?;
    if busy {
        primary.sql("insert into t select generate_series(1, 1000)")?;
    }
    let gone = Instant::now();
    primary.wait_for(SENDERS, "0", NOTICED)?;
    assert!(gone.elapsed() > Duration::from_secs(1), "cut off after {:?}", gone.elapsed());
    let line = relay.wait_for_line("the session ended", PATIENCE)?;
    assert!(line.contains("timed out"), "{line}");
    wait_until("the files", PATIENCE, || Ok((relay.open_files()? <= files).then_some(())))?;
    Ok(())
}

#[test]
fn a_client_that_vanished_is_noticed_while_wal_is_written() -> Result<()> {
    client_vanishes("all", true)
}

#[test]
fn a_client_that_vanished_is_noticed_while_nothing_is_written() -> Result<()> {
    client_vanishes("all", false)
}

#[test]
fn a_filtered_client_that_vanished_is_noticed_while_wal_is_written() -> Result<()> {
    client_vanishes("part", true)
}

#[test]
fn a_filtered_client_that_vanished_is_noticed_while_nothing_is_written() -> Result<()> {
    client_vanishes("part", false)
}

/// And an upstream: the client is told, so that it can try again.
fn upstream_vanishes(name: &str) -> Result<()> {
    let Some(host) = Host::new()? else { return Ok(()) };
    let primary =
        Cluster::builder(Major::V15).auth(Auth::Password).set("listen_addresses", "*").start()?;
    let folder = tempfile::tempdir()?;
    let passfile = folder.path().join("pgpass");
    fs::write(&passfile, format!("*:*:*:*:{PASSWORD}\n"))?;
    run(Command::new("chmod").arg("600").arg(&passfile))?;
    let text = format!(
        "listen: \"127.0.0.1:5433\"\nupstream: {{host: {}, port: {}, catalog: {{passfile: {}}}}}\n",
        host.here,
        primary.port(),
        passfile.display()
    );
    let mut relay = start_relay(Some(&host), folder.path(), &text)?;
    let mut receive = primary.client("pg_receivewal", 5433)?;
    receive.env("PGAPPNAME", name).env("PGPASSWORD", PASSWORD).arg("-n");
    receive.args(["-s", "1", "-D"]).arg(folder.path());
    let mut client = Program::start(&mut host.program(&receive))?;
    primary.wait_for(
        // All has arrived: the last message is not cut.
        "select write_lsn >= pg_current_wal_flush_lsn() from pg_stat_replication",
        "t",
        PATIENCE,
    )?;
    host.vanish()?;
    let gone = Instant::now();
    assert!(!client.wait(NOTICED)?.success());
    assert!(gone.elapsed() > Duration::from_secs(1), "cut off after {:?}", gone.elapsed());
    let said = client.text();
    assert!(said.contains("the connection to the upstream server broke"), "{said}");
    relay.wait_for_line("timed out", PATIENCE)?;
    Ok(())
}

#[test]
fn an_upstream_that_vanished_is_noticed() -> Result<()> {
    upstream_vanishes("all")
}

#[test]
fn a_vanished_upstream_of_a_filtered_stream_is_noticed() -> Result<()> {
    upstream_vanishes("part")
}

/// A client that is alive and reads nothing: the server's `wal_sender_timeout` works through the
/// relay, which lets go of both sides.
fn client_stands_still(name: &str) -> Result<()> {
    let primary = Cluster::builder(Major::V17).set("wal_sender_timeout", "2s").start()?;
    primary.sql("create table t(g int)")?;
    let mut relay = Relay::start(binary(), primary.port(), SETTINGS)?;
    let files = relay.program()?.open_files()?;
    let link = Link::to(relay.port())?;
    let standby = Standby::of(&primary)
        .via(link.port())
        .name(name)
        .set("wal_receiver_timeout", "2s")
        .start()?;
    standby.wait_streaming()?;
    link.set(Traffic::Stall);
    primary.wait_for(SENDERS, "0", Duration::from_secs(8))?;
    let program = relay.program()?;
    wait_until("the session to end", PATIENCE, || {
        Ok((program.open_files()? <= files + 1).then_some(()))
    })?;
    link.set(Traffic::Pass);
    primary.sql("insert into t select 1")?;
    standby.wait_replayed(&primary)?;
    assert!(primary.log().contains("due to replication timeout"));
    Ok(())
}

#[test]
fn a_client_that_stands_still_is_given_up_by_the_server() -> Result<()> {
    client_stands_still("all")
}

#[test]
fn a_filtered_client_that_stands_still_is_given_up_by_the_server() -> Result<()> {
    client_stands_still("part")
}

/// An upstream that is alive and says nothing: the standby's `wal_receiver_timeout` works, a new
/// login is not waited for without end, and all is well when it speaks again.
fn upstream_stands_still(name: &str) -> Result<()> {
    let primary = Cluster::builder(Major::V18).start()?;
    primary.sql("create table t(g int)")?;
    let link = Link::to(primary.port())?;
    let mut relay = Relay::start(binary(), link.port(), SETTINGS)?;
    let standby = Standby::of(&primary)
        .via(relay.port())
        .name(name)
        .set("wal_receiver_timeout", "2s")
        .start()?;
    standby.wait_streaming()?;
    link.set(Traffic::Stall);
    primary.sql("insert into t select 1")?;
    relay.wait_for_line("the upstream does not answer the login", PATIENCE)?;
    assert!(standby.log().contains("due to timeout"), "{}", standby.log());
    link.set(Traffic::Pass);
    standby.wait_replayed(&primary)?;
    assert_eq!(standby.sql("select count(*) from t")?, "1");
    Ok(())
}

#[test]
fn an_upstream_that_stands_still_is_given_up_by_the_standby() -> Result<()> {
    upstream_stands_still("all")
}

#[test]
fn an_upstream_that_stands_still_is_given_up_by_a_filtered_standby() -> Result<()> {
    upstream_stands_still("part")
}

fn signal(pid: &str, signal: &str) -> Result<()> {
    run(Command::new("sh").arg("-c").arg(format!("kill -{signal} {pid}"))).map(drop)
}

/// Scenario 34: what a standby does not read stays on the primary.
fn standby_stops(name: &str) -> Result<()> {
    let primary = Cluster::builder(Major::V15).set("wal_sender_timeout", "0").start()?;
    primary.sql("create table t(g int, x text)")?;
    let slow = SETTINGS.replace("peer_timeout: 2s", "peer_timeout: 60s");
    let mut relay = Relay::start(binary(), primary.port(), &slow)?;
    let standby = Standby::of(&primary).via(relay.port()).name(name).start()?;
    standby.wait_streaming()?;
    let receiver = standby.sql("select pid from pg_stat_wal_receiver")?;
    signal(&receiver, "STOP")?;
    let written = standby.sql("select pg_last_wal_receive_lsn()")?.parse::<Lsn>()?;
    // How much the kernels hold depends on the machine; then the server can send nothing more.
    let (mut sent, mut rounds) = (Lsn::INVALID, 0);
    loop {
        primary.sql("insert into t select g, repeat('x', 500) from generate_series(1, 40000) g")?;
        rounds += 1;
        let [flush, now] = ["flush_lsn", "sent_lsn"]
            .map(|position| primary.sql(&format!("select {position} from pg_stat_replication")));
        assert!(flush?.parse::<Lsn>()? <= written, "ahead of the standby");
        let now = now?.parse::<Lsn>()?;
        if now == sent {
            break;
        }
        sent = now;
        assert!(rounds < 20, "{sent} was read from the primary, and the standby reads nothing");
    }
    assert!(sent < primary.lsn()?, "nothing is left on the primary");
    let peak = relay.program()?.peak_own_kb()?;
    // Without the program's file; see `hostile.rs`.
    assert!(peak < (8 << 10) + 512, "{peak} kB at the peak");
    signal(&receiver, "CONT")?;
    standby.wait_replayed(&primary)?;
    assert_eq!(standby.sql("select pid from pg_stat_wal_receiver")?, receiver);
    assert_eq!(standby.sql("select count(*) from t")?, (rounds * 40_000).to_string());
    Ok(())
}

#[test]
fn a_standby_that_stops_stops_the_reading() -> Result<()> {
    standby_stops("all")
}

#[test]
fn a_filtered_standby_that_stops_stops_the_reading() -> Result<()> {
    standby_stops("part")
}
