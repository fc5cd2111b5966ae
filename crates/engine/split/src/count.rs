//! Rows of the moved databases on both sides, as they were at the cut.
//!
//! A closed database lets nobody in, but those who were in before stay: so both sessions are
//! opened before the cut. The one on the target takes a snapshot when everything is replayed and
//! nothing is open yet, and keeps it; what is written afterwards does not count.

use std::collections::HashMap;

use crate::check::EXISTS;
use crate::cut::reason;
use crate::error::Side;
use crate::server::Session;
use crate::split::Split;
use crate::{Error, Helper, sql};

/// Tables that are counted in one statement: locks are few.
const BATCH: usize = 100;
/// Databases for which sessions are held open; each takes one on either side.
const DATABASES_MAX: usize = 50;

/// Tables, and where each one's rows are.
const TABLES: &str = "select c.oid, n.nspname::text, c.relname::text, pg_relation_filenode(c.oid) \
     from pg_class c join pg_namespace n on n.oid = c.relnamespace \
     where c.relkind in ('r', 'm') and c.relpersistence = 'p' and c.relispopulated \
     and n.nspname not in ('pg_catalog', 'information_schema') order by c.oid";
const FILES: &str = "select oid, pg_relation_filenode(oid) from pg_class where oid = any($1)";
const FREE: &str = "select current_setting('max_connections')::bigint \
     - current_setting('superuser_reserved_connections')::bigint \
     - (select count(*) from pg_stat_activity where backend_type = 'client backend')";
/// No damage: somebody works on the table (`lock_not_available`), or it or its schema was dropped or
/// renamed since the cut (`undefined_table`, `invalid_schema_name`).
const NOT_COMPARED: [&str; 3] = ["55P03", "42P01", "3F000"];
const SNAPSHOT: &str = "select pg_export_snapshot()";

/// A database, and who may count in it.
struct Counter {
    name: String,
    source: Session,
    target: Session,
    snapshot: Option<String>,
}

/// Counters for the moved databases.
#[derive(Default)]
pub(crate) struct Counts {
    counters: Vec<Counter>,
    /// Sessions on the source that must not be ended.
    pub(crate) own: Vec<i32>,
}

/// How many rows tables have, by OID.
type Rows = HashMap<u32, i64>;

struct Table {
    oid: u32,
    schema: String,
    name: String,
    file: Option<u32>,
}

impl Counts {
    /// Opens the sessions; what cannot be opened is not counted.
    pub(crate) async fn open<H: Helper>(
        split: &Split<'_, H>,
        source: &Session,
    ) -> Result<Self, Error> {
        let mut counts = Self::default();
        let free: i64 = source.one("count free connections", FREE, &[]).await?;
        // Those who work in the other databases need theirs.
        let most = usize::try_from(free / 2).unwrap_or(0).min(DATABASES_MAX);
        for database in split.opened_before().into_iter().take(most) {
            let opened: Result<_, Error> = async {
                let source =
                    split.journal.record.source.connect(Side::Source, &database.name).await?;
                let pid = source.pid().await?;
                let target = split.target(&database.name).await?;
                Ok((source, pid, target))
            }
            .await;
            let Ok((source, pid, target)) = opened else { continue };
            counts.own.push(pid);
            let name = database.name.clone();
            counts.counters.push(Counter { name, source, target, snapshot: None });
        }
        Ok(counts)
    }

    /// Remembers the state of the target, which has replayed everything and is not open.
    pub(crate) async fn hold(&mut self) {
        for counter in &mut self.counters {
            let begin = "begin isolation level repeatable read read only";
            if counter.target.run("begin", begin).await.is_ok() {
                counter.snapshot = counter.target.one("hold a snapshot", SNAPSHOT, &[]).await.ok();
            }
        }
    }

