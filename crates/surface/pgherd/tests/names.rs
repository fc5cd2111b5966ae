//! How a relay gets to the names, and what it says of names that are not there.

mod stage;

use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Result, ensure};
use stage::{
    absent, berlin, binary, calm, fill, serve, sound, standby_without, wait_log, with_catalog,
};
use testkit::{Auth, Cluster, Major, PASSWORD, PATIENCE, Relay, Standby, same_contents};

const FILTER: &str = "exclude_databases: [\"drop*\"]";

/// Without a login the relay cannot tell what the names mean: the client is refused, with a word
/// on where to look. With `PGPASSWORD` or a password file it works; a relay that knows the names
/// goes on without.
#[test]
fn the_login_for_names() -> Result<()> {
    let primary = Cluster::builder(Major::V16).auth(Auth::Scram).start()?;
    primary.sql("create database keep")?;
    let list = serve(&[("berlin", FILTER)]);
    let mut relay = Relay::start(binary(), primary.port(), &list)?;
    let builder = Standby::of(&primary).via(relay.port()).name("berlin");
    let mut standby = builder.conninfo(&format!("password='{PASSWORD}'")).prepare()?;
    standby.spawn()?;
    wait_log(&standby, "cannot read the names of databases and tablespaces")?;
    wait_log(&standby, "upstream.catalog")?;
    ensure!(!standby.log().contains("catalog user"), "the client is told of the relay's login");
    calm(&mut relay, &["cannot read the names"])?;

    relay.stop()?;
    relay.set_environment("PGPASSWORD", "wrong");
    relay.run()?;
    relay.wait_for_line("password authentication failed", PATIENCE)?;
    ensure!(!relay.program()?.text().contains("wrong"), "the password is in the log");

    relay.stop()?;
    relay.set_environment("PGPASSWORD", PASSWORD);
    relay.run()?;
    standby.wait_for("select status from pg_stat_wal_receiver", "streaming", PATIENCE)?;
    primary.sql("create database drop1")?;
    standby.wait_replayed(&primary)?;
    absent(&standby, &primary, "drop1")?;
    calm(&mut relay, &[])?;

    // No login again, but the names are known.
    relay.stop()?;
    relay.set_environment("PGPASSWORD", "wrong");
    relay.run()?;
    primary.sql("create database drop2; create database keep2")?;
    fill(&primary, "keep2", "t")?;
    fill(&primary, "drop1", "t")?;
    standby.wait_replayed(&primary)?;
    same_contents(&primary, &standby, "keep2")?;
    absent(&standby, &primary, "drop1")?;
    absent(&standby, &primary, "drop2")?;
    relay.wait_for_line("going on with the names that are known already", PATIENCE)?;
    calm(&mut relay, &[])?;
    sound(&standby, &["cannot read the names"])
}

/// A password file that is configured wins over the environment.
#[test]
fn a_password_file() -> Result<()> {
    let primary = Cluster::builder(Major::V18).auth(Auth::Scram).start()?;
    primary.sql(&format!("create role reader login password '{PASSWORD} 2'"))?;
    let mut relay = Relay::prepare(binary(), primary.port(), &serve(&[("berlin", FILTER)]))?;
    let passfile = relay.config().with_file_name("pgpass");
    let line = format!("127.0.0.1:{}:template1:reader:{PASSWORD} 2\n", primary.port());
    std::fs::write(&passfile, format!("# names\nother:*:*:*:no\n{line}"))?;
    std::fs::set_permissions(&passfile, std::fs::Permissions::from_mode(0o600))?;
    let catalog = format!("user: reader, database: template1, passfile: {}", passfile.display());
    with_catalog(&relay, &catalog)?;
    relay.set_environment("PGPASSWORD", "wrong");
    relay.run()?;
    let builder = Standby::of(&primary).via(relay.port()).name("berlin");
    let standby = builder.conninfo(&format!("password='{PASSWORD}'")).start()?;
    primary.sql("create database keep; create database drop1")?;
    fill(&primary, "keep", "t")?;
    standby.wait_replayed(&primary)?;
    same_contents(&primary, &standby, "keep")?;
    absent(&standby, &primary, "drop1")?;
    calm(&mut relay, &[])
}

