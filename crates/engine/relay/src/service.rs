//! The relay as a whole: what its tasks share, how it starts, changes and stops.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use config::{Filter, Listen};
use pgnet::{Conn, DialError, Endpoint, Listener, Local};
use tasks::{CancellationToken, Group};
use tokio::sync::{mpsc, oneshot};
use tracing::info;

use crate::clients::{Clients, HISTORY_STEP};
use crate::counters::Counters;
use crate::ledger::{self, Ledger, LedgerError};
use crate::listen;
use crate::names::{NAMES_CHANGED_MAX, NamesChanged, follow_names};
use crate::reload::{self, Opened, Reload, ReloadError, Reloaded, Sockets};
use crate::room::Rooms;
use crate::stream::{Course, lock};
use crate::upstream::{Place, Upstream, UpstreamError, UpstreamStatus};
use crate::verifiers::Secret;

/// How long sessions may take to end once the relay stops.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a session waits for those that still stream under the filter that there was.
const LEDGER_TIMEOUT: Duration = Duration::from_secs(15);
/// Between two looks.
const LEDGER_INTERVAL: Duration = Duration::from_millis(20);

/// The checked settings.
pub type Options = config::Relay;

/// Why a relay cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An address cannot be listened on.
    #[error("cannot listen on {local}: {source}")]
    Listen {
        /// The address.
        local: Local,
        /// What the system said.
        source: io::Error,
    },
    /// The folder for state cannot be used.
    #[error(transparent)]
    State(#[from] LedgerError),
    /// A task failed.
    #[error("{0:#}")]
    Task(anyhow::Error),
}

/// What sessions share that came in under one configuration.
pub(crate) struct Context {
    pub(crate) config: Options,
    pub(crate) counters: Arc<Counters>,
    pub(crate) clients: Arc<Clients>,
    pub(crate) upstream: Arc<Upstream>,
    /// For users who do not exist, where verifiers are asked for.
    pub(crate) secret: Option<Secret>,
    /// Room for streams that are behind.
    pub(crate) rooms: Rooms,
    /// The ledgers of configurations that have clients now.
    ledgers: Arc<Ledgers>,
    names_changed: mpsc::Sender<NamesChanged>,
}

type Ledgers = Mutex<HashMap<String, Weak<Mutex<Ledger>>>>;

/// The configuration that holds for whoever comes next.
pub(crate) struct Current(RwLock<Arc<Context>>);

impl Current {
    pub(crate) fn context(&self) -> Arc<Context> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn replace(&self, context: Context) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(context);
    }
}

/// A relay that listens already and does not serve yet.
pub struct Service {
    current: Arc<Current>,
    listeners: Vec<(Listen, Listener)>,
    names_changed: mpsc::Receiver<NamesChanged>,
    reloads: mpsc::Receiver<Reload>,
}

/// The last answer to whether the upstream can be reached, and when it came.
pub(crate) type Probe = tokio::sync::Mutex<Option<(Instant, Result<(), String>)>>;

/// What can be asked of a relay that runs.
#[derive(Clone)]
pub struct Handle {
    pub(crate) current: Arc<Current>,
    pub(crate) started: Instant,
    locals: Vec<Local>,
    reloads: mpsc::Sender<Reload>,
    pub(crate) probe: Arc<Probe>,
}

impl Handle {
    /// What the relay has done.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.current.context().counters)
    }

    /// Where the WAL comes from now.
    #[must_use]
    pub fn upstream(&self) -> UpstreamStatus {
        self.current.context().upstream.status()
    }

    /// Where it listened when it started.
    #[must_use]
    pub fn locals(&self) -> &[Local] {
        &self.locals
    }

    /// The settings that hold now.
    #[must_use]
    pub fn options(&self) -> Options {
        self.current.context().config.clone()
    }

    /// Takes over other settings. Streams that they do not touch go on without a pause.
    ///
    /// # Errors
    ///
    /// [`ReloadError`]: nothing has changed then.
    pub async fn reload(&self, options: Options) -> Result<Reloaded, ReloadError> {
        let (answer, reloaded) = oneshot::channel();
        let reload = Reload { options, answer };
        self.reloads.send(reload).await.map_err(|_gone| ReloadError::Stopping)?;
        reloaded.await.map_err(|_gone| ReloadError::Stopping)?
    }
}

