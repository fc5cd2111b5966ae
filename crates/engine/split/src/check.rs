//! A look at the moved databases on the target, once they are open: statistics, catalogs,
//! indexes, rows.

use crate::count::Counts;
use crate::cut::reason;
use crate::journal::Step;
use crate::server::Session;
use crate::split::Split;
use crate::{Error, Helper, sql};

/// Tables that have something, and of which the planner knows nothing. A partitioned one counts
/// when it has no partition with statistics: with it they are analyzed too, so it comes first.
const WITHOUT_STATISTICS: &str = "select c.oid, format('%I.%I', n.nspname, c.relname) \
     from pg_class c join pg_namespace n on n.oid = c.relnamespace \
     where c.oid > 16383 and c.relpersistence = 'p' and case c.relkind \
     when 'p' then not c.relispartition and not exists \
         (select from pg_partition_tree(c.oid) join pg_statistic on starelid = relid) \
     else c.relkind in ('r', 'm') and pg_relation_size(c.oid) > 0 \
         and not exists (select from pg_statistic where starelid = c.oid) end \
     order by c.relkind <> 'p', c.oid";
/// Whether a table is there still, and nobody has analyzed it meanwhile.
const IS_UNKNOWN: &str = "select exists (select from pg_class where oid = $1) \
     and not exists (select from pg_statistic where starelid = $1)";
const AMCHECK: &str = "select n.nspname::text from pg_extension e join pg_namespace n on n.oid = e.extnamespace \
     where e.extname = 'amcheck'";
const AVAILABLE: &str =
    "select exists (select from pg_available_extensions where name = 'amcheck')";
/// Every B-tree. An index that goes away meanwhile is an error, and no damage.
const INDEXES: &str = "select c.oid from pg_index i join pg_class c on c.oid = i.indexrelid \
     join pg_am a on a.oid = c.relam where a.amname = 'btree' and c.relkind = 'i' \
     and c.relpersistence = 'p' and i.indisready and i.indisvalid order by c.oid";
const CATALOGS: &str = "select c.oid, c.oid::regclass::text from pg_class c \
     where relkind in ('r', 't') and c.oid < 16384 and relpersistence = 'p' order by c.oid";
/// In the transaction of the check: rows can be counted in an index, and the table is not read then.
const NO_INDEXES: &str = "set local enable_indexscan = off; set local enable_indexonlyscan = off; \
     set local enable_bitmapscan = off";
/// Whether a table or an index is still there.
pub(crate) const EXISTS: &str = "select exists (select from pg_class where oid = $1)";
/// Indexes that are checked in one transaction, which locks each of them and its table.
const BATCH: usize = 100;
/// Our own place for the extension; the transaction is rolled back.
const SCHEMA: &str = "pgherd_check";
/// `index_corrupted`, `data_corrupted`, and `undefined_file`.
const CORRUPTED: [&str; 3] = ["XX002", "XX001", "58P01"];

