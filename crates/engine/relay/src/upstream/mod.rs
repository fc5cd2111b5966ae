//! Where the WAL comes from: one host, or whichever of several is the right one now.
//!
//! [`choose`] decides, [`watch`] looks at the hosts and carries the decision out, [`kept`] is
//! what outlives the relay. Sessions ask for a [`Place`], and leave when it says so.
//!
//! # What it guarantees
//!
//! With `hosts`, no client is led to another cluster, to an older timeline than one before it,
//! or to another one of the same number: the first answers are from the watch, and each session asks its own server again
//! ([`Upstream::admit`]) before the client's first command, and before a timeline that is new.
//!
//! # What it does not do
//!
//! It promotes nothing and fences nobody. With one `host`, nothing is watched or checked.

mod choose;
mod drop_slots;
mod kept;
mod status;
mod watch;

use std::fmt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use config::{Address, Host, Moving};
use pgnet::{Conn, DialError, Endpoint, Try};
use pgtypes::Timeline;
use tasks::CancellationToken;
use tokio::time::Instant;

pub use choose::{Facts, Role};
pub use drop_slots::{DroppedSlot, drop_slots};
pub use status::{HostStatus, UpstreamStatus};

pub(crate) use choose::Unfit;

use crate::ledger::LedgerError;
use crate::names::{Catalog, NamesError};
use crate::service::Options;
use kept::Kept;
use watch::Board;

/// How long one attempt to reach the upstream may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two attempts to reach a host that the watch takes to be there.
const DIAL_PAUSE: Duration = Duration::from_millis(200);

/// The upstream, as all sessions share it.
pub(crate) struct Upstream {
    settings: config::Upstream,
    hosts: Vec<Endpoint>,
    board: Mutex<Board>,
    /// Tells those who wait for a place that there may be one.
    changed: tokio::sync::watch::Sender<()>,
    /// Who looks at the hosts: nobody before there is a name to log in with.
    user: tokio::sync::watch::Sender<Option<String>>,
    kept: Kept,
}

/// Where a session has been led to.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The server.
    pub(crate) endpoint: Endpoint,
    /// Cancelled when the upstream is somewhere else.
    pub(crate) moved: CancellationToken,
}

/// Why there is no connection to the upstream.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// The host cannot be reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// None of the hosts fits.
    #[error(transparent)]
    NoHost(#[from] NoHost),
}

/// No host fits, after a wait.
#[derive(Debug, thiserror::Error)]
#[error("no host of the upstream fits, after {} s: {hosts}", .waited.as_secs_f32())]
pub(crate) struct NoHost {
    waited: Duration,
    hosts: Reasons,
}

/// Each host, and why it does not fit.
#[derive(Debug)]
struct Reasons(Vec<(String, String)>);

impl fmt::Display for Reasons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (host, reason)) in self.0.iter().enumerate() {
            let separator = if number == 0 { "" } else { "; " };
            write!(f, "{separator}{host} {reason}")?;
        }
        Ok(())
    }
}

impl Upstream {
    /// The upstream of these settings; nothing is looked at yet.
    pub(crate) fn open(options: &Options) -> Result<Self, LedgerError> {
        let settings = options.upstream.clone();
        let hosts = hosts_of(&settings);
        let kept = Kept::new(&options.state_dir);
        let known = if settings.moving.is_some() { kept.load()? } else { None };
        let user = settings.catalog.user.clone();
        Ok(Self {
            board: Mutex::new(Board::new(hosts.len(), known)),
            settings,
            hosts,
            changed: tokio::sync::watch::Sender::new(()),
            user: tokio::sync::watch::Sender::new(user),
            kept,
        })
    }

