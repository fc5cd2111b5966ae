//! Writes of every kind, and ways to tell whether a standby has them.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use pgtypes::Major;

use crate::cluster::Cluster;

const SCRIPT: &str = include_str!("workload.sql");

/// Fewest rows with which every branch of the script has something to do.
const ROWS_MIN: u32 = 1_000;

/// Answers through each kind of index; `:round` is filled in.
const PROBES: &str = "
set enable_seqscan = off;
set search_path = w:round, public;
select 'btree', count(*), sum(id) from kinds where id between 1 and 100000000;
select 'hash', count(*), sum(id) from kinds where t = md5('77');
select 'gin', count(*), sum(id) from kinds where words @> array[7];
select 'gist', count(*), sum(id) from kinds where span && int4range(100, 500);
select 'spgist', count(*), sum(id) from kinds where place <@ box '((0,0),(500,500))';
select 'brin', count(*), sum(id) from kinds where n between 100 and 600;
select 'rewritten', count(*), sum(x) from rewritten where x > 100;
";

/// A script that uses every access method and most commands that write WAL.
///
/// A round makes about 4 MB of WAL a 1000 rows, in a schema `w<round>` of its own.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Rows of the largest tables.
    pub rows: u32,
    /// Number of the schema.
    pub round: u32,
}

impl Workload {
    /// The script for a database; it runs statement by statement, as in [`Cluster::sql_in`].
    #[must_use]
    pub fn script(&self, database: &str) -> String {
        let rows = self.rows.max(ROWS_MIN).to_string();
        let script = SCRIPT.replace(":rows", &rows).replace(":name", &database.replace('\'', ""));
        script.replace(":round", &self.round.to_string())
    }

    /// Runs it in a database.
    ///
    /// # Errors
    ///
    /// The server's.
    pub fn run(&self, cluster: &Cluster, database: &str) -> Result<()> {
        cluster.sql_in(database, &self.script(database)).context("run the workload")?;
        Ok(())
    }

    /// What queries through each kind of index give; the same on a sound standby.
    ///
    /// # Errors
    ///
    /// The server's.
    pub fn probe(&self, cluster: &Cluster, database: &str) -> Result<String> {
        cluster.sql_in(database, &PROBES.replace(":round", &self.round.to_string()))
    }
}

/// Rows of each table and materialized view of a database, and of its large objects: a count and a
/// hash that does not depend on the order.
///
/// Unlogged tables cannot be read on a standby and sequences run ahead there: both are left out.
///
/// # Errors
///
/// The server's.
pub fn fingerprint(cluster: &Cluster, database: &str) -> Result<BTreeMap<String, String>> {
    let mut session = cluster.session(database)?;
    let tables = session.query(
        "select format('%I.%I', nspname, relname) from pg_class c \
         join pg_namespace n on n.oid = relnamespace \
         where relkind in ('r', 'm') and relpersistence = 'p' and relispopulated \
         and nspname not in ('pg_catalog', 'information_schema', 'pg_toast') order by 1",
    )?;
    let tables = tables.lines().chain(["pg_catalog.pg_largeobject"]);
    let mut prints = BTreeMap::new();
    for table in tables {
        let print = session.query(&format!(
            "select count(*) || ' rows, hash ' || coalesce(sum(hashtext(r::text)::bigint), 0) \
             from {table} r"
        ))?;
        prints.insert(table.to_owned(), print);
    }
    Ok(prints)
}

/// Compares the contents of a database on two servers.
///
/// # Errors
///
/// The tables that differ; or that there is no table at all, which proves nothing.
pub fn same_contents(one: &Cluster, other: &Cluster, database: &str) -> Result<()> {
    let (left, right) = (fingerprint(one, database)?, fingerprint(other, database)?);
    ensure!(left.len() > 1, "database {database} has no table to compare");
    let names = left.keys().chain(right.keys());
    let mut differ: Vec<_> = names
        .filter(|name| left.get(*name) != right.get(*name))
        .map(|name| format!("{name}: {:?} and {:?}", left.get(name), right.get(name)))
        .collect();
    differ.dedup();
    ensure!(differ.is_empty(), "{database} differs: {}", differ.join("; "));
    Ok(())
}

/// Checks a database with `pg_amcheck`: all tables with what is toasted, and all B-tree indexes
/// against them. A 12 or 13 does not know it: there only the indexes, by the same extension.
///
/// The extension is made here on a primary; a standby gets it from there.
///
/// # Errors
///
/// What was found.
pub fn amcheck(cluster: &Cluster, database: &str) -> Result<()> {
    if cluster.sql("select pg_is_in_recovery()")? == "f" {
        cluster.sql_in(database, "create extension if not exists amcheck")?;
    }
    if cluster.major() >= Major::V14 {
        let mut command = cluster.install().client_command("pg_amcheck")?;
        // Where everybody is trusted, whatever clients over TCP have to show.
        command.arg("--host").arg(cluster.socket_dir());
        command.args(["--username", "postgres", "--heapallindexed"]);
        command.args(["--port", &cluster.port().to_string(), "--database", database]);
        let output = command.output().context("start pg_amcheck")?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        ensure!(output.status.success(), "pg_amcheck of {database}: {said}");
        return Ok(());
    }
    let checked = cluster.sql_in(
        database,
        "select count(bt_index_check(c.oid, true)) from pg_index i \
         join pg_class c on c.oid = indexrelid join pg_am a on a.oid = relam \
         where amname = 'btree' and c.relkind = 'i' and c.relpersistence = 'p' \
         and indisready and indisvalid",
    );
    checked.context("amcheck of indexes").map(drop)
}
