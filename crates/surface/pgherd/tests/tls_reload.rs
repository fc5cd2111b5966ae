//! Certificates that are read again while the relay runs, towards clients and upstream.

#![allow(clippy::indexing_slicing, reason = "of JSON, where what is missing is null")]

mod web;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Result, ensure};
use testkit::{
    Authority, Certified, Client, Cluster, Major, PATIENCE, Relay, Signal, give_to_servers, run,
    run_failing, wait_until,
};
use web::{Web, binary};

fn reload(relay: &Relay) -> Result<Output> {
    let mut program = Command::new(binary());
    program.args(["relay", "reload", "-c"]).arg(relay.config());
    Ok(program.env_clear().output()?)
}

fn identify(primary: &Cluster, port: u16, conninfo: &str) -> Result<Command> {
    let mut psql = primary.client("psql", port)?;
    psql.args(["-XAtw", "-c", "IDENTIFY_SYSTEM", "-d", &format!("replication=true {conninfo}")]);
    Ok(psql)
}

/// Puts one certificate and its key in the place of others.
fn put(from: &Certified, into: &Certified) -> Result<()> {
    fs::copy(&from.cert, &into.cert)?;
    fs::copy(&from.key, &into.key)?;
    Ok(())
}

#[test]
fn clients_see_the_new_certificate_and_streams_go_on() -> Result<()> {
    let (old, new) = (Authority::new("old authority")?, Authority::new("new authority")?);
    let used = old.sign("relay", "relay", &["127.0.0.1"])?;
    let next = new.sign("relay", "relay", &["127.0.0.1"])?;
    let stray = new.sign("stray", "relay", &["127.0.0.1"])?;
    let primary = Cluster::builder(Major::V17).start()?;
    let web = Web::new()?;
    let tls = format!("tls: {{cert: {}, key: {}}}\n", used.cert.display(), used.key.display());
    let mut relay = web.relay(primary.port(), &tls)?;
    let mut stays = Client::replication(relay.port(), "stays")?;
    let seen = |relay: &Relay, authority: &Authority| -> Result<bool> {
        let ca = authority.cert();
        let tls = format!("sslmode=verify-full sslrootcert={}", ca.display());
        Ok(identify(&primary, relay.port(), &tls)?.output()?.status.success())
    };
    ensure!(seen(&relay, &old)? && !seen(&relay, &new)?);

    put(&next, &used)?;
    ensure!(seen(&relay, &old)?, "it counts before it was told to");
    let output = reload(&relay)?;
    ensure!(output.status.success(), "{output:?}");
    ensure!(seen(&relay, &new)? && !seen(&relay, &old)?);

    // A key of another certificate, and no certificate at all: the old ones stay, and it is said.
    for (cert, key, problem) in [
        (&next.cert, Some(&stray.key), "key"),
        (&primary.data().join("PG_VERSION"), None, "certificate"),
    ] {
        fs::copy(cert, &used.cert)?;
        key.map(|key| fs::copy(key, &used.key)).transpose()?;
        let output = reload(&relay)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success(), "{output:?}");
        ensure!(said.contains("relay.yaml:") && said.contains(problem), "{said}");
        relay.wait_for_line("the old configuration stays", PATIENCE)?;
        ensure!(seen(&relay, &new)?, "{said}");
    }

    // By signal, with what is good again.
    put(&old.sign("again", "relay", &["127.0.0.1"])?, &used)?;
    relay.program()?.signal(Signal::HUP)?;
    wait_until("the certificate to be read", PATIENCE, || Ok(seen(&relay, &old)?.then_some(())))?;
    ensure!(stays.query("IDENTIFY_SYSTEM")?.value(1)? == "1", "a connection was interrupted");
    Ok(())
}