impl Service {
    /// Listens on every address of `options`.
    ///
    /// # Errors
    ///
    /// [`Error::State`] when there is a filter, or an upstream that moves, and no place for
    /// what has to be kept,
    /// [`Error::Listen`] for the first address that cannot be had.
    pub async fn bind(options: Options) -> Result<(Self, Handle), Error> {
        check_state(&options)?;
        let mut listeners = Vec::new();
        for listen in &options.listen {
            listeners.push((listen.clone(), bind(listen).await?));
        }
        let upstream = Arc::new(Upstream::open(&options)?);
        let (sender, names_changed) = mpsc::channel(NAMES_CHANGED_MAX);
        let (reloads_in, reloads) = mpsc::channel(1);
        let context = Context {
            counters: Arc::new(Counters::default()),
            clients: Arc::new(Clients::default()),
            upstream,
            secret: Secret::of(&options)?,
            rooms: Rooms::default(),
            ledgers: Arc::default(),
            names_changed: sender,
            config: options,
        };
        let current = Arc::new(Current(RwLock::new(Arc::new(context))));
        let handle = Handle {
            current: Arc::clone(&current),
            started: Instant::now(),
            locals: listeners.iter().map(|(_, it)| it.local().clone()).collect(),
            reloads: reloads_in,
            probe: Arc::default(),
        };
        Ok((Self { current, listeners, names_changed, reloads }, handle))
    }

    /// Serves until `stop` is cancelled, then ends the sessions with a word to each client.
    ///
    /// # Errors
    ///
    /// [`Error::Task`] when a listener broke.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        let Self { current, listeners, names_changed, mut reloads } = self;
        let mut group = Group::new(stop.clone());
        let mut sockets = Sockets::default();
        for (listen, listener) in listeners {
            open_socket(&mut group, &mut sockets, &current, listen, listener);
        }
        group.spawn("names", |stop| follow_names(names_changed, stop));
        let clients = Arc::clone(&current.context().clients);
        group.spawn("history", |stop| note_history(clients, stop));
        let mut watched = watch(&mut group, &current.context().upstream);
        let mut outcome = Ok(());
        while outcome.is_ok() {
            tokio::select! {
                ended = group.joined() => outcome = ended,
                Some(Reload { options, answer }) = reloads.recv() => {
                    let applied = reload::apply(options, &current, &mut sockets).await;
                    let answered = match applied {
                        Ok(Opened { reloaded, listeners, upstream, leaving }) => {
                            for (listen, listener) in listeners {
                                open_socket(&mut group, &mut sockets, &current, listen, listener);
                            }
                            if let Some(upstream) = upstream {
                                watched.cancel();
                                watched = watch(&mut group, &upstream);
                            }
                            reload::left(&current.context().clients, &leaving, &stop).await;
                            Ok(reloaded)
                        }
                        Err(error) => Err(error),
                    };
                    // Whoever asked may be gone.
                    answer.send(answered).ok();
                }
                () = stop.cancelled() => break,
            }
        }
        stop.cancel();
        let finished = group.finish(DRAIN_TIMEOUT + Duration::from_secs(1)).await;
        tell_sums(&current.context().counters);
        outcome.and(finished).map_err(Error::Task)
    }
}

/// Looks after an upstream until the token that this gives is cancelled.
fn watch(group: &mut Group, upstream: &Arc<Upstream>) -> CancellationToken {
    let replaced = CancellationToken::new();
    let (upstream, until) = (Arc::clone(upstream), replaced.clone());
    group.spawn("upstream", |stop| async move {
        tokio::select! {
            ended = upstream.watch(stop) => ended,
            () = until.cancelled() => Ok(()),
        }
    });
    replaced
}

fn tell_sums(counters: &Counters) {
    info!(
        connections = counters.connections.value(),
        refusals = counters.refusals().map(|(_, count)| count).sum::<u64>(),
        sent_bytes = counters.sum(|it| &it.sent_bytes),
        records_passed = counters.sum(|it| &it.records_passed),
        records_replaced = counters.sum(|it| &it.records_replaced),
        alarms = counters.alarms.value(),
        "stopped",
    );
}

fn open_socket(
    group: &mut Group,
    sockets: &mut Sockets,
    current: &Arc<Current>,
    listen: Listen,
    listener: Listener,
) {
    info!(address = %listener.local(), upstream = %current.context().upstream, "listening");
    let removed = sockets.open(listen, listener.local().clone());
    let current = Arc::clone(current);
    group.spawn("listener", |stop| listen::serve(listener, current, removed, stop));
}

/// Makes sure that decisions can be kept, where there are some to keep.
pub(crate) fn check_state(options: &Options) -> Result<(), LedgerError> {
    let filters = options.configurations.iter().flatten().any(|it| it.filter.is_some());
    if filters || options.upstream.moving.is_some() {
        ledger::check_folder(&options.state_dir)?;
    }
    Ok(())
}

