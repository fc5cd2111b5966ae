//! What the relay tells about itself over HTTP, and to whom.

#![allow(clippy::indexing_slicing, reason = "of JSON, where what is missing is null")]

mod stage;
mod web;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use stage::{fill, named_without, serve};
use testkit::{Client, Cluster, Major, Stop, http, http_unix, wait_until};
use web::{TOKEN, Web, check};

const PATIENCE: Duration = testkit::PATIENCE;

/// All answers hold what the schema says, and are true.
#[test]
fn every_answer_is_in_the_schema_and_true() -> Result<()> {
    let mut primary = Cluster::builder(Major::V17).start()?;
    primary.sql("create database keep; create database drop1")?;
    let web = Web::new()?;
    let yaml = serve(&[("berlin", "exclude_databases: [\"drop*\"]"), ("whole", "")]);
    let mut relay = web.relay(primary.port(), &yaml)?;
    let berlin = named_without("berlin", &primary, &relay, &["drop1"], &[])?;
    let whole = named_without("whole", &primary, &relay, &[], &[])?;
    berlin.wait_streaming()?;
    whole.wait_streaming()?;
    primary.sql("create database drop2")?;
    fill(&primary, "drop1", "t")?;
    fill(&primary, "keep", "t")?;
    Client::connect(relay.port())?
        .start(&[("user", "postgres"), ("replication", "true"), ("application_name", "nobody")])?
        .error("28000")?;
    berlin.wait_replayed(&primary)?;
    whole.wait_replayed(&primary)?;

    let openapi = web.json("/v1/openapi.json")?;
    for path in openapi["paths"].as_object().context("paths")?.keys() {
        if path != "/v1/reload" {
            let answer = web.get(path)?;
            ensure!(answer.status == 200, "{path}: {} {}", answer.status, answer.body);
            check(&openapi, "GET", path, &answer)?;
        }
        check(&openapi, if path == "/v1/reload" { "POST" } else { "GET" }, path, &{
            let method = if path == "/v1/reload" { "POST" } else { "GET" };
            http(web.port(), method, path, &["Host: evil.example"], "")?
        })?;
    }
    let authorized = format!("Authorization: Bearer {TOKEN}");
    for (headers, status) in [
        (vec![], 401),
        (vec!["Authorization: Bearer wrong-token-wrong"], 401),
        (vec![authorized.as_str(), "Origin: http://evil.example"], 403),
        (vec![authorized.as_str()], 200),
    ] {
        let answer = web.post("/v1/reload", &headers)?;
        ensure!(answer.status == status, "{headers:?}: {} {}", answer.status, answer.body);
        check(&openapi, "POST", "/v1/reload", &answer)?;
    }

    clients_are_where_they_say(&web, &primary, &relay)?;
    decisions_are_told(&web, &primary)?;
    metrics_are_complete(&web)?;

    primary.stop(Stop::Fast)?;
    web.wait_ready(|answer| answer.status == 503)?;
    check(&openapi, "GET", "/readyz", &web.get("/readyz")?)?;
    ensure!(web.get("/healthz")?.status == 200);
    ensure!(web.json("/v1/relay/status")?["upstream"]["reachable"] == false);
    ensure!(relay.stop()?.success());
    Ok(())
}

/// Positions are those of the standbys; a standby that does not replay falls behind, in bytes and
/// in time.
fn clients_are_where_they_say(web: &Web, primary: &Cluster, relay: &testkit::Relay) -> Result<()> {
    for (name, filtered) in [("berlin", true), ("whole", false)] {
        let lsn = primary.lsn()?.to_string();
        let caught_up = |client: &Value| {
            client["replay"]["lag_bytes"] == 0 && client["replay"]["lag_secs"] == 0.0
        };
        let client = web.client(name, caught_up)?;
        ensure!(client["activity"] == "streaming", "{client}");
        ensure!(client["filtered"] == filtered && client["configuration"] == name, "{client}");
        for stage in ["sent", "write", "flush", "replay"] {
            ensure!(
                client[stage]["lsn"].as_str().context("a position")? >= lsn.as_str(),
                "{client}"
            );
        }
        let replaced = client["records_replaced"].as_u64().context("a number")?;
        ensure!((replaced > 0) == filtered, "{client}");
        ensure!(client["sent_bytes"].as_u64() > Some(100_000), "{client}");
    }
    // A receiver that confirms nothing: it gets everything, and says that it is nowhere.
    let mut deaf = Client::replication(relay.port(), "whole")?;
    let start = primary.lsn()?.round_down(16 << 20);
    deaf.query(&format!("START_REPLICATION PHYSICAL {start} TIMELINE 1"))?.rows()?;
    let status = pgproto::copy::StandbyStatus {
        write: start,
        flush: start,
        apply: pgtypes::Lsn::INVALID,
        sent_at_micros: 0,
        reply_requested: false,
    };
    let mut message = Vec::new();
    pgproto::frame::write(b'd', &status.to_bytes(), &mut message);
    deaf.send(&message)?;
    primary.sql("select pg_switch_wal()")?;
    let behind = wait_until("the receiver to be behind", PATIENCE, || {
        let all = web.json("/v1/relay/clients")?;
        let found = all.as_array().context("a list")?.iter().find(|it| {
            it["flush"]["lsn"] == start.to_string()
                && it["flush"]["lag_secs"].as_f64() > Some(1.0)
                && it["flush"]["lag_bytes"].as_u64() > Some(0)
        });
        Ok(found.cloned())
    })?;
    ensure!(
        behind["replay"]["lsn"].is_null() && behind["replay"]["lag_secs"].is_null(),
        "{behind}"
    );
    Ok(())
}