/// The relay's own certificate towards a server that takes nobody without one.
#[test]
fn the_upstream_sees_the_new_certificate() -> Result<()> {
    let (known, other) = (Authority::new("known authority")?, Authority::new("another")?);
    let server = known.sign_for_server("primary", &["127.0.0.1"])?;
    let primary = Cluster::builder(Major::V15)
        .set("ssl", "on")
        .set("ssl_cert_file", &server.cert.display().to_string())
        .set("ssl_key_file", &server.key.display().to_string())
        .set("ssl_ca_file", &known.cert().display().to_string())
        .start()?;
    only_with_a_certificate(&primary)?;
    let own = other.sign("own", "postgres", &[])?;
    let web = Web::new()?;
    let upstream = format!(
        "host: 127.0.0.1, port: {}, sslmode: verify-full, sslrootcert: {}, sslcert: {}, sslkey: {}",
        primary.port(),
        known.cert().display(),
        own.cert.display(),
        own.key.display()
    );
    let mut relay = Relay::prepare_upstream(binary(), &upstream, &web.yaml())?;
    relay.run()?;
    run_failing(&mut identify(&primary, relay.port(), "")?)?;
    put(&known.sign("renewed", "postgres", &[])?, &own)?;
    run_failing(&mut identify(&primary, relay.port(), "")?)?;
    let output = reload(&relay)?;
    ensure!(output.status.success(), "{output:?}");
    run(&mut identify(&primary, relay.port(), "")?)?;
    fs::write(&own.cert, "nothing")?;
    let output = reload(&relay)?;
    ensure!(!output.status.success(), "{output:?}");
    run(&mut identify(&primary, relay.port(), "")?)?;
    Ok(())
}

fn only_with_a_certificate(primary: &Cluster) -> Result<()> {
    let file = primary.data().join("pg_hba.conf");
    let lines = "local all all trust\nhostssl all all all cert\nhostssl replication all all cert\n";
    fs::write(&file, lines)?;
    give_to_servers(Path::new(&file))?;
    let before = primary.sql("select pg_conf_load_time()")?;
    primary.sql("select pg_reload_conf()")?;
    primary.wait_for(&format!("select pg_conf_load_time() > '{before}'"), "t", PATIENCE)
}

/// Whom the relay trusts, on either side: a file of authorities is exchanged as well.
#[test]
fn the_authorities_are_read_again() -> Result<()> {
    let (old, new) = (Authority::new("old authority")?, Authority::new("new authority")?);
    let folder = tempfile::tempdir()?;
    let (clients, servers) = (folder.path().join("clients.crt"), folder.path().join("servers.crt"));
    let own = old.sign("relay", "relay", &["127.0.0.1"])?;
    let (of_old, of_new) = (old.sign("client", "berlin", &[])?, new.sign("client", "berlin", &[])?);
    let server = old.sign_for_server("primary", &["127.0.0.1"])?;
    let primary = Cluster::builder(Major::V18)
        .set("ssl", "on")
        .set("ssl_cert_file", &server.cert.display().to_string())
        .set("ssl_key_file", &server.key.display().to_string())
        .start()?;
    fs::copy(old.cert(), &clients)?;
    fs::copy(new.cert(), &servers)?;
    let web = Web::new()?;
    let upstream = format!(
        "host: 127.0.0.1, port: {}, sslmode: verify-full, sslrootcert: {}",
        primary.port(),
        servers.display()
    );
    let tls = format!(
        "tls: {{cert: {}, key: {}, client_ca: {}}}\n",
        own.cert.display(),
        own.key.display(),
        clients.display()
    );
    let mut relay = Relay::prepare_upstream(binary(), &upstream, &(web.yaml() + &tls))?;
    relay.run()?;
    let port = relay.port();
    let come = |own: &Certified| -> Result<Command> {
        let (cert, key) = (own.cert.display(), own.key.display());
        identify(&primary, port, &format!("sslmode=require sslcert={cert} sslkey={key}"))
    };
    let said = run_failing(&mut come(&of_old)?)?;
    ensure!(said.contains("with TLS"), "the server's certificate was not verified: {said}");
    fs::copy(old.cert(), &servers)?;
    let output = reload(&relay)?;
    ensure!(output.status.success(), "{output:?}");
    run(&mut come(&of_old)?)?;
    run_failing(&mut come(&of_new)?)?;

    fs::copy(new.cert(), &clients)?;
    let output = reload(&relay)?;
    ensure!(output.status.success(), "{output:?}");
    run(&mut come(&of_new)?)?;
    run_failing(&mut come(&of_old)?)?;
    // Bad files change nothing, and each is named.
    for file in [&clients, &servers] {
        let good = fs::read(file)?;
        fs::write(file, "nothing")?;
        let output = reload(&relay)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(78), "{said}");
        ensure!(said.contains(&file.display().to_string()), "{said}");
        let line = relay.wait_for_line(&file.display().to_string(), PATIENCE)?;
        ensure!(line.contains("the old configuration stays"), "{line}");
        fs::write(file, good)?;
        run(&mut come(&of_new)?)?;
    }
    Ok(())
}
