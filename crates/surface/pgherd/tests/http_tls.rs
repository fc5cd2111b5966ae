//! HTTPS, and client certificates in place of the token. The client is curl.

#![allow(clippy::indexing_slicing, reason = "of JSON, where what is missing is null")]

mod web;

use std::fs;
use std::io::Read as _;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use testkit::{
    Authority, Certified, PATIENCE, Port, Relay, Signal, http, run, run_failing, wait_until,
};
use web::{TOKEN, binary};

/// Those of one relay: its certificate, an operator's, and one of an authority that does not count.
struct Keys {
    authority: Authority,
    shown: Certified,
    operator: Certified,
    stray: Certified,
    _others: [Authority; 2],
}

impl Keys {
    fn new() -> Result<Self> {
        let authority = Authority::new("servers")?;
        let operators = Authority::new("operators")?;
        let strangers = Authority::new("strangers")?;
        Ok(Self {
            shown: authority.sign("relay", "relay", &["127.0.0.1", "relay1.example.com"])?,
            operator: operators.sign("anna", "anna", &[])?,
            stray: strangers.sign("anna", "anna", &[])?,
            authority,
            _others: [operators, strangers],
        })
    }

    fn yaml(&self, port: u16) -> String {
        let ca = self.operator.cert.with_file_name("ca.crt");
        format!(
            "http: \"127.0.0.1:{port}\"\nhttp_token_file: {}\n\
             http_tls: {{cert: {}, key: {}, client_ca: {}}}\n",
            self.token().display(),
            self.shown.cert.display(),
            self.shown.key.display(),
            ca.display()
        )
    }

    fn token(&self) -> std::path::PathBuf {
        self.authority.folder().join("token")
    }

    /// A relay without an upstream: none is needed here.
    fn relay(&self, port: u16, yaml: &str) -> Result<Relay> {
        use std::os::unix::fs::PermissionsExt as _;
        fs::write(self.token(), format!("{TOKEN}\n"))?;
        fs::set_permissions(self.token(), fs::Permissions::from_mode(0o600))?;
        let mut relay = Relay::start(binary(), 1, yaml)?;
        relay.wait_for_line("answering HTTP", PATIENCE)?;
        wait_until("the port to be open", PATIENCE, || {
            Ok(TcpStream::connect(("127.0.0.1", port)).is_ok().then_some(()))
        })?;
        Ok(relay)
    }

    /// curl, which trusts the relay's authority and prints the status behind the body.
    fn curl(&self, port: u16, path: &str, more: &[&str]) -> Command {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--write-out", " %{http_code}", "--cacert"]);
        curl.arg(self.authority.cert()).args(more).arg(format!("https://127.0.0.1:{port}{path}"));
        curl
    }

    fn change(&self, port: u16, own: Option<&Certified>, more: &[&str]) -> Command {
        let mut curl = self.curl(port, "/v1/reload", &["--request", "POST"]);
        if let Some(own) = own {
            curl.arg("--cert").arg(&own.cert).arg("--key").arg(&own.key);
        }
        curl.args(more);
        curl
    }
}

