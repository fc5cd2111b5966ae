//! How far a client is behind, in bytes and in time.
//!
//! Bytes are the distance to the end of WAL that the upstream told of last. Time is how long the
//! relay has known of WAL that the client has not got to yet: zero when there is none, and growing
//! when a standby hangs. (`LagTracker` of walsender.c measures how long the last confirmation took,
//! which says nothing of one that never comes.)
//!
//! Pure data; the clock is an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use pgtypes::Lsn;

/// Ends of WAL that are remembered. When there are more, every other one is dropped: the time of a
/// standby that is hours behind need not be right to the tenth of a second.
const SAMPLES_MAX: usize = 512;
/// Ends that come closer together count as one.
const STEP: Duration = Duration::from_millis(50);

/// When the upstream's WAL reached which end.
#[derive(Debug)]
pub(super) struct Samples {
    /// Each end, and when the first WAL behind the one before it was known.
    ends: VecDeque<(Lsn, Instant)>,
    step: Duration,
    end: Lsn,
}

/// How far behind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Lag {
    /// WAL between here and the upstream's end.
    pub(crate) bytes: u64,
    /// How long there has been some.
    pub(crate) time: Duration,
}

impl Samples {
    pub(super) const fn new() -> Self {
        Self { ends: VecDeque::new(), step: STEP, end: Lsn::INVALID }
    }

    /// The newest end that is known.
    pub(super) const fn end(&self) -> Lsn {
        self.end
    }

    /// The upstream has WAL up to `end`.
    pub(super) fn reach(&mut self, end: Lsn, now: Instant) {
        if end <= self.end {
            return;
        }
        self.end = end;
        match self.ends.back_mut() {
            Some((last, at)) if now.saturating_duration_since(*at) < self.step => *last = end,
            _ => self.ends.push_back((end, now)),
        }
        if self.ends.len() > SAMPLES_MAX {
            self.step *= 2;
            let mut number = 0;
            // The newest stays: `end` is its position.
            self.ends.retain(|_| {
                number += 1;
                number % 2 == 1
            });
        }
    }

    /// Everything up to `position` is done with, at every stage.
    pub(super) fn pass(&mut self, position: Lsn) {
        while self.ends.front().is_some_and(|(end, _)| *end <= position) {
            self.ends.pop_front();
        }
        if self.ends.is_empty() {
            self.step = STEP;
        }
    }

    /// How far `position` is behind.
    pub(super) fn lag(&self, position: Lsn, now: Instant) -> Lag {
        let bytes = self.end.bytes_since(position);
        let behind = self.ends.iter().find(|(end, _)| *end > position);
        let time = behind.map_or(Duration::ZERO, |(_, at)| now.saturating_duration_since(*at));
        Lag { bytes, time: if bytes == 0 { Duration::ZERO } else { time } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_counts_from_the_first_byte_that_is_missing() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut samples = Samples::new();
        assert_eq!(samples.lag(Lsn(5), at(0)), Lag { bytes: 0, time: Duration::ZERO });
        samples.reach(Lsn(100), at(0));
        samples.reach(Lsn(200), at(10));
        samples.reach(Lsn(150), at(11));
        let lag = |samples: &Samples, position, secs| {
            let lag = samples.lag(Lsn(position), at(secs));
            (lag.bytes, lag.time.as_secs())
        };
        assert_eq!(lag(&samples, 50, 20), (150, 20));
        assert_eq!(lag(&samples, 100, 20), (100, 10));
        assert_eq!(lag(&samples, 200, 20), (0, 0));
        assert_eq!(lag(&samples, 300, 20), (0, 0), "ahead of what the upstream told");
        samples.pass(Lsn(100));
        assert_eq!(lag(&samples, 150, 20), (50, 10));
        samples.pass(Lsn(200));
        samples.reach(Lsn(300), at(60));
        assert_eq!(lag(&samples, 200, 61), (100, 1), "idle time is no lag");
    }

    #[test]
    fn a_client_that_never_confirms_takes_little_memory() {
        let start = Instant::now();
        let mut samples = Samples::new();
        for number in 1..200_000_u32 {
            samples.reach(Lsn(u64::from(number)), start + STEP * number);
        }
        assert!(samples.ends.len() <= SAMPLES_MAX + 1);
        let now = start + STEP * 200_000;
        assert_eq!(samples.lag(Lsn(0), now).time, STEP * 199_999);
        assert_eq!(samples.lag(Lsn(0), now).bytes, 199_999);
        assert_eq!(samples.lag(Lsn(199_999), now).bytes, 0);
    }
}
