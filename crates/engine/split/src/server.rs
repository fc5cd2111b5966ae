//! Connections to the two servers, and what they are asked.

use std::time::Duration;

use pgnet::passfile;
use serde::{Deserialize, Serialize};
use tasks::{CancellationToken, Group};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Row};

use crate::error::Side;
use crate::{BadOptions, Error};

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a server may take to tell where it is, which it does without any work. In the cut the
/// databases are closed meanwhile: one that hangs must not keep them so.
const POSITION_TIMEOUT: Duration = Duration::from_secs(10);
/// `application_name` of our sessions.
pub(crate) const APPLICATION_NAME: &str = "pgherd split";
/// Settings of our sessions, against what a database or a role may have set: nothing may cut us
/// off, and no commit of ours may wait for a standby.
const SESSION_SETTINGS: &str = "-c statement_timeout=0 -c lock_timeout=30s \
     -c idle_in_transaction_session_timeout=0 -c synchronous_commit=local \
     -c default_transaction_read_only=off -c default_transaction_isolation=read\\ committed \
     -c client_min_messages=error -c search_path=pg_catalog";

/// The same of settings that not every version knows, or does when it connects.
const NO_LIMITS: &str = "select set_config(name, '0', false) from pg_settings \
     where name in ('idle_session_timeout', 'transaction_timeout') and setting <> '0'";

/// How to reach a server, and as whom.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// Name, address, or folder of the Unix socket.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Who.
    pub user: String,
    /// The password in the connection string; never shown.
    pub password: Option<String>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { host, port, user, password: _ } = self;
        write!(f, "Login({user}@{host}:{port})")
    }
}

impl Login {
    /// Reads a connection string as libpq knows it, `key=value` or a URI; gives the database too.
    ///
    /// # Errors
    ///
    /// [`BadOptions::Source`].
    pub fn parse(text: &str) -> Result<(Self, Option<String>), BadOptions> {
        let bad = |reason: String| BadOptions::Source(reason);
        let config: tokio_postgres::Config = text.parse().map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            bad(cause.unwrap_or_else(|| format!("{error}")))
        })?;
        // What would be passed over in silence is refused.
        if config.get_ssl_mode() == SslMode::Require {
            return Err(bad("sslmode=require: there is no TLS to the source yet".into()));
        }
        if !config.get_hostaddrs().is_empty() || config.get_options().is_some() {
            return Err(bad("hostaddr and options are not known here".into()));
        }
        let host = match config.get_hosts() {
            [] => "localhost".to_owned(),
            [Host::Tcp(host)] => host.clone(),
            [Host::Unix(folder)] => folder.to_string_lossy().into_owned(),
            _ => return Err(bad("name one host: the server that is to be split".into())),
        };
        let port = config.get_ports().first().copied().unwrap_or(5432);
        let user = config.get_user().map(str::to_owned);
        let user = user.or_else(|| std::env::var("USER").ok());
        let user = user.ok_or_else(|| bad("who logs in? Add user=NAME".into()))?;
        let password = config.get_password().map(|it| String::from_utf8_lossy(it).into_owned());
        let database = config.get_dbname().map(str::to_owned);
        Ok((Self { host, port, user, password }, database))
    }

    /// The password: of the connection string, or as libpq finds one.
    pub(crate) fn find_password(&self, database: &str) -> Result<Option<String>, Error> {
        if let Some(password) = &self.password {
            return Ok(Some(password.clone()));
        }
        let host = if self.host.starts_with('/') { "localhost" } else { &self.host };
        let who = passfile::Login { host, port: self.port, database, user: &self.user };
        Ok(passfile::find(None, who)?.map(|password| password.0))
    }

    /// Connects to a database.
    pub(crate) async fn connect(&self, side: Side, database: &str) -> Result<Session, Error> {
        let mut config = tokio_postgres::Config::new();
        config.host(&self.host).port(self.port).user(&self.user).dbname(database);
        config.connect_timeout(CONNECT_TIMEOUT).application_name(APPLICATION_NAME);
        config.options(SESSION_SETTINGS);
        if let Some(password) = self.find_password(database)? {
            config.password(password);
        }
        let failed = |source| Error::Server {
            side,
            action: format!("connect to database {database:?} as {}", self.user),
            source,
        };
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, config.connect(NoTls));
        let connected = connecting.await.map_err(|_elapsed| Error::Late {
            what: format!("a connection to the {side}, {}:{}", self.host, self.port),
            secs: CONNECT_TIMEOUT.as_secs(),
        })?;
        let (client, connection) = connected.map_err(failed)?;
        let mut task = Group::new(CancellationToken::new());
        // Errors of the connection come back as errors of the questions.
        task.spawn("session", |_stop| async move { Ok(connection.await?) });
        let session = Session { client, side, _task: task };
        session.rows("turn time limits off", NO_LIMITS, &[]).await?;
        Ok(session)
    }
}

