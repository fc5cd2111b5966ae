//! Listens, and gives each client a task.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use alarm::Code;
use config::{Filter, Listen};
use pgnet::{Conn, DialError, Endpoint, Listener, Local};
use tasks::{CancellationToken, Group};
use tokio::sync::{Semaphore, mpsc};
use tracing::{error, info, warn};

use crate::counters::Counters;
use crate::ledger::{self, Ledger, LedgerError};
use crate::names::Catalog;
use crate::session;
use crate::stream::Course;
use crate::upstream::{Place, Upstream, UpstreamError, UpstreamStatus};

/// How long sessions may take to end once the relay stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after the system could not accept a connection (out of files, as a rule).
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// A transaction that changed names is given this long to commit before they are read.
const NAMES_SETTLE: Duration = Duration::from_secs(1);
/// Changes of names in line to be read; more at once are read together.
const NAMES_CHANGED_MAX: usize = 64;
/// Clients over the limit that are told so at the same time; more are cut off.
const TURNED_AWAY_MAX: usize = 64;

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

/// What all sessions share.
pub(crate) struct Context {
    pub(crate) config: Options,
    pub(crate) counters: Arc<Counters>,
    pub(crate) upstream: Arc<Upstream>,
    /// The ledgers of configurations that have clients now.
    ledgers: Mutex<HashMap<String, Weak<Mutex<Ledger>>>>,
    names_changed: mpsc::Sender<NamesChanged>,
    /// One for each connection that may come in.
    places: Arc<Semaphore>,
}

/// A stream saw that names changed.
struct NamesChanged {
    configuration: String,
    ledger: Arc<Mutex<Ledger>>,
    catalog: Catalog,
    history: pgproto::history::History,
    segment_bytes: pgtypes::SegmentBytes,
}

/// A relay that listens already and does not serve yet.
pub struct Service {
    context: Arc<Context>,
    listeners: Vec<Listener>,
    names_changed: mpsc::Receiver<NamesChanged>,
}

/// What can be asked of a relay that runs.
#[derive(Clone)]
pub struct Handle {
    context: Arc<Context>,
    locals: Vec<Local>,
}

impl Handle {
    /// What the relay has done.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.context.counters
    }

    /// Where the WAL comes from now.
    #[must_use]
    pub fn upstream(&self) -> UpstreamStatus {
        self.context.upstream.status()
    }

    /// Where it listens.
    #[must_use]
    pub fn locals(&self) -> &[Local] {
        &self.locals
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
        let filters = options.configurations.iter().flatten().any(|it| it.filter.is_some());
        if filters || options.upstream.moving.is_some() {
            ledger::check_folder(&options.state_dir)?;
        }
        let mut listeners = Vec::new();
        for listen in &options.listen {
            let local = match listen {
                Listen::Tcp(address) => Local::Tcp(*address),
                Listen::Unix { dir, port } => Local::Unix { directory: dir.clone(), port: *port },
            };
            let listener = Listener::bind(&local).await;
            listeners.push(listener.map_err(|source| Error::Listen { local, source })?);
        }
        let upstream = Arc::new(Upstream::open(&options)?);
        let (sender, names_changed) = mpsc::channel(NAMES_CHANGED_MAX);
        let places = usize::try_from(options.limits.max_connections).unwrap_or(usize::MAX);
        let context = Arc::new(Context {
            config: options,
            counters: Arc::new(Counters::default()),
            upstream,
            ledgers: Mutex::new(HashMap::new()),
            names_changed: sender,
            places: Arc::new(Semaphore::new(places)),
        });
        let locals: Vec<_> = listeners.iter().map(|it| it.local().clone()).collect();
        let handle = Handle { context: Arc::clone(&context), locals };
        Ok((Self { context, listeners, names_changed }, handle))
    }

    /// Serves until `stop` is cancelled, then ends the sessions with a word to each client.
    ///
    /// # Errors
    ///
    /// [`Error::Task`] when a listener broke.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        let mut group = Group::new(stop);
        for listener in self.listeners {
            let context = Arc::clone(&self.context);
            info!(address = %listener.local(), upstream = %context.upstream, "listening");
            group.spawn("listener", |stop| listen(listener, context, stop));
        }
        let names_changed = self.names_changed;
        group.spawn("names", |stop| follow_names(names_changed, stop));
        let upstream = Arc::clone(&self.context.upstream);
        group.spawn("upstream", |stop| upstream.watch(stop));
        let outcome = group.finish(DRAIN_TIMEOUT + Duration::from_secs(1)).await;
        let counters = &self.context.counters;
        info!(
            connections = counters.connections.value(),
            refusals = counters.refusals.value(),
            sent_bytes = counters.sent_bytes.value(),
            records_passed = counters.records_passed.value(),
            records_replaced = counters.records_replaced.value(),
            alarms = counters.alarms.value(),
            "stopped",
        );
        outcome.map_err(Error::Task)
    }
}

