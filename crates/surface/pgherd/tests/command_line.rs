//! The command line, the configuration file, and how the process begins and ends.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;
use testkit::{Client, Cluster, Major, PATIENCE, Port, Program, Relay, Signal, Standby, run};

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pgherd"))
}

/// A folder with what a run needs: a home for its state, and files.
struct Desk {
    folder: TempDir,
}

impl Desk {
    fn new() -> Result<Self> {
        Ok(Self { folder: tempfile::tempdir()? })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::File::create(&path)?.write_all(text.as_bytes())?;
        Ok(path)
    }

    /// The binary under the name of its predecessor.
    fn walbouncer(&self) -> Result<Command> {
        let link = self.path("walbouncer");
        if !link.exists() {
            symlink(binary(), &link)?;
        }
        Ok(self.command(&link))
    }

    fn relay(&self) -> Command {
        let mut command = self.command(binary());
        command.arg("relay");
        command
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("HOME", self.folder.path()).current_dir(self.folder.path());
        command
    }
}

/// Whether anybody listens.
fn listens(port: u16) -> bool {
    Client::connect(port).is_ok()
}

/// walbouncer's demonstration, but for the ports: a file that nobody touches, and its command.
#[test]
fn walbouncers_demonstration_works_unchanged() -> Result<()> {
    let primary = Cluster::builder(Major::V15).start()?;
    for name in ["spc_standby1", "spc_standby2"] {
        primary.create_tablespace(name)?;
        primary.sql(&format!("create table {name}_t tablespace {name} as select 1 as g"))?;
    }
    primary.sql("create database test")?;
    let desk = Desk::new()?;
    let port = Port::reserve()?;
    desk.write(
        "democonf.yaml",
        &format!(
            "listen_port: {}\nmaster:\n    host: localhost\n    port: {}\nconfigurations:\n\
             \x20   - standby1:\n        match:\n            application_name: standby1\n\
             \x20       filter:\n            include_tablespaces: [spc_standby1]\n\
             \x20           exclude_databases: [test]\n\
             \x20   - standby2:\n        match:\n            application_name: standby2\n\
             \x20       filter:\n            include_tablespaces: [spc_standby2]\n",
            port.number(),
            primary.port()
        ),
    )?;
    let mut relay = Program::start(desk.walbouncer()?.args(["-c", "democonf.yaml"]))?;
    relay.wait_for_line("listening", PATIENCE)?;
    let without = |name: &str| primary.tablespace_oid(name);
    let one = Standby::of(&primary)
        .without_tablespace(without("spc_standby2")?)
        .via(port.number())
        .name("standby1")
        .start()?;
    let two = Standby::of(&primary)
        .without_tablespace(without("spc_standby1")?)
        .via(port.number())
        .name("standby2")
        .start()?;
    primary.sql("insert into spc_standby1_t select 2; insert into spc_standby2_t select 2")?;
    for (standby, name) in [(one, "spc_standby1"), (two, "spc_standby2")] {
        standby.wait_replayed(&primary)?;
        assert_eq!(standby.sql(&format!("select count(*) from {name}_t"))?, "2");
    }
    Ok(())
}

/// The sample of walbouncer's README, with its comments; the command line overrides both ports.
#[test]
fn walbouncers_sample_works_and_options_win_over_it() -> Result<()> {
    let primary = Cluster::builder(Major::V12).start()?;
    let desk = Desk::new()?;
    let port = Port::reserve()?;
    let sample = "
# The port that walbouncer will listen on.
listen_port: 1

# Connection settings for the replication master server
master:
    host: nowhere.invalid
    port: 2

configurations:
    # Name of the configuration
    - examplereplica1:
        # Conditions under which this configuration matches.
        match:
            application_name: replica1
            source: 127.0.0.0/8
        filter:
            include_tablespaces: [spc_replica1, spc_replica2]
            exclude_tablespaces:
                - spc_replica3 # Can also use alternate list syntax
            include_databases: [postgres]
            exclude_databases: [test]
    - examplereplica2:
        match:
            application_name: replica2
        filter:
            include_tablespaces: [spc_replica2]
";
    desk.write("walbouncer.yaml", sample)?;
    let upstream = primary.port().to_string();
    let number = port.number().to_string();
    let mut command = desk.walbouncer()?;
    command.args(["--config=walbouncer.yaml", "--host=127.0.0.1", "-P", &upstream]);
    let mut relay = Program::start(command.args(["-p", &number, "-v"]))?;
    relay.wait_for_line(&format!("0.0.0.0:{number}"), PATIENCE)?;
    let standby = Standby::of(&primary).via(port.number()).name("replica1").start()?;
    standby.wait_streaming()?;
    primary.sql("create table t as select generate_series(1, 100)")?;
    standby.wait_replayed(&primary)?;
    assert_eq!(standby.sql("select count(*) from t")?, "100");
    // `-v` tells of commands.
    relay.wait_for_line("START_REPLICATION", PATIENCE)?;
    Ok(())
}