    /// Connects to the right host. One that comes while none fits is held for `failover_wait`;
    /// `user` is the client's, for looking at the hosts when no other is configured.
    pub(crate) async fn connect(&self, user: &str) -> Result<(Conn, Place), UpstreamError> {
        let Some(moving) = &self.settings.moving else {
            let place = Place { endpoint: self.first(), moved: CancellationToken::new() };
            return Ok((self.dial_to(&place.endpoint, Try::First).await?, place));
        };
        self.look_as(user);
        let deadline = Instant::now() + moving.failover_wait;
        loop {
            let place = self.place(moving, deadline).await?;
            match self.dial_to(&place.endpoint, Try::First).await {
                Ok(conn) => return Ok((conn, place)),
                // The watch will notice as well.
                Err(error) if Instant::now() >= deadline => return Err(error.into()),
                Err(_gone) => tokio::time::sleep(DIAL_PAUSE).await,
            }
        }
    }

    /// Connects to where clients are led now, without waiting.
    pub(crate) async fn dial(&self) -> Result<(Conn, Endpoint), DialError> {
        let place = self.board().place(&self.hosts);
        let endpoint = place.map_or_else(|| self.first(), |place| place.endpoint);
        Ok((self.dial_to(&endpoint, Try::First).await?, endpoint))
    }

    /// Connects in the other way that `sslmode` leaves, after the server refused the login; nothing
    /// when there is none.
    pub(crate) async fn dial_again(
        &self,
        place: &Place,
        was_tls: bool,
    ) -> Result<Option<Conn>, DialError> {
        if !place.endpoint.has_second_try(self.settings.tls.as_ref(), was_tls) {
            return Ok(None);
        }
        self.dial_to(&place.endpoint, Try::Second).await.map(Some)
    }

    async fn dial_to(&self, endpoint: &Endpoint, which: Try) -> Result<Conn, DialError> {
        endpoint.dial_as(self.settings.tls.as_ref(), which, DIAL_TIMEOUT).await
    }

    /// Whether clients were led to this timeline already, or nobody asks.
    pub(crate) fn knows(&self, timeline: Timeline) -> bool {
        !self.is_moving() || self.board().knows(timeline)
    }

    /// What a host was when it was looked at last.
    pub(crate) fn role_of(&self, host: &Endpoint) -> Option<Role> {
        let index = self.hosts.iter().position(|it| it == host)?;
        self.board().last_facts(index).map(|facts| facts.role)
    }

    /// Whether hosts are watched, and sessions have to check theirs.
    pub(crate) const fn is_moving(&self) -> bool {
        self.settings.moving.is_some()
    }

    /// How names are read at a place; `user` is the client's, for when no other is configured.
    pub(crate) fn catalog(&self, user: &str, place: &Place) -> Catalog {
        catalog_of(&self.settings, &place.endpoint, user)
    }

    /// How the catalogs are read before a client is in, in the relay's own name; waits for a
    /// host that fits.
    pub(crate) async fn own_catalog(&self) -> Result<Catalog, NoHost> {
        // The configuration is refused without one of the two users.
        let user = self.settings.user.as_deref().unwrap_or_default();
        let endpoint = match &self.settings.moving {
            None => self.first(),
            Some(moving) => {
                self.look_as(user);
                self.place(moving, Instant::now() + moving.failover_wait).await?.endpoint
            }
        };
        Ok(catalog_of(&self.settings, &endpoint, user))
    }

    /// What can be told of the upstream now.
    pub(crate) fn status(&self) -> UpstreamStatus {
        let mut status = self.board().status(&self.hosts);
        if !self.is_moving() {
            status.current = Some(self.first().to_string());
            status.hosts.iter_mut().for_each(|host| host.unfit = None);
        }
        status
    }

