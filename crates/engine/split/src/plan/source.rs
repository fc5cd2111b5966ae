//! What the source is.

use std::collections::BTreeSet;
use std::path::PathBuf;

use pgtypes::Major;

use crate::configure::Elsewhere;
use crate::error::Side;
use crate::plan::surroundings::items;
use crate::server::Session;
use crate::{Error, Options};

/// `pg_default` and `pg_global` (`pg_tablespace.dat`).
const BUILT_IN_TABLESPACES: [u32; 2] = [1663, 1664];
/// `DATCONNLIMIT_INVALID_DB` (`pg_database.h`): a `DROP DATABASE` broke off.
const INVALID: i32 = -2;

/// A database of the source.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    pub(crate) oid: u32,
    pub(crate) name: String,
    pub(crate) open: bool,
    pub(crate) invalid: bool,
    pub(crate) bytes: u64,
    pub(crate) moved: bool,
}

impl Database {
    /// `template0` and `template1`: every server has its own.
    pub(crate) fn is_built_in(&self) -> bool {
        ["template0", "template1"].contains(&self.name.as_str())
    }
}

/// A tablespace of the source, but for the built-in ones.
#[derive(Clone, Debug)]
pub(crate) struct Tablespace {
    pub(crate) oid: u32,
    pub(crate) name: String,
    /// Nothing when it is inside the data directory.
    pub(crate) location: Option<PathBuf>,
    /// Databases that have something there.
    pub(crate) databases: Vec<u32>,
}

/// How many bytes of the moved databases are in a tablespace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) tablespace: u32,
    pub(crate) bytes: u64,
}

/// What the source is.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) major: Major,
    pub(crate) version: String,
    pub(crate) version_number: i32,
    pub(crate) system_identifier: i64,
    /// The database that our sessions are in.
    pub(crate) control: String,
    pub(crate) databases: Vec<Database>,
    pub(crate) tablespaces: Vec<Tablespace>,
    pub(crate) held: Vec<Held>,
    /// Whether our sessions are encrypted.
    pub(crate) has_tls: bool,
    pub(crate) is_standby: bool,
    pub(crate) is_superuser: bool,
    pub(crate) has_replication_rule: Option<bool>,
    pub(crate) free_walsenders: i64,
    pub(crate) free_slots: i64,
    pub(crate) roles: i64,
    pub(crate) settings: std::collections::HashMap<String, String>,
    /// Names in `$libdir` that the moved databases need.
    pub(crate) libraries: BTreeSet<String>,
    /// Unlogged tables and materialized views in moved databases.
    pub(crate) unlogged: i64,
    /// Prepared transactions: of moved databases, of others.
    pub(crate) prepared: (i64, i64),
    pub(crate) logical_slots: Vec<String>,
    pub(crate) subscriptions: Vec<String>,
    pub(crate) standbys: Vec<String>,
    pub(crate) sessions: i64,
    /// Files of settings that a base backup does not have, or not as they are used.
    pub(crate) files_elsewhere: Vec<String>,
}

/// Settings that are looked at.
const SETTINGS: [&str; 17] = [
    "wal_level",
    "archive_mode",
    "synchronous_standby_names",
    "shared_preload_libraries",
    "max_slot_wal_keep_size",
    "logging_collector",
    "log_directory",
    "port",
    "session_preload_libraries",
    "data_directory",
    "listen_addresses",
    "unix_socket_directories",
    "ssl",
    "ssl_cert_file",
    "ssl_key_file",
    "ssl_ca_file",
    "ssl_crl_file",
];

