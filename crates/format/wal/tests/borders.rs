//! Records and headers that lie across the borders of pages and segments.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test that panics is a test that fails"
)]

mod support;

use pgtypes::{Lsn, Major};
use support::build::{Body, Log, database_row, insert, place};
use support::drive::{Learner, Run, run};
use support::read::{Found, records};
use wal::{Entry, Event, Layout, Rewriter, Span, SpanFate};

/// All that is fed at once, and again with each byte of the last pages alone, gives this.
fn filter(log: &Log) -> Run {
    let head = log.bytes.len().saturating_sub(30_000).max(1);
    let single: Vec<_> = std::iter::once(head).chain([1; 30_000]).collect();
    let start = |pieces: &[usize]| {
        let mut rewriter = Rewriter::new(log.layout, log.start, Entry::Unknown);
        run(&mut rewriter, &mut Learner::usual(), &log.bytes, pieces)
    };
    let whole = start(&[usize::MAX]);
    let cut = start(&single);
    assert_eq!(whole.error, None);
    assert_eq!(cut.error, None);
    assert_eq!(whole.events, cut.events);
    assert!(whole.output == cut.output);
    whole
}

fn spans(run: &Run) -> Vec<Span> {
    let span = |event: &Event| match event {
        Event::Boundary(span) => Some(span.clone()),
        _ => None,
    };
    run.events.iter().filter_map(span).collect()
}

/// The output from the boundary on, by a rewriter that knows only the span.
fn resume(log: &Log, span: &Span, pieces: &[usize]) -> Run {
    let from = usize::try_from(span.boundary.bytes_since(log.start)).unwrap();
    let rest = log.bytes.get(from..).unwrap();
    let entry = Entry::Span(span.clone());
    let mut rewriter = Rewriter::new(log.layout, span.boundary, entry);
    run(&mut rewriter, &mut Learner::usual(), rest, pieces)
}

/// Every way in which the first bytes of a no-op can lie across a segment border.
#[test]
fn a_replaced_header_across_a_segment_border() {
    for room in (8..=72).step_by(8) {
        for (origin, toplevel) in [(None, None), (Some(7), None), (Some(7), Some(9))] {
            for len in [0, 20, 150, 500, 70_000] {
                let mut log = Log::new(Major::V16);
                log.pad_to_segment(room);
                let mut body = Body::new(10, 0).block(place(1663, 16_384), 9, vec![1; 9]);
                body = body.main(vec![2; len]);
                (body.origin, body.toplevel) = (origin, toplevel);
                let at = log.push(&body);
                assert_eq!(log.layout.segment_bytes.bytes() - at.0 % (1 << 20), room as u64);
                log.push(&Body::new(0, 0x20).main([0; 60]));

                let whole = filter(&log);
                let found = records(log.layout, log.start, &whole.output);
                let noop = found.iter().find(|record| record.at == at).unwrap();
                assert_eq!(noop.kind(), (0, 0x20));
                assert!(found.iter().all(Found::checksum_holds));

                let spans = spans(&whole);
                let Some(span) = spans.iter().find(|span| span.record == at) else { continue };
                assert_eq!(span.fate, SpanFate::Replaced);
                assert_eq!(span.prefix.is_empty(), room > 36);
                let from = usize::try_from(span.boundary.bytes_since(log.start)).unwrap();
                for pieces in [&[usize::MAX][..], &[1], &[50, 7]] {
                    let again = resume(&log, span, pieces);
                    assert_eq!(again.error, None);
                    assert_eq!(again.events, [], "{room} {len}");
                    assert!(again.output == whole.output[from..], "{room} {len}");
                }
            }
        }
    }
}

/// 33 block references with images, longer than what is left of the page.
#[test]
fn the_longest_headers_at_every_distance_from_a_border() {
    for room in (8..=1000).step_by(8) {
        let mut log = Log::new(Major::V18);
        log.pad_to(room);
        let mut body = Body::new(0, 0xB0);
        for _ in 0..33 {
            body = body.block(place(1663, 16_384), 9, []).image(0x05, 9, Some(9), vec![1; 300]);
        }
        (body.origin, body.toplevel) = (Some(1), Some(2));
        let at = log.push(&body.main(vec![3; 300]));
        let run = filter(&log);
        let found = records(log.layout, log.start, &run.output);
        assert_eq!(found.last().map(|record| (record.at, record.kind())), Some((at, (0, 0x20))));
        assert!(found.iter().all(Found::checksum_holds));
    }
}

/// A record of several segments: each boundary is announced, each is a place to start.
#[test]
fn one_record_over_many_segments() {
    let mut log = Log::new(Major::V17);
    let mut main = 16_384_u32.to_le_bytes().to_vec();
    main.resize(5 << 20, 0x33);
    let at = log.push(&Body::new(21, 0).main(main));
    log.push(&Body::new(0, 0x20));
    let whole = {
        let mut rewriter = Rewriter::new(log.layout, log.start, Entry::Unknown);
        let whole = run(&mut rewriter, &mut Learner::usual(), &log.bytes, &[1 << 17]);
        assert_eq!(rewriter.stats().records_replaced, 1);
        assert!(rewriter.stats().replaced_bytes > 5 << 20);
        whole
    };
    let spans = spans(&whole);
    assert_eq!(spans.len(), 5);
    for (number, span) in (1..).zip(&spans) {
        assert_eq!(span.boundary, log.start + (number << 20));
        assert_eq!((span.record, span.fate), (at, SpanFate::Replaced));
        assert_eq!(span.prefix, []);
        let again = resume(&log, span, &[100_000]);
        assert_eq!(again.error, None);
        let from = usize::try_from(span.boundary.bytes_since(log.start)).unwrap();
        assert!(again.output == whole.output[from..]);
        assert_eq!(again.events.len(), 5 - usize::try_from(number).unwrap());
    }
}

