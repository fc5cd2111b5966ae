//! Attempts to log in that failed: counted, and made slow where many come from.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::counters::Counter;

/// The pause after the first failure; it doubles with each.
const PAUSE: Duration = Duration::from_millis(250);
/// The longest pause: a standby with the right password behind the same address waits so long.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Without another failure for so long, those before are forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(60);
/// Addresses that are kept; when there are more, those that are not kept share one place.
const ADDRESSES_MAX: usize = 4_096;

/// Failures by address.
#[derive(Debug, Default)]
pub struct FailedLogins {
    /// How many there were.
    pub count: Counter,
    by_address: Mutex<HashMap<Option<IpAddr>, Recent>>,
}

#[derive(Clone, Copy, Debug)]
struct Recent {
    failures: u32,
    last: Instant,
}

impl FailedLogins {
    /// Notes a failure; gives the pause before it is told.
    pub(crate) fn note(&self, address: Option<IpAddr>) -> Duration {
        self.note_at(address, Instant::now())
    }

    /// The pause before somebody from there is asked for a password.
    pub(crate) fn pause(&self, address: Option<IpAddr>) -> Duration {
        self.pause_at(address, Instant::now())
    }

    fn note_at(&self, address: Option<IpAddr>, now: Instant) -> Duration {
        self.count.add(1);
        let mut known = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = key(address);
        if known.len() >= ADDRESSES_MAX && !known.contains_key(&key) {
            known.retain(|_, recent| !recent.is_old(now));
            if known.len() >= ADDRESSES_MAX {
                key = None;
            }
        }
        let recent = known.entry(key).or_insert(Recent { failures: 0, last: now });
        if recent.is_old(now) {
            recent.failures = 0;
        }
        recent.failures = recent.failures.saturating_add(1);
        recent.last = now;
        pause(recent.failures)
    }

    fn pause_at(&self, address: Option<IpAddr>, now: Instant) -> Duration {
        let known = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = known.get(&key(address)).filter(|recent| !recent.is_old(now));
        // The first one may have been a slip of the hand.
        recent.map_or(Duration::ZERO, |recent| pause(recent.failures.saturating_sub(1)))
    }
}

impl Recent {
    fn is_old(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) > FORGET_AFTER
    }
}

/// Whoever has an IPv6 address has 2^64 of them.
fn key(address: Option<IpAddr>) -> Option<IpAddr> {
    address.map(|address| match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
    })
}

fn pause(failures: u32) -> Duration {
    match failures.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => PAUSE.saturating_mul(1 << doublings.min(8)).min(PAUSE_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_up_to_a_limit_and_is_forgotten() {
        let failed = FailedLogins::default();
        let (now, here) = (Instant::now(), "192.0.2.1".parse().ok());
        let pauses: Vec<_> = (0..7).map(|_| failed.note_at(here, now).as_millis()).collect();
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 5000, 5000]);
        assert_eq!(failed.pause_at(here, now), PAUSE_MAX);
        assert_eq!(failed.pause_at("192.0.2.2".parse().ok(), now), Duration::ZERO);
        let later = now + FORGET_AFTER + Duration::from_secs(1);
        assert_eq!(failed.pause_at(here, later), Duration::ZERO);
        assert_eq!(failed.note_at(here, later), PAUSE);
        assert_eq!(failed.count.value(), 8);
    }

    #[test]
    fn a_network_of_ipv6_is_one_and_the_memory_is_bounded() {
        let failed = FailedLogins::default();
        let now = Instant::now();
        for last in 0..100_u128 {
            failed.note_at(Some(Ipv6Addr::from_bits((0x2001_0db8 << 96) | last).into()), now);
        }
        assert_eq!(failed.by_address.lock().unwrap().len(), 1);
        for address in 0..10_000_u32 {
            failed.note_at(Some(IpAddr::V4(address.into())), now);
        }
        assert!(failed.by_address.lock().unwrap().len() <= ADDRESSES_MAX + 1);
    }
}
