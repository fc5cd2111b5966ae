//! Clients that the relay itself lets in: SCRAM, certificates, trust; and those it does not.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use testkit::{
    Auth, Authority, Client, Cluster, Major, PASSWORD, PATIENCE, Relay, on_majors, run, run_failing,
};

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pgherd"))
}

/// Password of the relay's own user at the server.
const OWN: &str = "trombone-8";

fn write_secret(path: PathBuf, text: &str) -> Result<PathBuf> {
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(path)
}

/// A user that the relay logs in as, and the keys of `upstream` for it.
fn own_user(primary: &Cluster, folder: &Path) -> Result<String> {
    primary.sql(&format!("create role pgherd replication login password '{OWN}'"))?;
    let passfile = write_secret(folder.join("pgpass"), &format!("*:*:*:pgherd:{OWN}\n"))?;
    let port = primary.port();
    Ok(format!("host: 127.0.0.1, port: {port}, user: pgherd, passfile: {}", passfile.display()))
}

/// Verifiers as the server has them, of a user who is not known to it any more.
fn users_file(primary: &Cluster, folder: &Path) -> Result<PathBuf> {
    primary.sql(&format!("create role berlin password '{PASSWORD}'"))?;
    let line = "select rolname || ':' || rolpassword from pg_authid where rolname = 'berlin'";
    let line = primary.sql(line)?;
    primary.sql("drop role berlin")?;
    write_secret(folder.join("users"), &format!("# standbys\n{line}\n"))
}

fn identify(primary: &Cluster, port: u16, conninfo: &str, password: &str) -> Result<Command> {
    let mut psql = primary.client("psql", port)?;
    psql.env("PGPASSWORD", password);
    let conninfo = format!("replication=true {conninfo}");
    psql.args(["-XAtw", "-c", "IDENTIFY_SYSTEM", "-d", &conninfo]);
    Ok(psql)
}

#[test]
fn scram_with_and_without_channel_binding() -> Result<()> {
    for (major, auth) in
        [(Major::V13, Auth::Md5), (Major::V17, Auth::Scram), (Major::V18, Auth::Scram)]
    {
        let authority = Authority::new("pgherd test authority")?;
        let own = authority.sign("relay", "relay", &["127.0.0.1", "localhost"])?;
        let server = authority.sign_for_server("primary", &["127.0.0.1"])?;
        let primary = Cluster::builder(major)
            .auth(auth)
            .set("ssl", "on")
            .set("ssl_cert_file", &server.cert.display().to_string())
            .set("ssl_key_file", &server.key.display().to_string())
            .start()?;
        primary.sql("set password_encryption = 'scram-sha-256'")?;
        let folder = authority.folder();
        primary.sql("alter system set password_encryption = 'scram-sha-256'")?;
        primary.sql("select pg_reload_conf()")?;
        primary.wait_for("show password_encryption", "scram-sha-256", PATIENCE)?;
        let users = users_file(&primary, folder)?;
        let upstream = format!("{}, sslmode: require", own_user(&primary, folder)?);
        let more = format!(
            "tls: {{cert: {}, key: {}}}\nconfigurations: [{{all: {{auth: scram, users_file: {}, \
             filter: {{exclude_databases: [nonesuch]}}}}}}]",
            own.cert.display(),
            own.key.display(),
            users.display()
        );
        let mut relay = Relay::prepare_upstream(binary(), &upstream, &more)?;
        relay.argument("-vv");
        relay.run()?;
        let modes = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];
        let bindings = ["disable", "prefer", "require"];
        for (tls, binding) in modes.iter().flat_map(|it| bindings.map(|binding| (it, binding))) {
            // With `allow` libpq comes without TLS first.
            let comes_in = binding != "require" || !["disable", "allow"].contains(tls);
            let ca = authority.cert();
            let conninfo = format!(
                "user=berlin sslmode={tls} channel_binding={binding} sslrootcert={} \
                 host=localhost hostaddr=127.0.0.1",
                ca.display()
            );
            let mut psql = identify(&primary, relay.port(), &conninfo, PASSWORD)?;
            if comes_in {
                let row = run(&mut psql).with_context(|| conninfo.clone())?;
                assert!(row.contains("|1|"), "{row}");
            } else {
                run_failing(&mut psql)?;
            }
        }
        // A stream: the names are read as the relay's own user too.
        let lsn = pgtypes::Lsn(primary.lsn()?.0 - 1).to_string();
        let wal = tempfile::tempdir()?;
        let mut receive = primary.client("pg_receivewal", relay.port())?;
        receive.env("PGPASSWORD", PASSWORD).env("PGUSER", "berlin").env("PGSSLMODE", "require");
        receive.arg("-D").arg(wal.path()).args(["-n", "-w", "--endpos", &lsn]);
        run(&mut receive)?;
        let log = relay.program()?.text();
        let process = PathBuf::from(format!("/proc/{}", relay.program()?.pid()));
        let title = fs::read(process.join("cmdline"))?;
        let title = String::from_utf8_lossy(&title);
        for secret in [PASSWORD, OWN, "SCRAM-SHA-256$"] {
            assert!(!log.contains(secret), "{secret:?} is in the log:\n{log}");
            assert!(!title.contains(secret), "{secret:?} is in {title}");
        }
        let limits = fs::read_to_string(process.join("limits"))?;
        let cores = limits.lines().find(|line| line.starts_with("Max core file size"));
        let soft = cores.and_then(|line| line.split_whitespace().nth(4));
        assert_eq!(soft, Some("0"), "{limits}");
    }
    Ok(())
}

