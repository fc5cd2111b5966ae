//! The checked settings, as the relay takes them.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::{Auth, Client, Filter, Listen, Match};

/// Settings of `pgherd relay`, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    /// Where standbys connect; never empty, no address twice.
    pub listen: Vec<Listen>,
    /// What clients are offered that ask for TLS. `None`: nothing.
    pub tls: Option<tls::Server>,
    /// The server that the WAL comes from.
    pub upstream: Upstream,
    /// Folder that keeps what was decided, across restarts; an absolute path.
    pub state_dir: PathBuf,
    /// Is a name in a filter that the server does not have an error, not a warning?
    pub strict: bool,
    /// What each client gets, first match wins. `None`: every client, unfiltered.
    pub configurations: Option<Vec<Configuration>>,
    /// Limits on what clients may take.
    pub limits: Limits,
    /// How log lines are written.
    pub log_format: LogFormat,
}

/// What [`Relay::configuration_for`] found for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selection<'a> {
    /// The file has no list of configurations: everyone gets everything.
    Unfiltered,
    /// The first configuration whose conditions all hold.
    Configuration(&'a Configuration),
    /// There is a list, and nothing in it matches.
    Refused,
}

impl Relay {
    /// For a relay inside a process whose one client is the process itself: what stands at the
    /// door for others is left out. Conditions stay, so that no client gets what is another's.
    #[must_use]
    pub fn for_own_use(mut self) -> Self {
        self.tls = None;
        for configuration in self.configurations.iter_mut().flatten() {
            configuration.require_tls = false;
            configuration.auth = Auth::Passthrough;
        }
        self
    }

    /// The configuration for this client: the first whose conditions all hold.
    #[must_use]
    pub fn configuration_for(&self, client: &Client<'_>) -> Selection<'_> {
        let Some(configurations) = &self.configurations else {
            return Selection::Unfiltered;
        };
        configurations
            .iter()
            .find(|configuration| configuration.matching.matches(client))
            .map_or(Selection::Refused, Selection::Configuration)
    }
}

/// One entry of the list `configurations`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    /// Its name, unique in the file: 1 to 63 bytes of any text without control
    /// characters. Encode it before it becomes a part of a file's name.
    pub name: String,
    /// Which clients it is for.
    pub matching: Match,
    /// What these clients get. `None`: everything. A filter has at least one name.
    pub filter: Option<Filter>,
    /// Are these clients turned away when they come without TLS?
    pub require_tls: bool,
    /// How they prove who they are.
    pub auth: Auth,
    /// What becomes of connections that are not for replication.
    pub sql: Sql,
    /// Which replication slot their streams use.
    pub slot: Slot,
}

/// What becomes of plain SQL connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sql {
    /// They are refused.
    #[default]
    Refuse,
    /// They reach the upstream as they are, unfiltered.
    Passthrough,
}

/// Which replication slot a stream uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Slot {
    /// The one that the client names, or none.
    #[default]
    Passthrough,
    /// One that the relay makes, and makes again where the upstream has moved to.
    Auto,
}

/// The server that the relay reads from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Where it is; the first of several.
    pub host: Host,
    /// Its port; over a Unix socket the number in the socket's name.
    pub port: u16,
    /// How the relay itself logs in to read names.
    pub catalog: Catalog,
    /// The hosts among which it moves. `None`: it stays at `host`.
    pub moving: Option<Moving>,
    /// How it is met with TLS. `None`: without, as libpq's `sslmode=disable`.
    pub tls: Option<tls::Client>,
    /// As whom the relay logs in for clients that it has let in itself. `None`: as the client.
    pub user: Option<String>,
    /// Password file for that, an absolute path. `None`: PGPASSWORD or `~/.pgpass`.
    pub passfile: Option<PathBuf>,
}

/// An upstream that is one of several hosts, now this one and then another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moving {
    /// The hosts; never empty, none twice.
    pub hosts: Vec<Address>,
    /// Which of them is followed.
    pub target: Target,
    /// How long a client that comes is held while no host fits.
    pub failover_wait: Duration,
    /// Between two looks at a host.
    pub watch_interval: Duration,
}

/// A host and its port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The host.
    pub host: Host,
    /// Its port; over a Unix socket the number in the socket's name.
    pub port: u16,
}

/// Which server is followed; libpq's `target_session_attrs` has more, about sessions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Target {
    /// The one that is not in recovery.
    #[default]
    Primary,
    /// One that is in recovery.
    Standby,
    /// One that is in recovery; without one the primary.
    PreferStandby,
    /// Any.
    Any,
}

/// Where a server is, as libpq reads `host`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A host name or an address (IPv6 without brackets), not looked up yet.
    Name(String),
    /// The folder of a Unix socket; an absolute path.
    Unix(PathBuf),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Unix(dir) => dir.display().fmt(f),
        }
    }
}

/// The connection that reads the names of databases and tablespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    /// Which server. `None`: the upstream; another one is needed where that is a relay.
    pub host: Option<Host>,
    /// Its port. `None`: the upstream's.
    pub port: Option<u16>,
    /// Who logs in. `None`: the user of the client that needs the names.
    pub user: Option<String>,
    /// Which database; `postgres` unless the file says another.
    pub database: String,
    /// Password file, an absolute path. `None`: PGPASSWORD or `~/.pgpass`, as with libpq.
    pub passfile: Option<PathBuf>,
}

/// What clients may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections at the same time; one more is answered with SQLSTATE 53300.
    pub max_connections: u32,
    /// Time from connect to the end of authentication; like `authentication_timeout`.
    pub startup_timeout: Duration,
    /// Silence after which a peer is taken for dead; like `wal_sender_timeout`.
    /// `None`: never.
    pub peer_timeout: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 1_000,
            startup_timeout: Duration::from_secs(60),
            peer_timeout: Some(Duration::from_secs(60)),
        }
    }
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Options of the command line that win over the file.
///
/// Kept as text: a bad number is reported together with the problems of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `-h`/`--host`: host of the upstream.
    pub host: Option<String>,
    /// `-P`/`--masterport`: port of the upstream.
    pub masterport: Option<String>,
    /// `-p`/`--port`: where to listen. Replaces the port of every TCP address in
    /// `listen`; without `listen` it means what `listen_port` means.
    pub port: Option<String>,
    /// `--log-format`.
    pub log_format: Option<LogFormat>,
}
