//! Each kind of problem: where it is said to be, and what is said.

#![allow(clippy::panic, clippy::indexing_slicing, reason = "helpers of tests, outside of #[test]")]

use config::{ConfigError, Overrides, Place, from_text};

fn refused(text: &str) -> ConfigError {
    match from_text("f.yaml", text, &Overrides::default()) {
        Ok(relay) => panic!("{text:?} was taken: {relay:?}"),
        Err(error) => error,
    }
}

/// Each of `cases` has one problem: at this line and column, saying this, hinting that.
fn check(cases: &[(&str, (usize, usize), &str, &str)]) {
    for (text, (line, column), message, hint) in cases {
        let error = refused(text);
        let shown = error.to_string();
        assert_eq!(error.problems.len(), 1, "{text:?} gives {shown}");
        let problem = &error.problems[0];
        let place = Place::Line { line: *line, column: *column };
        assert_eq!(problem.place, place, "{text:?} gives {shown}");
        assert!(problem.message.contains(message), "{text:?} gives {shown}");
        assert!(problem.hint.contains(hint), "{text:?} gives {shown}");
        assert!(shown.starts_with(&format!("f.yaml:{line}:{column}: ")), "{shown}");
        let rendered = error.render(false);
        assert!(rendered.contains(&format!("f.yaml:{line}:{column}\n")), "{text:?}:\n{rendered}");
    }
}

#[test]
fn keys() {
    check(&[
        ("upstream: {}\nlisten_prot: 1\n", (2, 1), "unknown key \"listen_prot\"", "`listen_port`?"),
        ("upstream: {hoss: a}\n", (1, 12), "unknown key \"hoss\"", "did you mean `host`?"),
        ("upstream: {}\nfoo: 1\n", (2, 1), "unknown key \"foo\"", "listen, listen_port, upstream"),
        ("upstream: {Host: a}\n", (1, 12), "unknown key", "did you mean `host`?"),
        ("upstream: {}\nsource: ::1\n", (2, 1), "unknown key", "belongs in `match`"),
        ("upstream: {}\nstate-dir: /x\n", (2, 1), "unknown key", "did you mean `state_dir`?"),
        ("upstream: {password: x}\n", (1, 12), "unknown key", "`passfile`"),
        ("upstream: {}\nstrict: true\nstrict: true\n", (3, 1), "`strict` is given twice", "one"),
        ("upstream: {}\nmaster: {}\n", (2, 1), "other name `master`", "keep one"),
        (
            "upstream: {}\nlisten: 127.0.0.1:1\nlisten_port: 1\n",
            (3, 1),
            "`listen` and `listen_port` are both given",
            "keep `listen`",
        ),
        ("upstream: {}\n? [a, b]\n: c\n", (2, 3), "expected text as a key, found a list", "key"),
        ("- upstream\n", (1, 1), "expected a mapping, found a list", "listen"),
        ("upstream: {}\n~: 1\n", (2, 1), "unknown key \"~\"", "listen"),
    ]);
}

#[test]
fn hosts() {
    check(&[
        ("upstream: {host: a, hosts: [b]}\n", (1, 21), "both given", "keep `hosts`"),
        ("upstream: {target: any}\n", (1, 12), "belongs to `hosts`", "hosts: [...]"),
        ("upstream: {hosts: []}\n", (1, 19), "0 hosts", "1 to 32"),
        ("upstream: {hosts: [a, \"a:5432\"]}\n", (1, 23), "given twice", "keep one"),
        ("upstream: {hosts: [\"a:0\"]}\n", (1, 20), "port 0 is out of range", "1 to 65535"),
        ("upstream: {hosts: [\"a b\"]}\n", (1, 20), "this is not a host", "db:5433"),
        ("upstream: {hosts: [a], target: any2}\n", (1, 32), "no target", "prefer-standby"),
        ("upstream: {hosts: [a], failover_wait: 2h}\n", (1, 39), "out of range", "0 to 1h"),
        ("upstream: {hosts: [a], watch_interval: 1}\n", (1, 40), "with its unit", "100ms"),
    ]);
}

