//! Asks the server for names, over a connection of its own that lives for one question.
//!
//! The relay keeps no secrets of its clients, so this login is configured apart
//! (`upstream.catalog`), or uses the client's user with the password file.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::time::Duration;

use pgnet::passfile::{self, Login};
use pgnet::{Conn, DialError, Endpoint};
use pgtypes::{Major, Oid, Timeline, UnknownMajor, Xid};
use tokio_postgres::tls::NoTlsStream;
use tokio_postgres::{Client, Connection, NoTls};

use super::{Database, Inventory, Names, PassfileError, Size, Slot, Tablespace};

/// Longest time for one question, login included; it reads a few small catalogs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// `application_name` of these connections in `pg_stat_activity`.
const APPLICATION_NAME: &str = "pgherd relay (names)";

/// Where and as whom the names are read.
#[derive(Clone, Debug)]
pub struct Catalog {
    /// The server.
    pub endpoint: Endpoint,
    /// How long to wait for a connection.
    pub dial_timeout: Duration,
    /// How the server is met with TLS, if at all.
    pub tls: Option<tls::Client>,
    /// Who logs in.
    pub user: String,
    /// Which database.
    pub database: String,
    /// Password file, when one is configured.
    pub passfile: Option<PathBuf>,
}

/// Why the names could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NamesError {
    /// The server could not be reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The password file is of no use.
    #[error(transparent)]
    Passfile(#[from] PassfileError),
    /// The server refused the login or the question.
    #[error("user {user:?}, database {database:?}: {}", shown(source))]
    Server {
        /// Who asked.
        user: String,
        /// Where.
        database: String,
        /// What the server, or the driver, said.
        source: tokio_postgres::Error,
    },
    /// A version that this pgherd does not know.
    #[error(transparent)]
    Version(UnknownMajor),
    /// No host of an upstream that moves fits.
    #[error("no host of the upstream fits: each answers, and none is what `target` says")]
    NoHost,
    /// No answer in time.
    #[error("no answer within {} s", ANSWER_TIMEOUT.as_secs())]
    TimedOut,
}

/// The server's own words where there are some; the driver's otherwise.
fn shown(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(server) => format!("{} (SQLSTATE {})", server.message(), server.code().code()),
        None => error.to_string(),
    }
}

/// `convert_to` with the database's own encoding gives the bytes as they are stored, which
/// is what the WAL will show too.
const DATABASES: &str = "select oid, convert_to(datname::text, getdatabaseencoding()::name), \
                         dattablespace from pg_catalog.pg_database";
const TABLESPACES: &str = "select oid, convert_to(spcname::text, getdatabaseencoding()::name) \
                           from pg_catalog.pg_tablespace";
const VERSION: &str = "select current_setting('server_version')";
const LOCATIONS: &str = "select oid, convert_to(pg_catalog.pg_tablespace_location(oid), \
                         getdatabaseencoding()::name) from pg_catalog.pg_tablespace";
const SLOTS: &str = "select slot_name::text, active from pg_catalog.pg_replication_slots";
const FILES: &str = "select pg_catalog.pg_relation_filenode('pg_catalog.pg_database'), \
                     pg_catalog.pg_relation_filenode('pg_catalog.pg_tablespace')";
/// Looks into the folders themselves, which only a superuser may: nothing else tells how much
/// of a database lies in which tablespace. `TABLESPACE_VERSION_DIRECTORY` is in the path.
const SIZES: &str = "with version as (select 'PG_' || current_setting('server_version_num')::int \
         / 10000 || '_' || catalog_version_no as folder from pg_catalog.pg_control_system()), \
     folders as (select t.oid as tablespace, d as database, case when t.oid = 1663 then 'base/' || d \
         else 'pg_tblspc/' || t.oid || '/' || folder || '/' || d end as path from version, \
         pg_catalog.pg_tablespace t, pg_catalog.pg_tablespace_databases(t.oid) d \
         where t.oid <> 1664) \
     select database, tablespace, coalesce(sum(file.size), 0)::bigint from folders, \
         pg_catalog.pg_ls_dir(path, true, false) name, \
         pg_catalog.pg_stat_file(path || '/' || name, true) file group by 1, 2";
