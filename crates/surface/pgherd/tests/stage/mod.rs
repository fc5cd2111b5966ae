//! What the tests of the filter share: configurations, folders, and logs without surprises.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use testkit::{Cluster, PATIENCE, Relay, Session, Standby, wait_until};

/// The program under test.
pub(crate) fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pgherd"))
}

/// A list of configurations; each is matched by the `application_name` that it is called.
pub(crate) fn serve(configurations: &[(&str, &str)]) -> String {
    let mut yaml = "configurations:\n".to_owned();
    for (name, filter) in configurations {
        yaml += &format!("  - {name}:\n      match: {{application_name: {name}}}\n");
        if !filter.is_empty() {
            yaml += &format!("      filter: {{{filter}}}\n");
        }
    }
    yaml
}

/// A relay with the one configuration `berlin`.
pub(crate) fn berlin(primary: &Cluster, filter: &str) -> Result<Relay> {
    relay_to(primary.port(), filter)
}

/// As [`berlin`], in front of any port.
pub(crate) fn relay_to(port: u16, filter: &str) -> Result<Relay> {
    Relay::start(binary(), port, &serve(&[("berlin", filter)]))
}

/// A standby called `berlin`, without these databases and tablespaces.
pub(crate) fn standby_without(
    primary: &Cluster,
    relay: &Relay,
    databases: &[&str],
    tablespaces: &[&str],
) -> Result<Standby> {
    let standby = named_without("berlin", primary, relay, databases, tablespaces)?;
    standby.wait_streaming()?;
    Ok(standby)
}

/// As [`standby_without`], with another name, and without waiting for its stream.
pub(crate) fn named_without(
    name: &str,
    primary: &Cluster,
    relay: &Relay,
    databases: &[&str],
    tablespaces: &[&str],
) -> Result<Standby> {
    let mut standby = Standby::of(primary).via(relay.port()).name(name);
    for database in databases {
        standby = standby.without_database(primary.database_oid(database)?);
    }
    for tablespace in tablespaces {
        standby = standby.without_tablespace(primary.tablespace_oid(tablespace)?);
    }
    standby.start()
}

/// Makes a table with something in it.
pub(crate) fn fill(primary: &Cluster, database: &str, table: &str) -> Result<()> {
    primary.sql_in(
        database,
        &format!(
            "create table {table} as select g, repeat('x', 100) t from generate_series(1, 2000) g; \
             create index on {table} (g)"
        ),
    )?;
    Ok(())
}

/// The folders in which a server keeps files of the database `oid`, in any tablespace.
pub(crate) fn folders(server: &Cluster, oid: u32) -> Result<Vec<PathBuf>> {
    let mut found = vec![server.data().join("base").join(oid.to_string())];
    for tablespace in list(&server.data().join("pg_tblspc"))? {
        found.extend(list(&tablespace)?.into_iter().map(|it| it.join(oid.to_string())));
    }
    found.retain(|folder| folder.exists());
    Ok(found)
}

fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

/// The standby has no file of the database.
pub(crate) fn absent(standby: &Standby, primary: &Cluster, database: &str) -> Result<()> {
    let left = folders(standby, primary.database_oid(database)?)?;
    ensure!(left.is_empty(), "{database} left {left:?} behind");
    let error = standby.sql_in(database, "select 1").err();
    let error = error.with_context(|| format!("the standby has {database}"))?;
    ensure!(format!("{error:#}").contains("does not exist"), "{error:#}");
    Ok(())
}

/// The standby has no folder of the tablespace.
pub(crate) fn no_tablespace(standby: &Standby, primary: &Cluster, tablespace: &str) -> Result<()> {
    let oid = primary.tablespace_oid(tablespace)?;
    let folder = standby.data().join("pg_tblspc").join(oid.to_string());
    let there = folder.symlink_metadata().is_ok();
    ensure!(!there, "{tablespace} is at {}", folder.display());
    Ok(())
}

/// What a standby may say when its connection ends, when it starts, and when a test asks it for a
/// database that it does not have.
const EVERYDAY: [&str; 11] = [
    "terminating walreceiver",
    "terminating connection",
    "the database system is",
    "could not receive data from WAL stream",
    "could not connect to the primary server",
    "could not send data to WAL stream",
    "could not send end-of-streaming message",
    // The relay, or the server behind it, went away between two commands.
    "server closed the connection unexpectedly",
    "FATAL:  database \"",
    "is not currently accepting connections",
    // The upstream moves, and the relay's last look at it was a moment ago.
    "pgherd relay: refused to use",
];