/// An open connection; closed when dropped.
pub(crate) struct Session {
    client: Client,
    side: Side,
    _task: Group,
}

impl Session {
    fn failed(&self, action: &str) -> impl FnOnce(tokio_postgres::Error) -> Error {
        let (side, action) = (self.side, action.to_owned());
        move |source| Error::Server { side, action, source }
    }

    /// Runs statements, parted by semicolons, in one transaction unless they say otherwise.
    pub(crate) async fn run(&self, action: &str, sql: &str) -> Result<(), Error> {
        self.client.batch_execute(sql).await.map_err(self.failed(action))
    }

    /// Asks for rows.
    pub(crate) async fn rows(
        &self,
        action: &str,
        sql: &str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Error> {
        self.client.query(sql, values).await.map_err(self.failed(action))
    }

    /// Asks for the only column of the only row.
    pub(crate) async fn one<T>(
        &self,
        action: &str,
        sql: &str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<T, Error>
    where
        T: for<'a> tokio_postgres::types::FromSql<'a>,
    {
        let row = self.client.query_one(sql, values).await.map_err(self.failed(action))?;
        row.try_get(0).map_err(self.failed(action))
    }

    /// Asks for the first column of all rows.
    pub(crate) async fn column<T>(
        &self,
        action: &str,
        sql: &str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<T>, Error>
    where
        T: for<'a> tokio_postgres::types::FromSql<'a>,
    {
        let rows = self.rows(action, sql, values).await?;
        rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(self.failed(action))
    }

    /// A value of a row.
    pub(crate) fn value<T>(&self, row: &Row, column: usize) -> Result<T, Error>
    where
        T: for<'a> tokio_postgres::types::FromSql<'a>,
    {
        row.try_get(column).map_err(self.failed("read an answer"))
    }

    /// Process id of the backend.
    pub(crate) async fn pid(&self) -> Result<i32, Error> {
        self.one("ask for the backend", "select pg_backend_pid()", &[]).await
    }

    /// A position that the server tells.
    pub(crate) async fn lsn(&self, action: &str, sql: &str) -> Result<pgtypes::Lsn, Error> {
        let told = tokio::time::timeout(POSITION_TIMEOUT, self.one(action, sql, &[])).await;
        let text: String = told.map_err(|_elapsed| Error::Late {
            what: format!("the {} to {action}", self.side),
            secs: POSITION_TIMEOUT.as_secs(),
        })??;
        text.parse().map_err(|_bad| Error::unfit(format!("{text:?} is no position in the WAL")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_passed_over_is_refused() {
        let parse = |text: &str| Login::parse(text).map(|(login, database)| (login.host, database));
        assert_eq!(parse("host=h user=u dbname=d"), Ok(("h".into(), Some("d".into()))));
        assert_eq!(parse("postgres://u@h:1/d?sslmode=prefer"), Ok(("h".into(), Some("d".into()))));
        for bad in [
            "host=h user=u sslmode=require",
            "host=h user=u sslmode=verify-full",
            "host=h user=u hostaddr=10.0.0.1",
            "host=h user=u options='-c work_mem=1GB'",
            "host=a,b user=u",
            "hots=h",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
