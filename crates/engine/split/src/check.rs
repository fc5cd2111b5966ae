//! A look at the moved databases on the target, once they are open: statistics, catalogs,
//! indexes, rows.

use crate::count::Counts;
use crate::cut::reason;
use crate::journal::Step;
use crate::server::Session;
use crate::split::Split;
use crate::{Error, Helper};

/// Tables have rows, and the planner knows nothing of any of them.
const STATISTICS_MISSING: &str = "select not exists (select from pg_statistic where starelid > 16383) \
     and exists (select from pg_class where oid > 16383 and relkind in ('r', 'm') \
     and relpersistence = 'p' and pg_relation_size(oid) > 0)";
const AMCHECK: &str = "select n.nspname::text from pg_extension e join pg_namespace n on n.oid = e.extnamespace \
     where e.extname = 'amcheck'";
const AVAILABLE: &str =
    "select exists (select from pg_available_extensions where name = 'amcheck')";
/// Every B-tree. An index that goes away meanwhile is an error, and no damage.
const INDEXES: &str = "select c.oid from pg_index i join pg_class c on c.oid = i.indexrelid \
     join pg_am a on a.oid = c.relam where a.amname = 'btree' and c.relkind = 'i' \
     and c.relpersistence = 'p' and i.indisready and i.indisvalid order by c.oid";
const CATALOGS: &str = "select oid from pg_class where relkind in ('r', 't') and oid < 16384 \
     and relpersistence = 'p' order by oid";
/// Our own place for the extension; the transaction is rolled back.
const SCHEMA: &str = "pgherd_check";
/// `ERRCODE_INDEX_CORRUPTED`, `ERRCODE_DATA_CORRUPTED`.
const CORRUPTED: [&str; 2] = ["XX002", "XX001"];

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
        let names: Vec<_> = self.opened_before().into_iter().map(|it| it.name.clone()).collect();
        for name in names {
            self.helper.progress(&format!("checking {name}"));
            let target = self.target(&name).await?;
            if target.one::<bool>("look for statistics", STATISTICS_MISSING, &[]).await? {
                target.run("analyze", "analyze").await?;
            }
            let checked = self.amcheck(&target, &name).await?;
            let rows = match &counts {
                Some(counts) => counts.compare(self, &name).await?,
                None => None,
            };
            let rows = match rows {
                Some(tables) => format!("rows of {tables} tables are as on the source"),
                None => "rows were not compared, for want of sessions from before the cut".into(),
            };
            self.helper.say(&format!("{name}: {checked}; {rows}"));
        }
        self.journal.done(Step::Checked)
    }

    /// Checks indexes and catalogs with the extension amcheck, which leaves no trace.
    async fn amcheck(&self, target: &Session, database: &str) -> Result<String, Error> {
        let installed: Vec<String> = target.column("look for amcheck", AMCHECK, &[]).await?;
        let schema = match installed.first() {
            Some(schema) => schema.clone(),
            None if target.one("look for amcheck", AVAILABLE, &[]).await? => SCHEMA.to_owned(),
            None => return Ok("indexes were not checked, for want of the extension amcheck".into()),
        };
        let schema = crate::sql::name(&schema);
        target.run("begin", "begin").await?;
        let checked = async {
            if installed.is_empty() {
                let create =
                    format!("create schema {schema}; create extension amcheck schema {schema}");
                target.run("make the extension amcheck", &create).await?;
            }
            self.check_all(target, &schema, database).await
        }
        .await;
        target.run("end the check", "rollback").await?;
        let (indexes, catalogs) = checked?;
        Ok(format!("{indexes} indexes and {catalogs} catalogs are sound"))
    }

    async fn check_all(
        &self,
        target: &Session,
        schema: &str,
        database: &str,
    ) -> Result<(usize, usize), Error> {
        let index = format!("select {schema}.bt_index_check($1::oid::regclass)");
        let mut indexes = 0;
        for oid in target.column::<u32>("list indexes", INDEXES, &[]).await? {
            self.check_stop()?;
            target.run("begin", "savepoint one").await?;
            match target.rows("check an index", &index, &[&oid]).await {
                Ok(_sound) => indexes += 1,
                Err(error) if is_damage(&error) => {
                    return Err(Error::Damaged(format!("database {database}: {}", reason(&error))));
                }
                // Dropped since.
                Err(_gone) => target.run("go on", "rollback to savepoint one").await?,
            }
            target.run("go on", "release savepoint one").await?;
        }
        let sql = "select exists (select from pg_proc where proname = 'verify_heapam')";
        if !target.one::<bool>("look for verify_heapam", sql, &[]).await? {
            return Ok((indexes, 0));
        }
        let heap = format!("select msg from {schema}.verify_heapam($1::oid::regclass) limit 5");
        let catalogs: Vec<u32> = target.column("list catalogs", CATALOGS, &[]).await?;
        for oid in &catalogs {
            let found: Vec<String> = target.column("check a catalog", &heap, &[oid]).await?;
            if !found.is_empty() {
                let found = found.join("; ");
                return Err(Error::Damaged(format!("database {database}, catalog {oid}: {found}")));
            }
        }
        Ok((indexes, catalogs.len()))
    }
}

fn is_damage(error: &Error) -> bool {
    let Error::Server { source, .. } = error else { return true };
    source.code().is_none_or(|code| CORRUPTED.contains(&code.code()))
}
