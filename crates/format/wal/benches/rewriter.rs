//! The rewriter alone, over WAL in messages of 128 kB as a walsender sends them.
//!
//! Two sizes of records, all passed and half of them replaced. `GB/s` counts WAL bytes.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "it measures, and serves nobody"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::cell::Cell;
use std::collections::HashMap;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pgtypes::{Lsn, Major, Oid};
use support::build::{Body, Log, place};
use support::scene::Dice;
use wal::{Catalog, Entry, Judge, Outcome, Place, Rewriter, Verdict};

const LOG_BYTES: usize = 32 << 20;
const MESSAGE_BYTES: usize = 128 << 10;

/// As a relay's: a map, and the last answers.
struct Map {
    databases: HashMap<Oid, Verdict>,
    last: [Cell<(Place, Verdict)>; 16],
}

const NOWHERE: Place = Place { tablespace: Oid(0), database: Oid(0) };

impl Map {
    fn new() -> Self {
        let databases = (16_380..16_390)
            .map(|oid| (Oid(oid), if oid % 2 == 0 { Verdict::Replace } else { Verdict::Pass }));
        Self {
            databases: databases.collect(),
            last: [const { Cell::new((NOWHERE, Verdict::Pass)) }; 16],
        }
    }
}

impl Judge for Map {
    fn place(&self, place: Place, _at: Lsn) -> Verdict {
        let slot = &self.last[place.database.0 as usize % self.last.len()];
        let (last, verdict) = slot.get();
        if last == place {
            return verdict;
        }
        let verdict = self.databases.get(&place.database).copied().unwrap_or(Verdict::Unknown);
        slot.set((place, verdict));
        verdict
    }

    fn catalog_file(&self, _relfilenumber: Oid) -> Option<Catalog> {
        None
    }
}

/// Heap inserts, index inserts and updates of a database, and now and then a commit.
fn log(mean: usize, half: bool) -> Log {
    let mut log = Log::new(Major::V16);
    let mut dice = Dice::new(mean as u64);
    while log.bytes.len() < LOG_BYTES {
        let database = if half && dice.below(2) == 0 { 16_384 } else { 16_385 };
        // spread evenly from a third to five thirds of the mean, less the headers
        let data = (mean / 3 + dice.below(mean * 4 / 3)).saturating_sub(50);
        let body = match dice.below(10) {
            0 => Body::new(1, 0x00).main(vec![3; data]),
            1 if data > 40 => {
                let first = Body::new(10, 0x20).block(place(1663, database), 16_400, vec![1; 20]);
                first.same(vec![2; data - 40]).main([5; 14])
            }
            number => {
                let rmid = if number % 2 == 0 { 10 } else { 11 };
                Body::new(rmid, 0x00)
                    .block(place(1663, database), 16_400, vec![1; data])
                    .main([5; 3])
            }
        };
        log.push(&body);
    }
    log
}

fn feed(rewriter: &mut Rewriter, bytes: &mut [u8], judge: &Map) {
    let mut from = 0;
    let mut to = 0;
    while to < bytes.len() {
        to = (to + MESSAGE_BYTES).min(bytes.len());
        loop {
            let fed = rewriter.feed(&mut bytes[from..to], judge).unwrap();
            from += fed.done;
            if fed.outcome == Outcome::Drained {
                break;
            }
        }
    }
}

fn rewriter(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rewriter");
    group.sample_size(20);
    for mean in [96, 3_500] {
        for half in [false, true] {
            let log = log(mean, half);
            let name = if half { "half replaced" } else { "all passed" };
            let records = log.starts.len() as u64;
            let bytes = log.bytes.len() as u64;
            println!("{mean} B, {name}: {} B a record", bytes / records);
            group.throughput(Throughput::Bytes(bytes));
            let mut work = log.bytes.clone();
            group.bench_function(BenchmarkId::new(name, mean), |bencher| {
                bencher.iter_custom(|rounds| {
                    let mut spent = std::time::Duration::ZERO;
                    for _ in 0..rounds {
                        // one buffer for all rounds, so that no page faults are measured
                        work.copy_from_slice(&log.bytes);
                        let started = std::time::Instant::now();
                        let mut rewriter = Rewriter::new(log.layout, log.start, Entry::Unknown);
                        feed(&mut rewriter, black_box(&mut work), &Map::new());
                        spent += started.elapsed();
                    }
                    spent
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, rewriter);
criterion_main!(benches);