#[test]
fn options_alone_will_do() -> Result<()> {
    let primary = Cluster::builder(Major::V18).start()?;
    let port = Port::reserve()?;
    let desk = Desk::new()?;
    let number = port.number().to_string();
    let mut command = desk.walbouncer()?;
    command.args(["-h", "127.0.0.1", "-P", &primary.port().to_string(), "-p", &number]);
    let mut relay = Program::start(&mut command)?;
    relay.wait_for_line("listening", PATIENCE)?;
    let mut client = Client::replication(port.number(), "x")?;
    assert_eq!(client.query("IDENTIFY_SYSTEM")?.value(1)?, "1");
    Ok(())
}

#[test]
fn help_and_version_are_told_on_stdout() -> Result<()> {
    let desk = Desk::new()?;
    for argument in ["-?", "--help"] {
        let help = run(desk.walbouncer()?.arg(argument))?;
        for option in ["--config", "--host", "--masterport", "--port", "--verbose"] {
            assert!(help.contains(option), "{option} is missing in {help}");
        }
    }
    assert!(run(desk.command(binary()).arg("--version"))?.starts_with("pgherd "));
    let wrong = desk.relay().arg("--prot").output()?;
    assert_eq!(wrong.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("--port"));
    Ok(())
}

const BAD: &str = "listen: [\"127.0.0.1:PORT\"]
upstream:
  host: localhost
  prot: 5432
limits: {max_connections: many}
configurations:
  - berlin:
      match: {source: 300.0.0.0/8}
      filter: {exclude_databases: [template1]}
  - berlin: {}
";

/// Scenario 29.
#[test]
fn a_bad_file_is_refused_with_every_problem_before_any_port_is_bound() -> Result<()> {
    let desk = Desk::new()?;
    let port = Port::reserve()?;
    let file = desk.write("bad.yaml", &BAD.replace("PORT", &port.number().to_string()))?;
    for check in [&["--check"][..], &[]] {
        let mut command = desk.relay();
        command.args(check).arg("-c").arg(&file);
        let output = command.output()?;
        assert_eq!(output.status.code(), Some(78));
        assert!(output.stdout.is_empty());
        let complaint = String::from_utf8(output.stderr)?;
        for (place, line) in [
            ("4:3", "  prot: 5432"),
            ("5:27", "many"),
            ("8:23", "300.0.0.0/8"),
            ("9:36", "template1"),
            ("10:5", "- berlin: {}"),
        ] {
            assert!(complaint.contains(&format!("bad.yaml:{place}")), "{place}:\n{complaint}");
            assert!(complaint.contains(line), "{line}:\n{complaint}");
        }
        let hints = complaint.matches("help:").count() + complaint.matches("hint:").count();
        assert!(hints >= 5, "{hints} hints:\n{complaint}");
        assert!(!complaint.contains('\u{1b}'), "colours without a terminal");
        assert!(!listens(port.number()));
    }
    Ok(())
}

