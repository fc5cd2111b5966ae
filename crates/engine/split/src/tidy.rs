//! After the cut: what the target has of the left-out databases goes, and so does what was only
//! for the standby.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::configure::STANDBY_SETTINGS;
use crate::cut::reason;
use crate::error::io;
use crate::journal::{Database, Step};
use crate::server::Session;
use crate::split::Split;
use crate::target::CONTROL;
use crate::{Error, Helper, Owner, sql};

/// The database that programs connect to when nobody says otherwise.
const POSTGRES: &str = "postgres";
/// How long a walsender may take to notice that its standby is gone.
const SLOT_TIMEOUT: Duration = Duration::from_secs(30);
const INTERVAL: Duration = Duration::from_millis(100);

/// What a subscription has in shared catalogs. `DROP SUBSCRIPTION` would need a session in the
/// database, and would take the slot at the publisher away from the source, which goes on.
const FORGET_SUBSCRIPTIONS: &str = "with gone as (delete from pg_subscription where subdbid = any($1) returning oid), \
     owners as (delete from pg_shdepend where classid = 'pg_subscription'::regclass and objid in (select oid from gone)) \
     select count(pg_replication_origin_drop(roname)) from pg_replication_origin \
     where roname in (select 'pg_' || oid from gone)";

impl<H: Helper> Split<'_, H> {
    /// Drops the left-out databases on the target, with all that is theirs.
    pub(crate) async fn tidy(&mut self) -> Result<(), Error> {
        if self.is_done(Step::Dropped) {
            return Ok(());
        }
        self.ensure_target().await?;
        self.journal.begin_step(Step::Dropped)?;
        let target = self.target(CONTROL).await?;
        let left_out = self.journal.record.left_out.clone();
        let oids: Vec<u32> = left_out.iter().map(|it| it.oid).collect();
        target.rows("forget subscriptions", FORGET_SUBSCRIPTIONS, &[&oids]).await?;
        for database in &left_out {
            self.drop_left_out(&target, database).await?;
        }
        if left_out.iter().any(|it| it.name == POSTGRES) {
            self.make_postgres(&target).await?;
        }
        self.drop_tablespaces(&target).await?;
        self.journal.done(Step::Dropped)?;
        if !left_out.is_empty() {
            self.helper.say(&format!(
                "dropped {} databases on the target that it does not have",
                left_out.len()
            ));
        }
        Ok(())
    }

    async fn drop_left_out(&mut self, target: &Session, database: &Database) -> Result<(), Error> {
        let known =
            "select datname::text, dattablespace, datistemplate from pg_database where oid = $1";
        let rows = target.rows("look for a database", known, &[&database.oid]).await?;
        let Some(row) = rows.first() else { return Ok(()) };
        let name: String = target.value(row, 0)?;
        let folder = self.folder_of(target, database.oid, target.value(row, 1)?).await?;
        let is_stub = self.journal.record.stubs.contains(&database.oid);
        // The journal says that it was left out; the disk has to say so too.
        if !is_stub && folder.join("PG_VERSION").exists() {
            return Err(Error::unfit(format!(
                "database {name} should not be on the target, and {} is there: look at it before \
                 you drop it",
                folder.display()
            )));
        }
        let sql = "select gid from pg_prepared_xacts where database = $1";
        let prepared: Vec<String> =
            target.column("list prepared transactions", sql, &[&name]).await?;
        let quoted = sql::name(&name);
        if target.value(row, 2)? {
            target
                .run("drop a database", &format!("alter database {quoted} with is_template false"))
                .await?;
        }
        if !prepared.is_empty() {
            self.roll_back(target, database.oid, &name, &folder, &prepared).await?;
        }
        target.run("drop a database", &format!("drop database {quoted}")).await
    }

    /// Rolls prepared transactions back, which only a session in their own database can: it gets
    /// the contents of `template0` for that moment.
    async fn roll_back(
        &mut self,
        target: &Session,
        oid: u32,
        name: &str,
        folder: &Path,
        prepared: &[String],
    ) -> Result<(), Error> {
        let quoted = sql::name(name);
        // Nobody else may take it for the database.
        let only_us = format!(
            "alter database {quoted} with allow_connections true connection limit 0; \
             alter database {quoted} reset all; checkpoint"
        );
        self.journal.record.stubs.push(oid);
        self.journal.save()?;
        for statement in only_us.split("; ") {
            target.run("open a stub", statement).await?;
        }
        let template: u32 = target
            .one("find template0", "select oid from pg_database where datname = 'template0'", &[])
            .await?;
        let from = self.journal.record.target.join("base").join(template.to_string());
        Owner::act(self.journal.record.owner.as_ref(), || copy_files(&from, folder))?;
        let stub = self.target(name).await?;
        for gid in prepared {
            stub.run(
                "roll a prepared transaction back",
                &format!("rollback prepared {}", sql::text(gid)),
            )
            .await?;
        }
        drop(stub);
        let since = Instant::now();
        let sql = "select count(*) from pg_stat_activity where datid = $1 and backend_type = 'client backend'";
        while target.one::<i64>("look for sessions", sql, &[&oid]).await? > 0
            && since.elapsed() < SLOT_TIMEOUT
        {
            tokio::time::sleep(INTERVAL).await;
        }
        Ok(())
    }

    /// Where a database's own catalogs are (`GetDatabasePath`).
    async fn folder_of(
        &self,
        target: &Session,
        oid: u32,
        tablespace: u32,
    ) -> Result<PathBuf, Error> {
        let data = &self.journal.record.target;
        if tablespace == 1663 {
            return Ok(data.join("base").join(oid.to_string()));
        }
        let version = "select 'PG_' || current_setting('server_version_num')::int / 10000 || '_' \
                       || catalog_version_no from pg_control_system()";
        let version: String = target.one("ask for the version", version, &[]).await?;
        Ok(data.join("pg_tblspc").join(tablespace.to_string()).join(version).join(oid.to_string()))
    }

    /// An empty one: tools look for a database of this name.
    async fn make_postgres(&self, target: &Session) -> Result<(), Error> {
        let sql = "select exists (select from pg_database where datname = 'postgres')";
        if target.one::<bool>("look for postgres", sql, &[]).await? {
            return Ok(());
        }
        target
            .run("make an empty database postgres", "create database postgres template template0")
            .await?;
        let comment =
            "comment on database postgres is 'default administrative connection database'";
        target.run("make an empty database postgres", comment).await
    }

    /// Drops tablespaces that only had something of left-out databases.
    async fn drop_tablespaces(&self, target: &Session) -> Result<(), Error> {
        let sql = "select spcname::text from pg_tablespace where oid > 16383 and oid <> all($1) \
                   and not exists (select pg_tablespace_databases(oid))";
        let before = &self.journal.record.empty_tablespaces;
        let empty: Vec<String> =
            target.column("look for empty tablespaces", sql, &[before]).await?;
        for name in empty {
            let drop = format!("drop tablespace {}", sql::name(&name));
            match target.run("drop a tablespace", &drop).await {
                Ok(()) => {
                    self.helper.say(&format!("dropped tablespace {name}, which is empty now"));
                }
                // Somebody may use it since; it does no harm.
                Err(error) => {
                    self.helper.say(&format!("tablespace {name} stays: {}", reason(&error)));
                }
            }
        }
        Ok(())
    }

    /// Ends what was only for the standby: settings, relay, slot.
    pub(crate) async fn settle(&mut self) -> Result<(), Error> {
        if self.is_done(Step::Settled) {
            return Ok(());
        }
        self.ensure_target().await?;
        self.journal.begin_step(Step::Settled)?;
        let target = self.target(CONTROL).await?;
        for name in STANDBY_SETTINGS {
            target.run("reset a setting", &format!("alter system reset {name}")).await?;
        }
        target.rows("reload the settings", "select pg_reload_conf()", &[]).await?;
        self.stop_relay().await?;
        self.drop_slot().await?;
        self.remove_passfiles()?;
        self.journal.done(Step::Settled)
    }

    /// Drops the slot on the source, if it is there.
    pub(crate) async fn drop_slot(&self) -> Result<(), Error> {
        let source = self.source().await?;
        let slot = &self.journal.record.slot;
        let since = Instant::now();
        loop {
            let sql = "select active from pg_replication_slots where slot_name = $1::text";
            match source.column::<bool>("look for the slot", sql, &[slot]).await?.first() {
                None => return Ok(()),
                Some(true) if since.elapsed() < SLOT_TIMEOUT => tokio::time::sleep(INTERVAL).await,
                Some(_) => break,
            }
        }
        let sql = "select pg_drop_replication_slot($1::text::name)";
        source.rows("drop the slot", sql, &[slot]).await?;
        Ok(())
    }
}

/// Copies the files of a database into a folder that is not there.
fn copy_files(from: &Path, to: &Path) -> Result<(), Error> {
    fs::create_dir_all(to).map_err(io("make", to))?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o700))
        .map_err(io("change the mode of", to))?;
    for entry in fs::read_dir(from).map_err(io("read", from))? {
        let entry = entry.map_err(io("read", from))?;
        if entry.file_name() == "pg_internal.init" {
            continue;
        }
        let path = to.join(entry.file_name());
        fs::copy(entry.path(), &path).map_err(io("write", &path))?;
    }
    Ok(())
}
