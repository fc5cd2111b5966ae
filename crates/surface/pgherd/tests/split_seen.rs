//! `pgherd split` for somebody who sits at a terminal, and over a network that others can reach.

mod host;
mod splitting;

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use testkit::{
    Auth, Authority, Cluster, Major, PASSWORD, PATIENCE, Terminal, on_majors, run, run_failing,
    wait_until,
};

use host::Host;
use splitting::{SPLIT_LIMIT, Stage};

/// The figures of the lag that were shown, each once.
fn lags(text: &str) -> Vec<&str> {
    let mut lags: Vec<_> = text
        .split("catching up: ")
        .skip(1)
        .filter_map(|rest| rest.split_once(" behind"))
        .map(|(lag, _)| lag)
        .collect();
    lags.dedup();
    lags
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// It asks before it moves, shows how far the new server is behind, and that it comes nearer.
    fn the_lag_is_shown_live(major) {
        let stage = Stage::new(major)?;
        stage.ready()?;
        let mut refused = Terminal::start(&stage.then("finish", &[]), "n")?;
        refused.wait_for("Move orders, tenant_eu_1 now?")?;
        ensure!(refused.wait(PATIENCE)?.code() == Some(1), "{}", refused.text()?);
        stage.source.sql_in("orders", "insert into t values (1, 'still open')")?;

        let relay = stage.relay_pid().context("a relay")?.to_string();
        run(Command::new("kill").args(["-STOP", &relay]))?;
        let write = "insert into t select g, repeat('x', 500) from generate_series(1, 10000) g";
        stage.source.sql_in("stays", write)?;
        let mut terminal = Terminal::start(&stage.then("finish", &[]), "y")?;
        terminal.wait_for(" MB behind, at ")?;
        let first = lags(&terminal.text()?).first().context("a lag")?.to_string();
        stage.source.sql_in("stays", write)?;
        wait_until("another lag", PATIENCE, || {
            let text = terminal.text()?;
            Ok(lags(&text).iter().any(|lag| *lag != first && lag.ends_with("MB")).then_some(()))
        })?;
        terminal.wait_for("the target has not moved for 10 s; its log: ")?;
        run(Command::new("kill").args(["-CONT", &relay]))?;
        ensure!(terminal.wait(SPLIT_LIMIT)?.success(), "{}", terminal.text()?);
        let text = terminal.text()?;
        for part in ["the target has caught up, at ", "write downtime: ", "connect to: "] {
            ensure!(text.contains(part), "no {part:?} in {text}");
        }
        stage.check_moved(&["orders", "tenant_eu_1"])
    }
}

