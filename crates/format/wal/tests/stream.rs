//! The rewriter against synthetic WAL: what goes, what stays, and that no cut shows.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test that panics is a test that fails"
)]

mod support;

use pgtypes::{Lsn, Major};
use proptest::prelude::*;
use support::drive::{Learner, Run, run};
use support::read::records;
use support::scene::Scene;
use wal::{Entry, Event, Rewriter, SpanFate};

fn filter(scene: &Scene, pieces: &[usize]) -> Run {
    let mut rewriter = Rewriter::new(scene.log.layout, scene.log.start, Entry::Unknown);
    run(&mut rewriter, &mut Learner::usual(), &scene.log.bytes, pieces)
}

/// Every record is either the same or a proper no-op, as the scene says.
fn check(scene: &Scene, output: &[u8]) {
    assert_eq!(output.len(), scene.log.bytes.len(), "nothing is held back at the end");
    let before = records(scene.log.layout, scene.log.start, &scene.log.bytes);
    let after = records(scene.log.layout, scene.log.start, output);
    assert_eq!(before.len(), scene.log.starts.len());
    assert_eq!(before.len(), after.len());
    for (old, new) in before.iter().zip(&after) {
        assert_eq!(old.at, new.at);
        assert!(new.checksum_holds(), "checksum of the record at {}", new.at);
        if scene.replaced.contains(&old.at) {
            assert_eq!(new.kind(), (0, 0x20), "record at {} goes", old.at);
            assert_eq!(new.bytes[..16], old.bytes[..16], "length, xid, prev stay");
            assert!(new.bytes.iter().skip(37).all(|byte| *byte == 0), "nothing leaks");
        } else {
            assert_eq!(old, new, "record at {} stays", old.at);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_goes_and_what_stays(seed: u64, number in 0_usize..7) {
        let scene = Scene::random(Major::ALL[number], seed, 300);
        let run = filter(&scene, &[1 << 17]);
        prop_assert_eq!(run.error, None);
        check(&scene, &run.output);
    }

    #[test]
    fn no_cut_shows(seed: u64, pieces in prop::collection::vec(1_usize..20_000, 1..9), tiny: bool) {
        let scene = Scene::random(Major::V16, seed, if tiny { 40 } else { 200 });
        let whole = filter(&scene, &[usize::MAX]);
        let pieces = if tiny { pieces.iter().map(|piece| piece % 90 + 1).collect() } else { pieces };
        let cut = filter(&scene, &pieces);
        prop_assert_eq!(cut.error, None);
        prop_assert_eq!(&whole.events, &cut.events);
        prop_assert!(whole.output == cut.output);
    }

    #[test]
    fn every_boundary_is_a_place_to_start(seed: u64, piece in 1_usize..9000) {
        let scene = Scene::random(Major::V15, seed, 400);
        let whole = filter(&scene, &[1 << 17]);
        let boundaries = whole.events.iter().filter_map(|event| match event {
            Event::Boundary(span) => Some(span.clone()),
            _ => None,
        });
        for (span, mut judge) in boundaries.zip(whole.snapshots) {
            let from = span.boundary.bytes_since(scene.log.start) as usize;
            let rest = &scene.log.bytes[from..];
            let (at, fate) = (span.boundary, span.fate);
            let mut rewriter = Rewriter::new(scene.log.layout, at, Entry::Span(span));
            let again = run(&mut rewriter, &mut judge, rest, &[piece]);
            if fate == SpanFate::Unresolved {
                let blind = matches!(again.events[0], Event::NeedsLookBack { .. });
                prop_assert!(blind);
                continue;
            }
            prop_assert_eq!(again.error, None);
            prop_assert!(again.output == whole.output[from..], "from {}", at);
        }
    }
}

/// One byte at a time, which is every truncation of everything.
#[test]
fn byte_by_byte() {
    for (number, major) in (0..).zip(Major::ALL) {
        let scene = Scene::random(major, 77 + number, 60);
        let whole = filter(&scene, &[usize::MAX]);
        let cut = filter(&scene, &[1]);
        assert_eq!(cut.error, None);
        assert_eq!(whole.events, cut.events);
        assert!(whole.output == cut.output);
        check(&scene, &cut.output);
    }
}

#[test]
fn the_scenes_have_all_the_traps() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let scene = Scene::random(Major::V15, seed, 300);
        let run = filter(&scene, &[1 << 17]);
        for event in run.events {
            seen.insert(match event {
                Event::Boundary(span) if !span.prefix.is_empty() => "Boundary with prefix".into(),
                Event::Boundary(span) => format!("{:?} boundary", span.fate),
                other => {
                    let text = format!("{other:?}");
                    text.split([' ', '(']).next().unwrap_or_default().to_owned()
                }
            });
        }
    }
    for kind in [
        "CatalogUpdated",
        "DatabaseCreate",
        "DatabaseDrop",
        "DatabaseRow",
        "Passed boundary",
        "Relmap",
        "Replaced boundary",
        "TablespaceCreate",
        "TablespaceDrop",
        "TablespaceRow",
        "Unknown",
    ] {
        assert!(seen.contains(kind), "{kind} does not occur in {seen:?}");
    }
    assert!(!seen.contains("Unreadable"));
}

#[test]
fn a_stream_that_starts_inside_a_record() {
    let scene = Scene::random(Major::V15, 5, 2000);
    let segment = scene.log.layout.segment_bytes.bytes();
    let mut starts = 0;
    for number in 1..scene.log.bytes.len() as u64 / segment {
        let from = (number * segment) as usize;
        let at = scene.log.start + number * segment;
        let rest = &scene.log.bytes[from..];
        let mut rewriter = Rewriter::new(scene.log.layout, at, Entry::Unknown);
        let blind = run(&mut rewriter, &mut Learner::usual(), rest, &[5000]);
        if rest[2] & 1 == 0 {
            assert_eq!(blind.error, None);
            continue;
        }
        starts += 1;
        assert!(matches!(blind.events[..], [Event::NeedsLookBack { .. }]));
        assert!(blind.error.is_some(), "going on without an answer is refused");
        assert!(blind.output.is_empty());
        let mut rewriter = Rewriter::new(scene.log.layout, at, Entry::Raw);
        let raw = run(&mut rewriter, &mut Learner::usual(), rest, &[5000]);
        assert_eq!(raw.error, None);
        let spanning = scene.log.starts.iter().rev().find(|start| **start < at);
        assert_eq!(rewriter.first_prev(), spanning.copied());
    }
    assert!(starts > 2);
}

#[test]
fn a_start_off_a_page_is_refused() {
    let scene = Scene::random(Major::V15, 5, 10);
    let mut rewriter = Rewriter::new(scene.log.layout, Lsn(0x100_0008), Entry::Unknown);
    let run = run(&mut rewriter, &mut Learner::usual(), &scene.log.bytes, &[100]);
    assert!(run.error.is_some());
}
