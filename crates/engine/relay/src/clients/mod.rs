//! Who is connected, how far each one is, and how it is told to leave.
//!
//! A connection has its entry from the moment it is let in to its end. Streams write into it once
//! for each piece that they pass on, behind a lock that nobody else holds for long.

mod lag;

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use config::{Configuration, Selection};
use pgproto::copy::{StandbyMessage, StandbyStatus};
use pgtypes::Lsn;
use tasks::CancellationToken;

use crate::counters::Tally;
use crate::service::Options;

pub(crate) use lag::Lag;
use lag::Samples;

/// Between two points of the history of a client's lag.
pub(crate) const HISTORY_STEP: Duration = Duration::from_secs(2);
/// Points that are kept: five minutes.
const HISTORY_POINTS_MAX: usize = 150;

/// Everybody who is connected.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    next: AtomicU64,
    open: Mutex<BTreeMap<u64, Arc<Client>>>,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) id: u64,
    /// `192.0.2.7:51712`, or `local`.
    pub(crate) address: String,
    pub(crate) since: Instant,
    pub(crate) tally: Tally,
    /// Ends the session.
    pub(crate) stop: CancellationToken,
    /// It has to leave because the configuration changed.
    reconfigured: AtomicBool,
    who: Mutex<Option<Arc<Who>>>,
    /// The sums of its configuration, once it has one.
    shared_tally: OnceLock<Arc<Tally>>,
    progress: Mutex<Progress>,
}

/// What a client said of itself, and what it gets for that.
#[derive(Debug)]
pub(crate) struct Who {
    pub(crate) application_name: Vec<u8>,
    pub(crate) user: Vec<u8>,
    pub(crate) source: Option<IpAddr>,
    pub(crate) tls: bool,
    /// Whom its certificate names.
    pub(crate) certificate: Option<String>,
    pub(crate) configuration: Option<Configuration>,
    /// The upstream that it was led to, as the configuration had it.
    pub(crate) upstream: config::Upstream,
}

/// What a client is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Activity {
    /// It has not logged in yet.
    #[default]
    Starting,
    /// It sends no command.
    Idle,
    /// A short command.
    Command,
    /// WAL.
    Streaming,
    /// A base backup.
    Backup,
}

impl Activity {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Idle => "idle",
            Self::Command => "command",
            Self::Streaming => "streaming",
            Self::Backup => "backup",
        }
    }
}

/// How far a client is.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) activity: Activity,
    /// Behind the last byte that was sent to it.
    pub(crate) sent: Lsn,
    /// What it said last.
    pub(crate) status: Option<StandbyStatus>,
    samples: Samples,
    history: VecDeque<Option<u64>>,
}

/// The place of a connection; the entry goes with it.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) client: Arc<Client>,
    clients: Arc<Clients>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.clients.locked().remove(&self.client.id);
    }
}

impl Clients {
    /// A place for one more, if there is one below `limit`.
    pub(crate) fn admit(
        self: &Arc<Self>,
        address: &str,
        limit: u32,
        stop: CancellationToken,
    ) -> Option<Ticket> {
        let mut open = self.locked();
        if open.len() >= usize::try_from(limit).unwrap_or(usize::MAX) {
            return None;
        }
        let client = Arc::new(Client {
            id: self.next.fetch_add(1, Ordering::Relaxed) + 1,
            address: address.to_owned(),
            since: Instant::now(),
            tally: Tally::default(),
            stop,
            reconfigured: AtomicBool::new(false),
            who: Mutex::new(None),
            shared_tally: OnceLock::new(),
            progress: Mutex::new(Progress {
                activity: Activity::Starting,
                sent: Lsn::INVALID,
                status: None,
                samples: Samples::new(),
                history: VecDeque::new(),
            }),
        });
        open.insert(client.id, Arc::clone(&client));
        Some(Ticket { client, clients: Arc::clone(self) })
    }

    /// All of them, in the order in which they came.
    pub(crate) fn all(&self) -> Vec<Arc<Client>> {
        self.locked().values().cloned().collect()
    }

    /// Tells those to leave for whom `config` means something else; gives their numbers.
    pub(crate) fn leave_for(&self, config: &Options) -> Vec<u64> {
        let mut left = Vec::new();
        for client in self.locked().values() {
            if client.who().is_some_and(|who| who.is_touched_by(config)) {
                client.reconfigured.store(true, Ordering::Relaxed);
                client.stop.cancel();
                left.push(client.id);
            }
        }
        left
    }

    /// How many of these are still there.
    pub(crate) fn remaining(&self, ids: &[u64]) -> usize {
        let open = self.locked();
        ids.iter().filter(|id| open.contains_key(id)).count()
    }