/// Without any setting there is the file that libpq would read: `~/.pgpass`, or another one that
/// `PGPASSFILE` names.
#[test]
fn the_password_file_of_the_relays_own_user() -> Result<()> {
    let primary = Cluster::builder(Major::V15).auth(Auth::Scram).start()?;
    primary.sql(&format!("create role reader login password '{PASSWORD} 2'"))?;
    primary.sql("create database drop1")?;
    let mut relay = Relay::prepare(binary(), primary.port(), &serve(&[("berlin", FILTER)]))?;
    with_catalog(&relay, "user: reader")?;
    let home = relay.config().with_file_name("");
    let write = |name: &str, password: &str| -> Result<_> {
        let file = home.join(name);
        std::fs::write(&file, format!("127.0.0.1:*:*:reader:{password}\n"))?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
        Ok(file)
    };
    write(".pgpass", &format!("{PASSWORD} 2"))?;
    relay.run()?;
    let dropped = primary.database_oid("drop1")?;
    let builder = Standby::of(&primary).via(relay.port()).name("berlin").without_database(dropped);
    let standby = builder.conninfo(&format!("password='{PASSWORD}'")).start()?;
    standby.wait_streaming()?;
    primary.sql("create database keep")?;
    fill(&primary, "keep", "t")?;
    standby.wait_replayed(&primary)?;
    same_contents(&primary, &standby, "keep")?;
    absent(&standby, &primary, "drop1")?;
    ensure!(relay.alarms().is_empty(), "{:?}", relay.alarms());

    relay.stop()?;
    let other = write("other", "wrong")?;
    relay.set_environment("PGPASSFILE", &other.display().to_string());
    relay.run()?;
    let line = relay.wait_for_line("going on with the names that are known already", PATIENCE)?;
    ensure!(line.contains("password authentication failed"), "{line}");
    write("other", &format!("{PASSWORD} 2"))?;
    write(".pgpass", "wrong")?;
    relay.stop()?;
    relay.run()?;
    standby.wait_streaming()?;
    fill(&primary, "keep", "u")?;
    standby.wait_replayed(&primary)?;
    ensure!(relay.alarms().is_empty(), "{:?}", relay.alarms());
    Ok(())
}

/// Scenario 38: a name that the server does not have is told, and refused where that is asked for.
#[test]
fn misspelt_names() -> Result<()> {
    let primary = Cluster::builder(Major::V14).start()?;
    primary.sql("create database keep; create database drop1")?;
    let filter = "exclude_databases: [dorp1, drop1], include_tablespaces: [\"fast*\"]";
    let mut relay = berlin(&primary, filter)?;
    let standby = standby_without(&primary, &relay, &["drop1"], &[])?;
    let told = ["database \\\"dorp1\\\"", "tablespace \\\"fast*\\\""];
    for name in told {
        let plain = name.replace('\\', "");
        testkit::wait_until(&plain, PATIENCE, || {
            let alarms = relay.alarms();
            let told = alarms.iter().any(|line| line.contains(name) || line.contains(&plain));
            Ok(told.then_some(()))
        })?;
    }
    ensure!(relay.alarms().len() == 2, "{:?}", relay.alarms());
    relay.stop()?;
    relay.reconfigure(&format!("strict: true\n{}", serve(&[("berlin", filter)])))?;
    relay.run()?;
    wait_log(&standby, "names database \"dorp1\", which the server does not have")?;
    calm(&mut relay, &["which the server does not have"])?;
    primary.sql("create database dorp1; create tablespace faster location ''")?;
    fill(&primary, "keep", "t")?;
    standby.wait_replayed(&primary)?;
    same_contents(&primary, &standby, "keep")?;
    absent(&standby, &primary, "dorp1")
}
