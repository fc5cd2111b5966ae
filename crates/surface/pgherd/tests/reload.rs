//! Another configuration while the relay runs, and the commands that ask a running relay.

#![allow(clippy::indexing_slicing, reason = "of JSON, where what is missing is null")]

mod stage;
mod web;

use std::fs;
use std::net::TcpStream;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use stage::{calm, fill, named_without, serve, sound};
use testkit::{Client, Cluster, Major, PATIENCE, Port, Relay, Signal, same_contents, wait_until};
use web::{Web, binary};

/// A relay whose whole file is the test's.
struct World {
    primary: Cluster,
    web: Web,
    relay: Relay,
    listen: Vec<u16>,
}

impl World {
    fn new(major: Major, configurations: &str) -> Result<Self> {
        let primary = Cluster::builder(major).start()?;
        let web = Web::new()?;
        let relay = web.relay(primary.port(), configurations)?;
        let listen = vec![relay.port()];
        Ok(Self { primary, web, relay, listen })
    }

    /// Writes the file anew; `more` is what follows `listen`, `upstream` and `state_dir`.
    fn write(&self, more: &str) -> Result<()> {
        let listen: Vec<_> = self.listen.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let text = format!(
            "listen: {listen:?}\nupstream: {{host: 127.0.0.1, port: {}}}\nstate_dir: {}\n{}{more}\n",
            self.primary.port(),
            self.relay.state_dir().display(),
            self.web.yaml(),
        );
        Ok(fs::write(self.relay.config(), text)?)
    }

    fn command(&self, command: &str, arguments: &[&str]) -> Result<Output> {
        let mut program = Command::new(binary());
        program.args(["relay", command, "-c"]).arg(self.relay.config()).args(arguments);
        Ok(program.env_clear().output()?)
    }

    /// `pgherd relay reload`, which has to work; what it printed.
    fn reload(&self) -> Result<String> {
        let output = self.command("reload", &[])?;
        let said = text(&output.stdout);
        ensure!(output.status.success(), "{said}{}", text(&output.stderr));
        Ok(said)
    }

    fn hang_up(&mut self) -> Result<()> {
        self.relay.program()?.signal(Signal::HUP)
    }

    /// The server process of this client's stream.
    fn backend(&self, name: &str) -> Result<String> {
        let sql = format!("select pid from pg_stat_replication where application_name = '{name}'");
        self.primary.sql(&sql)
    }

    fn reloads(&self, which: &str) -> Result<u64> {
        let status = self.web.json("/v1/relay/status")?;
        status["reloads"][which].as_u64().context("a number")
    }