fn relay_command(args: &[&str], relay: Option<&Relay>) -> Command {
    let mut command = Command::new(binary());
    command.arg("relay").args(args).env_clear();
    if let Some(relay) = relay {
        command.arg("-c").arg(relay.config());
    }
    command
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

#[test]
fn a_certificate_counts_as_much_as_the_token() -> Result<()> {
    let (keys, port) = (Keys::new()?, Port::reserve()?);
    let port = port.number();
    let mut relay = keys.relay(port, &keys.yaml(port))?;

    let all = run(&mut keys.curl(port, "/metrics", &[]))?;
    ensure!(all.ends_with(" 200") && all.contains("pgherd_relay_"), "{all}");
    let resolve = format!("relay1.example.com:{port}:127.0.0.1");
    let named = format!("https://relay1.example.com:{port}/healthz");
    let mut by_name = keys.curl(port, "/healthz", &["--resolve", &resolve, &named]);
    ensure!(run(&mut by_name)? == "ok\n 200ok\n 200", "by the name in the certificate");
    for (more, status) in [(&["--tls-max", "1.2"][..], "ok\n 200"), (&["--http2"], "ok\n 200")] {
        ensure!(run(&mut keys.curl(port, "/healthz", more))? == status, "{more:?}");
    }

    let bearer = format!("Authorization: Bearer {TOKEN}");
    let own_page = format!("Origin: https://127.0.0.1:{port}");
    let plain_page = format!("Origin: http://127.0.0.1:{port}");
    for (own, headers, status) in [
        (None, vec![], "401"),
        (None, vec!["Authorization: Bearer wrong-token-wrong"], "401"),
        (None, vec![bearer.as_str()], "200"),
        (Some(&keys.operator), vec![], "200"),
        (Some(&keys.operator), vec![own_page.as_str()], "200"),
        (Some(&keys.operator), vec!["Origin: https://evil.example"], "403"),
        (Some(&keys.operator), vec![plain_page.as_str()], "403"),
        (Some(&keys.operator), vec!["Origin: null"], "403"),
    ] {
        let more: Vec<_> = headers.iter().flat_map(|line| ["--header", line]).collect();
        let answer = run(&mut keys.change(port, own, &more))?;
        ensure!(answer.ends_with(&format!(" {status}")), "{headers:?}: {answer}");
        ensure!((status == "200") == answer.contains("\"reloaded\":true"), "{answer}");
    }
    // Of another authority, with and without the token; the relay's own is no operator's either.
    for own in [&keys.stray, &keys.shown] {
        for more in [&[][..], &["--header", &bearer]] {
            let said = run_failing(&mut keys.change(port, Some(own), more))?;
            ensure!(said.contains("alert"), "{said}");
        }
    }
    relay.wait_for_line("an HTTP client did not get through TLS", PATIENCE)?;
    ensure!(run(&mut keys.curl(port, "/healthz", &[]))? == "ok\n 200");

    let plain = http(port, "POST", "/v1/reload", &[&bearer], "")?;
    ensure!(plain.status == 400 && plain.body == "this port speaks HTTPS\n", "{plain:?}");
    ensure!(relay.stop()?.success());
    Ok(())
}

#[test]
fn commands_take_the_certificate_of_the_file_and_no_other() -> Result<()> {
    let (keys, port) = (Keys::new()?, Port::reserve()?);
    let port = port.number();
    let mut relay = keys.relay(port, &keys.yaml(port))?;
    let address = format!("127.0.0.1:{port}");
    let ca = keys.authority.cert();
    let operator = ["--cert", text(&keys.operator.cert), "--key", text(&keys.operator.key)];
    let elsewhere = ["--http", &address, "--cacert", text(&ca)];
    let status = |relay: &Relay| relay_command(&["status", "--json"], Some(relay)).output();
    let said = |output: Output| String::from_utf8_lossy(&output.stderr).into_owned();

    ensure!(run(&mut relay_command(&["reload"], Some(&relay)))?.contains("configuration"));
    run(&mut relay_command(&[&["clients"], &elsewhere[..]].concat(), None))?;
    // Elsewhere there is no file that names a token: a certificate does as well.
    let reload = [&["reload"], &elsewhere[..]].concat();
    let refused = run_failing(&mut relay_command(&reload, None))?;
    ensure!(refused.contains("401") && refused.contains("Bearer"), "{refused}");
    run(&mut relay_command(&[&reload[..], &operator].concat(), None))?;
    let token = keys.token();
    let with_token = [&reload[..], &["--token-file", text(&token)]].concat();
    run(&mut relay_command(&with_token, None))?;
    let plain = [&["reload", "--http", &address][..], &operator].concat();
    let refused = run_failing(&mut relay_command(&plain, None))?;
    ensure!(refused.contains("--cacert"), "{refused}");
    let half = run_failing(&mut relay_command(&["status", "--cert", "/a"], Some(&relay)))?;
    ensure!(half.contains("--key"), "{half}");
    let strange = ["clients", "--http", &address, "--cacert", text(&keys.stray.cert)];
    let refused = run_failing(&mut relay_command(&strange, None))?;
    ensure!(refused.contains("no TLS with") && refused.contains("--cacert"), "{refused}");

    // The key is the relay's alone: whoever asks need not read it.
    let key = fs::read(&keys.shown.key)?;
    fs::write(&keys.shown.key, "not a key")?;
    ensure!(status(&relay)?.status.success(), "a command read the key");
    fs::write(&keys.shown.key, key)?;

    // A renewal: the old one is shown until the relay is told.
    let next = keys.authority.sign("next", "relay", &["127.0.0.1"])?;
    fs::copy(&next.cert, &keys.shown.cert)?;
    fs::copy(&next.key, &keys.shown.key)?;
    let refused = said(status(&relay)?);
    ensure!(refused.contains("does not show the certificate"), "{refused}");
    ensure!(refused.contains("SIGHUP") && refused.contains("PGH0007"), "{refused}");
    run(&mut relay_command(&["reload", "--cacert", text(&ca)], Some(&relay)))?;
    ensure!(status(&relay)?.status.success(), "{}", said(status(&relay)?));

    // Somebody else in its place learns nothing.
    ensure!(relay.stop()?.success());
    let listener = std::net::TcpListener::bind(("127.0.0.1", port))?;
    let caught = std::thread::spawn(move || -> Result<Vec<u8>> {
        let (mut stream, _) = listener.accept()?;
        let mut bytes = vec![0; 4096];
        let count = stream.read(&mut bytes)?;
        bytes.truncate(count);
        Ok(bytes)
    });
    let refused = said(relay_command(&["reload"], Some(&relay)).output()?);
    ensure!(refused.contains("no TLS with"), "{refused}");
    let caught = caught.join().map_err(|_panic| anyhow::anyhow!("the thread broke off"))??;
    let token = caught.windows(TOKEN.len()).any(|it| it == TOKEN.as_bytes());
    ensure!(!caught.is_empty() && !token, "the token went out without TLS");
    Ok(())
}

#[test]
fn tls_and_names_come_and_go_with_the_configuration() -> Result<()> {
    let (keys, port) = (Keys::new()?, Port::reserve()?);
    let port = port.number();
    let plain = format!("http: \"127.0.0.1:{port}\"\n");
    let mut relay = keys.relay(port, &plain)?;
    let host = "Host: Relay1.example.com:8432";
    let by_name = || Ok::<_, anyhow::Error>(http(port, "GET", "/healthz", &[host], "")?.status);
    ensure!(by_name()? == 421);
    relay.reconfigure(&format!("{plain}http_hosts: [relay1.example.com]\n"))?;
    relay.program()?.signal(Signal::HUP)?;
    wait_until("the name to be known", PATIENCE, || Ok((by_name()? == 200).then_some(())))?;
    let other = http(port, "GET", "/healthz", &["Host: relay2.example.com"], "")?;
    ensure!(other.status == 421 && other.body.contains("http_hosts"), "{other:?}");

    relay.reconfigure(&keys.yaml(port))?;
    relay.program()?.signal(Signal::HUP)?;
    wait_until("TLS to be spoken", PATIENCE, || {
        Ok(keys.curl(port, "/healthz", &[]).output()?.status.success().then_some(()))
    })?;
    ensure!(http(port, "GET", "/healthz", &[], "")?.status == 400);
    // A bad file keeps what is there.
    fs::write(&keys.shown.cert, "no certificate")?;
    relay.program()?.signal(Signal::HUP)?;
    relay.wait_for_line("the old configuration stays", PATIENCE)?;
    ensure!(run(&mut keys.curl(port, "/healthz", &[]))? == "ok\n 200");

    // Who says nothing is sent away, so that a crowd of such takes no place for ever.
    let mut silent = TcpStream::connect(("127.0.0.1", port))?;
    silent.set_read_timeout(Some(PATIENCE))?;
    let begin = Instant::now();
    ensure!(silent.read(&mut [0])? == 0, "it was answered");
    ensure!(begin.elapsed() >= Duration::from_secs(3), "sooner than a slow client can be");

    relay.reconfigure(&plain)?;
    relay.program()?.signal(Signal::HUP)?;
    wait_until("plain HTTP", PATIENCE, || {
        Ok((http(port, "GET", "/healthz", &[], "")?.status == 200).then_some(()))
    })?;
    ensure!(relay.stop()?.success());
    Ok(())
}