#[test]
fn http() {
    let unix = "upstream: {}\nhttp: \"unix:/run/a.sock\"\nhttp_tls: {}\n";
    let long = format!("upstream: {{}}\nhttp: \"[::1]:1\"\nhttp_hosts: [{}]\n", "a".repeat(254));
    check(&[
        ("upstream: {}\nhttp: localhost:8432\n", (2, 7), "not an address", "not looked up"),
        ("upstream: {}\nhttp_token_file: /t\n", (2, 1), "without `http`", "127.0.0.1:8432"),
        ("upstream: {}\nhttp_hosts: [a]\n", (2, 1), "without `http`", "remove `http_hosts`"),
        (
            "upstream: {}\nhttp: \"[::1]:1\"\nhttp_hosts: [a, \"b:1\"]\n",
            (3, 17),
            "not the name of a host",
            "without a port",
        ),
        ("upstream: {}\nhttp: \"[::1]:1\"\nhttp_hosts: a\n", (3, 13), "a list", "[relay1"),
        (&long, (3, 14), "not the name of a host", "without a port"),
        (
            "upstream: {}\nhttp: \"[::1]:1\"\nhttp_tls: {key: /k}\n",
            (3, 1),
            "`http_tls` needs both",
            "http_tls: {cert:",
        ),
        (
            "upstream: {}\nhttp: \"[::1]:1\"\nhttp_tls: {cert: /no, key: /k}\n",
            (3, 18),
            "No such file",
            "path",
        ),
    ]);
    let both = refused(unix).to_string();
    assert!(both.contains("a Unix socket has no TLS") && both.contains("needs both"), "{both}");
}

#[test]
fn passing() {
    check(&[
        (
            "upstream: {}\nconfigurations: [a: {sql: yes}]\n",
            (2, 27),
            "no value \"yes\"",
            "passthrough",
        ),
        ("upstream: {}\nconfigurations: [a: {slot: on}]\n", (2, 28), "no value", "`auto`"),
    ]);
}

#[test]
fn values() {
    check(&[
        ("upstream: {port: 70000}\n", (1, 18), "port 70000 is out of range", "1 to 65535"),
        ("upstream: {port: 0}\n", (1, 18), "port 0 is out of range", "1 to 65535"),
        ("upstream: {port: -1}\n", (1, 18), "port -1 is out of range", "1 to 65535"),
        ("upstream: {port: abc}\n", (1, 18), "expected a whole number, found text", "number"),
        ("upstream: {port: 1.5}\n", (1, 18), "expected a whole number, found a number", "number"),
        ("upstream: {port: [1]}\n", (1, 18), "expected a whole number, found a list", "number"),
        ("upstream:\n  port:\n", (2, 7), "expected a whole number, found nothing", "number"),
        ("upstream: {host: [a]}\n", (1, 18), "expected text, found a list", "one text"),
        ("upstream: {host: ''}\n", (1, 18), "the host is empty", "name"),
        ("upstream: {host: 'a:5432'}\n", (1, 18), "this is not a host", "`port`"),
        ("upstream: localhost\n", (1, 11), "expected a mapping, found text", "host, port"),
        ("upstream: {catalog: {user: \"a\\0b\"}}\n", (1, 28), "NUL", "remove"),
        ("upstream: {catalog: {passfile: x}}\n", (1, 32), "not an absolute path", "~/"),
        ("upstream: {}\nstate_dir: ./x\n", (2, 12), "not an absolute path", "~/"),
        ("upstream: {}\nstrict: yes\n", (2, 9), "expected true or false, found text", "`true`"),
        ("upstream: {}\nstrict: 'true'\n", (2, 9), "expected true or false", "quotes"),
        ("upstream: {}\nlog_format: xml\n", (2, 13), "no log format \"xml\"", "`json`"),
        ("upstream: {}\nlisten_port: 65536\n", (2, 14), "port 65536 is out of range", "65535"),
        ("upstream: {}\nlisten: 5433\n", (2, 9), "found a number", "`listen_port: 5433`"),
        ("upstream: {}\nlisten: []\n", (2, 9), "0 addresses", "1 to 64"),
        ("upstream: {}\nlisten: [\"localhost:1\"]\n", (2, 10), "not an address", "not looked up"),
        ("upstream: {}\nlisten: [\"::1\"]\n", (2, 10), "has no port", "[::1]:5433"),
        ("upstream: {}\nlisten: ['1.1.1.1:1', '1.1.1.1:1']\n", (2, 23), "given twice", "one"),
        ("upstream: {}\nlimits: {max_connections: 0}\n", (2, 27), "out of range", "100000"),
        ("upstream: {}\nlimits: {startup_timeout: 60}\n", (2, 27), "its unit", "30s"),
        ("upstream: {}\nlimits: {startup_timeout: 1h}\n", (2, 27), "out of range", "10min"),
        ("upstream: {}\nlimits: {startup_timeout: 0}\n", (2, 27), "out of range", "100ms"),
        ("upstream: {}\nlimits: {peer_timeout: 5ms}\n", (2, 24), "out of range", "100ms"),
        ("upstream: {}\nlimits: {peer_timeout: 5 m}\n", (2, 24), "its unit", "5min"),
        ("upstream: {}\nlimits: {peer_timeout: 99999999999s}\n", (2, 24), "its unit", "5min"),
        ("upstream: {}\nlimits: [1]\n", (2, 9), "expected a mapping, found a list", "max_conn"),
    ]);
}