/// A server that lets nobody in without TLS, and what it asks of who comes with it.
fn careful(major: Major, authority: &Authority, host: &str, rule: &str) -> Result<Cluster> {
    let server = authority.sign_for_server("primary", &[host])?;
    let source = Cluster::builder(major)
        .set("listen_addresses", &format!("127.0.0.1, {host}"))
        .auth(Auth::Scram)
        .set("ssl", "on")
        .set("ssl_cert_file", &server.cert.display().to_string())
        .set("ssl_key_file", &server.key.display().to_string())
        .set("ssl_ca_file", &authority.cert().display().to_string())
        .start()?;
    source.sql("create database moves")?;
    source.sql("create database stays")?;
    source.sql_in("moves", "create table t as select 1 x")?;
    let rules = format!(
        "local all all trust\nhostssl all all all {rule}\nhostssl replication all all {rule}\n"
    );
    std::fs::write(source.data().join("pg_hba.conf"), rules)?;
    testkit::give_to_servers(&source.data())?;
    source.sql("select pg_reload_conf()")?;
    Ok(source)
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    fn a_source_that_asks_for_tls_and_a_certificate(major) {
        let authority = Authority::new("pgherd test authority")?;
        let own = authority.sign("split", "postgres", &[])?;
        let ca = authority.cert().display().to_string();
        let (cert, key) = (own.cert.display().to_string(), own.key.display().to_string());
        let files = format!("sslrootcert={ca} sslcert={cert} sslkey={key}");
        let source = careful(major, &authority, "localhost", "scram-sha-256 clientcert=verify-ca")?;
        let mut stage = Stage::of(source, "moves")?;
        for (host, more, reason) in [
            ("localhost", format!("sslmode=disable {files}"), "no pg_hba.conf entry"),
            ("localhost", format!("sslmode=verify-full sslrootcert={ca}"), "certificate"),
            ("127.0.0.1", format!("sslmode=verify-full {files}"), "not valid for"),
            ("localhost", "sslmode=verify-full sslrootcert=/nonexistent".to_owned(), "/nonexistent"),
        ] {
            stage.host = host.into();
            stage.more.clone_from(&more);
            let mut plan = stage.split(&["--plan"]);
            let told = run_failing(plan.env("PGPASSWORD", PASSWORD))?;
            ensure!(told.contains(reason), "{host} {more}: no {reason:?} in {told}");
        }
        // As libpq's variables say; what they ask of servers is not asked of the split's own relay.
        stage.host = "localhost".into();
        stage.more.clear();
        let mut split = stage.split(&["--yes", "--until-ready"]);
        split.env("PGSSLMODE", "verify-full").env("PGSSLROOTCERT", &ca).env("PGPASSWORD", PASSWORD);
        run(split.env("PGSSLCERT", &cert).env("PGSSLKEY", &key))?;
        let streams = "select ssl::text || count(*) from pg_stat_replication join pg_stat_ssl using (pid) group by ssl";
        assert_eq!(stage.source.sql(streams)?, "true1");
        // They are written down, but for the password.
        stage.source.sql_in("moves", "insert into t values (2)")?;
        run(stage.then("finish", &["--yes"]).env("PGPASSWORD", PASSWORD))?;
        assert_eq!(stage.ask("moves", "select sum(x) from t")?, "3");
        stage.check_moved(&["moves"])
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// Where the certificate suffices at the source, its relay is nobody else's way in.
    fn the_relay_of_a_split_lets_nobody_else_in(major) {
        let authority = Authority::new("pgherd test authority")?;
        let own = authority.sign("split", "postgres", &[])?;
        let mut stage = Stage::of(careful(major, &authority, "localhost", "cert")?, "moves")?;
        stage.host = "localhost".into();
        let (ca, cert, key) = (authority.cert(), own.cert, own.key);
        stage.more = format!(
            "sslmode=verify-full sslrootcert={} sslcert={} sslkey={}",
            ca.display(),
            cert.display(),
            key.display()
        );
        run(&mut stage.split(&["--yes", "--until-ready"]))?;
        let relay = stage.path(".local/state/pgherd/split/new/relay.yaml");
        let relay = std::fs::read_to_string(relay)?;
        let (_, port) = relay.split_once("127.0.0.1:").context("its address")?;
        let (port, _) = port.split_once('"').context("its port")?;
        let conninfo = "replication=true user=postgres application_name=pgherd_split_new";
        let mut psql = stage.source.client("psql", port.parse()?)?;
        psql.args(["-XAtw", "-c", "IDENTIFY_SYSTEM", "-d", conninfo]);
        let refused = run_failing(psql.env("PGPASSWORD", PASSWORD))?;
        ensure!(refused.contains("password authentication failed"), "{refused}");
        // The standby knows what it asks for.
        stage.source.sql_in("moves", "insert into t values (2)")?;
        run(&mut stage.then("finish", &["--yes"]))?;
        assert_eq!(stage.ask("moves", "select sum(x) from t")?, "3");
        stage.check_moved(&["moves"])
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// The new server is on another host, which reaches the old one with TLS, and has nothing of it.
    fn moves_to_another_host(major) {
        let Some(host) = Host::new()? else { return Ok(()) };
        let authority = Authority::new("pgherd test authority")?;
        let source = careful(major, &authority, &host.here, "scram-sha-256")?;
        let mut stage = Stage::of(source, "moves")?;
        stage.host.clone_from(&host.here);
        let checked = format!("sslmode=verify-full sslrootcert={}", authority.cert().display());
        for (more, finding) in [
            ("sslmode=require", "WARN  connection  TLS with anybody's certificate"),
            (&*checked, "OK    connection  TLS, with a certificate that was checked"),
        ] {
            stage.more = more.into();
            let mut plan = host.program(&stage.split(&["--plan"]));
            let plan = run(plan.env("PGPASSWORD", PASSWORD))?;
            let plan = plan.split('\n').map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
            let finding = finding.split_whitespace().collect::<Vec<_>>().join(" ");
            ensure!(plan.clone().any(|line| line.starts_with(&finding)), "{:?}", plan.collect::<Vec<_>>());
        }
        let mut split = host.program(&stage.split(&["--yes"]));
        run(split.env("PGPASSWORD", PASSWORD))?;
        assert_eq!(stage.ask("moves", "select x from t")?, "1");
        stage.check_moved(&["moves"])?;
        let mut drop = host.program(&stage.then("finish", &["--drop-source"]));
        run(drop.env("PGPASSWORD", PASSWORD))?;
        let left = "select count(*) from pg_database where datname = 'moves'";
        assert_eq!(stage.source.sql(left)?, "0");
        Ok(())
    }
}