#[test]
fn each_kind_of_problem_is_refused() -> Result<()> {
    let desk = Desk::new()?;
    for (text, expected) in [
        ("upstream: {host: a}\nlisten: [\"127.0.0.1:99999\"]\n", "99999"),
        ("upstream: {host: a, port: 0}\n", ":1:"),
        ("listen_port: 5433\n", "upstream"),
        ("upstream: [\n", ":"),
        ("upstream: {host: a}\nlog_format: xml\n", ":2:13"),
        ("\u{0}\u{1}", ":"),
        ("", "upstream"),
    ] {
        let file = desk.write("bad.yaml", text)?;
        let output = desk.relay().arg("--check").arg("-c").arg(file).output()?;
        assert_eq!(output.status.code(), Some(78), "{text:?}");
        let complaint = String::from_utf8(output.stderr)?;
        assert!(complaint.contains("bad.yaml"), "{text:?}: {complaint}");
        assert!(complaint.contains(expected), "{text:?}: {complaint}");
    }
    let missing = desk.relay().args(["--check", "-c", "missing.yaml"]).output()?;
    assert_eq!(missing.status.code(), Some(78));
    assert!(String::from_utf8(missing.stderr)?.contains("missing.yaml"));
    let options = desk.relay().args(["--check", "-p", "70000"]).output()?;
    assert_eq!(options.status.code(), Some(78));
    assert!(String::from_utf8(options.stderr)?.contains("70000"));
    Ok(())
}

/// It needs no server, and takes no port: one may be running.
#[test]
fn check_only_checks() -> Result<()> {
    let desk = Desk::new()?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let names: String = (0..1_000).map(|n| format!("\"db{n}\", ")).collect();
    let file = desk.write(
        "good.yaml",
        &format!(
            "listen: \"{}\"\nupstream: {{host: nowhere.invalid}}\n\
             configurations: [{{x: {{filter: {{include_databases: [{names}]}}}}}}]\n",
            taken.local_addr()?
        ),
    )?;
    let said = run(desk.relay().arg("--check").arg("-c").arg(&file))?;
    assert!(said.contains("good"), "{said}");
    assert!(!desk.path(".local").exists(), "--check made a folder for state");
    Ok(())
}

#[test]
fn an_address_in_use_ends_it_with_1() -> Result<()> {
    let desk = Desk::new()?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let text = format!("upstream: {{host: localhost}}\nlisten: \"{address}\"\n");
    let file = desk.write("relay.yaml", &text)?;
    let output = desk.relay().arg("-c").arg(&file).output()?;
    assert_eq!(output.status.code(), Some(1));
    let complaint = String::from_utf8(output.stderr)?;
    assert!(complaint.contains(&format!("cannot listen on {address}")), "{complaint}");
    assert!(complaint.contains("in use"), "{complaint}");

    // A live socket is nobody's to take, a file that is none neither; a stale one is replaced.
    let socket = desk.path(".s.PGSQL.5433");
    let text = format!(
        "upstream: {{host: localhost}}\nlisten: \"unix:{}\"\n",
        desk.folder.path().display()
    );
    let file = desk.write("relay.yaml", &text)?;
    let live = UnixListener::bind(&socket)?;
    let output = desk.relay().arg("-c").arg(&file).output()?;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr)?.contains("in use"));
    drop(live);
    assert!(socket.exists());
    let mut relay = Program::start(desk.relay().arg("-c").arg(&file))?;
    relay.wait_for_line("listening", PATIENCE)?;
    assert!(Client::connect_unix(&socket).is_ok());
    relay.signal(Signal::TERM)?;
    assert!(relay.wait(PATIENCE)?.success());
    assert!(!socket.exists(), "the socket's file stayed behind");
    fs::write(&socket, "precious")?;
    assert_eq!(desk.relay().arg("-c").arg(&file).output()?.status.code(), Some(1));
    assert_eq!(fs::read_to_string(&socket)?, "precious");
    Ok(())
}