/// Listens on one address.
pub(crate) async fn bind(listen: &Listen) -> Result<Listener, Error> {
    let local = match listen {
        Listen::Tcp(address) => Local::Tcp(*address),
        Listen::Unix { dir, port } => Local::Unix { directory: dir.clone(), port: *port },
    };
    Listener::bind(&local).await.map_err(|source| Error::Listen { local, source })
}

/// Keeps what the lag of each client was, for those who look at it later.
async fn note_history(clients: Arc<Clients>, stop: CancellationToken) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(HISTORY_STEP);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = tick.tick() => clients.note_history(),
            () = stop.cancelled() => return Ok(()),
        }
    }
}

impl Context {
    /// The same relay under another configuration.
    pub(crate) fn under(
        &self,
        config: Options,
        upstream: Arc<Upstream>,
        secret: Option<Secret>,
    ) -> Self {
        Self {
            counters: Arc::clone(&self.counters),
            clients: Arc::clone(&self.clients),
            upstream,
            secret,
            rooms: self.rooms.clone(),
            ledgers: Arc::clone(&self.ledgers),
            names_changed: self.names_changed.clone(),
            config,
        }
    }

    /// Connects to the upstream for a client of this user.
    pub(crate) async fn connect(&self, user: &str) -> Result<(Conn, Place), UpstreamError> {
        let (conn, place) = self.upstream.connect(user).await?;
        self.tuned(conn, &place.endpoint).map(|conn| (conn, place)).map_err(UpstreamError::from)
    }

    /// Connects again after the server refused the login, when `sslmode` leaves another way.
    pub(crate) async fn dial_again(
        &self,
        place: &Place,
        was_tls: bool,
    ) -> Result<Option<Conn>, DialError> {
        let conn = self.upstream.dial_again(place, was_tls).await?;
        conn.map(|conn| self.tuned(conn, &place.endpoint)).transpose()
    }

    /// Connects to where the upstream is now, without waiting for one.
    pub(crate) async fn dial(&self) -> Result<Conn, DialError> {
        let (conn, endpoint) = self.upstream.dial().await?;
        self.tuned(conn, &endpoint)
    }

    fn tuned(&self, conn: Conn, endpoint: &Endpoint) -> Result<Conn, DialError> {
        let tuned = conn.tune(self.config.limits.peer_timeout.unwrap_or_default());
        let endpoint = endpoint.clone();
        tuned.map_err(|source| DialError::Refused { endpoint, source })?;
        Ok(conn)
    }

    /// The ledger of a configuration, shared by its clients and closed with the last one.
    ///
    /// After a change of the filter it waits until the last client under the old one is gone.
    pub(crate) async fn ledger(
        &self,
        name: &str,
        filter: &Filter,
        system_identifier: &str,
    ) -> Result<Arc<Mutex<Ledger>>, LedgerError> {
        let started = Instant::now();
        while self.open_ledger(name).is_some_and(|open| !lock(&open).judges_by(filter))
            && started.elapsed() < LEDGER_TIMEOUT
        {
            tokio::time::sleep(LEDGER_INTERVAL).await;
        }
        self.ledger_now(name, filter, system_identifier)
    }

    /// The ledger of a configuration, if it has clients now.
    pub(crate) fn open_ledger(&self, name: &str) -> Option<Arc<Mutex<Ledger>>> {
        let ledgers = self.ledgers.lock().unwrap_or_else(PoisonError::into_inner);
        ledgers.get(name).and_then(Weak::upgrade)
    }

    fn ledger_now(
        &self,
        name: &str,
        filter: &Filter,
        system_identifier: &str,
    ) -> Result<Arc<Mutex<Ledger>>, LedgerError> {
        let mut ledgers = self.ledgers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = ledgers.get(name).and_then(Weak::upgrade) {
            let checked = lock(&open);
            checked.check_cluster(system_identifier)?;
            if !checked.judges_by(filter) {
                return Err(LedgerError::OldFilter { name: name.to_owned() });
            }
            drop(checked);
            return Ok(open);
        }
        let counters = Arc::clone(&self.counters);
        let state_dir = &self.config.state_dir;
        let ledger = Ledger::open(state_dir, name, filter, system_identifier, counters)?;
        let ledger = Arc::new(Mutex::new(ledger));
        ledgers.insert(name.to_owned(), Arc::downgrade(&ledger));
        Ok(ledger)
    }

    /// Has the names read again, soon.
    pub(crate) fn names_changed(&self, course: &Course) {
        let change = NamesChanged {
            configuration: course.configuration.clone(),
            ledger: Arc::clone(&course.ledger),
            catalog: course.catalog.clone(),
            history: course.history.clone(),
            segment_bytes: course.segment_bytes,
        };
        // When the line is full, those in it will see this change as well.
        self.names_changed.try_send(change).ok();
    }
}
