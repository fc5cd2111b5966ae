//! What can be told of a running relay: plain values, ready to be shown or sent.
//!
//! Each is a snapshot. LSNs are texts, as PostgreSQL shows them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pgtypes::Lsn;
use serde::{Deserialize, Serialize};

use crate::clients::{Client, HISTORY_STEP, Lag};
use crate::counters::{Records, Tally};
use crate::ledger::fates::{Epoch, Fate, Kind, Reason};
use crate::ledger::{Ledger, LedgerError};
use crate::service::{Context, Handle};
use crate::session::shown;
use crate::stream::lock;

/// An answer about the upstream is good for so long: health checks must not become load there.
const PROBE_KEPT: Duration = Duration::from_secs(2);

/// The relay and its upstream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RelayStatus {
    /// Version of the program.
    pub version: String,
    /// How long it has been running.
    pub uptime_secs: u64,
    /// Where standbys connect.
    pub listen: Vec<String>,
    /// The server that the WAL comes from.
    pub upstream: UpstreamState,
    /// By configuration, in the order of the file; clients without one come last.
    pub configurations: Vec<ConfigurationStatus>,
    /// Connections since the start.
    pub connections: u64,
    /// Logins that failed since the start: by the relay's judgement or the server's.
    pub failed_logins: u64,
    /// Alarms since the start.
    pub alarms: u64,
    /// Refusals since the start, by reason.
    pub refusals: BTreeMap<String, u64>,
    /// Changes of the configuration since the start.
    pub reloads: Reloads,
}

/// Changes of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloads {
    /// Taken over.
    pub done: u64,
    /// Refused: the old one stayed.
    pub refused: u64,
}

/// The server that the WAL comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamState {
    /// Where it is; nothing while none of its hosts fits.
    pub address: Option<String>,
    /// Whether a connection could be made just now.
    pub reachable: bool,
    /// Why not.
    pub problem: Option<String>,
    /// How often it moved since the start.
    pub switches: u64,
    /// The hosts that it may be.
    pub hosts: Vec<UpstreamHost>,
}

/// A host of the upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamHost {
    /// Host and port.
    pub host: String,
    /// `primary` or `standby`, where it is watched and was heard of.
    pub role: Option<String>,
    /// Its timeline then.
    pub timeline: Option<u32>,
    /// Why it is not followed.
    pub unfit: Option<String>,
}

/// Sums of a configuration since the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigurationStatus {
    /// Its name; nothing for clients without one.
    pub name: Option<String>,
    /// Whether it has a filter.
    pub filtered: bool,
    /// Clients that are connected.
    pub clients: usize,
    /// What went through.
    #[serde(flatten)]
    pub sums: Sums,
}

/// What went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sums {
    /// Bytes from the upstream.
    pub received_bytes: u64,
    /// Bytes to clients.
    pub sent_bytes: u64,
    /// Records that passed a filter.
    pub records_passed: u64,
    /// Records that were replaced.
    pub records_replaced: u64,
    /// Bytes of those.
    pub replaced_bytes: u64,
}

/// A client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClientStatus {
    /// Its number since the start of the relay.
    pub id: u64,
    /// Its `application_name`.
    pub name: String,
    /// Who logged in.
    pub user: String,
    /// Where it comes from.
    pub address: String,
    /// Its configuration, if it has one.
    pub configuration: Option<String>,
    /// Whether that has a filter.
    pub filtered: bool,
    /// `starting`, `idle`, `command`, `streaming` or `backup`.
    pub activity: String,
    /// How long it has been connected.
    pub connected_secs: u64,
    /// The end of WAL that the upstream told of.
    pub upstream_lsn: Option<String>,
    /// How far it is, at each stage.
    pub sent: Stage,
    /// On the standby, not synced.
    pub write: Stage,
    /// On the standby's disk.
    pub flush: Stage,
    /// Replayed.
    pub replay: Stage,
    /// What went through.
    #[serde(flatten)]
    pub sums: Sums,
}

/// How far a client is at one stage; nothing where it has not said.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Up to here.
    pub lsn: Option<String>,
    /// Behind the upstream, in bytes.
    pub lag_bytes: Option<u64>,
    /// How long there has been WAL that it has not got to.
    pub lag_secs: Option<f64>,
}

/// Lags of the last minutes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Between two points.
    pub step_secs: u64,
    /// Each client that is connected.
    pub clients: Vec<ClientHistory>,
}

