//! What must be true in the end.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use testkit::{Cluster, Standby, amcheck, same_contents};

use crate::faults::sound;
use crate::load::none_lost;
use crate::names::MARKER;
use crate::world::World;

/// What no server may have logged. That a dropped database had no folder in an excluded tablespace
/// is a warning of the filtered standby, and harmless.
const TROUBLES: [&str; 4] = [
    "PANIC",
    "incorrect resource manager data checksum",
    "WAL contains references to invalid pages",
    "terminated by signal 11",
];

/// Stops the load and compares; says what was compared.
pub(crate) fn everything(world: &mut World) -> Result<String> {
    world.link.split(0);
    let mut acknowledged = BTreeMap::new();
    for (name, writer) in std::mem::take(&mut world.writers) {
        acknowledged.insert(name, writer.stop()?);
    }
    world.committed += acknowledged.values().map(Vec::len).sum::<usize>();
    let primary: &Cluster = &world.primary;
    for database in &world.databases {
        // The filtered standby cannot read what lies in an excluded tablespace.
        primary.sql_in(&database.name, "drop table if exists wanderer")?;
        amcheck(primary, &database.name).context("on the primary")?;
    }
    for standby in [&world.filtered, &world.whole] {
        standby.wait_replayed(primary)?;
    }
    let mut tables = 0;
    for database in &world.databases {
        let name = &database.name;
        same_contents(primary, &world.whole, name).context("the whole standby")?;
        if let Some(acknowledged) = acknowledged.get(name) {
            // On the standbys as well, as they are equal.
            none_lost(primary, name, acknowledged)?;
        }
        amcheck(&world.whole, name).context("the whole standby")?;
        if database.included {
            same_contents(primary, &world.filtered, name).context("the filtered standby")?;
            amcheck(&world.filtered, name).context("the filtered standby")?;
            tables += testkit::fingerprint(primary, name)?.len();
        } else {
            let oid = primary.database_oid(name)?.to_string();
            let folder = world.filtered.data().join("base").join(oid);
            ensure!(!folder.exists(), "{} is there, of {name}", folder.display());
        }
    }
    for tablespace in world.tablespaces.iter().filter(|name| name.starts_with("archive")) {
        let oid = primary.tablespace_oid(tablespace)?.to_string();
        let folder = world.filtered.data().join("pg_tblspc").join(oid);
        ensure!(!folder.exists(), "{} is there, of {tablespace}", folder.display());
    }
    nothing_leaked(&world.filtered)?;
    for server in [primary, &world.filtered, &world.whole] {
        quiet(server)?;
    }
    let included = world.databases.iter().filter(|database| database.included).count();
    let (all, committed) = (world.databases.len(), world.committed);
    let (timeline, wal) = (timeline(primary)?, primary.lsn()?.0 >> 20);
    sound(world)?;
    Ok(format!(
        "{committed} transactions, {wal} MB of WAL up to timeline {timeline}; \
         {tables} tables in {included} included of {all} databases are equal"
    ))
}

pub(crate) fn timeline(primary: &Cluster) -> Result<String> {
    primary.checkpoint()?;
    primary.sql("select timeline_id from pg_control_checkpoint()")
}

/// Neither the data nor the WAL of the filtered standby has a row of an excluded database.
pub(crate) fn nothing_leaked(filtered: &Standby) -> Result<()> {
    let mut grep = Command::new("grep");
    let found = grep.args(["-r", "-l", "-a", "-F", "-e", MARKER]).arg(filtered.data()).output()?;
    match found.status.code() {
        Some(1) => Ok(()),
        Some(0) => bail!("excluded rows in {}", String::from_utf8_lossy(&found.stdout)),
        _ => bail!("grep failed: {}", String::from_utf8_lossy(&found.stderr)),
    }
}

pub(crate) fn quiet(server: &Cluster) -> Result<()> {
    for line in server.log().lines() {
        for trouble in TROUBLES {
            ensure!(!line.contains(trouble), "the server on port {} said: {line}", server.port());
        }
    }
    Ok(())
}
