//! Nothing that comes in makes the rewriter panic, loop, or depend on the cut.
//!
//! Spoiled copies of valid WAL, for `PGHERD_FUZZ_SECS` seconds (2 when unset).
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test that panics is a test that fails"
)]

mod support;

use std::time::{Duration, Instant};

use pgtypes::Major;
use support::fuzz::fuzz;
use support::scene::{Dice, Scene};

fn patience() -> Duration {
    let secs = std::env::var("PGHERD_FUZZ_SECS").ok().and_then(|secs| secs.parse().ok());
    Duration::from_secs(secs.unwrap_or(2))
}

/// Changes a few bytes; most changes hit small numbers in headers.
fn spoil(dice: &mut Dice, bytes: &mut Vec<u8>) {
    for _ in 0..=dice.below(6) {
        let at = match dice.below(3) {
            0 => dice.below(bytes.len()),
            1 => dice.below(bytes.len().min(400)),
            _ => (dice.below(bytes.len()) & !8191) + dice.below(40),
        };
        let Some(byte) = bytes.get_mut(at) else { continue };
        match dice.below(5) {
            0 => *byte ^= 1 << dice.below(8),
            1 => *byte = 0xFF,
            2 => *byte = 0,
            3 => *byte = byte.wrapping_add(1),
            _ => bytes.truncate(at.max(4)),
        }
    }
}

#[test]
fn spoiled_wal() {
    let began = Instant::now();
    let mut seed = u64::from(std::process::id());
    println!("first seed {seed}");
    while began.elapsed() < patience() {
        seed += 1;
        let mut dice = Dice::new(seed);
        let number = dice.below(7);
        let records = 5 + dice.below(100);
        let scene = Scene::random(Major::ALL[number], seed, records);
        for _ in 0..20 {
            let mut data = vec![number as u8, dice.below(256) as u8, 0];
            // somewhere at a page, mostly inside a record
            let from = dice.below(scene.log.bytes.len() / 8192 + 1) * 8192;
            let mut wal = scene.log.bytes[from.min(scene.log.bytes.len() - 1)..].to_vec();
            wal.truncate(100_000);
            data[2] = dice.below(2) as u8;
            spoil(&mut dice, &mut wal);
            data.extend(wal);
            fuzz(&data);
        }
    }
}

#[test]
fn noise() {
    let mut dice = Dice::new(1);
    for len in 0..300 {
        let data = dice.bytes(len);
        fuzz(&data);
    }
}

/// Writes valid inputs for `fuzz/run.sh wal_stream` into the directory `PGHERD_FUZZ_SEEDS`.
#[test]
fn seeds() {
    let Ok(directory) = std::env::var("PGHERD_FUZZ_SEEDS") else { return };
    for (number, seed) in (0..7).cycle().zip(0..70) {
        let scene = Scene::random(Major::ALL[usize::from(number)], seed, 15);
        let mut data = vec![number, 200, 0];
        data.extend(scene.log.bytes);
        data.truncate(100_000);
        std::fs::write(format!("{directory}/scene-{seed}"), data).unwrap();
    }
}
