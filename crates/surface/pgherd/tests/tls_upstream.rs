//! TLS towards the upstream, as libpq's `sslmode` means it, and what becomes of channel binding.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use testkit::{
    Auth, Authority, Cluster, Major, PASSWORD, PATIENCE, Relay, Standby, give_to_servers, run,
    run_failing,
};

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pgherd"))
}

/// A server with TLS.
fn primary(major: Major, authority: &Authority, auth: Auth) -> Result<Cluster> {
    let own = authority.sign_for_server("primary", &["localhost", "127.0.0.1"])?;
    let ca = authority.cert();
    Cluster::builder(major)
        .auth(auth)
        .set("ssl", "on")
        .set("ssl_cert_file", &own.cert.display().to_string())
        .set("ssl_key_file", &own.key.display().to_string())
        .set("ssl_ca_file", &ca.display().to_string())
        .start()
}

/// Replaces who may come in over TCP.
fn set_hba(primary: &Cluster, lines: &str) -> Result<()> {
    let file = primary.data().join("pg_hba.conf");
    let text = format!("local all all trust\nlocal replication all trust\n{lines}\n");
    fs::write(&file, text)?;
    give_to_servers(&file)?;
    let before = primary.sql("select pg_conf_load_time()")?;
    primary.sql("select pg_reload_conf()")?;
    // A new session has it from the postmaster, which reads this file with its settings.
    primary.wait_for(&format!("select pg_conf_load_time() > '{before}'"), "t", PATIENCE)
}

fn upstream(port: u16, host: &str, more: &str) -> String {
    format!("host: {host}, port: {port}, {more}")
}

fn identify(primary: &Cluster, port: u16, conninfo: &str) -> Result<Command> {
    let mut psql = primary.client("psql", port)?;
    let conninfo = format!("replication=true {conninfo}");
    psql.args(["-XAtw", "-c", "IDENTIFY_SYSTEM", "-d", &conninfo]);
    Ok(psql)
}

#[test]
fn every_sslmode_means_what_libpq_means() -> Result<()> {
    let authority = Authority::new("pgherd test authority")?;
    let other = Authority::new("another authority")?;
    let primary = primary(Major::V17, &authority, Auth::Trust)?;
    let (right, wrong) = (authority.cert(), other.cert());
    let (right, wrong) = (right.display(), wrong.display());
    let right = format!("sslrootcert: {right}");
    let wrong = format!("sslrootcert: {wrong}");
    // Who may come in; the host; the settings; whether one comes in.
    let with = "hostssl all all all trust\nhostssl replication all all trust";
    let without = "hostnossl all all all trust\nhostnossl replication all all trust";
    for (lines, cases) in [
        (
            with,
            &[
                ("127.0.0.1", "sslmode: disable".to_owned(), false),
                ("127.0.0.1", "sslmode: allow".to_owned(), true),
                ("127.0.0.1", "sslmode: prefer".to_owned(), true),
                ("127.0.0.1", "sslmode: require".to_owned(), true),
                ("127.0.0.1", format!("sslmode: require, {wrong}"), false),
                ("127.0.0.1", format!("sslmode: verify-ca, {right}"), true),
                ("127.0.0.1", format!("sslmode: verify-ca, {wrong}"), false),
                ("localhost", format!("sslmode: verify-full, {right}"), true),
                ("127.0.0.2", format!("sslmode: verify-ca, {right}"), true),
                ("127.0.0.2", format!("sslmode: verify-full, {right}"), false),
            ][..],
        ),
        (
            without,
            &[
                ("127.0.0.1", "sslmode: disable".to_owned(), true),
                ("127.0.0.1", "sslmode: allow".to_owned(), true),
                ("127.0.0.1", "sslmode: prefer".to_owned(), true),
                ("127.0.0.1", "sslmode: require".to_owned(), false),
            ],
        ),
    ] {
        set_hba(&primary, lines)?;
        for (host, settings, comes_in) in cases {
            // The server listens on one address of the loopback: another name for it.
            let link = if *host == "127.0.0.2" { Some(forward(primary.port())?) } else { None };
            let port = link.unwrap_or(primary.port());
            let filter = "configurations: [{x: {filter: {exclude_databases: [nonesuch]}}}]";
            let settings = upstream(port, host, settings);
            let mut relay = Relay::prepare_upstream(binary(), &settings, filter)?;
            relay.run()?;
            // A stream with a filter: the names are read in the same way.
            let lsn = pgtypes::Lsn(primary.lsn()?.0 - 1).to_string();
            let folder = tempfile::tempdir()?;
            let mut receive = primary.client("pg_receivewal", relay.port())?;
            receive.arg("-D").arg(folder.path()).args(["-n", "-w", "--endpos", &lsn]);
            if *comes_in {
                run(&mut receive)?;
            } else {
                let refused = run_failing(&mut receive)?;
                let said = ["with TLS", "no pg_hba.conf entry", "pg_hba.conf rejects"];
                assert!(said.iter().any(|it| refused.contains(it)), "{settings}: {refused}");
            }
        }
    }
    Ok(())
}