    /// Compares the rows of a database; gives how many tables were compared, or nothing when
    /// they cannot be.
    pub(crate) async fn compare<H: Helper>(
        &self,
        split: &Split<'_, H>,
        database: &str,
    ) -> Result<Option<usize>, Error> {
        let counter = self.counters.iter().find(|it| it.name == database);
        let Some((counter, snapshot)) = counter.and_then(|it| Some((it, it.snapshot.as_ref()?)))
        else {
            return Ok(None);
        };
        let tables = tables(&counter.source).await?;
        let there = split.target(database).await?;
        let begin = format!(
            "begin isolation level repeatable read read only; set transaction snapshot {}",
            sql::text(snapshot)
        );
        let (mut differ, mut damaged) = (Vec::new(), Vec::new());
        let mut compared = 0;
        for batch in tables.chunks(BATCH) {
            let before = rows(&counter.source, batch).await?;
            let after = match rows_as_of(&there, &begin, batch).await {
                Ok(after) => after,
                Err(_of_one) => one_by_one(&there, &begin, batch, &mut damaged).await?,
            };
            let files = files(&there, batch).await?;
            for table in batch {
                // TRUNCATE and its like leave nothing to an old snapshot, and what is gone or
                // damaged was not counted.
                let is_same = files.get(&table.oid).copied() == table.file;
                if !is_same || !after.contains_key(&table.oid) {
                    continue;
                }
                compared += 1;
                let (left, right) = (before.get(&table.oid), after.get(&table.oid));
                if left != right {
                    let rows =
                        |count: Option<&i64>| count.map_or("none".into(), ToString::to_string);
                    let (left, right) = (rows(left), rows(right));
                    let Table { schema, name, .. } = table;
                    differ.push(format!(
                        "{schema}.{name}: {left} on the source, {right} on the new server"
                    ));
                }
            }
        }
        let mut found = Vec::new();
        if !damaged.is_empty() {
            let all = damaged.join("; ");
            found.push(format!("tables of database {database} cannot be read: {all}"));
        }
        if !differ.is_empty() {
            found.push(format!("rows of database {database} differ: {}", differ.join("; ")));
        }
        if found.is_empty() { Ok(Some(compared)) } else { Err(Error::Damaged(found.join("\n"))) }
    }
}

/// Counts as of the cut.
async fn rows_as_of(target: &Session, begin: &str, tables: &[Table]) -> Result<Rows, Error> {
    target.run("take the snapshot of the cut", begin).await?;
    let counted = rows(target, tables).await;
    target.run("end the transaction", "rollback").await?;
    counted
}

/// Counts each table by itself, when one of them stands in the way of all. What was dropped since
/// the cut is left out; what cannot be read is noted.
async fn one_by_one(
    target: &Session,
    begin: &str,
    tables: &[Table],
    damaged: &mut Vec<String>,
) -> Result<Rows, Error> {
    let mut all = Rows::new();
    for table in tables {
        match rows_as_of(target, begin, std::slice::from_ref(table)).await {
            Ok(counted) => all.extend(counted),
            Err(error) if error.sqlstate().is_some_and(|it| NOT_COMPARED.contains(&it)) => {}
            Err(error) => {
                let exists: bool = target.one("look for a table", EXISTS, &[&table.oid]).await?;
                if exists {
                    let Table { schema, name, .. } = table;
                    damaged.push(format!("{schema}.{name}: {}", reason(&error)));
                }
            }
        }
    }
    Ok(all)
}

async fn tables(session: &Session) -> Result<Vec<Table>, Error> {
    let mut tables = Vec::new();
    for row in session.rows("list tables", TABLES, &[]).await? {
        tables.push(Table {
            oid: session.value(&row, 0)?,
            schema: session.value(&row, 1)?,
            name: session.value(&row, 2)?,
            file: session.value(&row, 3)?,
        });
    }
    Ok(tables)
}

async fn files(session: &Session, tables: &[Table]) -> Result<HashMap<u32, u32>, Error> {
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let rows = session.rows("list files", FILES, &[&oids]).await?;
    let mut files = HashMap::new();
    for row in rows {
        if let Some(file) = session.value::<Option<u32>>(&row, 1)? {
            files.insert(session.value(&row, 0)?, file);
        }
    }
    Ok(files)
}

async fn rows(session: &Session, tables: &[Table]) -> Result<Rows, Error> {
    let one = |table: &Table| {
        let (schema, name) = (sql::name(&table.schema), sql::name(&table.name));
        // Without children: they come by themselves.
        format!("select {}::oid, count(*) from only {schema}.{name}", table.oid)
    };
    let query = tables.iter().map(one).collect::<Vec<_>>().join(" union all ");
    let mut counts = Rows::new();
    for row in session.rows("count rows", &query, &[]).await? {
        counts.insert(session.value(&row, 0)?, session.value(&row, 1)?);
    }
    Ok(counts)
}