fn decisions_are_told(web: &Web, primary: &Cluster) -> Result<()> {
    let things = web.json("/v1/relay/databases")?;
    let thing = |name: &str| -> Result<Value> {
        let oid = primary.database_oid(name)?;
        let all = things.as_array().context("a list")?;
        let found = all.iter().find(|it| it["kind"] == "database" && it["oid"] == oid);
        let found = found.with_context(|| format!("{name} is not in {things}"))?;
        ensure!(found["name"] == name, "{found}");
        Ok(found["decisions"][0].clone())
    };
    for (name, decision, seen) in
        [("keep", "included", false), ("drop1", "excluded", false), ("drop2", "excluded", true)]
    {
        let told = thing(name)?;
        ensure!(told["configuration"] == "berlin" && told["decision"] == decision, "{told}");
        ensure!(told["reason"] == "name", "{told}");
        ensure!(told["since"].is_object() == seen, "{told}");
        ensure!(!seen || told["since"]["timeline"] == 1, "{told}");
    }
    Ok(())
}

/// Every metric of the list is exported with its labels, and no other.
fn metrics_are_complete(web: &Web) -> Result<()> {
    let text = web.get("/metrics")?.body;
    ensure!(text.ends_with("# EOF\n"), "{text}");
    let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let mut exported = BTreeSet::new();
    for sample in &samples {
        let (name, _value) = sample.rsplit_once(' ').context("a sample")?;
        let (name, labels) = name.split_once('{').unwrap_or((name, ""));
        let labels: Vec<_> = labels.split("\",").filter_map(|it| it.split_once('=')).collect();
        let labels: Vec<_> = labels.into_iter().map(|(label, _)| label).collect();
        exported.insert(format!("{name}{{{}}}", labels.join(",")));
    }
    let listed: BTreeSet<_> = api::metrics::METRICS.iter().map(ToString::to_string).collect();
    ensure!(exported == listed, "{exported:#?}\nis not\n{listed:#?}");
    for sample in [
        "pgherd_relay_upstream_reachable 1.0",
        "pgherd_relay_refusals_total{reason=\"not_authorized\"} 1",
        "pgherd_relay_reloads_total{result=\"done\"} 1",
        "pgherd_relay_decisions{configuration=\"berlin\",kind=\"database\",decision=\"excluded\"} 2.0",
        "pgherd_relay_clients{configuration=\"berlin\"} 1.0",
        "pgherd_relay_client_lag_bytes{client=\"berlin\",configuration=\"berlin\",stage=\"replay\"} 0.0",
    ] {
        ensure!(samples.contains(&sample), "no {sample} in\n{text}");
    }
    Ok(())
}

/// Browsers are told not to let anything else in, and other sites read nothing.
#[test]
fn nobody_takes_more_than_is_theirs() -> Result<()> {
    let web = Web::new()?;
    let _relay = web.relay(1, "")?;
    let answer = web.get("/")?;
    let policy = answer.headers.get("content-security-policy").context("no policy")?;
    ensure!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"));
    ensure!(!answer.headers.contains_key("access-control-allow-origin"));
    ensure!(web.get("/nothing")?.status == 404);
    ensure!(web.get("/v1/reload")?.status == 405);
    // A head that never ends is not waited for; one that is too long is refused.
    let mut slow = TcpStream::connect(("127.0.0.1", web.port()))?;
    slow.write_all(b"GET / HTTP/1.1\r\nHost: local")?;
    slow.set_read_timeout(Some(PATIENCE))?;
    let started = Instant::now();
    let long = format!("X: {}", "y".repeat(40_000));
    let refused = http(web.port(), "GET", "/healthz", &[&long], "");
    ensure!(refused.is_err() || refused.is_ok_and(|it| it.status == 431));
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).ok();
    ensure!(started.elapsed() < Duration::from_secs(40), "{:?}", started.elapsed());
    // Connections over the limit wait; those who have one are served.
    let held: Vec<_> = (0..100)
        .map(|_| TcpStream::connect(("127.0.0.1", web.port())))
        .collect::<Result<_, _>>()?;
    drop(held);
    ensure!(web.get("/healthz")?.status == 200);
    Ok(())
}

/// Over a Unix socket no token is needed; its mode lets in owner and group. Without a token file
/// nothing is changed over TCP.
#[test]
fn who_may_change() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("http.sock");
    let yaml = format!("http: \"unix:{}\"\n", socket.display());
    let mut relay = testkit::Relay::start(web::binary(), 1, &yaml)?;
    relay.wait_for_line("answering HTTP", PATIENCE)?;
    ensure!(http_unix(&socket, "GET", "/healthz")?.status == 200);
    ensure!(http_unix(&socket, "POST", "/v1/reload")?.json()?["reloaded"] == true);
    ensure!(std::fs::metadata(&socket)?.permissions().mode() & 0o777 == 0o660);
    ensure!(relay.stop()?.success());
    ensure!(!socket.exists());
    let port = testkit::Port::reserve()?;
    let yaml = format!("http: \"127.0.0.1:{}\"\n", port.number());
    let mut relay = testkit::Relay::start(web::binary(), 1, &yaml)?;
    relay.wait_for_line("answering HTTP", PATIENCE)?;
    let answer = http(port.number(), "POST", "/v1/reload", &[], "")?;
    ensure!(answer.status == 403 && answer.body.contains("http_token_file"), "{}", answer.body);
    Ok(())
}
