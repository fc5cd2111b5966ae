//! TLS towards clients: what libpq of several majors sees of it, and what bad clients are told.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use testkit::{
    Authority, Certified, Client, Cluster, Major, PATIENCE, Relay, Standby, run, run_failing,
};

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pgherd"))
}

/// The section `tls`.
fn offered(server: &Certified, authority: Option<&Authority>) -> String {
    let client_ca =
        authority.map(|it| format!(", client_ca: {}", it.cert().display())).unwrap_or_default();
    format!("tls: {{cert: {}, key: {}{client_ca}}}\n", server.cert.display(), server.key.display())
}

fn identify(primary: &Cluster, port: u16, conninfo: &str) -> Result<Command> {
    let mut psql = primary.client("psql", port)?;
    let conninfo = format!("replication=true {conninfo}");
    psql.args(["-XAtw", "-c", "IDENTIFY_SYSTEM", "-d", &conninfo]);
    Ok(psql)
}

#[test]
fn libpq_gets_in_with_every_sslmode() -> Result<()> {
    for major in [Major::V13, Major::V17, Major::V18] {
        let authority = Authority::new("pgherd test authority")?;
        let server = authority.sign("server", "relay", &["localhost", "127.0.0.1"])?;
        let primary = Cluster::builder(major).start()?;
        let mut relay = Relay::start(binary(), primary.port(), &offered(&server, None))?;
        let root = format!("sslrootcert={}", authority.cert().display());
        let modes = [
            ("disable", None),
            ("allow", None),
            ("prefer", Some("TLSv1.3")),
            ("require", Some("TLSv1.3")),
            ("verify-ca", Some("TLSv1.3")),
            ("verify-full", Some("TLSv1.3")),
            ("require ssl_max_protocol_version=TLSv1.2", Some("TLSv1.2")),
        ];
        for (number, (mode, tls)) in modes.into_iter().enumerate() {
            let conninfo =
                format!("host=localhost {root} sslmode={mode} application_name=by_{number}");
            let row = run(&mut identify(&primary, relay.port(), &conninfo)?)?;
            assert!(row.contains("|1|"), "{major} {mode}: {row}");
            let line = relay.wait_for_line(&format!("name=\"by_{number}\""), PATIENCE)?;
            match tls {
                Some(version) => assert!(line.contains(version), "{mode}: {line}"),
                None => assert!(!line.contains("TLSv"), "{mode}: {line}"),
            }
        }
        // A name that the certificate does not have, and an authority that did not sign it.
        let other = Authority::new("another authority")?;
        for (what, root) in [("host=ip6-localhost", &authority), ("host=localhost", &other)] {
            let conninfo = format!(
                "{what} hostaddr=127.0.0.1 sslmode=verify-full sslrootcert={}",
                root.cert().display()
            );
            run_failing(&mut identify(&primary, relay.port(), &conninfo)?)?;
        }
        assert!(relay.program()?.is_running()?);
    }
    Ok(())
}

#[test]
fn direct_tls_of_postgresql_17_and_18() -> Result<()> {
    let authority = Authority::new("pgherd test authority")?;
    let server = authority.sign("server", "relay", &["127.0.0.1"])?;
    for major in [Major::V17, Major::V18] {
        let primary = Cluster::builder(major).start()?;
        let mut relay = Relay::start(binary(), primary.port(), &offered(&server, None))?;
        let conninfo = "sslmode=require sslnegotiation=direct";
        let row = run(&mut identify(&primary, relay.port(), conninfo)?)?;
        assert!(row.contains("|1|"), "{row}");

        // The same handshake by somebody who does not name the protocol.
        let openssl = openssl(relay.port(), &[])?;
        assert!(!openssl.contains("IDENTIFY"), "{openssl}");
        relay.wait_for_line("without ALPN protocol negotiation extension", PATIENCE)?;
        // And by one who wants another.
        openssl_fails(relay.port(), &["-alpn", "h2"])?;
        relay.wait_for_line("refused: TLS handshake", PATIENCE)?;
    }
    Ok(())
}

/// Runs `openssl s_client`, which shakes hands at once and says nothing.
fn openssl(port: u16, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &format!("127.0.0.1:{port}")]).args(arguments);
    let output = command.stdin(Stdio::null()).output().context("run openssl")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn openssl_fails(port: u16, arguments: &[&str]) -> Result<()> {
    let shown = openssl(port, arguments)?;
    assert!(shown.contains("no peer certificate available") || shown.contains("(NONE)"), "{shown}");
    Ok(())
}

