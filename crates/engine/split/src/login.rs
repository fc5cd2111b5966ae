//! How a server is reached: a connection string of libpq's, and the login.

use std::time::Duration;

use pgnet::{Conn, DialError, Endpoint, passfile};
use serde::{Deserialize, Serialize};
use tasks::{CancellationToken, Group};
use tokio_postgres::NoTls;
use tokio_postgres::config::{ChannelBinding, Host, SslMode, SslNegotiation, TargetSessionAttrs};

use crate::error::Side;
use crate::server::Session;
use crate::ssl::{self, Ssl};
use crate::{BadOptions, Error};

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a server may be silent that has vanished: it is probed meanwhile.
const PEER_TIMEOUT: Duration = Duration::from_secs(60);
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

/// What is neither of the two forms.
const NO_CONNINFO: &str = "not a connection string: write key=value …, as in \
     \"host=old user=postgres\", or postgresql://…";

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
    /// With TLS or without.
    pub(crate) ssl: Ssl,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { host, port, user, password: _, ssl: _ } = self;
        write!(f, "Login({user}@{host}:{port})")
    }
}

impl std::fmt::Display for Login {
    /// For people: everything but the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { host, port, user, password: _, ssl } = self;
        write!(f, "host={host} port={port} user={user}")?;
        ssl.settings().iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
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
        let (words, text) = ssl::split(text).ok_or_else(|| bad(NO_CONNINFO.into()))?;
        let config: tokio_postgres::Config = text.parse().map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            bad(cause.unwrap_or_else(|| format!("{error}")))
        })?;
        // What would be passed over in silence is refused.
        if config.get_ssl_mode() != SslMode::Prefer
            || config.get_ssl_negotiation() != SslNegotiation::Postgres
        {
            return Err(bad("sslnegotiation is not known here".into()));
        }
        if config.get_channel_binding() == ChannelBinding::Require {
            return Err(bad("channel_binding=require is not known here".into()));
        }
        if !config.get_hostaddrs().is_empty() || config.get_options().is_some() {
            return Err(bad("hostaddr and options are not known here".into()));
        }
        if config.get_target_session_attrs() != TargetSessionAttrs::Any {
            return Err(bad("target_session_attrs is not known here: name the primary".into()));
        }
        let variable = |name| std::env::var(name).ok().filter(|it| !it.is_empty());
        let host = match config.get_hosts() {
            [] => variable("PGHOST").unwrap_or_else(|| "localhost".to_owned()),
            [Host::Tcp(host)] => host.clone(),
            [Host::Unix(folder)] => folder.to_string_lossy().into_owned(),
            _ => return Err(bad("name one host: the server that is to be split".into())),
        };
        // There is no TLS over a socket, and no file that could be of no use.
        let ssl = if host.starts_with('/') { Ssl::default() } else { Ssl::find(words)? };
        let port = match config.get_ports().first().copied() {
            Some(port) => port,
            None => variable("PGPORT")
                .map_or(Ok(5432), |port| port.parse())
                .map_err(|_invalid| bad("PGPORT is no port".into()))?,
        };
        let user = config.get_user().map(str::to_owned);
        let user = user.or_else(|| variable("PGUSER")).or_else(|| variable("USER"));
        let user = user.ok_or_else(|| bad("who logs in? Add user=NAME".into()))?;
        let password = config.get_password().map(|it| String::from_utf8_lossy(it).into_owned());
        let database = config.get_dbname().map(str::to_owned);
        Ok((Self { host, port, user, password, ssl }, database))
    }

    /// Whether nothing leaves this machine: a Unix socket, or its own address.
    pub(crate) fn is_here(&self) -> bool {
        let address = self.host.trim_start_matches('[').trim_end_matches(']').parse();
        self.host.starts_with('/')
            || self.host == "localhost"
            || address.is_ok_and(|it: std::net::IpAddr| it.is_loopback())
    }

    /// Whether another login reaches the same server as the same user, and as safely.
    #[must_use]
    pub fn is_same_way(&self, other: &Self) -> bool {
        (&self.host, self.port, &self.user, &self.ssl)
            == (&other.host, other.port, &other.user, &other.ssl)
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
        config.user(&self.user).dbname(database).application_name(APPLICATION_NAME);
        config.options(SESSION_SETTINGS);
        if let Some(password) = self.find_password(database)? {
            config.password(password);
        }
        let action = format!("connect to database {database:?} as {}", self.user);
        let endpoint = Endpoint::new(&self.host, self.port);
        // A file of no use shall not keep us from a server that is met without it.
        let client = if self.host.starts_with('/') { None } else { self.ssl.client()? };
        let config = &config;
        // TLS, if any, is in the connection already.
        let attempt = |conn: Conn| async move {
            // As far as the system lets us.
            conn.tune(PEER_TIMEOUT).ok();
            Ok(config.connect_raw(conn, NoTls).await?)
        };
        let refusal = |failed: &Failed| match failed {
            Failed::Login(error) => error.code().map(|it| it.code().to_owned()),
            Failed::Dial(_) => None,
        };
        let connecting = endpoint.log_in(client.as_ref(), CONNECT_TIMEOUT, attempt, refusal);
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
        let connected = connected.map_err(|_elapsed| Error::Late {
            what: format!("a connection to the {side}, {endpoint}"),
            secs: CONNECT_TIMEOUT.as_secs(),
        })?;
        let (client, connection) = connected.map_err(|failed| match failed {
            Failed::Dial(cause) => Error::Dial { side, action, cause },
            Failed::Login(cause) => Error::Server { side, action, cause },
        })?;
        let mut task = Group::new(CancellationToken::new());
        // Errors of the connection come back as errors of the questions.
        task.spawn("session", |_stop| async move { Ok(connection.await?) });
        let session = Session::new(client, side, task);
        session.rows("turn time limits off", NO_LIMITS, &[]).await?;
        Ok(session)
    }
}

/// Why nobody was let in.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Login(#[from] tokio_postgres::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_none_is_told_what_one_is() {
        let told = Login::parse("blah").unwrap_err().to_string();
        let forms = "--source: not a connection string: write key=value …, as in \"host=";
        assert!(told.starts_with(forms) && told.ends_with("or postgresql://…"), "{told}");
    }

    #[test]
    fn what_would_be_passed_over_is_refused() {
        let parse = |text: &str| Login::parse(text).map(|(login, database)| (login.host, database));
        assert_eq!(parse("host=h user=u dbname=d"), Ok(("h".into(), Some("d".into()))));
        assert_eq!(parse("postgres://u@h:1/d?sslmode=prefer"), Ok(("h".into(), Some("d".into()))));
        for bad in [
            "host=h user=u sslmode=on",
            "host=h user=u sslmode=verify-full sslrootcert=/nonexistent",
            "host=h user=u sslcrl=/x",
            "host=h user=u sslnegotiation=direct sslmode=require",
            "host=h user=u target_session_attrs=read-write",
            "postgres://u@h/d?sslmode=require&application_name=50%",
            "host=h user=u channel_binding=require",
            "host=h user=u hostaddr=10.0.0.1",
            "host=h user=u options='-c work_mem=1GB'",
            "host=a,b user=u",
            "hots=h",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