/// Lags of one client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientHistory {
    /// Its number.
    pub id: u64,
    /// Behind the upstream at replay, in bytes, oldest first; nothing where it was not known.
    pub lag_bytes: Vec<Option<u64>>,
}

/// A database or tablespace, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thing {
    /// `database` or `tablespace`.
    pub kind: String,
    /// Its OID.
    pub oid: u32,
    /// Its name, as far as it is known.
    pub name: String,
    /// What each configuration with a filter decided.
    pub decisions: Vec<Decision>,
}

/// What one configuration decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Which one.
    pub configuration: String,
    /// `included` or `excluded`.
    pub decision: String,
    /// Why, as a word.
    pub reason: String,
    /// Why, as a sentence.
    pub why: String,
    /// From which point of the WAL on; nothing when it was always so.
    pub since: Option<Since>,
    /// Of a database: records that were sent to clients since the start of the relay.
    pub records_passed: Option<u64>,
    /// Of a database: records that were replaced.
    pub records_replaced: Option<u64>,
}

/// A point of the WAL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Since {
    /// Position.
    pub lsn: String,
    /// Timeline.
    pub timeline: u32,
}

impl Handle {
    /// The relay and its upstream, which is tried.
    pub async fn status(&self) -> RelayStatus {
        let reached = self.upstream_reachable().await;
        let context = self.current.context();
        let clients = context.clients.all();
        let tallies = context.counters.tallies();
        let of = |name: Option<&str>, filtered| {
            let is_of = |client: &&std::sync::Arc<Client>| {
                let who = client.who();
                let own = who.as_ref().map(|it| it.configuration.as_ref());
                own.is_some_and(|own| own.map(|it| it.name.as_str()) == name)
            };
            ConfigurationStatus {
                name: name.map(ToOwned::to_owned),
                filtered,
                clients: clients.iter().filter(is_of).count(),
                sums: tallies.get(name.unwrap_or("")).map(|it| sums(it)).unwrap_or_default(),
            }
        };
        let listed = context.config.configurations.iter().flatten();
        let mut configurations: Vec<_> =
            listed.map(|it| of(Some(&it.name), it.filter.is_some())).collect();
        if context.config.configurations.is_none() || tallies.contains_key("") {
            configurations.push(of(None, false));
        }
        let counters = &context.counters;
        RelayStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_secs: self.started.elapsed().as_secs(),
            listen: context.config.listen.iter().map(ToString::to_string).collect(),
            upstream: upstream_state(&context, reached),
            configurations,
            connections: counters.connections.value(),
            failed_logins: counters.failed_logins.count.value(),
            alarms: counters.alarms.value(),
            refusals: counters.refusals().map(|(it, n)| (it.word().to_owned(), n)).collect(),
            reloads: Reloads {
                done: counters.reloads_done.value(),
                refused: counters.reloads_refused.value(),
            },
        }
    }

    /// Who is connected.
    #[must_use]
    pub fn clients(&self) -> Vec<ClientStatus> {
        self.current.context().clients.all().iter().map(|client| client_status(client)).collect()
    }

    /// Lags of the last minutes.
    #[must_use]
    pub fn history(&self) -> History {
        let clients = self.current.context().clients.all();
        let clients = clients
            .iter()
            .map(|client| ClientHistory { id: client.id, lag_bytes: client.progress().history() });
        History { step_secs: HISTORY_STEP.as_secs(), clients: clients.collect() }
    }

    /// What was decided, by OID, for every configuration with a filter. Reads files.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] when the state of a configuration cannot be read.
    pub fn decisions(&self) -> Result<Vec<Thing>, LedgerError> {
        let context = self.current.context();
        let mut things = BTreeMap::new();
        let tallies = context.counters.tallies();
        let filtered = context.config.configurations.iter().flatten();
        for configuration in filtered.filter(|it| it.filter.is_some()) {
            let name = configuration.name.as_str();
            let tally = tallies.get(name);
            let decided = match context.open_ledger(name) {
                Some(open) => lock(&open).decisions(),
                None => Ledger::kept_decisions(&context.config.state_dir, name)?,
            };
            for (kind, oid, epoch) in decided {
                let thing = things.entry((kind.word(), oid)).or_insert_with(|| Thing {
                    kind: kind.word().to_owned(),
                    oid: oid.0,
                    name: epoch.name.clone(),
                    decisions: Vec::new(),
                });
                let records = || tally.as_ref().map(|it| it.databases.records(oid));
                let records = if kind == Kind::Database { records() } else { None };
                thing.decisions.push(decision(name, &epoch, records));
            }
        }
        Ok(things.into_values().collect())
    }

    /// Whether a connection to the upstream can be made; the answer may be two seconds old.
    ///
    /// # Errors
    ///
    /// Why not.
    pub async fn upstream_reachable(&self) -> Result<(), String> {
        // One asks, the others wait for its answer.
        let mut kept = self.probe.lock().await;
        if let Some((_, answer)) = kept.as_ref().filter(|(at, _)| at.elapsed() < PROBE_KEPT) {
            return answer.clone();
        }
        let dialed = self.current.context().dial().await;
        let answer = dialed.map(drop).map_err(|error| error.to_string());
        *kept = Some((Instant::now(), answer.clone()));
        answer
    }
}

