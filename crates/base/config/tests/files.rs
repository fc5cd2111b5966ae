//! Whole files: what they mean.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests, outside of #[test]")]

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use config::{Client, Host, Limits, Listen, LogFormat, Overrides, Relay, Selection, from_text};

fn read(text: &str) -> Relay {
    from_text("relay.yaml", text, &Overrides::default()).unwrap_or_else(|error| panic!("{error}"))
}

fn tcp(address: &str) -> Listen {
    Listen::Tcp(address.parse().unwrap())
}

fn client(application_name: &'static str, source: &str) -> Client<'static> {
    let application_name = application_name.as_bytes();
    Client {
        application_name,
        source: source.parse::<IpAddr>().ok(),
        user: b"repl",
        tls: false,
        certificate: None,
    }
}

fn selected<'a>(relay: &'a Relay, client: &Client<'_>) -> Option<&'a str> {
    match relay.configuration_for(client) {
        Selection::Configuration(configuration) => Some(&configuration.name),
        Selection::Unfiltered | Selection::Refused => None,
    }
}

/// The shape of the file that walbouncer ships as its sample.
const WALBOUNCER_SAMPLE: &str = "
listen_port: 5433
master:
    host: localhost
    port: 5432
configurations:
    # a comment
    - first:
        match:
            application_name: first_app
            source: 127.0.0.0/8
        filter:
            include_tablespaces: [spc_a, spc_b]
            exclude_tablespaces:
                - spc_c # the other way to write a list
            include_databases: [postgres]
            exclude_databases: [test]
    - second:
        match:
            application_name: second_app
        filter:
            include_tablespaces: [spc_b]
";

#[test]
fn a_walbouncer_file_means_what_it_meant() {
    let relay = read(WALBOUNCER_SAMPLE);
    assert_eq!(relay.listen, [tcp("0.0.0.0:5433")], "every IPv4 address, as walbouncer");
    assert_eq!(relay.upstream.host, Host::Name("localhost".into()));
    assert_eq!(relay.upstream.port, 5432);
    let first = client("first_app", "127.0.0.1");
    assert_eq!(selected(&relay, &first), Some("first"));
    assert_eq!(selected(&relay, &client("first_app", "10.0.0.1")), None);
    assert_eq!(selected(&relay, &client("second_app", "10.0.0.1")), Some("second"));
    let other = client("other", "127.0.0.1");
    assert_eq!(relay.configuration_for(&other), Selection::Refused);

    let filter = relay.configurations.as_ref().unwrap()[0].filter.as_ref().unwrap();
    for (name, passes) in [("postgres", true), ("test", false), ("x", false), ("template1", true)] {
        assert_eq!(filter.database(name.as_bytes()), passes, "{name}");
    }
    for (name, passes) in [("spc_a", true), ("spc_c", false), ("x", false), ("pg_default", true)] {
        assert_eq!(filter.tablespace(name.as_bytes()), passes, "{name}");
    }
    assert_eq!(
        filter.canonical(),
        "include_databases: \"postgres\"\nexclude_databases: \"test\"\n\
         include_tablespaces: \"spc_a\" \"spc_b\"\nexclude_tablespaces: \"spc_c\"\n"
    );
}

/// The shape of walbouncer's demonstration: no comments, two standbys, other ports.
#[test]
fn the_walbouncer_demonstration_works() {
    let relay = read(
        "listen_port: 6433\nmaster:\n    host: localhost\n    port: 6432\nconfigurations:\n\
         \x20   - one:\n        match:\n            application_name: one\n        filter:\n\
         \x20           include_tablespaces: [spc_one]\n            exclude_databases: [test]\n\
         \x20   - two:\n        match:\n            application_name: two\n        filter:\n\
         \x20           include_tablespaces: [spc_two]\n",
    );
    assert_eq!(relay.listen, [tcp("0.0.0.0:6433")]);
    assert_eq!(relay.upstream.port, 6432);
    assert_eq!(selected(&relay, &client("two", "::1")), Some("two"));
}

const EVERYTHING: &str = r#"
listen: ["127.0.0.1:5433", "[::1]:5434", "unix:/run/pgherd", "unix:/run/other:6000"]
upstream:
  host: /run/postgresql
  port: 5432
  catalog: {host: names.example, port: 5434, user: postgres, database: names,
    passfile: /etc/pgherd/pgpass}
state_dir: /var/lib/pgherd
strict: true
log_format: json
limits: {max_connections: 50, startup_timeout: 5 s, peer_timeout: 0}
configurations:
  - berlin:
      match:
        application_name: berlin
        source: 192.168.0.0/16
        user: repl
      filter:
        include_databases: [orders, "tenant_eu_*", 2024]
        exclude_databases: [scratch]
        include_tablespaces: [fast]
        exclude_tablespaces: [archive]
  - "Größe / 1":
      match: {source_ip: "fd00::/8"}
      filter: {exclude_databases: []}
  - rest: {}
"#;

#[test]
fn every_setting_is_read() {
    let relay = read(EVERYTHING);
    let unix = |dir: &str, port| Listen::Unix { dir: dir.into(), port };
    let listen = [
        tcp("127.0.0.1:5433"),
        tcp("[::1]:5434"),
        unix("/run/pgherd", 5433),
        unix("/run/other", 6000),
    ];
    assert_eq!(relay.listen, listen);
    assert_eq!(
        relay.listen[2].socket_path().as_deref(),
        Some(Path::new("/run/pgherd/.s.PGSQL.5433"))
    );
    assert_eq!(relay.upstream.host, Host::Unix("/run/postgresql".into()));
    assert_eq!(relay.upstream.catalog.host, Some(Host::Name("names.example".into())));
    assert_eq!(relay.upstream.catalog.port, Some(5434));
    assert_eq!(relay.upstream.catalog.user.as_deref(), Some("postgres"));
    assert_eq!(relay.upstream.catalog.database, "names");
    assert_eq!(relay.upstream.catalog.passfile, Some("/etc/pgherd/pgpass".into()));
    assert_eq!(relay.state_dir, Path::new("/var/lib/pgherd"));
    assert!(relay.strict);
    assert_eq!(relay.log_format, LogFormat::Json);
    let limits =
        Limits { max_connections: 50, startup_timeout: Duration::from_secs(5), peer_timeout: None };
    assert_eq!(relay.limits, limits);
    let configurations = relay.configurations.as_ref().unwrap();
    assert_eq!(configurations[1].filter, None, "an empty filter is none");
    assert!(configurations[0].filter.as_ref().unwrap().database(b"2024"));
    assert_eq!(selected(&relay, &client("berlin", "192.168.3.4")), Some("berlin"));
    assert_eq!(selected(&relay, &client("berlin", "::ffff:192.168.3.4")), Some("berlin"));
    assert_eq!(selected(&relay, &client("berlin", "fd01::1")), Some("Größe / 1"));
    assert_eq!(selected(&relay, &client("berlin", "unix")), Some("rest"));
}

#[test]
fn what_is_left_out_has_its_default() {
    let relay = read("upstream: {}\n");
    assert_eq!(relay.listen, [tcp("127.0.0.1:5433")]);
    assert_eq!(
        (relay.upstream.host.to_string().as_str(), relay.upstream.port),
        ("localhost", 5432)
    );
    assert_eq!(relay.upstream.catalog.database, "postgres");
    assert_eq!(relay.upstream.catalog.host, None);
    assert_eq!(relay.upstream.catalog.port, None);
    assert_eq!(relay.upstream.catalog.user, None);
    assert_eq!(relay.upstream.catalog.passfile, None);
    assert!(!relay.strict);
    assert_eq!(relay.limits, Limits::default());
    assert_eq!(relay.log_format, LogFormat::Text);
    assert_eq!(relay.configurations, None);
    assert_eq!(relay.configuration_for(&client("x", "::1")), Selection::Unfiltered);
    assert_eq!(relay, config::defaults(&Overrides::default()).unwrap());
}

#[test]
fn an_empty_list_refuses_everyone() {
    let relay = read("upstream: {}\nconfigurations: []\n");
    assert_eq!(relay.configuration_for(&client("x", "::1")), Selection::Refused);
}

#[test]
fn options_win_over_the_file() {
    let text = |value: &str| Some(value.to_owned());
    let overrides = Overrides {
        host: text("db2"),
        masterport: text("7000"),
        port: text("7001"),
        log_format: Some(LogFormat::Json),
    };
    let relay = from_text("f", EVERYTHING, &overrides).unwrap();
    assert_eq!((relay.upstream.host.to_string().as_str(), relay.upstream.port), ("db2", 7000));
    assert_eq!(relay.upstream.catalog.database, "names");
    let listen: Vec<_> = relay.listen.iter().map(ToString::to_string).collect();
    let expected =
        ["127.0.0.1:7001", "[::1]:7001", "unix:/run/pgherd:7001", "unix:/run/other:6000"];
    assert_eq!(listen, expected);
    assert_eq!(relay.log_format, LogFormat::Json);

    let relay = from_text("f", "{}", &overrides).unwrap();
    assert_eq!(relay.listen, [tcp("0.0.0.0:7001")], "-p alone is listen_port");
    let relay = from_text("f", WALBOUNCER_SAMPLE, &overrides).unwrap();
    assert_eq!(relay.listen, [tcp("0.0.0.0:7001")]);
    let relay = config::defaults(&Overrides { host: text("::1"), ..Overrides::default() }).unwrap();
    assert_eq!((relay.upstream.host.to_string().as_str(), relay.upstream.port), ("::1", 5432));
}

#[test]
fn several_hosts() {
    let text = "upstream: {hosts: [a, \"b:5433\", \"[::1]:5434\", /run/x], port: 6000, \
                target: prefer-standby, failover_wait: 5s, watch_interval: 200ms}\n";
    let relay = read(text);
    let moving = relay.upstream.moving.clone().unwrap();
    let shown: Vec<_> = moving.hosts.iter().map(|it| format!("{} {}", it.host, it.port)).collect();
    assert_eq!(shown, ["a 6000", "b 5433", "::1 5434", "/run/x 6000"]);
    assert_eq!((relay.upstream.host.to_string().as_str(), relay.upstream.port), ("a", 6000));
    assert_eq!(moving.target, config::Target::PreferStandby);
    assert_eq!(moving.failover_wait, Duration::from_secs(5));
    assert_eq!(moving.watch_interval, Duration::from_millis(200));

    let relay = read("upstream: {hosts: b}\n");
    let moving = relay.upstream.moving.unwrap();
    assert_eq!((moving.hosts.len(), moving.target), (1, config::Target::Primary));
    assert_eq!(moving.failover_wait, Duration::from_secs(30));
    // A host of the command line is the only one.
    let overrides = Overrides { host: Some("c".into()), ..Overrides::default() };
    let relay = from_text("f", text, &overrides).unwrap();
    assert_eq!(relay.upstream.moving, None);
    assert_eq!((relay.upstream.host.to_string().as_str(), relay.upstream.port), ("c", 6000));
}

#[test]
fn anchors_and_aliases_repeat_a_list() {
    let relay = read(
        "upstream: {}\nconfigurations:\n- a:\n    filter: &f {include_databases: [x]}\n\
         - b:\n    match: {user: u}\n    filter: *f\n",
    );
    let configurations = relay.configurations.unwrap();
    assert!(configurations[0].filter.is_some());
    assert_eq!(configurations[0].filter, configurations[1].filter);
}

#[test]
fn times_have_units() {
    for (text, millis) in [
        ("100ms", 100),
        ("30s", 30_000),
        ("'2 min'", 120_000),
        ("1h", 3_600_000),
        ("1d", 86_400_000),
    ] {
        let relay = read(&format!("upstream: {{}}\nlimits: {{peer_timeout: {text}}}\n"));
        assert_eq!(relay.limits.peer_timeout, Some(Duration::from_millis(millis)), "{text}");
    }
}

#[test]
fn a_thousand_names_and_a_thousand_configurations() {
    let names: Vec<_> = (0..1_000).map(|number| format!("tenant_{number}")).collect();
    let filter = format!("{{include_databases: [{}]}}", names.join(", "));
    let relay = read(&format!("upstream: {{}}\nconfigurations: [{{one: {{filter: {filter}}}}}]\n"));
    let filter = relay.configurations.as_ref().unwrap()[0].filter.as_ref().unwrap();
    assert_eq!(filter.patterns().count(), 1_000);
    assert!(filter.database(b"tenant_999") && !filter.database(b"tenant_1000"));

    let mut text = "upstream: {}\nconfigurations:\n".to_owned();
    for number in 0..1_000 {
        text.push_str(&format!("- c{number}: {{match: {{application_name: a{number}}}}}\n"));
    }
    assert_eq!(selected(&read(&text), &client("a999", "::1")), Some("c999"));
}