/// As the documentation of PostgreSQL makes them: one that signed itself and has its host as its
/// common name, and one that only has a common name. libpq takes both, and nobody else's.
#[test]
fn certificates_as_postgresqls_documentation_makes_them() -> Result<()> {
    let itself = Authority::new("localhost")?;
    let other = Authority::new("localhost")?;
    let authority = Authority::new("an authority")?;
    let old = authority.sign("old", "localhost", &[])?;
    give_to_servers(&old.key)?;
    for (cert, root) in [(itself.as_server()?, itself.cert()), (old, authority.cert())] {
        let primary = Cluster::builder(Major::V15)
            .auth(Auth::Trust)
            .set("ssl", "on")
            .set("ssl_cert_file", &cert.cert.display().to_string())
            .set("ssl_key_file", &cert.key.display().to_string())
            .start()?;
        for (host, root, comes_in) in [
            ("localhost", &root, true),
            ("127.0.0.1", &root, false),
            ("localhost", &other.cert(), false),
        ] {
            let root = root.display();
            let mode = format!("sslmode: verify-full, sslrootcert: {root}");
            let mut relay =
                Relay::prepare_upstream(binary(), &upstream(primary.port(), host, &mode), "")?;
            relay.run()?;
            let mut through = identify(&primary, relay.port(), "user=postgres")?;
            // PostgreSQL's own client says the same.
            let mut direct = primary.client("psql", primary.port())?;
            let conninfo = format!("host={host} sslmode=verify-full sslrootcert={root}");
            direct.args(["-XAtwc", "select 1", "-d", &conninfo]);
            if comes_in {
                run(&mut through)?;
                run(&mut direct)?;
            } else {
                run_failing(&mut through)?;
                run_failing(&mut direct)?;
            }
        }
    }
    Ok(())
}

/// Passes connections to 127.0.0.2 on, until the test's process ends.
fn forward(to: u16) -> Result<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.2:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = std::net::TcpStream::connect(("127.0.0.1", to)) else { return };
            let pairs = [
                (client.try_clone(), server.try_clone()),
                (server.try_clone(), client.try_clone()),
            ];
            for (from, to) in pairs {
                let (Ok(mut from), Ok(mut to)) = (from, to) else { return };
                std::thread::spawn(move || {
                    std::io::copy(&mut from, &mut to).ok();
                    to.shutdown(std::net::Shutdown::Both).ok();
                });
            }
        }
    });
    Ok(port)
}

/// Every way in which libpq, the relay and the server can meet, with SCRAM.
#[test]
fn channel_binding_through_a_relay_works_or_is_refused_in_words() -> Result<()> {
    let authority = Authority::new("pgherd test authority")?;
    let own = authority.sign("relay", "relay", &["127.0.0.1", "localhost"])?;
    let offered = format!("tls: {{cert: {}, key: {}}}", own.cert.display(), own.key.display());
    for major in [Major::V13, Major::V17, Major::V18] {
        let primary = primary(major, &authority, Auth::Scram)?;
        for sslmode in ["disable", "require"] {
            let settings = format!("sslmode: {sslmode}");
            let settings = upstream(primary.port(), "127.0.0.1", &settings);
            let relay = Relay::prepare_upstream(binary(), &settings, &offered);
            let mut relay = relay?;
            relay.run()?;
            let modes = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];
            let bindings = ["disable", "prefer", "require"];
            let all = modes.into_iter().flat_map(|it| bindings.map(|binding| (it, binding)));
            for (client, binding) in all {
                let ca = authority.cert();
                let conninfo = format!(
                    "sslmode={client} channel_binding={binding} sslrootcert={} \
                 host=localhost hostaddr=127.0.0.1",
                    ca.display()
                );
                let mut psql = identify(&primary, relay.port(), &conninfo)?;
                psql.env("PGPASSWORD", PASSWORD);
                let case = format!("{major}: {conninfo}, upstream {sslmode}");
                let refusal = match (client, binding, sslmode) {
                    (_, "require", _) => Some("channel binding"),
                    // With `prefer` libpq comes again without TLS.
                    ("require" | "verify-ca" | "verify-full", "prefer", "require") => {
                        Some("channel_binding=disable")
                    }
                    _ => None,
                };
                match refusal {
                    None => {
                        run(&mut psql)?;
                    }
                    Some(part) => {
                        let refused = run_failing(&mut psql)?;
                        assert!(refused.contains(part), "{case}: {refused}");
                    }
                }
                // A wrong password is one in every case; each takes its pause.
                if binding == "disable" && ["disable", "require"].contains(&client) {
                    psql.env("PGPASSWORD", "wrong");
                    run_failing(&mut psql)?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_standby_streams_over_tls_on_both_sides_and_the_relay_shows_its_certificate() -> Result<()> {
    let authority = Authority::new("pgherd test authority")?;
    let own = authority.sign("relay", "postgres", &["127.0.0.1"])?;
    let primary = primary(Major::V18, &authority, Auth::Trust)?;
    let lines = "hostssl all all all cert clientcert=verify-full\n\
                 hostssl replication all all cert clientcert=verify-full";
    set_hba(&primary, lines)?;
    let (cert, key) = (own.cert.display().to_string(), own.key.display().to_string());
    let settings = format!(
        "sslmode: verify-full, sslrootcert: {}, sslcert: {cert}, sslkey: {key}",
        authority.cert().display()
    );
    let settings = upstream(primary.port(), "localhost", &settings);
    let more = format!("tls: {{cert: {cert}, key: {key}}}");
    let mut relay = Relay::prepare_upstream(binary(), &settings, &more)?;
    relay.run()?;
    let standby = Standby::of(&primary).name("berlin").via(relay.port());
    let standby = standby.conninfo("sslmode=require").start()?;
    primary.sql("create table t as select g from generate_series(1, 100000) g")?;
    standby.wait_replayed(&primary)?;
    assert_eq!(standby.sql("select sum(g) from t")?, primary.sql("select sum(g) from t")?);
    let tls = "select ssl, client_dn from pg_stat_ssl join pg_stat_activity using (pid) \
               where backend_type = 'walsender'";
    assert_eq!(primary.sql(tls)?, "t|/CN=postgres");
    Ok(())
}