/// What others may know: all of a database, as if it lay in its own tablespace.
const SIZES_ROUGH: &str = "select oid, dattablespace, pg_catalog.pg_database_size(oid) \
                           from pg_catalog.pg_database";
/// Whether a database or tablespace that no catalog knows may yet appear there. On a primary,
/// whoever makes one has locked the catalog until the end. A standby only tells that the folder
/// is there.
const BEING_MADE: &str = "select case when pg_catalog.pg_is_in_recovery() \
     then $2::oid = 0 or exists (select from pg_catalog.pg_tablespace_databases($1::oid) d \
         where d = $2::oid) \
     else exists (select from pg_catalog.pg_locks where locktype = 'relation' and database = 0 \
         and relation in (1213, 1262) and mode = 'RowExclusiveLock' and granted) end";
/// Timeline and position; a standby tells its timeline to those only who may read statistics.
const PLACE: &str = "select case when pg_is_in_recovery() \
         then (select received_tli from pg_catalog.pg_stat_wal_receiver) \
         else ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int end, \
     (case when pg_is_in_recovery() then pg_last_wal_replay_lsn() \
         else pg_current_wal_insert_lsn() end)::text";
/// A transaction's number in the WAL has 32 bits; the snapshot supplies the upper half that
/// brings it nearest to the newest number. One behind the newest is running too: a standby
/// has not replayed that far. Works on standbys, and from 12 to 18.
const RUNNING: &str = "with s as (select txid_current_snapshot() as snapshot), \
     t as (select snapshot, txid_snapshot_xmax(snapshot) as top from s), \
     x as (select snapshot, top, (top & ~4294967295::bigint) | $1::bigint as xid from t) \
     select not txid_visible_in_snapshot(case \
         when xid - top > 2147483648 then xid - 4294967296 \
         when top - xid > 2147483648 then xid + 4294967296 \
         else xid end, snapshot) from x";

impl Catalog {
    /// Reads all names.
    ///
    /// # Errors
    ///
    /// [`NamesError`] says whether to look at the network, the login or the server.
    pub async fn read(&self) -> Result<Names, NamesError> {
        self.ask(async |client: &Client| {
            let mut names = Names::default();
            for row in client.query(DATABASES, &[]).await? {
                names.databases.push(Database {
                    oid: Oid(row.try_get(0)?),
                    name: row.try_get(1)?,
                    tablespace: Oid(row.try_get(2)?),
                });
            }
            for row in client.query(TABLESPACES, &[]).await? {
                names
                    .tablespaces
                    .push(Tablespace { oid: Oid(row.try_get(0)?), name: row.try_get(1)? });
            }
            let files = client.query_one(FILES, &[]).await?;
            names.database_file = Oid(files.try_get(0)?);
            names.tablespace_file = Oid(files.try_get(1)?);
            let place = client.query_one(PLACE, &[]).await?;
            let timeline = place.try_get::<_, Option<i32>>(0)?.and_then(|it| it.try_into().ok());
            let lsn = place.try_get::<_, Option<&str>>(1)?.and_then(|lsn| lsn.parse().ok());
            names.read_at = timeline.map(Timeline).zip(lsn);
            Ok(names)
        })
        .await
    }

    /// Reads what a clone needs beside names and sizes.
    ///
    /// # Errors
    ///
    /// As [`Self::read`]; also when this pgherd does not know the server's version.
    pub async fn inventory(&self) -> Result<Inventory, NamesError> {
        let (version, locations, slots) = self
            .ask(async |client: &Client| {
                let version: String = client.query_one(VERSION, &[]).await?.try_get(0)?;
                let mut locations = HashMap::new();
                for row in client.query(LOCATIONS, &[]).await? {
                    let path = PathBuf::from(OsString::from_vec(row.try_get(1)?));
                    if path.is_absolute() {
                        locations.insert(Oid(row.try_get(0)?), path);
                    }
                }
                let mut slots = Vec::new();
                for row in client.query(SLOTS, &[]).await? {
                    slots.push(Slot { name: row.try_get(0)?, is_active: row.try_get(1)? });
                }
                Ok((version, locations, slots))
            })
            .await?;
        let major = Major::from_server_version(&version).map_err(NamesError::Version)?;
        Ok(Inventory { major, locations, slots })
    }