impl<H: Helper> Split<'_, H> {
    /// Checks every moved database.
    pub(crate) async fn look_through(&mut self, counts: Option<Counts>) -> Result<(), Error> {
        if self.is_done(Step::Checked) {
            return Ok(());
        }
        if !self.checks {
            self.helper.say("the databases were not looked through");
            return self.journal.done(Step::Checked);
        }
        self.ensure_target().await?;
        self.journal.begin_step(Step::Checked)?;
        let databases: Vec<_> = self.opened_before().into_iter().cloned().collect();
        let names = databases.into_iter().map(|it| (it.oid, it.name));
        // What an earlier run found, and this one cannot look for.
        let mut damaged = match counts {
            Some(_) => Vec::new(),
            None => self.journal.record.differ.clone(),
        };
        for (oid, name) in names {
            self.helper.progress(&format!("checking {name}"));
            let rows = self.compare_rows(oid, &name, counts.as_ref()).await;
            match self.look_at(&name, rows).await {
                Ok(found) => self.helper.say(&format!("{name}: {found}")),
                // The others are worth knowing too.
                Err(Error::Damaged(reason)) => damaged.push(reason),
                Err(error) => return Err(error),
            }
        }
        if !damaged.is_empty() {
            return Err(Error::Damaged(damaged.join("\n")));
        }
        self.journal.done(Step::Checked)
    }

    /// Compares the rows, and writes the outcome down: no later run can do it again.
    async fn compare_rows(
        &mut self,
        oid: u32,
        name: &str,
        counts: Option<&Counts>,
    ) -> Result<Rows, Error> {
        let compared = match counts {
            Some(counts) => counts.compare(self, name).await,
            None => Ok(None),
        };
        match compared {
            Ok(Some(tables)) => {
                self.journal.record.compared.insert(oid);
                self.journal.save()?;
                Ok(Rows::Now(tables))
            }
            Ok(None) if self.journal.record.compared.contains(&oid) => Ok(Rows::Before),
            Ok(None) => Ok(Rows::Never),
            Err(Error::Damaged(reason)) => {
                self.journal.record.differ.push(reason.clone());
                self.journal.save()?;
                Err(Error::Damaged(reason))
            }
            Err(error) => Err(error),
        }
    }

    async fn look_at(&self, name: &str, compared: Result<Rows, Error>) -> Result<String, Error> {
        let target = self.target(name).await?;
        let analyzed = self.analyze(&target).await.map_err(|error| damage_of(name, error));
        let checked = self.amcheck(&target, name).await;
        // One kind of damage hides no other.
        let (checked, rows) = match (analyzed, checked, compared) {
            (Ok(()), Ok(checked), Ok(rows)) => (checked, rows),
            (analyzed, checked, compared) => {
                let errors = [analyzed.err(), checked.err(), compared.err()];
                return Err(joined(errors.into_iter().flatten()));
            }
        };
        Ok(match rows {
            Rows::Now(tables) => format!("{checked}; rows of {tables} tables are as on the source"),
            Rows::Before => format!("{checked}; rows were as on the source, an earlier run found"),
            Rows::Never => format!(
                "{checked}; rows were not compared, for want of sessions from before the cut"
            ),
        })
    }

    /// Analyzes what never was. Nobody else would: the counts of changes that autovacuum goes by
    /// begin anew on the target.
    async fn analyze(&self, target: &Session) -> Result<(), Error> {
        for row in target.rows("look for statistics", WITHOUT_STATISTICS, &[]).await? {
            self.check_stop()?;
            let (oid, name): (u32, String) = (target.value(&row, 0)?, target.value(&row, 1)?);
            if !target.one::<bool>("look for statistics", IS_UNKNOWN, &[&oid]).await? {
                continue;
            }
            let analyzed = target.run("analyze a table", &format!("analyze {name}")).await;
            // One that was dropped since needs none.
            if analyzed.is_err() && target.one("look for a table", EXISTS, &[&oid]).await? {
                return analyzed;
            }
        }
        Ok(())
    }

    /// Checks indexes and catalogs with the extension amcheck, which leaves no trace.
    async fn amcheck(&self, target: &Session, database: &str) -> Result<String, Error> {
        let installed: Vec<String> = target.column("look for amcheck", AMCHECK, &[]).await?;
        let extension = match installed.first() {
            Some(schema) => Extension { schema: sql::name(schema), is_there: true },
            None if target.one("look for amcheck", AVAILABLE, &[]).await? => {
                Extension { schema: sql::name(SCHEMA), is_there: false }
            }
            None => return Ok("indexes were not checked, for want of the extension amcheck".into()),
        };
        let indexes: Vec<u32> = target.column("list indexes", INDEXES, &[]).await?;
        let mut sound = 0;
        for batch in indexes.chunks(BATCH) {
            extension.open(target).await?;
            let checked = self.check_indexes(target, &extension.schema, batch, database).await;
            target.run("end the check", "rollback").await?;
            sound += checked?;
        }
        extension.open(target).await?;
        let checked = self.check_catalogs(target, &extension.schema, database).await;
        target.run("end the check", "rollback").await?;
        Ok(format!("{sound} indexes are sound, {}", checked?))
    }

    async fn check_indexes(
        &self,
        target: &Session,
        schema: &str,
        indexes: &[u32],
        database: &str,
    ) -> Result<usize, Error> {
        let check = format!("select {schema}.bt_index_check($1::oid::regclass)");
        let mut sound = 0;
        for oid in indexes {
            self.check_stop()?;
            target.run("begin", "savepoint one").await?;
            match target.rows("check an index", &check, &[oid]).await {
                Ok(_sound) => sound += 1,
                Err(error) if is_damage(&error) => return Err(damage_of(database, error)),
                Err(error) => {
                    target.run("go on", "rollback to savepoint one").await?;
                    // One that was dropped since is no damage; anything else is not to be passed over.
                    if target.one::<bool>("look for an index", EXISTS, &[oid]).await? {
                        return Err(error);
                    }
                }
            }
            target.run("go on", "release savepoint one").await?;
        }
        Ok(sound)
    }

    async fn check_catalogs(
        &self,
        target: &Session,
        schema: &str,
        database: &str,
    ) -> Result<String, Error> {
        let known = "select exists (select from pg_proc where proname = 'verify_heapam')";
        // It came with 14. Before it a catalog is read to its end, which finds pages that are none.
        let is_known: bool = target.one("look for verify_heapam", known, &[]).await?;
        if !is_known {
            target.run("read tables alone", NO_INDEXES).await?;
        }
        let catalogs = target.rows("list catalogs", CATALOGS, &[]).await?;
        for row in &catalogs {
            self.check_stop()?;
            let (oid, name): (u32, String) = (target.value(row, 0)?, target.value(row, 1)?);
            let question = if is_known {
                format!("select msg from {schema}.verify_heapam({oid}::regclass) limit 5")
            } else {
                format!("select 'no rows' from only {name} having count(*) < 0")
            };
            let found: Result<Vec<String>, _> =
                target.column("check a catalog", &question, &[]).await;
            let found = match found {
                Ok(found) if found.is_empty() => continue,
                Ok(found) => found.join("; "),
                // A page that the server does not even read.
                Err(error) if is_damage(&error) => reason(&error),
                Err(error) => return Err(error),
            };
            return Err(Error::Damaged(format!("database {database}, catalog {name}: {found}")));
        }
        let found = if is_known { "are sound" } else { "can be read" };
        Ok(format!("{} catalogs {found}", catalogs.len()))
    }
}

