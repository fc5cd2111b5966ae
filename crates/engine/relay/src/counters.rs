//! What the relay has done, in numbers that only grow.

pub use crate::failed_logins::FailedLogins;
use std::sync::atomic::{AtomicU64, Ordering};

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

/// Counters of the whole relay.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections that came in.
    pub connections: Counter,
    /// Connections and commands that were refused.
    pub refusals: Counter,
    /// Attempts to log in that the relay itself refused.
    pub failed_logins: FailedLogins,
    /// Bytes sent to clients while streaming.
    pub sent_bytes: Counter,
    /// Records that passed a filter.
    pub records_passed: Counter,
    /// Records that were replaced.
    pub records_replaced: Counter,
    /// Bytes of records that were replaced.
    pub replaced_bytes: Counter,
    /// Events that a person should look at; each has an ERROR or WARN line in the log.
    pub alarms: Counter,
}