/// The salt that a user gets, and the rounds.
fn salt_of(port: u16, user: &str) -> Result<String> {
    let mut client = Client::connect(port)?;
    client
        .send(&pgproto::startup::Startup::build(0, &[("user", user), ("replication", "1")])?.raw)?;
    let data = b"n,,n=,r=abcdef";
    let length = u32::try_from(data.len())?.to_be_bytes();
    client.message()?;
    client.send_message(b'p', &[&b"SCRAM-SHA-256\0"[..], &length, data].concat())?;
    let text =
        String::from_utf8_lossy(&client.message()?.context("no answer")?.payload).into_owned();
    Ok(text.split_once(",s=").context("no salt")?.1.to_owned())
}

#[test]
fn nobody_can_tell_an_unknown_user_from_a_wrong_password() -> Result<()> {
    let primary = Cluster::builder(Major::V18).auth(Auth::Scram).start()?;
    let folder = tempfile::tempdir()?;
    let users = users_file(&primary, folder.path())?;
    let upstream = own_user(&primary, folder.path())?;
    let list =
        format!("configurations: [{{all: {{auth: scram, users_file: {}}}}}]", users.display());
    let mut relay = Relay::prepare_upstream(binary(), &upstream, &list)?;
    relay.run()?;
    let port = relay.port();
    let refused = |user: &str| -> Result<_> {
        let conninfo = format!("user={user} sslmode=disable");
        let text = run_failing(&mut identify(&primary, port, &conninfo, "wrong")?)?;
        Ok(text.replace(user, "USER"))
    };
    let known = refused("berlin")?;
    assert_eq!(known, refused("nobody")?);
    assert!(known.contains("password authentication failed for user \"USER\""), "{known}");
    let line = relay.wait_for_line("refused: password authentication failed", PATIENCE)?;
    assert!(line.contains("address=\"127.0.0.1:"), "{line}");

    // The same salt each time, and one for each user; as many rounds as the others have.
    let first = |user: &str| salt_of(port, user);
    assert_eq!(first("nobody")?, first("nobody")?);
    assert_eq!(first("berlin")?, first("berlin")?);
    assert_ne!(first("nobody")?, first("somebody")?);
    assert!(first("nobody")?.ends_with(",i=4096") && first("berlin")?.ends_with(",i=4096"));

    // Two failures so far; each more is slower, for the right password as well.
    let began = Instant::now();
    refused("berlin")?;
    assert!(began.elapsed() > Duration::from_millis(900), "{:?}", began.elapsed());
    run(&mut identify(&primary, port, "user=berlin sslmode=disable", PASSWORD)?)?;
    Ok(())
}

/// What the guide tells to make on the server: the relay's user reads one verifier at a time.
const FUNCTION: &str = "create function verifier(name) returns text language sql security definer \
     set search_path = pg_catalog, pg_temp \
     as 'select rolpassword from pg_authid where rolname = $1 and rolcanlogin'";