    /// Adds a point to the history of each.
    pub(crate) fn note_history(&self) {
        for client in self.all() {
            client.progress().note_history();
        }
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Client>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Who {
    /// Whether this client would get something else under `config`.
    fn is_touched_by(&self, config: &Options) -> bool {
        let client = config::Client {
            application_name: &self.application_name,
            source: self.source,
            user: &self.user,
            tls: self.tls,
            certificate: self.certificate.as_deref(),
        };
        let same = match config.configuration_for(&client) {
            Selection::Unfiltered => self.configuration.is_none(),
            Selection::Configuration(now) => self.configuration.as_ref() == Some(now),
            Selection::Refused => false,
        };
        !same || config.upstream != self.upstream
    }
}

impl Client {
    /// Who it is, once it has said so.
    pub(crate) fn who(&self) -> Option<Arc<Who>> {
        self.who.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes who it is. Again when the configuration changed in between.
    pub(crate) fn is(&self, who: Who) {
        *self.who.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(who));
    }

    /// It has logged in: what it gets counts for its configuration from now on.
    pub(crate) fn count_for(&self, tally: Arc<Tally>) {
        tally.sessions.add(1);
        self.shared_tally.set(tally).ok();
        self.does(Activity::Idle);
    }

    /// What it does now.
    pub(crate) fn does(&self, activity: Activity) {
        self.progress().activity = activity;
    }

    /// Whether it was told to leave because the configuration changed.
    pub(crate) fn is_reconfigured(&self) -> bool {
        self.reconfigured.load(Ordering::Relaxed)
    }

    /// Adds to its own sums and to those of its configuration.
    pub(crate) fn count(&self, add: impl Fn(&Tally)) {
        add(&self.tally);
        if let Some(tally) = self.shared_tally.get() {
            add(tally);
        }
    }

    /// Adds to the sums of its configuration only.
    pub(crate) fn count_for_all(&self, add: impl FnOnce(&Tally)) {
        if let Some(tally) = self.shared_tally.get() {
            add(tally);
        }
    }

    /// WAL up to `sent` has gone out, of what the upstream has up to `end`.
    pub(crate) fn sent(&self, sent: Lsn, end: Lsn) {
        let mut progress = self.progress();
        progress.sent = progress.sent.max(sent);
        progress.samples.reach(end.max(sent), Instant::now());
    }

    /// The upstream has WAL up to `end`.
    pub(crate) fn told(&self, end: Lsn) {
        self.progress().samples.reach(end, Instant::now());
    }

    /// What came from the client in a stream; anything but a status is of no interest.
    pub(crate) fn heard(&self, payload: &[u8]) {
        if let Ok(StandbyMessage::Status(status)) = StandbyMessage::parse(payload) {
            let mut progress = self.progress();
            progress.status = Some(status);
            let positions = [status.write, status.flush, status.apply, progress.sent];
            let least = positions.into_iter().filter(|it| *it != Lsn::INVALID).min();
            progress.samples.pass(least.unwrap_or(Lsn::INVALID));
        }
    }

    /// How far it is.
    pub(crate) fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress {
    /// A stream begins: what an earlier one left is of no interest.
    pub(crate) fn begin_stream(&mut self, at: Lsn) {
        self.activity = Activity::Streaming;
        self.sent = at;
        self.status = None;
        self.samples = Samples::new();
    }

    /// The end of WAL that the upstream told of.
    pub(crate) const fn upstream_end(&self) -> Lsn {
        self.samples.end()
    }

    /// How far a position is behind; nothing when it is not known.
    pub(crate) fn lag(&self, position: Lsn) -> Option<Lag> {
        let known = position != Lsn::INVALID && self.samples.end() != Lsn::INVALID;
        known.then(|| self.samples.lag(position, Instant::now()))
    }

    /// The lag that matters: at replay, or at what the client does last.
    pub(crate) fn last_lag(&self) -> Option<Lag> {
        let status = self.status?;
        let last = [status.apply, status.flush, status.write];
        self.lag(last.into_iter().find(|it| *it != Lsn::INVALID)?)
    }

    fn note_history(&mut self) {
        if self.history.len() == HISTORY_POINTS_MAX {
            self.history.pop_front();
        }
        let lag = if self.activity == Activity::Streaming { self.last_lag() } else { None };
        self.history.push_back(lag.map(|lag| lag.bytes));
    }

    /// Lag in bytes, oldest first; nothing where it was not known.
    pub(crate) fn history(&self) -> Vec<Option<u64>> {
        self.history.iter().copied().collect()
    }
}