/// Fails when the standby's log has a PANIC, a broken record, or a FATAL that is neither everyday
/// nor `announced`; or when something that was announced is not there.
pub(crate) fn sound(standby: &Standby, announced: &[&str]) -> Result<()> {
    let log = standby.log();
    for line in log.lines() {
        let bad = line.contains("PANIC:")
            || line.contains("incorrect resource manager data checksum")
            || line.contains("contains references to invalid pages")
            || (line.contains("FATAL:") && !EVERYDAY.iter().any(|part| line.contains(part)));
        let told = announced.iter().any(|part| line.contains(part));
        ensure!(!bad || told, "the standby says: {line}\n{}", standby.log_tail());
    }
    for part in announced {
        ensure!(log.contains(part), "the standby never says {part:?}: {}", standby.log_tail());
    }
    Ok(())
}

/// Fails when the relay reported an error since its start that was not `announced`, or did not
/// report one that was.
pub(crate) fn calm(relay: &mut Relay, announced: &[&str]) -> Result<()> {
    let lines = relay.program()?.lines();
    let errors: Vec<_> = lines.iter().filter(|line| line.contains("ERROR")).collect();
    for error in &errors {
        let told = announced.iter().any(|part| error.contains(part));
        ensure!(told, "the relay says: {error}\n{}", lines.join("\n"));
    }
    for part in announced {
        let told = errors.iter().any(|error| error.contains(part));
        ensure!(told, "the relay never says {part:?}: {}", lines.join("\n"));
    }
    Ok(())
}

/// How the relay goes through an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relaying {
    /// It stays.
    Stays,
    /// It is stopped and started.
    Restarts,
    /// It is killed with SIGKILL and started.
    Killed,
}

/// Does that to the relay.
pub(crate) fn disturb(relay: &mut Relay, how: Relaying) -> Result<()> {
    match how {
        Relaying::Stays => return Ok(()),
        Relaying::Restarts => {
            let status = relay.stop()?;
            ensure!(status.success(), "the relay ended with {status}");
        }
        Relaying::Killed => relay.kill9()?,
    }
    relay.run()
}

/// Waits until the standby's log says something.
pub(crate) fn wait_log(standby: &Standby, part: &str) -> Result<()> {
    let waited = wait_until(&format!("{part:?} in the log"), PATIENCE, || {
        Ok(standby.log().contains(part).then_some(()))
    });
    waited.with_context(|| standby.log_tail())
}

/// Runs `pgherd relay forget berlin`.
pub(crate) fn forget(relay: &Relay) -> Result<Output> {
    let mut command = Command::new(binary());
    command.args(["relay", "forget", "-c"]).arg(relay.config()).arg("berlin");
    command.output().context("run pgherd relay forget")
}

/// Blocks a `CREATE DATABASE` between its insert into `pg_database` and its first record.
pub(crate) fn hold_creation(primary: &Cluster) -> Result<Session> {
    let mut holder = primary.session("postgres")?;
    holder.query("begin")?;
    holder.query("lock table pg_shdepend in access exclusive mode")?;
    Ok(holder)
}

/// Waits until a backend waits for a lock.
pub(crate) fn wait_blocked(primary: &Cluster, query: &str) -> Result<()> {
    let waiting = format!(
        "select count(*) from pg_stat_activity where query like '{query}%' \
         and wait_event_type = 'Lock'"
    );
    primary.wait_for(&waiting, "1", PATIENCE)
}

pub(crate) fn cancel(primary: &Cluster, query: &str) -> Result<()> {
    primary.sql(&format!(
        "select pg_cancel_backend(pid) from pg_stat_activity where query like '{query}%' \
         and pid <> pg_backend_pid()"
    ))?;
    Ok(())
}

/// Puts a section `catalog` into the configuration of a relay, until that is written anew.
pub(crate) fn with_catalog(relay: &Relay, catalog: &str) -> Result<()> {
    let text = std::fs::read_to_string(relay.config())?;
    let (before, after) = text.split_once("}\nstate_dir:").context("no upstream to change")?;
    let text = format!("{before}, catalog: {{{catalog}}}}}\nstate_dir:{after}");
    std::fs::write(relay.config(), text).context("write the relay's configuration")
}
