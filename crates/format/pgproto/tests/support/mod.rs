//! Mutations of sound inputs, for as long as one cares to wait.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test may panic; outside of #[test] functions clippy does not see that this is one"
)]

use std::time::{Duration, Instant};

/// Seconds for all mutation tests of this crate together, unless `PGHERD_FUZZ_SECS` says more.
const SECS: u64 = 2;
/// Tests that share them.
const TESTS: u32 = 2;
/// Longest input, so that time goes into many rather than long ones.
const BYTES_MAX: usize = 2_048;

/// A small generator with a fixed start: a failure comes again at the same round.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit.max(1)).unwrap()).unwrap()
    }
}

/// Calls `check` with mutations of `seeds`, built also from `pieces`; returns the rounds.
pub(crate) fn mutate(seeds: &[Vec<u8>], pieces: &[&[u8]], mut check: impl FnMut(&[u8])) -> u64 {
    let secs = std::env::var("PGHERD_FUZZ_SECS").ok();
    let secs = secs.map_or(SECS, |secs| secs.parse().expect("PGHERD_FUZZ_SECS is a number"));
    let end = Instant::now() + Duration::from_secs(secs) / TESTS;
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut rounds = 0;
    while Instant::now() < end {
        for _ in 0..200 {
            let mut bytes = seeds[random.below(seeds.len())].clone();
            for _ in 0..=random.below(6) {
                change(&mut bytes, pieces, seeds, &mut random);
            }
            bytes.truncate(BYTES_MAX);
            check(&bytes);
            rounds += 1;
        }
    }
    rounds
}

fn change(bytes: &mut Vec<u8>, pieces: &[&[u8]], seeds: &[Vec<u8>], random: &mut Random) {
    let at = random.below(bytes.len() + 1);
    let end = at + random.below(bytes.len() - at + 1).min(16);
    let byte = random.next().to_le_bytes()[0];
    match random.below(7) {
        0 => bytes.truncate(at),
        1 => bytes.insert(at, byte),
        2 => drop(bytes.splice(at..end, [])),
        3 => drop(bytes.splice(at..at, pieces[random.below(pieces.len())].iter().copied())),
        4 => drop(bytes.splice(at..end, pieces[random.below(pieces.len())].iter().copied())),
        5 => {
            let other = &seeds[random.below(seeds.len())];
            bytes.truncate(at);
            bytes.extend_from_slice(&other[random.below(other.len() + 1)..]);
        }
        _ => {
            if let Some(changed) = bytes.get_mut(at) {
                *changed ^= 1 << (byte & 7);
            }
        }
    }
}
