//! What is on the primary, and what of it is on the standby.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use testkit::Cluster;

use crate::herd::Herd;
use crate::interrupt::Interrupt;
use crate::plan::{TABLES, Table};

/// A table and its place, on both servers.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) table: Table,
    /// Bytes of the database's files in the tablespace.
    pub(crate) primary_bytes: u64,
    pub(crate) standby_bytes: u64,
    pub(crate) rows: Rows,
}

/// What the rows of a table are on the standby.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    /// The same number, and the same values.
    Equal(u64),
    /// Not the same.
    Different(String),
    /// Reading them is refused, with these words.
    NotThere(String),
}

impl Part {
    /// Whether the standby holds what it should here, and nothing else.
    pub(crate) fn is_as_planned(&self) -> bool {
        let absent = matches!(self.rows, Rows::NotThere(_)) && self.standby_bytes == 0;
        let present = matches!(self.rows, Rows::Equal(1..)) && self.standby_bytes > 0;
        if self.table.is_included() { present } else { absent }
    }
}

/// Compares every table.
pub(crate) fn compare(herd: &Herd, interrupt: &Interrupt) -> Result<Vec<Part>> {
    // The files of the primary are as large as they will be; so are those of the standby.
    herd.primary.checkpoint()?;
    herd.catch_up(interrupt)?;
    herd.standby.checkpoint()?;
    let mut parts = Vec::new();
    for table in TABLES {
        interrupt.check()?;
        let on_primary = content(&herd.primary, table)?;
        let rows = match content(&herd.standby, table) {
            Ok(on_standby) if on_standby == on_primary => Rows::Equal(on_primary.rows),
            Ok(on_standby) => Rows::Different(format!(
                "{} rows on the primary, {} on the standby",
                on_primary.rows, on_standby.rows
            )),
            Err(error) => Rows::NotThere(reason(&error)),
        };
        parts.push(Part {
            table,
            primary_bytes: bytes(herd, &herd.primary, table)?,
            standby_bytes: bytes(herd, &herd.standby, table)?,
            rows,
        });
    }
    Ok(parts)
}

#[derive(Debug, PartialEq, Eq)]
struct Content {
    rows: u64,
    /// Does not depend on the order of the rows.
    hash: String,
}

fn content(server: &Cluster, table: Table) -> Result<Content> {
    let mut session = server.session(table.database)?;
    let answer = session.query(&format!(
        "select count(*), coalesce(sum(hashtext(r::text)::bigint), 0) from {} r",
        table.name
    ))?;
    let (rows, hash) = answer.split_once('|').context("two columns")?;
    Ok(Content { rows: rows.parse()?, hash: hash.to_owned() })
}

/// Why a table cannot be read: short where it is as planned, else the server's words.
fn reason(error: &anyhow::Error) -> String {
    let words = error.root_cause().to_string();
    if words.contains("could not open file") && words.contains("No such file") {
        "no such file".to_owned()
    } else if words.contains("FATAL 3D000: database") {
        "no such database".to_owned()
    } else {
        words
    }
}

/// Bytes of the files of a table's database in the table's tablespace.
fn bytes(herd: &Herd, server: &Cluster, table: Table) -> Result<u64> {
    let database = herd.primary.database_oid(table.database)?.to_string();
    let folders = if table.tablespace == "pg_default" {
        vec![server.data().join("base").join(database)]
    } else {
        let tablespace = herd.primary.tablespace_oid(table.tablespace)?.to_string();
        let versions = entries(&server.data().join("pg_tblspc").join(tablespace));
        versions.into_iter().map(|version| version.join(&database)).collect()
    };
    let files = folders.iter().flat_map(|folder| entries(folder));
    Ok(files.filter_map(|file| fs::metadata(file).ok()).map(|file| file.len()).sum())
}

/// What is in a folder; nothing when there is no such folder.
fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}