fn upstream_state(context: &Context, reached: Result<(), String>) -> UpstreamState {
    let status = context.upstream.status();
    let hosts = status.hosts.into_iter().map(|it| UpstreamHost {
        host: it.host,
        role: it.role.map(|role| role.word().to_owned()),
        timeline: it.timeline,
        unfit: it.unfit,
    });
    UpstreamState {
        address: status.current,
        reachable: reached.is_ok(),
        problem: reached.err(),
        switches: context.counters.switches_before.value() + status.switches,
        hosts: hosts.collect(),
    }
}

fn sums(tally: &Tally) -> Sums {
    Sums {
        received_bytes: tally.received_bytes.value(),
        sent_bytes: tally.sent_bytes.value(),
        records_passed: tally.records_passed.value(),
        records_replaced: tally.records_replaced.value(),
        replaced_bytes: tally.replaced_bytes.value(),
    }
}

fn client_status(client: &Client) -> ClientStatus {
    let who = client.who();
    let text = |bytes: &[u8]| shown(bytes);
    let configuration = who.as_ref().and_then(|it| it.configuration.as_ref());
    let progress = client.progress();
    let position = |lsn: Lsn| (lsn != Lsn::INVALID).then(|| lsn.to_string());
    let stage = |lsn: Lsn| {
        let lag: Option<Lag> = progress.lag(lsn);
        Stage {
            lsn: position(lsn),
            lag_bytes: lag.map(|it| it.bytes),
            lag_secs: lag.map(|it| it.time.as_secs_f64()),
        }
    };
    let status = progress.status;
    let told = |of: fn(&pgproto::copy::StandbyStatus) -> Lsn| {
        stage(status.as_ref().map_or(Lsn::INVALID, of))
    };
    ClientStatus {
        id: client.id,
        name: who.as_ref().map(|it| text(&it.application_name)).unwrap_or_default(),
        user: who.as_ref().map(|it| text(&it.user)).unwrap_or_default(),
        address: client.address.clone(),
        configuration: configuration.map(|it| it.name.clone()),
        filtered: configuration.is_some_and(|it| it.filter.is_some()),
        activity: progress.activity.word().to_owned(),
        connected_secs: client.since.elapsed().as_secs(),
        upstream_lsn: position(progress.upstream_end()),
        sent: stage(progress.sent),
        write: told(|it| it.write),
        flush: told(|it| it.flush),
        replay: told(|it| it.apply),
        sums: sums(&client.tally),
    }
}

fn decision(configuration: &str, epoch: &Epoch, records: Option<Records>) -> Decision {
    let (reason, why) = match (epoch.reason, epoch.fate) {
        (Reason::Name, Fate::Included) => ("name", "the filter includes its name"),
        (Reason::Name, Fate::Excluded) => ("name", "the filter excludes its name"),
        (Reason::DefaultTablespace, _) => {
            ("default_tablespace", "its default tablespace is excluded")
        }
        (Reason::MovedOut, _) => ("moved_out", "it was moved into an excluded tablespace"),
        (Reason::TemplateExcluded, _) => {
            ("template_excluded", "it was made by copying the files of an excluded template")
        }
        (Reason::Unknown, _) => ("unknown", "its records came before its name could be found"),
        (Reason::FilterTightened, _) => ("filter_tightened", "the filter was made stricter"),
    };
    let since = Some(epoch.since).filter(|since| since.timeline != 0);
    Decision {
        configuration: configuration.to_owned(),
        decision: epoch.fate.word().to_owned(),
        reason: reason.to_owned(),
        why: why.to_owned(),
        since: since.map(|it| Since { lsn: Lsn(it.lsn).to_string(), timeline: it.timeline }),
        records_passed: records.map(|it| it.passed),
        records_replaced: records.map(|it| it.replaced),
    }
}