#[test]
fn it_listens_on_ipv4_ipv6_and_a_unix_socket_at_once() -> Result<()> {
    let primary = Cluster::builder(Major::V16).start()?;
    let desk = Desk::new()?;
    let port = Port::reserve()?;
    let number = port.number();
    let text = format!(
        "upstream: {{host: 127.0.0.1, port: {}}}\nlisten: [\"127.0.0.1:{number}\", \
         \"[::1]:{number}\", \"unix:{}\"]\n",
        primary.port(),
        desk.folder.path().display()
    );
    let file = desk.write("relay.yaml", &text)?;
    let mut relay = Program::start(desk.relay().arg("-c").arg(&file))?;
    let socket = desk.path(&format!(".s.PGSQL.{number}"));
    relay.wait_for_line(&format!("{}", socket.display()), PATIENCE)?;
    let clients = [
        Client::connect(number)?,
        Client::connect_to(format!("[::1]:{number}").parse()?)?,
        Client::connect_unix(&socket)?,
    ];
    for mut client in clients {
        assert!(client.start(&[("user", "postgres"), ("replication", "true")])?.is_ready());
        assert_eq!(client.query("IDENTIFY_SYSTEM")?.value(1)?, "1");
    }
    let mut psql = primary.client("psql", number)?;
    psql.env("PGHOST", desk.folder.path());
    let row = run(psql.args(["-XAt", "-d", "replication=true", "-c", "IDENTIFY_SYSTEM"]))?;
    assert!(row.contains("|1|"), "{row}");
    Ok(())
}

#[test]
fn json_logs_are_one_object_a_line() -> Result<()> {
    let primary = Cluster::builder(Major::V14).start()?;
    let mut relay = Relay::prepare(binary(), primary.port(), "log_format: text")?;
    relay.argument("--log-format");
    relay.argument("json");
    relay.argument("-vv");
    relay.run()?;
    let mut client = Client::replication(relay.port(), "quote\" and\nbreak")?;
    client.query("SELECT 1")?.error("0A000")?;
    Client::connect(relay.port())?.send(b"GET / HTTP/1.1\r\n\r\n")?;
    relay.wait_for_line("startup packet", PATIENCE)?;
    drop(client);
    relay.wait_for_line("the client closed the connection", PATIENCE)?;
    let lines = relay.program()?.lines();
    assert!(lines.len() >= 5, "{lines:#?}");
    for line in &lines {
        let value: serde_json::Value =
            serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
        for field in ["timestamp", "level", "message"] {
            assert!(value.get(field).is_some_and(serde_json::Value::is_string), "{field}: {line}");
        }
    }
    assert!(relay.stop()?.success());
    Ok(())
}

/// SIGTERM and SIGINT: clients are told, the process ends with 0, a standby comes back later.
#[test]
fn a_signal_drains_and_ends_it_with_0() -> Result<()> {
    let primary = Cluster::builder(Major::V17).start()?;
    let mut relay = Relay::start(binary(), primary.port(), "")?;
    let standby = Standby::of(&primary).via(relay.port()).name("berlin").start()?;
    for signal in [Signal::TERM, Signal::INT] {
        standby.wait_streaming()?;
        let mut idle = Client::replication(relay.port(), "idle")?;
        let mut streaming = Client::replication(relay.port(), "streaming")?;
        let start = format!("START_REPLICATION {}", primary.lsn()?);
        assert_eq!(streaming.query(&start)?.tags, "W");
        let _silent = Client::connect(relay.port())?;
        relay.program()?.signal(signal)?;
        for client in [&mut idle, &mut streaming] {
            let answer = client.answer()?;
            let error = answer.error("57P01")?;
            assert_eq!(error.severity, "FATAL");
            assert!(error.message.contains("the relay is stopping"), "{error}");
            assert!(client.wait_closed(PATIENCE)?.is_empty());
        }
        let program = relay.program()?;
        assert_eq!(program.wait(Duration::from_secs(5))?.code(), Some(0), "{}", program.text());
        primary.sql("create table if not exists t(g int); insert into t select 1")?;
        assert!(!listens(relay.port()));
        primary.wait_for(
            "select count(*) from pg_stat_activity where backend_type = 'walsender'",
            "0",
            PATIENCE,
        )?;
        relay.run()?;
        standby.wait_replayed(&primary)?;
    }
    assert!(standby.log().contains("the relay is stopping"), "{}", standby.log());
    assert_eq!(standby.sql("select count(*) from t")?, "2");
    Ok(())
}