    /// Reads the sizes of all databases.
    ///
    /// # Errors
    ///
    /// As [`Self::read`]; also when the user may not connect to one of them.
    pub async fn sizes(&self) -> Result<Vec<Size>, NamesError> {
        let exact = self.ask(async |client: &Client| client.query(SIZES, &[]).await).await;
        let rows = match exact {
            Ok(rows) => rows,
            Err(_not_allowed) => {
                self.ask(async |client: &Client| client.query(SIZES_ROUGH, &[]).await).await?
            }
        };
        Ok(rows.iter().filter_map(size_of).collect())
    }

    /// Whether what lies in `place`, and has no name, may be given one by a transaction that
    /// has not ended.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub async fn is_being_made(&self, place: wal::Place) -> Result<bool, NamesError> {
        self.ask(async |client: &Client| {
            let (tablespace, database) = (&place.tablespace.0, &place.database.0);
            client.query_one(BEING_MADE, &[tablespace, database]).await?.try_get(0)
        })
        .await
    }

    /// Whether a transaction is still running, as far as the server knows.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub async fn is_running(&self, xid: Xid) -> Result<bool, NamesError> {
        self.ask(async |client: &Client| {
            client.query_one(RUNNING, &[&i64::from(xid.0)]).await?.try_get(0)
        })
        .await
    }

    pub(super) async fn ask<T>(
        &self,
        question: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, NamesError> {
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, self.ask_unlimited(question));
        answer.await.unwrap_or(Err(NamesError::TimedOut))
    }

    pub(super) async fn ask_unlimited<T>(
        &self,
        question: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, NamesError> {
        let (client, connection) = self.connect().await?;
        // The driver's connection has to be polled beside the question; both end here.
        let answer = async { question(&client).await };
        tokio::select! {
            answer = answer => answer.map_err(|error| self.refused(error)),
            Err(error) = connection => Err(self.refused(error)),
        }
    }

    async fn connect(&self) -> Result<(Client, Connection<Conn, NoTlsStream>), NamesError> {
        let login = self.login()?;
        let login = &login;
        let attempt = |conn| async move {
            // TLS, if any, is in the connection already.
            let connected = login.connect_raw(conn, NoTls).await;
            connected.map_err(|error| self.refused(error))
        };
        let refusal = |error: &NamesError| match error {
            NamesError::Server { source, .. } => source.code().map(|it| it.code().to_owned()),
            _ => None,
        };
        self.endpoint.log_in(self.tls.as_ref(), self.dial_timeout, attempt, refusal).await
    }

    fn refused(&self, source: tokio_postgres::Error) -> NamesError {
        NamesError::Server { user: self.user.clone(), database: self.database.clone(), source }
    }

    fn login(&self) -> Result<tokio_postgres::Config, NamesError> {
        let (host, port) = match &self.endpoint {
            Endpoint::Tcp { host, port } => (host.as_str(), *port),
            Endpoint::Unix { port, .. } => ("localhost", *port),
        };
        let (database, user) = (self.database.as_str(), self.user.as_str());
        let who = Login { host, port, database, user };
        let mut login = tokio_postgres::Config::new();
        login.user(user).dbname(database).application_name(APPLICATION_NAME);
        if let Some(password) = passfile::find(self.passfile.as_deref(), who)? {
            login.password(password.0);
        }
        Ok(login)
    }
}

fn size_of(row: &tokio_postgres::Row) -> Option<Size> {
    // Databases that were dropped meanwhile have no size.
    let bytes: Option<i64> = row.try_get(2).ok()?;
    Some(Size {
        database: Oid(row.try_get(0).ok()?),
        tablespace: Oid(row.try_get(1).ok()?),
        bytes: u64::try_from(bytes?).unwrap_or(0),
    })
}