on_majors! {
    [v13 V13, v18 V18]
    fn scram_by_a_query_upstream(major) {
        let primary = Cluster::builder(major)
            .auth(Auth::Scram)
            .set("password_encryption", "scram-sha-256")
            .start()?;
        let folder = tempfile::tempdir()?;
        let own = own_user(&primary, folder.path())?;
        let upstream = own.replace(
            &format!("host: 127.0.0.1, port: {}", primary.port()),
            &format!("hosts: [\"127.0.0.1:{}\"], target: any", primary.port()),
        );
        primary.sql(FUNCTION)?;
        primary.sql("revoke execute on function verifier from public")?;
        primary.sql("grant execute on function verifier to pgherd")?;
        primary.sql(&format!("create role berlin login password '{PASSWORD}'"))?;
        let old = "set password_encryption = md5; create role old login password 'old-word'";
        primary.sql(old)?;
        let list = "configurations: [{all: {auth: scram, users_query: select verifier($1)}}]";
        let mut relay = Relay::prepare_upstream(binary(), &upstream, list)?;
        relay.run()?;
        let come = |relay: &Relay, user: &str, password: &str| {
            identify(&primary, relay.port(), &format!("user={user} sslmode=disable"), password)
        };
        let row = run(&mut come(&relay, "berlin", PASSWORD)?)?;
        assert!(row.contains("|1|"), "{row}");
        // Nobody can tell who exists, has another kind of password, or none.
        let wrong = run_failing(&mut come(&relay, "berlin", "wrong")?)?;
        for (user, password) in [("nobody", "wrong"), ("old", "old-word"), ("pgherd2", "")] {
            let refused = run_failing(&mut come(&relay, user, &format!("{password}x"))?)?;
            assert_eq!(refused.replace(user, "berlin"), wrong);
        }
        relay.wait_for_line("no SCRAM verifier for this user", PATIENCE)?;
        let salts = [salt_of(relay.port(), "nobody")?, salt_of(relay.port(), "berlin")?];
        assert_ne!(salts[0], salts[1]);
        assert!(salts.iter().all(|salt| salt.ends_with(",i=4096")), "{salts:?}");
        let log = relay.program()?.text();
        for secret in [PASSWORD, OWN, "SCRAM-SHA-256$", "old-word"] {
            assert!(!log.contains(secret), "{secret:?} is in the log:\n{log}");
        }
        // Over a restart both stay what they are; failures are forgotten.
        relay.stop()?;
        relay.run()?;
        assert_eq!(salt_of(relay.port(), "nobody")?, salts[0]);
        assert_eq!(salt_of(relay.port(), "berlin")?, salts[1]);

        // What changes on the server counts at once.
        primary.sql("alter role berlin password 'another-9'")?;
        run(&mut come(&relay, "berlin", "another-9")?)?;
        primary.sql("alter role berlin nologin")?;
        let refused = run_failing(&mut come(&relay, "berlin", "another-9")?)?;
        assert!(refused.contains("password authentication failed"), "{refused}");

        // A query that does not work says so to the administrator, and lets nobody in.
        primary.sql("revoke execute on function verifier from pgherd")?;
        let refused = run_failing(&mut come(&relay, "berlin", "another-9")?)?;
        assert!(refused.contains("passwords cannot be checked now"), "{refused}");
        let line = relay.wait_for_line("PGH0304", PATIENCE)?;
        assert!(line.contains("permission denied for function verifier"), "{line}");
        let two = "select $1::text from (values (1), (2)) two";
        relay.stop()?;
        relay.reconfigure(&format!(
            "configurations: [{{all: {{auth: scram, users_query: \"{two}\"}}}}]"
        ))?;
        relay.run()?;
        let refused = run_failing(&mut come(&relay, "berlin", "another-9")?)?;
        assert!(refused.contains("passwords cannot be checked now"), "{refused}");
        relay.wait_for_line("more than one row or column", PATIENCE)?;
        Ok(())
    }
}

#[test]
fn a_certificate_names_its_users() -> Result<()> {
    let authority = Authority::new("pgherd test authority")?;
    let own = authority.sign("relay", "relay", &["127.0.0.1"])?;
    let berlin = authority.sign("berlin", "berlin.example", &[])?;
    let repl = authority.sign("repl", "repl", &[])?;
    let primary = Cluster::builder(Major::V17).auth(Auth::Scram).start()?;
    let upstream = own_user(&primary, authority.folder())?;
    let more = format!(
        "tls: {{cert: {}, key: {}, client_ca: {}}}\nconfigurations:\n\
         - mapped: {{match: {{application_name: mapped}}, auth: cert, user_map: {{berlin.example: [repl, other]}}}}\n\
         - same: {{auth: cert}}\n",
        own.cert.display(),
        own.key.display(),
        authority.cert().display()
    );
    let mut relay = Relay::prepare_upstream(binary(), &upstream, &more)?;
    relay.run()?;
    for (name, user, own, comes_in) in [
        ("mapped", "repl", Some(&berlin), true),
        ("mapped", "other", Some(&berlin), true),
        ("mapped", "postgres", Some(&berlin), false),
        ("mapped", "repl", Some(&repl), false),
        ("x", "repl", Some(&repl), true),
        ("x", "repl", Some(&berlin), false),
        ("x", "repl", None, false),
    ] {
        let own =
            own.map(|own| format!("sslcert={} sslkey={}", own.cert.display(), own.key.display()));
        let conninfo = format!(
            "application_name={name} user={user} sslmode=require {}",
            own.unwrap_or_default()
        );
        let mut psql = identify(&primary, relay.port(), &conninfo, "")?;
        if comes_in {
            run(&mut psql)?;
            let who = "select count(*) from pg_roles where rolname = 'pgherd'";
            assert_eq!(primary.sql(who)?, "1");
        } else {
            let refused = run_failing(&mut psql)?;
            assert!(refused.contains("certificate authentication failed"), "{conninfo}: {refused}");
        }
    }
    let plain = "application_name=x user=repl sslmode=disable";
    run_failing(&mut identify(&primary, relay.port(), plain, "")?)?;
    Ok(())
}