#[test]
fn a_standby_streams_through_tls_and_what_it_gets_is_whole() -> Result<()> {
    let authority = Authority::new("pgherd test authority")?;
    let server = authority.sign("server", "relay", &["127.0.0.1"])?;
    let primary = Cluster::builder(Major::V17).start()?;
    primary.sql("create database kept; create database unwanted")?;
    let filter = "configurations: [{berlin: {match: {tls: true}, require_tls: true, \
                  filter: {exclude_databases: [unwanted]}}}, {rest: {}}]";
    let more = format!("{}{filter}", offered(&server, None));
    let mut relay = Relay::start(binary(), primary.port(), &more)?;
    let extra = format!("sslmode=verify-full sslrootcert={}", authority.cert().display());
    let rest = Standby::of(&primary).name("rest").via(relay.port()).conninfo("sslmode=disable");
    let rest = rest.start()?;
    let standby =
        Standby::of(&primary).name("berlin").via(relay.port()).conninfo(&extra).start()?;
    for database in ["kept", "unwanted"] {
        let load =
            "create table t as select g, repeat('x', 500) s from generate_series(1, 60000) g";
        primary.sql_in(database, load)?;
    }
    standby.wait_replayed(&primary)?;
    rest.wait_replayed(&primary)?;
    let sum = "select count(*), sum(g), md5(string_agg(s, '' order by g)) from t";
    assert_eq!(standby.sql_in("kept", sum)?, primary.sql_in("kept", sum)?);
    assert_eq!(rest.sql_in("unwanted", sum)?, primary.sql_in("unwanted", sum)?);
    let line = relay.wait_for_line("configuration=\"berlin\"", PATIENCE)?;
    assert!(line.contains("tls=\"TLSv1.3\""), "{line}");
    Ok(())
}

#[test]
fn who_has_to_come_with_tls_is_told_how() -> Result<()> {
    let authority = Authority::new("pgherd test authority")?;
    let server = authority.sign("server", "relay", &["127.0.0.1"])?;
    let berlin = authority.sign("berlin", "berlin.example", &[])?;
    let others = Authority::new("another authority")?;
    let other = others.sign("x", "berlin.example", &[])?;
    let primary = Cluster::builder(Major::V18).start()?;
    let list = "configurations:\n- known: {match: {certificate: berlin.example}}\n\
                - plain: {match: {tls: false, application_name: plain}}\n\
                - rest: {require_tls: true}\n";
    let more = format!("{}{list}", offered(&server, Some(&authority)));
    let mut relay = Relay::start(binary(), primary.port(), &more)?;
    let port = relay.port();
    let as_berlin = |own: &Certified| {
        format!("sslmode=require sslcert={} sslkey={}", own.cert.display(), own.key.display())
    };

    run(&mut identify(&primary, port, &as_berlin(&berlin))?)?;
    let line = relay.wait_for_line("configuration=\"known\"", PATIENCE)?;
    assert!(line.contains("certificate=\"berlin.example\""), "{line}");
    run(&mut identify(&primary, port, "sslmode=require")?)?;
    relay.wait_for_line("configuration=\"rest\"", PATIENCE)?;
    run(&mut identify(&primary, port, "sslmode=disable application_name=plain")?)?;
    relay.wait_for_line("configuration=\"plain\"", PATIENCE)?;

    let refused = run_failing(&mut identify(&primary, port, "sslmode=disable")?)?;
    assert!(
        refused.contains("configuration \"rest\" of this pgherd relay requires TLS"),
        "{refused}"
    );
    assert!(refused.contains("sslmode=require"), "{refused}");
    let mut client = Client::connect(port)?;
    client.start(&[("user", "postgres"), ("replication", "true")])?.error("28000")?;
    // A certificate that nobody who is trusted has signed ends the handshake, whatever is matched.
    run_failing(&mut identify(&primary, port, &as_berlin(&other))?)?;
    relay.wait_for_line("refused: TLS handshake", PATIENCE)?;
    Ok(())
}

