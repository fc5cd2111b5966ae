//! Dropping the moved databases on the source, when they are not needed there any more.

use crate::close::{END_TIMEOUT, end_sessions};
use crate::error::Side;
use crate::journal::{Database, Step};
use crate::server::Session;
use crate::split::Split;
use crate::{Error, Helper, sql};

/// What a subscription has in shared catalogs: the target's copy of it goes on.
const FORGET_SUBSCRIPTIONS: &str = "with gone as (delete from pg_subscription where subdbid = $1 returning oid), \
     owners as (delete from pg_shdepend where classid = 'pg_subscription'::regclass and objid in (select oid from gone)) \
     select count(pg_replication_origin_drop(roname)) from pg_replication_origin \
     where roname in (select 'pg_' || oid from gone)";

impl<H: Helper> Split<'_, H> {
    /// Drops the moved databases on the source.
    ///
    /// # Errors
    ///
    /// When the split is not finished, or a database is not as the split left it.
    pub async fn drop_source(&mut self) -> Result<(), Error> {
        if !self.is_done(Step::Finished) || self.is_begun(Step::Undone) {
            return Err(Error::unfit("only a finished split can drop the databases on the source"));
        }
        if self.is_done(Step::SourceDropped) {
            return Ok(());
        }
        let source = self.source().await?;
        self.ensure_target_has_them().await.map_err(kept)?;
        self.ensure_compared()?;
        for database in &self.journal.record.databases {
            self.ensure_as_left(&source, database).await?;
        }
        self.journal.begin_step(Step::SourceDropped)?;
        let mut dropped = Vec::new();
        for database in self.journal.record.databases.clone() {
            match self.drop_one(&source, &database).await? {
                Some(name) => dropped.push(name),
                None => {
                    let name = &database.name;
                    self.helper.say(&format!("{name} was dropped on the source before"));
                }
            }
        }
        self.journal.done(Step::SourceDropped)?;
        if !dropped.is_empty() {
            self.helper.say(&format!("dropped on the source: {}", dropped.join(", ")));
        }
        Ok(())
    }

    /// Whoever drops the only other copy has seen that rows are the same, or says that it is so.
    fn ensure_compared(&self) -> Result<(), Error> {
        let compared = &self.journal.record.compared;
        let missing = self.opened_before().into_iter().filter(|it| !compared.contains(&it.oid));
        let names: Vec<_> = missing.map(|it| it.name.as_str()).collect();
        if !self.checks || names.is_empty() {
            return Ok(());
        }
        Err(kept(Error::unfit(format!(
            "the rows of {} were not compared with the source's; with --skip-checks they are dropped all \
             the same",
            names.join(", ")
        ))))
    }

    /// Since the cut nobody was in: the row in the catalog is the one that we wrote.
    async fn ensure_as_left(&self, source: &Session, database: &Database) -> Result<(), Error> {
        let known = "select datname::text, datallowconn, datconnlimit, xmin::text::bigint \
                     from pg_database where oid = $1";
        let rows = source.rows("look for a database", known, &[&database.oid]).await?;
        let Some(row) = rows.first() else { return Ok(()) };
        let (name, is_open): (String, bool) = (source.value(row, 0)?, source.value(row, 1)?);
        // Open for superusers only, and read-only: a run that was killed in `drop_one`.
        let is_ours = self.is_begun(Step::SourceDropped) && source.value::<i32>(row, 2)? == 0;
        if is_ours {
            return Ok(());
        }
        if is_open {
            return Err(kept(Error::unfit(format!("database {name} was opened there"))));
        }
        if self.journal.record.closed.get(&database.oid) != Some(&source.value(row, 3)?) {
            return Err(kept(Error::unfit(format!(
                "database {name} was changed there after the cut: it may have been opened, and written"
            ))));
        }
        Ok(())
    }

    /// Gives the name that it had, or nothing when it is gone.
    async fn drop_one(
        &self,
        source: &Session,
        database: &Database,
    ) -> Result<Option<String>, Error> {
        self.ensure_as_left(source, database).await?;
        let known = "select datname::text, datistemplate from pg_database where oid = $1";
        let rows = source.rows("look for a database", known, &[&database.oid]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let name: String = source.value(row, 0)?;
        let quoted = sql::name(&name);
        source.rows("forget subscriptions", FORGET_SUBSCRIPTIONS, &[&database.oid]).await?;
        if source.value(row, 1)? {
            source
                .run("drop a database", &format!("alter database {quoted} with is_template false"))
                .await?;
        }
        let sql = "select gid from pg_prepared_xacts where database = $1";
        let prepared: Vec<String> =
            source.column("list prepared transactions", sql, &[&name]).await?;
        if !prepared.is_empty() {
            self.roll_back_on_source(source, database.oid, &name, &prepared).await?;
        }
        // Its logical slots go along, since nobody can use them any more.
        source.run("drop a database", &format!("drop database {quoted}")).await?;
        Ok(Some(name))
    }

    /// The target has its own copies of these. Nobody but a superuser gets in meanwhile, and for
    /// him it is read-only.
    async fn roll_back_on_source(
        &self,
        source: &Session,
        oid: u32,
        name: &str,
        prepared: &[String],
    ) -> Result<(), Error> {
        let quoted = sql::name(name);
        let only_us = format!(
            "begin; alter database {quoted} with connection limit 0; \
             alter database {quoted} set default_transaction_read_only = on; \
             alter database {quoted} with allow_connections true; commit"
        );
        source.run("let ourselves in", &only_us).await?;
        let rolled_back: Result<(), Error> = async {
            let inside = self.journal.record.source.connect(Side::Source, name).await?;
            for gid in prepared {
                let roll_back = format!("rollback prepared {}", sql::text(gid));
                inside.run("roll a prepared transaction back", &roll_back).await?;
            }
            Ok(())
        }
        .await;
        source
            .run(
                "close the database",
                &format!("alter database {quoted} with allow_connections false"),
            )
            .await?;
        rolled_back?;
        end_sessions(self, source, &[oid], &[], END_TIMEOUT).await
    }
}

/// Why the source keeps what it has.
fn kept(error: Error) -> Error {
    Error::unfit(format!("nothing is dropped on the {}: {error}", Side::Source))
}