#[test]
fn configurations() {
    let file = |body: &str| format!("upstream: {{}}\nconfigurations:\n{body}\n");
    let cases = [
        ("- a: {}\n- a: {}", (4, 3), "two configurations named \"a\"", "number 1"),
        ("- a: {}\n  b: {}", (4, 3), "one name and nothing beside it", "indented"),
        ("- a:\n  match: {}", (4, 3), "one name and nothing beside it", "indented"),
        ("- a", (3, 3), "expected a configuration with a name, found text", "- NAME:"),
        ("- {}", (3, 3), "without a name", "- NAME:"),
        ("- '': {}", (3, 3), "is empty", "- NAME:"),
        ("- a:", (3, 4), "found nothing", "`{}`"),
        ("- \"a\\nb\": {}", (3, 3), "control character", "letters"),
        ("  a: {}", (3, 3), "expected a list, found a mapping", "- NAME"),
        ("", (2, 15), "expected a list of configurations, found nothing", "unfiltered"),
        ("- a: {macth: {}}", (3, 7), "unknown key \"macth\"", "did you mean `match`?"),
        ("- a: {include_databases: [x]}", (3, 7), "unknown key", "belongs in `filter`"),
        ("- a: {match: {source: 300.0.0.0/8}}", (3, 23), "is no network", "192.168.0.0/16"),
        ("- a: {match: {source: 10.0.0.0/40}}", (3, 23), "from 0 to 32", "192.168.0.0/16"),
        ("- a: {match: {source: ::1, source_ip: ::1}}", (3, 28), "given twice", "keep one"),
        ("- a: {match: {user: ''}}", (3, 21), "the user is empty", "leave it out"),
        ("- a: {match: {application_name: ~}}", (3, 33), "found nothing", "leave the key out"),
        ("- a: {match: [user]}", (3, 14), "expected a mapping, found a list", "application_name"),
    ]
    .map(|(body, place, message, hint)| (file(body), place, message, hint));
    for (text, place, message, hint) in &cases {
        check(&[(text, *place, message, hint)]);
    }
    let long = file(&format!("- {}: {{}}", "x".repeat(64)));
    check(&[(&long, (3, 3), "has 64 bytes", "at most 63")]);
}

#[test]
fn one_problem_in_an_entry_does_not_hide_the_others() {
    let error = refused(
        "upstream: {}\nconfigurations:\n- a: {match: {source: x}}\n  b: {}\n\
         - a: {filter: {exclude_databases: [template0], include_databases: [template0]}}\n",
    );
    let places: Vec<_> = error.problems.iter().map(|problem| problem.place).collect();
    let at = |line, column| Place::Line { line, column };
    assert_eq!(places, [at(3, 23), at(4, 3), at(5, 3), at(5, 36), at(5, 36)], "{error}");
}

#[test]
fn one_problem_in_a_section_does_not_hide_the_others() {
    let text = "listen: 1\nupstream:\n  host: []\n  port: x\n  catalog:\n    user: []\n    \
                database: []\n    passfile: []\nstate_dir: []\nstrict: []\nconfigurations: 1\n\
                limits:\n  max_connections: x\n  startup_timeout: x\n  peer_timeout: x\n\
                log_format: []\n";
    let error = refused(text);
    let lines: Vec<_> = error.problems.iter().map(|problem| problem.place).collect();
    let lines = lines.into_iter().filter_map(|place| match place {
        Place::Line { line, .. } => Some(line),
        _ => None,
    });
    let expected = [1, 3, 4, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16];
    assert_eq!(lines.collect::<Vec<_>>(), expected, "{error}");
}

#[test]
fn filters() {
    let cases = [
        ("exclude_databases: [template0]", 21, "template0 cannot be excluded", "remove"),
        ("exclude_databases: ['template\\1']", 21, "template1 cannot be excluded", "remove"),
        ("exclude_tablespaces: [pg_global]", 23, "pg_global cannot be excluded", "remove"),
        ("include_databases: orders", 20, "expected a list, found text", "[orders"),
        ("exclude_databases: orders", 20, "expected a list, found text", "[orders"),
        ("include_databases: [a, '']", 24, "the name is empty", "leave it out"),
        ("include_databases: [a, [b]]", 24, "expected text, found a list", "one text"),
        ("include_databases: []", 20, "without a name", "every database"),
        ("include_tablespaces: ~", 22, "without a name", "every tablespace"),
        ("include_databases: [a, b], exclude_databases: [b]", 48, "included and excluded", "one"),
    ];
    for (filter, column, message, hint) in cases {
        let text = format!("upstream: {{}}\nconfigurations:\n- a: {{filter: {{{filter}}}}}\n");
        check(&[(&text, (3, column + "- a: {filter: {".len()), message, hint)]);
    }
    let fine = "upstream: {}\nconfigurations: [{a: {filter: {exclude_databases: ['template?', \
                '*'], exclude_tablespaces: ['pg_*', pg_default]}}}]\n";
    assert!(from_text("f", fine, &Overrides::default()).is_ok());
}