/// The 24 bytes of an XLOG_SWITCH across a segment border: the rest of the new segment is empty.
#[test]
fn a_switch_across_a_segment_border() {
    for room in [8, 16, 24] {
        for headers in [false, true] {
            let mut log = Log::new(Major::V12);
            log.pad_to_segment(room);
            log.switch(headers);
            log.push(&Body::new(10, 0).block(place(1663, 16_384), 9, []));
            let whole = filter(&log);
            assert_eq!(records(log.layout, log.start, &whole.output).last().unwrap().kind().0, 0);
            for span in spans(&whole) {
                assert_eq!((room < 24, span.fate), (true, SpanFate::Passed));
                let again = resume(&log, &span, &[999]);
                assert_eq!(again.error, None);
                assert!(whole.output.ends_with(&again.output));
                // nobody knows that it was a switch
                let mut raw = Rewriter::new(log.layout, span.boundary, Entry::Raw);
                let rest = &whole.output[whole.output.len() - again.output.len()..];
                let raw = run(&mut raw, &mut Learner::usual(), rest, &[3]);
                assert_eq!((raw.error, raw.output.len()), (None, rest.len()));
            }
        }
    }
}

#[test]
fn a_row_that_is_being_learned_has_no_span() {
    let row = database_row(Major::V15, 60_000, "new", 1663);
    for room in [8, 32, 200] {
        let mut log = Log::new(Major::V15);
        log.pad_to_segment(room);
        log.push(&insert(1262, &row, 24));
        log.push(&Body::new(0, 0x20));
        let whole = filter(&log);
        let [Event::Boundary(span), Event::DatabaseRow { name, .. }] = &whole.events[..] else {
            panic!("{:?}", whole.events);
        };
        assert_eq!(name, b"new");
        assert_eq!(span.fate, SpanFate::Unresolved);
        let again = resume(&log, span, &[100]);
        assert!(matches!(again.events[..], [Event::NeedsLookBack { .. }]));
    }
}

/// A crash cut a record off; the server goes on at the page that is missing.
#[test]
fn a_record_that_was_given_up() {
    for pages in 1..4 {
        for (room, database) in [(8, 16_384), (40, 16_385), (4000, 16_384)] {
            let mut log = Log::new(Major::V14);
            log.push(&Body::new(0, 0x20));
            log.pad_to(room);
            let body = Body::new(10, 0).block(place(1663, database), 9, vec![1; 9]);
            log.torn(&body.main(vec![5; 40_000]), pages);
            let kept = log.push(&Body::new(10, 0).block(place(1663, 5), 9, vec![1; 9]));
            let whole = filter(&log);
            let found = records(log.layout, log.start, &whole.output);
            assert_eq!(found.last().map(|record| record.at), Some(kept));
            assert_eq!(found.iter().rev().nth(1).map(Found::kind), Some((0, 0xD0)));
        }
    }
}

#[test]
fn given_up_at_a_segment_border() {
    let mut log = Log::new(Major::V14);
    log.pad_to_segment(16);
    let body = Body::new(10, 0).block(place(1663, 16_384), 9, vec![1; 9]);
    log.torn(&body.main(vec![5; 40_000]), 1);
    let whole = filter(&log);
    assert_eq!(whole.events, [], "nothing continues there");
    let boundary = log.start + (1 << 20);
    // a span that was stored before the crash does not fit any more, and is not needed
    let span = Span {
        boundary,
        record: Lsn(boundary.0 - 16),
        total_bytes: 40_100,
        remaining_bytes: 40_084,
        fate: SpanFate::Replaced,
        prefix: vec![1; 37],
    };
    let again = resume(&log, &span, &[100]);
    assert_eq!((again.error, again.events), (None, vec![]));
}

#[test]
fn a_span_that_does_not_fit_is_not_used() {
    for room in [16, 32] {
        a_spoiled_span(room);
    }
}

fn a_spoiled_span(room: usize) {
    let mut log = Log::new(Major::V15);
    log.pad_to_segment(room);
    log.push(&Body::new(10, 0).block(place(1663, 16_384), 9, vec![1; 9]).main(vec![5; 400]));
    let span = spans(&filter(&log)).pop().unwrap();
    let wrong: [fn(&mut Span); 7] = [
        |span| span.remaining_bytes += 1,
        |span| span.total_bytes = 3,
        |span| span.boundary += 1 << 20,
        |span| span.prefix.clear(),
        |span| span.prefix.truncate(20),
        |span| span.prefix.resize(38, 0),
        |span| span.fate = SpanFate::Unresolved,
    ];
    for spoil in wrong {
        let mut bad = span.clone();
        spoil(&mut bad);
        let from = usize::try_from(span.boundary.bytes_since(log.start)).unwrap();
        let entry = Entry::Span(bad.clone());
        let mut rewriter = Rewriter::new(log.layout, span.boundary, entry);
        let again = run(&mut rewriter, &mut Learner::usual(), &log.bytes[from..], &[100]);
        assert!(matches!(again.events[..], [Event::NeedsLookBack { .. }]), "{bad:?}");
        assert!(again.output.is_empty());
    }
}

/// A timeline may grow inside a segment.
#[test]
fn a_timeline_that_grows() {
    let mut log = Log::new(Major::V15);
    for timeline in [3, 4, 9] {
        log.timeline = timeline;
        log.push(&Body::new(0, 0x20).main(vec![0; 20_000]));
    }
    filter(&log);
    let layout: Layout = log.layout;
    assert_eq!(layout.major, Major::V15);
}