/// Accepts clients; each gets a task, up to the limit.
async fn listen(
    listener: Listener,
    context: Arc<Context>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut clients = Group::new(stop.clone());
    let mut turned_away = Group::new(stop.clone());
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => {
                    context.counters.connections.add(1);
                    let context = Arc::clone(&context);
                    let Ok(place) = Arc::clone(&context.places).try_acquire_owned() else {
                        context.counters.refusals.add(1);
                        if turned_away.len() < TURNED_AWAY_MAX {
                            turned_away.spawn("turn away", |_stop| async move {
                                session::turn_away(accepted, context).await;
                                Ok(())
                            });
                        }
                        continue;
                    };
                    clients.spawn("client", |stop| async move {
                        session::serve(accepted, context, stop).await;
                        drop(place);
                        Ok(())
                    });
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            ended = clients.joined() => report(ended),
            ended = turned_away.joined() => report(ended),
            () = stop.cancelled() => break,
        }
    }
    drop(listener);
    clients.finish(DRAIN_TIMEOUT).await
}

fn report(ended: anyhow::Result<()>) {
    if let Err(error) = ended {
        // Sessions log their own errors: this is a panic, and a defect of ours.
        error!(code = %Code::Defect, error = format!("{error:#}"), "a session broke off; please report this");
    }
}

/// Reads names anew when a stream saw that they changed, to tell what becomes of them.
async fn follow_names(
    mut changes: mpsc::Receiver<NamesChanged>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let change = tokio::select! {
            Some(change) = changes.recv() => change,
            () = stop.cancelled() => return Ok(()),
        };
        tokio::select! {
            () = tokio::time::sleep(NAMES_SETTLE) => {}
            () = stop.cancelled() => return Ok(()),
        }
        // One reading serves all that has come for a configuration by now.
        let mut waiting = HashMap::from([(change.configuration.clone(), change)]);
        while let Ok(change) = changes.try_recv() {
            waiting.insert(change.configuration.clone(), change);
        }
        for change in waiting.values() {
            change.read().await;
        }
    }
}

impl NamesChanged {
    async fn read(&self) {
        let configuration = self.configuration.as_str();
        let names = match self.catalog.read().await {
            Ok(names) => names,
            Err(error) => {
                warn!(configuration, %error, "names changed, and cannot be read now");
                return;
            }
        };
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = ledger.adopt(&names, &self.history, self.segment_bytes) {
            error!(code = %Code::NamesNotKept, configuration, %error, "names changed, and cannot be kept");
        }
    }
}

impl Context {
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
    pub(crate) fn ledger(
        &self,
        name: &str,
        filter: &Filter,
        system_identifier: &str,
    ) -> Result<Arc<Mutex<Ledger>>, LedgerError> {
        let mut ledgers = self.ledgers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = ledgers.get(name).and_then(Weak::upgrade) {
            let checked = open.lock().unwrap_or_else(PoisonError::into_inner);
            checked.check_cluster(system_identifier)?;
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