#[test]
fn yaml() {
    check(&[
        ("upstream: {}\na: [1\n", (2, 4), "not valid YAML", "brackets"),
        ("upstream:\n\tport: 1\n", (2, 2), "not valid YAML", "spaces"),
        ("upstream: *nothing\n", (1, 11), "not valid YAML", "check"),
        ("upstream: !secret {}\n", (1, 11), "tags have no meaning here", "leave the tag out"),
        ("upstream: {}\n---\nupstream: {}\n", (2, 1), "a second YAML document", "one document"),
        ("upstream: &a [*a]\n", (1, 15), "the alias repeats itself", "behind the end"),
    ]);
}

#[test]
fn no_upstream() {
    for text in ["", "# nothing\n", "---\n", "{}", "listen_port: 1\n"] {
        check(&[(text, (1, 1), "no upstream", "--host")]);
    }
    check(&[("strict: true\nupstream:\n", (2, 1), "no upstream", "--host")]);
    let overrides = Overrides { masterport: Some("5432".into()), ..Overrides::default() };
    assert!(from_text("f", "", &overrides).is_ok());
}

#[test]
fn options() {
    let overrides = Overrides {
        host: Some("a b".into()),
        masterport: Some("0".into()),
        port: Some("65536".into()),
        log_format: None,
    };
    let expected = "--masterport: \"0\" is not a port (1 to 65535) (give a number from 1 to 65535)\n\
                    --port: \"65536\" is not a port (1 to 65535) (give a number from 1 to 65535)\n\
                    --host: this is not a host (write a host name, an address, or the absolute \
                    path of a socket's folder)";
    let error = from_text("f", "", &overrides).unwrap_err();
    assert_eq!(error.to_string(), expected);
    assert_eq!(config::defaults(&overrides).unwrap_err().to_string(), expected);
    let rendered = error.render(false);
    assert!(rendered.contains("--> --port\n"), "{rendered}");
}

#[test]
fn every_problem_at_once_with_its_line_and_a_caret() {
    let text = "listen: [\"localhost\"]\nupstream:\n  prot: 5432\n  port: 99999\nconfigurations:\n\
                - a:\n    match: {source: 1.2.3.4/33}\n";
    let shown = refused(text).render(false);
    let expected = "\
error[PGH0001]: \"localhost\" is not an address and a port
 --> f.yaml:1:10
  |
1 | listen: [\"localhost\"]
  |          ^^^^^^^^^^^
  |
  = help: write an address as in \"127.0.0.1:5433\" or \"[::1]:5433\", or \"unix:/DIR\"; names are not looked up
error[PGH0001]: unknown key \"prot\"
 --> f.yaml:3:3
  |
3 |   prot: 5432
  |   ^^^^
  |
  = help: did you mean `port`?
error[PGH0001]: port 99999 is out of range (1 to 65535)
 --> f.yaml:4:9
  |
4 |   port: 99999
  |         ^^^^^
  |
  = help: write a number from 1 to 65535
error[PGH0001]: \"1.2.3.4/33\" is no network: the prefix length \"33\" is not a number from 0 to 32
 --> f.yaml:7:21
  |
7 |     match: {source: 1.2.3.4/33}
  |                     ^^^^^^^^^^
  |
  = help: write an address or a network, as in 192.168.0.0/16 or fd00::/8";
    assert_eq!(shown, expected);
    assert!(refused(text).render(true).contains('\u{1b}'));
}

#[test]
fn places_count_characters() {
    check(&[
        ("upstream: {}\n\"ü\": {\"ö\": 1}\n", (2, 1), "unknown key \"ü\"", "listen"),
        ("\u{feff}upstream: {}\nstrict: 1\n", (2, 9), "true or false", "`true`"),
    ]);
    let error = refused("{upstream: {host: ü}, strict: no}\r\n");
    assert_eq!(error.problems[0].place, Place::Line { line: 1, column: 31 });
    assert!(!error.render(false).contains('\r'));
}

#[test]
fn passwords_stay_hidden() {
    for text in [
        "upstream: {catalog: {user: x, password: s3cret}}\n",
        "upstream:\n  password: s3cret\n",
        "upstream: postgres://repl:s3cret@host/db\n",
        "upstream: {host: 'host=a password=s3cret'}\n",
        "upstream: {password: \"s3cret}\n",
    ] {
        let error = refused(text);
        assert!(!error.to_string().contains("s3cret"), "{error}");
        assert!(!error.render(false).contains("s3cret"), "{}", error.render(false));
    }
}