    async fn place(&self, moving: &Moving, deadline: Instant) -> Result<Place, NoHost> {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            if let Some(place) = self.board().place(&self.hosts) {
                return Ok(place);
            }
            let waited = tokio::time::timeout_at(deadline, changed.changed()).await;
            if waited.is_err() {
                let hosts = Reasons(self.board().reasons(&self.hosts));
                return Err(NoHost { waited: moving.failover_wait, hosts });
            }
        }
    }

    /// The name to look with, from the first client on when none is configured.
    fn look_as(&self, user: &str) {
        if self.settings.catalog.user.is_none() {
            self.user.send_if_modified(|known| {
                let is_new = known.as_deref() != Some(user);
                *known = Some(user.to_owned());
                is_new
            });
        }
    }

    fn first(&self) -> Endpoint {
        endpoint_of(&self.settings.host, self.settings.port)
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<_> = self.hosts.iter().map(Endpoint::to_string).collect();
        f.write_str(&hosts.join(", "))
    }
}

/// How the names of the upstream are read, for one who comes once: looks at each host until one
/// fits.
pub(crate) async fn catalog_once(options: &Options, user: &str) -> Result<Catalog, NamesError> {
    let upstream = &options.upstream;
    let first = endpoint_of(&upstream.host, upstream.port);
    let mut catalog = catalog_of(upstream, &first, user);
    let Some(moving) = &upstream.moving else { return Ok(catalog) };
    if upstream.catalog.host.is_some() {
        return Ok(catalog);
    }
    let mut failed = None;
    let mut seen = Vec::new();
    for host in &moving.hosts {
        catalog = catalog_of(upstream, &endpoint(host), user);
        match catalog.facts().await {
            Ok(facts) => seen.push(choose::Seen::Facts(facts)),
            Err(error) => {
                seen.push(choose::Seen::Gone { reason: error.to_string() });
                failed = Some(error);
            }
        }
    }
    // What cannot be read is told by who streams.
    let known = Kept::new(&options.state_dir).load().ok().flatten();
    let choice = choose::choose(moving.target, known.as_ref(), None, &seen);
    match choice.chosen.and_then(|host| moving.hosts.get(host)) {
        Some(host) => Ok(catalog_of(upstream, &endpoint(host), user)),
        None => Err(failed.unwrap_or(NamesError::NoHost)),
    }
}

/// Forgets which cluster the upstream was; `false` when nothing was known.
///
/// # Errors
///
/// When the file cannot be removed.
pub fn forget_upstream(state_dir: &Path) -> Result<bool, LedgerError> {
    Kept::new(state_dir).forget()
}

/// How names are read: from `server` unless the configuration says otherwise.
fn catalog_of(upstream: &config::Upstream, server: &Endpoint, user: &str) -> Catalog {
    let catalog = &upstream.catalog;
    let own_port = match server {
        Endpoint::Tcp { port, .. } | Endpoint::Unix { port, .. } => *port,
    };
    let port = catalog.port.unwrap_or(own_port);
    let endpoint = match (&catalog.host, server.clone()) {
        (Some(host), _) => endpoint_of(host, port),
        (None, Endpoint::Tcp { host, .. }) => Endpoint::Tcp { host, port },
        (None, Endpoint::Unix { directory, .. }) => Endpoint::Unix { directory, port },
    };
    Catalog {
        endpoint,
        dial_timeout: DIAL_TIMEOUT,
        tls: upstream.tls.clone(),
        user: catalog
            .user
            .clone()
            .or_else(|| upstream.user.clone())
            .unwrap_or_else(|| user.to_owned()),
        database: catalog.database.clone(),
        passfile: catalog.passfile.clone().or_else(|| upstream.passfile.clone()),
    }
}

fn hosts_of(upstream: &config::Upstream) -> Vec<Endpoint> {
    match &upstream.moving {
        None => vec![endpoint_of(&upstream.host, upstream.port)],
        Some(moving) => moving.hosts.iter().map(endpoint).collect(),
    }
}

fn endpoint(address: &Address) -> Endpoint {
    endpoint_of(&address.host, address.port)
}

fn endpoint_of(host: &Host, port: u16) -> Endpoint {
    match host {
        Host::Name(host) => Endpoint::Tcp { host: host.clone(), port },
        Host::Unix(directory) => Endpoint::Unix { directory: directory.clone(), port },
    }
}