#[test]
fn bytes_stuffed_behind_the_request_are_refused() -> Result<()> {
    let authority = Authority::new("pgherd test authority")?;
    let server = authority.sign("server", "relay", &["127.0.0.1"])?;
    let primary = Cluster::builder(Major::V15).start()?;
    let mut relay = Relay::start(binary(), primary.port(), &offered(&server, None))?;
    let request = [0, 0, 0, 8, 4, 210, 22, 47];
    let startup = pgproto::startup::Startup::build(0, &[("user", "u"), ("replication", "true")])?;
    let mut client = Client::connect(relay.port())?;
    client.send(&[&request[..], &startup.raw].concat())?;
    let error = client.answer()?.error("08P01")?.message.clone();
    assert!(error.contains("unencrypted data after SSL request"), "{error}");
    relay.wait_for_line("unencrypted data", PATIENCE)?;

    // GSSAPI is not spoken; TLS may follow.
    let mut stream = TcpStream::connect(("127.0.0.1", relay.port()))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[0, 0, 0, 8, 4, 210, 22, 48])?;
    let mut answer = [0; 1];
    stream.read_exact(&mut answer)?;
    assert_eq!(answer, *b"N");
    stream.write_all(&request)?;
    stream.read_exact(&mut answer)?;
    assert_eq!(answer, *b"S");
    // What follows is no handshake.
    stream.write_all(&startup.raw)?;
    relay.wait_for_line("refused: TLS handshake", PATIENCE)?;
    assert!(relay.program()?.is_running()?);
    Ok(())
}

#[test]
fn a_handshake_has_no_more_time_than_a_login() -> Result<()> {
    let authority = Authority::new("pgherd test authority")?;
    let server = authority.sign("server", "relay", &["127.0.0.1"])?;
    let primary = Cluster::builder(Major::V15).start()?;
    let more = format!("{}limits: {{startup_timeout: 1s}}", offered(&server, None));
    let mut relay = Relay::start(binary(), primary.port(), &more)?;
    // The beginning of a ClientHello, and nothing more.
    let mut client = Client::connect(relay.port())?;
    client.send(&[0x16, 3, 1, 2, 0, 1])?;
    client.wait_closed(Duration::from_secs(20))?;
    relay.wait_for_line("took too long", PATIENCE)?;
    Ok(())
}

#[test]
fn without_the_section_nobody_gets_tls() -> Result<()> {
    let primary = Cluster::builder(Major::V17).start()?;
    let relay = Relay::start(binary(), primary.port(), "")?;
    run(&mut identify(&primary, relay.port(), "sslmode=prefer")?)?;
    let refused = run_failing(&mut identify(&primary, relay.port(), "sslmode=require")?)?;
    assert!(refused.contains("does not support SSL"), "{refused}");
    let direct = "sslmode=require sslnegotiation=direct";
    run_failing(&mut identify(&primary, relay.port(), direct)?)?;
    Ok(())
}

/// Each with its place, and the status for a configuration that is of no use.
#[test]
fn bad_files_are_problems_of_the_configuration() -> Result<()> {
    let authority = Authority::new("pgherd test authority")?;
    let server = authority.sign("server", "relay", &["127.0.0.1"])?;
    let other = authority.sign("other", "other", &[])?;
    let open = authority.sign("open", "open", &[])?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs::set_permissions(&open.key, mode)?;
    let wrong = authority.folder().join("wrong.key");
    fs::copy(&server.cert, &wrong)?;
    fs::set_permissions(&wrong, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let (cert, key) = (server.cert.display(), server.key.display());
    for (section, place, message, hint) in [
        (format!("{{cert: /none.crt, key: {key}}}"), "4:13", "/none.crt: No such file", "path"),
        (format!("{{cert: {cert}}}"), "4:1", "needs both `cert` and `key`", "tls: {cert"),
        (format!("{{cert: {key}, key: {key}}}"), "4:13", "no certificate in the file", "PEM"),
        (
            format!("{{key: {}, cert: {cert}}}", wrong.display()),
            "4:12",
            "no private key",
            "unencrypted",
        ),
        (
            format!("{{key: {}, cert: {cert}}}", other.key.display()),
            "4:12",
            "the key is not the certificate's",
            "name the key",
        ),
        (
            format!("{{key: {}, cert: {}}}", open.key.display(), open.cert.display()),
            "4:12",
            "can be read by others",
            "chmod 0600",
        ),
        (format!("{{client_ca: /x, key: {key}, cert: {cert}}}"), "4:18", "/x: No such", "path"),
    ] {
        let mut relay = Relay::prepare(binary(), 1, &format!("tls: {section}"))?;
        relay.spawn()?;
        let status = relay.program()?.wait(PATIENCE)?;
        assert_eq!(status.code(), Some(78), "{section}");
        relay.wait_for_line(hint, PATIENCE)?;
        let text = relay.program()?.text();
        for part in [&format!("relay.yaml:{place}"), message, hint] {
            assert!(text.contains(part), "{section}: {part:?} is not in\n{text}");
        }
        assert!(!text.contains("PRIVATE KEY"), "{text}");
    }
    Ok(())
}