impl Facts {
    pub(crate) async fn read(options: &Options) -> Result<Self, Error> {
        let first = first_session(options).await?;
        let version: String = first
            .one("ask for the version", "select current_setting('server_version')", &[])
            .await?;
        let major = Major::from_server_version(&version)
            .map_err(|error| Error::unfit(error.to_string()))?;
        let databases = read_databases(&first, options).await?;
        let control = control(options, &databases)?;
        let source = options.source.connect(Side::Source, &control).await?;
        let oids: Vec<u32> = databases.iter().filter(|it| it.moved).map(|it| it.oid).collect();
        let mut facts = Self {
            major,
            version,
            version_number: number(&source, "current_setting('server_version_num')::int").await?,
            system_identifier: number(&source, "system_identifier from pg_control_system()").await?,
            control,
            tablespaces: read_tablespaces(&source).await?,
            held: Vec::new(),
            has_tls: number(&source, "ssl from pg_stat_ssl where pid = pg_backend_pid()").await?,
            is_standby: number(&source, "pg_is_in_recovery()").await?,
            is_superuser: number(&source, "rolsuper from pg_roles where rolname = current_user").await?,
            has_replication_rule: None,
            free_walsenders: number(
                &source,
                "current_setting('max_wal_senders')::bigint - (select count(*) from pg_stat_replication)",
            )
            .await?,
            free_slots: number(
                &source,
                "current_setting('max_replication_slots')::bigint - (select count(*) from pg_replication_slots)",
            )
            .await?,
            roles: number(&source, "count(*) from pg_roles where rolname not like 'pg\\_%'").await?,
            settings: read_settings(&source).await?,
            libraries: BTreeSet::new(),
            unlogged: 0,
            prepared: (
                about(&source, "count(*) from pg_prepared_xacts p join pg_database d on d.datname = p.database where d.oid = any($1)", &oids).await?,
                about(&source, "count(*) from pg_prepared_xacts p join pg_database d on d.datname = p.database where d.oid <> all($1)", &oids).await?,
            ),
            logical_slots: names(&source, "slot_name::text from pg_replication_slots where datoid = any($1)", &oids).await?,
            subscriptions: Vec::new(),
            standbys: names(&source, "application_name from pg_stat_replication where $1::oid[] is not null", &oids).await?,
            sessions: about(&source, "count(*) from pg_stat_activity where datid = any($1)", &oids).await?,
            files_elsewhere: Vec::new(),
            databases,
        };
        if facts.is_superuser {
            facts.read_as_superuser(&source, &oids).await?;
        }
        facts.read_moved(options).await?;
        Ok(facts)
    }

    async fn read_as_superuser(&mut self, source: &Session, oids: &[u32]) -> Result<(), Error> {
        let sql = "subname::text from pg_subscription where subdbid = any($1)";
        self.subscriptions = names(source, sql, oids).await?;
        let sql = "exists (select from pg_hba_file_rules where 'replication' = any(database) and error is null)";
        self.has_replication_rule = Some(number(source, sql).await?);
        self.files_elsewhere = Elsewhere::read(source).await?.paths();
        Ok(())
    }

    /// What only a session in the moved database itself can see.
    async fn read_moved(&mut self, options: &Options) -> Result<(), Error> {
        let moved = self.databases.iter().filter(|it| it.moved && it.open && !it.invalid);
        for database in moved {
            let session = options.source.connect(Side::Source, &database.name).await?;
            let libraries: Vec<String> = session
                .column(
                    "list libraries",
                    "select distinct probin from pg_proc where probin is not null and oid > 16383",
                    &[],
                )
                .await?;
            self.libraries.extend(libraries);
            self.unlogged += number::<i64>(
                &session,
                "count(*) from pg_class where relpersistence = 'u' and relkind in ('r', 'm')",
            )
            .await?;
            let rows = session
                .rows(
                    "add up sizes",
                    "select case when reltablespace = 0 then dattablespace else reltablespace end, \
                     sum(coalesce(pg_relation_size(c.oid), 0))::bigint from pg_class c, pg_database d \
                     where datname = current_database() and relkind in ('r', 'i', 't', 'm', 'S') \
                     and reltablespace <> 1664 group by 1",
                    &[],
                )
                .await?;
            for row in rows {
                let bytes: i64 = session.value(&row, 1)?;
                let tablespace = session.value(&row, 0)?;
                self.held.push(Held { tablespace, bytes: bytes.unsigned_abs() });
            }
        }
        // Without the first kind a server does not start, without the second it lets nobody in.
        for setting in ["shared_preload_libraries", "session_preload_libraries"] {
            let preloaded: Vec<_> = items(self.setting(setting)).map(ToOwned::to_owned).collect();
            self.libraries.extend(preloaded);
        }
        Ok(())
    }

    pub(crate) fn moved(&self) -> impl Iterator<Item = &Database> {
        self.databases.iter().filter(|it| it.moved)
    }

    pub(crate) fn setting(&self, name: &str) -> &str {
        self.settings.get(name).map_or("", String::as_str)
    }
}