#[test]
fn trust_and_reject() -> Result<()> {
    let primary = Cluster::builder(Major::V18).auth(Auth::Scram).start()?;
    let folder = tempfile::tempdir()?;
    let upstream = own_user(&primary, folder.path())?;
    let list = "configurations:\n- no: {match: {application_name: no}, auth: reject}\n- rest: {auth: trust}";
    let mut relay = Relay::prepare_upstream(binary(), &upstream, list)?;
    relay.run()?;
    let port = relay.port();
    run(&mut identify(&primary, port, "user=anybody", "")?)?;
    relay.wait_for_line("user=\"pgherd\"", PATIENCE)?;
    let refused = run_failing(&mut identify(&primary, port, "application_name=no", PASSWORD)?)?;
    assert!(refused.contains("rejects clients"), "{refused}");
    // A client of protocol 3.2 is told that 3.0 is spoken.
    let mut client = Client::connect(port)?;
    let answer =
        client.start_minor(2, &[("user", "x"), ("replication", "true"), ("_pq_.a", "1")])?;
    assert_eq!(answer.negotiated, Some(b"\0\x03\0\0\0\0\0\x01_pq_.a\0".to_vec()));
    assert!(answer.is_ready());
    drop(client);

    // Without a password that is right nobody gets anywhere, and the secret stays one.
    let wrong = write_secret(folder.path().join("pgpass"), "*:*:*:*:wrong-word\n")?;
    let refused = run_failing(&mut identify(&primary, port, "user=anybody", "")?)?;
    assert!(refused.contains("it cannot log in to the upstream server"), "{refused}");
    let line = relay.wait_for_line("refused the relay's own login", PATIENCE)?;
    assert!(line.contains("28P01"), "{line}");
    fs::remove_file(wrong)?;
    let refused = run_failing(&mut identify(&primary, port, "user=anybody", "")?)?;
    assert!(refused.contains("it cannot log in"), "{refused}");
    let log = relay.program()?.text();
    assert!(!log.contains("wrong-word") && !log.contains(OWN), "{log}");
    Ok(())
}

#[test]
fn what_does_not_fit_together_is_a_problem_of_the_configuration() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let bad = write_secret(folder.path().join("bad"), "a:SCRAM-SHA-256$4096:secretsalt\n")?;
    let open = write_secret(folder.path().join("open"), "a:x\n")?;
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644))?;
    let (bad, open) = (bad.display(), open.display());
    for (body, message, hint) in [
        ("auth: scram".to_owned(), "needs `users_file` or `users_query`", "pg_authid"),
        ("auth: scram, users_query: select 1".to_owned(), "no place for the user's name", "$1"),
        ("auth: scram, users_query: select $1".to_owned(), "a user who may ask it", "`upstream`"),
        ("users_query: select $1".to_owned(), "is for `auth: scram` only", "remove"),
        (
            format!("auth: scram, users_file: {bad}, users_query: select $1"),
            "exclude each other",
            "remove one",
        ),
        (
            format!("auth: scram, users_file: {bad}"),
            "line 1 has no user and verifier",
            "USER:SCRAM",
        ),
        (format!("auth: scram, users_file: {open}"), "can be read by others", "chmod 0600"),
        ("auth: cert".to_owned(), "needs `tls.client_ca`", "authorities"),
        ("auth: ldap".to_owned(), "there is no method \"ldap\"", "passthrough, scram"),
        ("auth: trust, sql: passthrough".to_owned(), "needs `auth: passthrough`", "upstream.user"),
        ("i_know_that_this_is_open: true".to_owned(), "is for `auth: trust` only", "remove"),
        ("auth: trust, user_map: {a: b}".to_owned(), "is for `auth: cert` only", "remove"),
    ] {
        let mut relay =
            Relay::prepare(binary(), 1, &format!("configurations: [{{x: {{{body}}}}}]"))?;
        relay.spawn()?;
        assert_eq!(relay.program()?.wait(PATIENCE)?.code(), Some(78), "{body}");
        relay.wait_for_line(hint, PATIENCE)?;
        let text = relay.program()?.text();
        assert!(text.contains(message), "{body}: {text}");
        assert!(!text.contains("secretsalt"), "{text}");
    }
    Ok(())
}