/// What is known of the rows of a database.
enum Rows {
    /// So many tables have been compared.
    Now(usize),
    /// An earlier run did it.
    Before,
    Never,
}

/// amcheck, as a database has it, or as we make it for one transaction.
struct Extension {
    /// In quotes.
    schema: String,
    is_there: bool,
}

impl Extension {
    /// Begins a transaction that has it.
    async fn open(&self, target: &Session) -> Result<(), Error> {
        target.run("begin", "begin").await?;
        if self.is_there {
            return Ok(());
        }
        let schema = &self.schema;
        let create = format!("create schema {schema}; create extension amcheck schema {schema}");
        let made = target.run("make the extension amcheck", &create).await;
        if made.is_err() {
            target.run("end the check", "rollback").await?;
        }
        made
    }
}

fn is_damage(error: &Error) -> bool {
    let Error::Server { cause, .. } = error else { return true };
    cause.code().is_none_or(|code| CORRUPTED.contains(&code.code()))
}

/// An error that tells of damage as such, others as they are.
fn damage_of(database: &str, error: Error) -> Error {
    match error {
        error @ Error::Server { .. } if is_damage(&error) => {
            Error::Damaged(format!("database {database}: {}", reason(&error)))
        }
        error => error,
    }
}

/// All that is damaged; what stopped a look otherwise goes first, since it has to be done again.
fn joined(errors: impl Iterator<Item = Error>) -> Error {
    let mut damaged = Vec::new();
    for error in errors {
        match error {
            Error::Damaged(reason) => damaged.push(reason),
            other => return other,
        }
    }
    Error::Damaged(damaged.join("\n"))
}
