//! What the relay has done, in numbers that only grow.
//!
//! Counted per batch, never per record: the rewriter keeps its own sums, and what a stream did
//! since the last batch is added here.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pgproto::SqlState;
use pgtypes::Oid;

pub use crate::failed_logins::FailedLogins;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Its value.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Why somebody did not get what they asked for: a closed set, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// `limits.max_connections` is reached.
    TooManyConnections,
    /// No configuration matches, or the login was refused by the relay.
    NotAuthorized,
    /// It is not something that a relay does: SQL, logical replication.
    NotSupported,
    /// What came was not the protocol.
    Protocol,
    /// The command cannot be done now: state, names, filter, slot.
    Prerequisite,
    /// Anything else.
    Other,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::TooManyConnections,
        Self::NotAuthorized,
        Self::NotSupported,
        Self::Protocol,
        Self::Prerequisite,
        Self::Other,
    ];

    /// The reason that belongs to what the client is told.
    #[must_use]
    pub fn of(sqlstate: SqlState) -> Self {
        match sqlstate {
            SqlState::TOO_MANY_CONNECTIONS => Self::TooManyConnections,
            SqlState::INVALID_AUTHORIZATION | SqlState::INVALID_PASSWORD => Self::NotAuthorized,
            SqlState::FEATURE_NOT_SUPPORTED => Self::NotSupported,
            SqlState::PROTOCOL_VIOLATION
            | SqlState::SYNTAX_ERROR
            | SqlState::INVALID_PARAMETER_VALUE
            | SqlState::CHARACTER_NOT_IN_REPERTOIRE => Self::Protocol,
            SqlState::NOT_IN_PREREQUISITE_STATE
            | SqlState::UNABLE_TO_CONNECT
            | SqlState::UNDEFINED_OBJECT
            | SqlState::DATA_CORRUPTED => Self::Prerequisite,
            _ => Self::Other,
        }
    }

    /// The word for it, as a metric's label has it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::TooManyConnections => "too_many_connections",
            Self::NotAuthorized => "not_authorized",
            Self::NotSupported => "not_supported",
            Self::Protocol => "protocol",
            Self::Prerequisite => "prerequisite",
            Self::Other => "other",
        }
    }
}

/// What went through, of one client or of all clients of a configuration.
#[derive(Debug, Default)]
pub struct Tally {
    /// Sessions that were let in.
    pub sessions: Counter,
    /// Bytes that came from the upstream while an answer or a stream was passed on.
    pub received_bytes: Counter,
    /// Bytes sent to clients while an answer or a stream was passed on.
    pub sent_bytes: Counter,
    /// Records that passed a filter. Streams without a filter are not looked into.
    pub records_passed: Counter,
    /// Records that were replaced.
    pub records_replaced: Counter,
    /// Bytes of records that were replaced.
    pub replaced_bytes: Counter,
    /// Records by database; only of a configuration.
    pub databases: Databases,
}

/// Databases that are counted on their own. Who makes and drops databases all day does not fill
/// the memory with them.
const DATABASES_MAX: usize = 10_000;

/// Records by database. Those of shared catalogs, and those that are about no database, are in
/// the sums only.
#[derive(Debug, Default)]
pub struct Databases(Mutex<HashMap<Oid, Records>>);

/// What became of the records of a database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// Went as they are.
    pub passed: u64,
    /// Became no-ops.
    pub replaced: u64,
}

impl Databases {
    /// Adds to one; to none when there are too many.
    pub fn add(&self, database: Oid, replaced: bool, records: u64) {
        let mut all = self.locked();
        if all.len() >= DATABASES_MAX && !all.contains_key(&database) {
            return;
        }
        let of = all.entry(database).or_default();
        *if replaced { &mut of.replaced } else { &mut of.passed } += records;
    }

    /// What was counted of one.
    #[must_use]
    pub fn records(&self, database: Oid) -> Records {
        self.locked().get(&database).copied().unwrap_or_default()
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<Oid, Records>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counters of the whole relay.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections that came in.
    pub connections: Counter,
    /// Attempts to log in that the relay or the server refused.
    pub failed_logins: FailedLogins,
    /// Events that a person should look at; each has an ERROR or WARN line in the log.
    pub alarms: Counter,
    /// Changes of the configuration that were taken over.
    pub reloads_done: Counter,
    /// Changes that were refused: the file was bad, or they need a restart.
    pub reloads_refused: Counter,
    /// Moves of upstreams that were configured before the one that is now.
    pub switches_before: Counter,
    refusals: [Counter; Refusal::ALL.len()],
    /// By configuration; the empty name is of clients without one.
    tallies: Mutex<BTreeMap<String, Arc<Tally>>>,
}

impl Counters {
    /// Counts a connection or a command that was refused.
    pub fn refuse(&self, reason: Refusal) {
        if let Some(counter) = self.refusals.get(reason as usize) {
            counter.add(1);
        }
    }

    /// Refusals, by reason.
    pub fn refusals(&self) -> impl Iterator<Item = (Refusal, u64)> + '_ {
        Refusal::ALL.into_iter().zip(self.refusals.iter().map(Counter::value))
    }

    /// What went through for a configuration; `""` for clients without one.
    #[must_use]
    pub fn tally(&self, configuration: &str) -> Arc<Tally> {
        let mut tallies = self.locked();
        if let Some(tally) = tallies.get(configuration) {
            return Arc::clone(tally);
        }
        Arc::clone(tallies.entry(configuration.to_owned()).or_default())
    }

    /// What went through, by configuration.
    #[must_use]
    pub fn tallies(&self) -> BTreeMap<String, Arc<Tally>> {
        self.locked().clone()
    }

    /// A sum over all configurations.
    #[must_use]
    pub fn sum(&self, of: impl Fn(&Tally) -> &Counter) -> u64 {
        self.locked().values().map(|tally| of(tally).value()).sum()
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Tally>>> {
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_counted_by_reason() {
        let counters = Counters::default();
        for (number, reason) in Refusal::ALL.into_iter().enumerate() {
            (0..=number).for_each(|_| counters.refuse(reason));
        }
        let counted: Vec<_> = counters.refusals().collect();
        assert_eq!(counted.len(), 6);
        for (number, (reason, count)) in (1..).zip(counted) {
            assert_eq!(count, number, "{}", reason.word());
        }
    }

    #[test]
    fn databases_are_counted_up_to_a_limit() {
        let databases = Databases::default();
        databases.add(Oid(1), true, 2);
        databases.add(Oid(1), false, 3);
        (0..20_000).for_each(|oid| databases.add(Oid(oid), false, 1));
        assert_eq!(databases.records(Oid(1)), Records { passed: 4, replaced: 2 });
        assert_eq!(databases.records(Oid(19_999)), Records::default());
        assert_eq!(databases.locked().len(), DATABASES_MAX);
    }

    #[test]
    fn sums_are_over_all_configurations() {
        let counters = Counters::default();
        counters.tally("a").sent_bytes.add(1);
        counters.tally("").sent_bytes.add(2);
        counters.tally("a").sent_bytes.add(4);
        assert_eq!(counters.sum(|it| &it.sent_bytes), 7);
        assert_eq!(counters.tallies().len(), 2);
    }
}