/// The database of the connection string, or one that every server has.
async fn first_session(options: &Options) -> Result<Session, Error> {
    if let Some(database) = &options.database {
        return options.source.connect(Side::Source, database).await;
    }
    match options.source.connect(Side::Source, "postgres").await {
        Ok(session) => Ok(session),
        Err(_no_such_database) => options.source.connect(Side::Source, "template1").await,
    }
}

async fn read_databases(source: &Session, options: &Options) -> Result<Vec<Database>, Error> {
    let rows = source
        .rows(
            "list databases",
            "select oid, datname::text, datallowconn, datconnlimit, \
             case when has_database_privilege(oid, 'connect') then coalesce(pg_database_size(oid), 0) \
             else 0 end from pg_database order by datname",
            &[],
        )
        .await?;
    let mut databases = Vec::new();
    for row in rows {
        let name: String = source.value(&row, 1)?;
        let bytes: i64 = source.value(&row, 4)?;
        databases.push(Database {
            oid: source.value(&row, 0)?,
            moved: options.databases.iter().any(|it| it.matches(name.as_bytes())),
            name,
            open: source.value(&row, 2)?,
            invalid: source.value::<i32>(&row, 3)? == INVALID,
            bytes: bytes.unsigned_abs(),
        });
    }
    for database in &mut databases {
        // A pattern never means these; a plain name of one is refused.
        let plain = |it: &config::Pattern| it.plain() == Some(&database.name);
        if database.is_built_in() && !options.databases.iter().any(plain) {
            database.moved = false;
        }
    }
    Ok(databases)
}

/// A database for our own sessions, which stays on the source.
fn control(options: &Options, databases: &[Database]) -> Result<String, Error> {
    let stays = |name: &&str| {
        databases.iter().any(|it| it.name == *name && it.open && !it.moved && !it.invalid)
    };
    let wanted = [options.database.as_deref(), Some("postgres")];
    // The last one of all: a session in it is in the way of CREATE DATABASE.
    let others = databases.iter().filter(|it| !it.is_built_in()).map(|it| it.name.as_str());
    let mut all = wanted.into_iter().flatten().chain(others).chain(["template1"]);
    let found = all.find(stays).map(str::to_owned);
    found.ok_or_else(|| Error::unfit("the source has no database to connect to that stays there"))
}

async fn read_tablespaces(source: &Session) -> Result<Vec<Tablespace>, Error> {
    let built_in = BUILT_IN_TABLESPACES;
    let rows = source
        .rows(
            "list tablespaces",
            "select oid, spcname::text, pg_tablespace_location(oid), \
             array(select pg_tablespace_databases(oid)) from pg_tablespace where oid <> all($1)",
            &[&built_in.as_slice()],
        )
        .await?;
    let mut tablespaces = Vec::new();
    for row in rows {
        let location = PathBuf::from(source.value::<String>(&row, 2)?);
        tablespaces.push(Tablespace {
            oid: source.value(&row, 0)?,
            name: source.value(&row, 1)?,
            // One inside the data directory has a path relative to it.
            location: location.is_absolute().then_some(location),
            databases: source.value(&row, 3)?,
        });
    }
    Ok(tablespaces)
}

async fn read_settings(
    source: &Session,
) -> Result<std::collections::HashMap<String, String>, Error> {
    let names = SETTINGS.map(str::to_owned);
    let rows = source
        .rows(
            "read settings",
            "select name, setting from pg_settings where name = any($1) and setting is not null",
            &[&names.as_slice()],
        )
        .await?;
    rows.iter().map(|row| Ok((source.value(row, 0)?, source.value(row, 1)?))).collect()
}

async fn number<T>(source: &Session, what: &str) -> Result<T, Error>
where
    T: for<'a> tokio_postgres::types::FromSql<'a>,
{
    source.one("look at the server", &format!("select {what}"), &[]).await
}

async fn about(source: &Session, what: &str, oids: &[u32]) -> Result<i64, Error> {
    source.one("look at the moved databases", &format!("select {what}"), &[&oids]).await
}

async fn names(source: &Session, what: &str, oids: &[u32]) -> Result<Vec<String>, Error> {
    source.column("look at the moved databases", &format!("select {what}"), &[&oids]).await
}