    fn wait_reloads(&self, which: &str, count: u64) -> Result<()> {
        wait_until("the reload", PATIENCE, || Ok((self.reloads(which)? == count).then_some(())))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

const BERLIN: (&str, &str) = ("berlin", "exclude_databases: [\"drop*\"]");
const WHOLE: (&str, &str) = ("whole", "");

/// A stream that nobody confirms; what the relay says at its end is read from it.
fn stream(world: &World, port: u16, name: &str) -> Result<Client> {
    let mut client = Client::replication(port, name)?;
    let at = world.primary.lsn()?;
    client.query(&format!("START_REPLICATION PHYSICAL {at} TIMELINE 1"))?.rows()?;
    Ok(client)
}

/// The last words of the relay.
fn farewell(client: &mut Client) -> Result<String> {
    loop {
        let reply = client.message()?.context("no last words")?;
        if reply.tag == b'E' {
            return Ok(text(&reply.payload));
        }
    }
}

/// Streams that a change does not touch keep their connection to the server; the others are told,
/// and get what the new configuration says. Sockets come and go.
#[test]
fn a_change_is_for_those_whom_it_is_about() -> Result<()> {
    let paris = |filter| serve(&[BERLIN, ("paris", filter), WHOLE]);
    let mut world = World::new(Major::V16, &paris("exclude_databases: [drop1]"))?;
    world.primary.sql("create database keep; create database drop1; create database drop2")?;
    let berlin = named_without("berlin", &world.primary, &world.relay, &["drop1", "drop2"], &[])?;
    let whole = named_without("whole", &world.primary, &world.relay, &[], &[])?;
    berlin.wait_streaming()?;
    whole.wait_streaming()?;
    let first = world.relay.port();
    let mut stranger = stream(&world, first, "paris")?;
    let (of_berlin, of_whole) = (world.backend("berlin")?, world.backend("whole")?);
    ensure!(!of_berlin.is_empty() && !of_whole.is_empty());

    // A stricter filter for one, and one more socket.
    let second = Port::reserve()?;
    world.listen.push(second.number());
    world.write(&paris("exclude_databases: [drop1, drop2]"))?;
    world.hang_up()?;
    world.wait_reloads("done", 1)?;
    let words = farewell(&mut stranger)?;
    ensure!(words.contains("57P01") && words.contains("configuration changed"), "{words}");
    fill(&world.primary, "keep", "t")?;
    let again = stream(&world, second.number(), "paris")?;
    let decided = world.web.json("/v1/relay/databases")?;
    let of_paris = |name: &str| -> Result<Value> {
        let all = decided.as_array().context("a list")?;
        let thing = all.iter().find(|it| it["name"] == name).context("no such thing")?;
        let mut decisions = thing["decisions"].as_array().context("a list")?.iter();
        Ok(decisions.find(|it| it["configuration"] == "paris").context("none")?.clone())
    };
    let tightened = of_paris("drop2")?;
    ensure!(tightened["reason"] == "filter_tightened", "{tightened}");
    ensure!(of_paris("keep")?["decision"] == "included");

    // The first socket goes; those who came through it stay.
    world.listen = vec![second.number()];
    world.write(&paris("exclude_databases: [drop1, drop2]"))?;
    let said = world.reload()?;
    ensure!(said.contains("3 clients go on, 0 have to"), "{said}");
    ensure!(said.contains(&format!("not listening on 127.0.0.1:{first} any more")), "{said}");
    wait_until("the socket to close", PATIENCE, || {
        Ok(TcpStream::connect(("127.0.0.1", first)).is_err().then_some(()))
    })?;
    fill(&world.primary, "keep", "u")?;
    for standby in [&berlin, &whole] {
        standby.wait_replayed(&world.primary)?;
        same_contents(&world.primary, standby, "keep")?;
        sound(standby, &[])?;
        ensure!(!standby.log().contains("terminating walreceiver"), "{}", standby.log_tail());
    }
    ensure!(world.backend("berlin")? == of_berlin && world.backend("whole")? == of_whole);
    drop(again);
    calm(&mut world.relay, &[])
}

/// Another upstream is for everybody.
#[test]
fn another_upstream_is_for_everybody() -> Result<()> {
    let mut world = World::new(Major::V15, &serve(&[BERLIN, WHOLE]))?;
    let link = testkit::Link::to(world.primary.port())?;
    let mut clients = [
        stream(&world, world.relay.port(), "berlin")?,
        stream(&world, world.relay.port(), "whole")?,
    ];
    let port = world.primary.port();
    let text = fs::read_to_string(world.relay.config())?;
    let moved = text.replace(&format!("port: {port}"), &format!("port: {}", link.port()));
    ensure!(moved != text);
    fs::write(world.relay.config(), moved)?;
    let said = world.reload()?;
    ensure!(said.contains("0 clients go on, 2 have to"), "{said}");
    for client in &mut clients {
        ensure!(farewell(client)?.contains("configuration changed"));
    }
    let _again = stream(&world, world.relay.port(), "berlin")?;
    let status = world.web.json("/v1/relay/status")?;
    let address = status["upstream"]["address"].as_str().context("an address")?;
    ensure!(address.ends_with(&format!(":{}", link.port())), "{address}");
    calm(&mut world.relay, &[])
}

/// A bad file, and one that needs a restart, change nothing: the log says why, and so does the
/// command, with status 78.
#[test]
fn a_bad_configuration_changes_nothing() -> Result<()> {
    let good = serve(&[WHOLE]);
    let mut world = World::new(Major::V18, &good)?;
    let mut client = stream(&world, world.relay.port(), "whole")?;
    let backend = world.backend("whole")?;
    let other = Port::reserve()?;
    let held = std::net::TcpListener::bind(("127.0.0.1", other.number()))?;

    world.write("strcit: true\nlimits: {max_connections: 0}")?;
    world.hang_up()?;
    world.wait_reloads("refused", 1)?;
    let line = world.relay.wait_for_line("strcit", PATIENCE)?;
    ensure!(line.contains("PGH0501") && line.contains("the old configuration stays"), "{line}");
    world.relay.wait_for_line("max_connections 0 is out of range", PATIENCE)?;

    let refused = |world: &World, says: &str| -> Result<()> {
        let output = world.command("reload", &[])?;
        let said = text(&output.stderr);
        ensure!(output.status.code() == Some(78) && said.contains(says), "{said}");
        ensure!(said.contains("error[PGH0501]"), "{said}");
        Ok(())
    };
    refused(&world, "relay.yaml:6:1: unknown key \"strcit\" (did you mean `strict`?)")?;
    world.write(&format!("log_format: json\n{good}"))?;
    refused(&world, "log_format cannot change while the relay runs: restart it")?;
    let elsewhere = tempfile::tempdir()?;
    world.write(&good)?;
    let text = fs::read_to_string(world.relay.config())?;
    let state = world.relay.state_dir().display().to_string();
    fs::write(world.relay.config(), text.replace(&state, &elsewhere.path().display().to_string()))?;
    refused(&world, "state_dir cannot change while the relay runs: restart it")?;
    // A socket that is taken.
    world.listen.push(other.number());
    world.write(&good)?;
    refused(&world, &format!("cannot listen on 127.0.0.1:{}", other.number()))?;
    drop(held);
    ensure!(world.reload()?.contains("1 clients go on"));
    ensure!(world.reloads("done")? == 1 && world.reloads("refused")? == 5);
    ensure!(world.backend("whole")? == backend);
    client.send_message(b'c', &[])?;
    Ok(())
}

/// Tables for people, JSON for programs; and what to do when there is nobody to ask.
#[test]
fn commands_show_what_the_relay_tells() -> Result<()> {
    let world = World::new(Major::V17, &serve(&[BERLIN, WHOLE]))?;
    world.primary.sql("create database drop1")?;
    let _berlin = stream(&world, world.relay.port(), "berlin")?;
    let shown = |command: &str, arguments: &[&str]| -> Result<String> {
        let output = world.command(command, arguments)?;
        ensure!(output.status.success(), "{command}: {}", text(&output.stderr));
        Ok(text(&output.stdout))
    };
    let status = shown("status", &[])?;
    for part in ["upstream   127.0.0.1:", ", reachable", "berlin", "streaming", "1 connections"] {
        ensure!(status.contains(part), "no {part} in\n{status}");
    }
    let json: Value = serde_json::from_str(&shown("status", &["--json"])?)?;
    ensure!(json["clients"][0]["name"] == "berlin" && json["upstream"]["reachable"] == true);
    let clients = shown("clients", &[])?;
    ensure!(clients.contains("berlin") && clients.contains("postgres"), "{clients}");
    let json: Value = serde_json::from_str(&shown("clients", &["--json"])?)?;
    ensure!(json[0]["configuration"] == "berlin");
    let databases = shown("databases", &[])?;
    let line = databases.lines().find(|line| line.contains("drop1")).context("no drop1")?;
    ensure!(line.contains("excluded") && line.contains("the filter excludes its name"), "{line}");

    // Twice, and on, until it is stopped.
    let mut watch = Command::new(binary());
    watch.args(["relay", "status", "--watch", "-c"]).arg(world.relay.config());
    let mut watch = testkit::Program::start(&mut watch)?;
    wait_until("a second look", PATIENCE, || {
        let looks = watch.text().matches("pgherd relay").count();
        Ok((looks >= 2).then_some(()))
    })?;
    watch.signal(Signal::INT)?;
    ensure!(watch.wait(PATIENCE)?.success());

    let folder = tempfile::tempdir()?;
    let file = folder.path().join("none.yaml");
    fs::write(&file, "upstream: {host: x}\n")?;
    let output = Command::new(binary()).args(["relay", "status", "-c"]).arg(&file).output()?;
    let said = text(&output.stderr);
    ensure!(output.status.code() == Some(1), "{said}");
    ensure!(said.contains("PGH0007") && said.contains("add `http: \"127.0.0.1:8432\"`"), "{said}");
    let nobody = Port::reserve()?;
    let at = format!("127.0.0.1:{}", nobody.number());
    let output = Command::new(binary()).args(["relay", "reload", "--http", &at]).output()?;
    let said = text(&output.stderr);
    ensure!(said.contains(&format!("no relay answers HTTP at {at}")), "{said}");
    Ok(())
}
