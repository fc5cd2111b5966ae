//! What is learned from the WAL: events with their exact content.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test that panics is a test that fails"
)]

mod support;

use pgtypes::{Lsn, Major, Oid, Xid};
use support::build::{Body, Log, database_row, insert, page_with, place};
use support::drive::{Learner, Run, run};
use wal::{Catalog, Entry, Event, Place, Rewriter, Verdict, WalError};

fn filter(log: &Log, judge: &mut Learner) -> Run {
    let mut rewriter = Rewriter::new(log.layout, log.start, Entry::Unknown);
    run(&mut rewriter, judge, &log.bytes, &[1 << 17])
}

/// Events of one record.
fn events(major: Major, body: &Body) -> (Lsn, Vec<Event>) {
    let mut log = Log::new(major);
    let at = log.push(body);
    let run = filter(&log, &mut Learner::usual());
    assert_eq!(run.error, None);
    (at, run.events)
}

/// Records that a server of version 15 wrote, each way in which a row can be there.
#[test]
fn rows_that_a_server_wrote() {
    let data: [(&[u8], u32, u32, u32, &str); 5] = [
        (include_bytes!("data/15-image.record"), 1262, 726, 16_386, "ex_off"),
        (include_bytes!("data/15-data.record"), 16_471, 778, 16_478, "ex3_off"),
        (include_bytes!("data/15-pglz.record"), 16_471, 783, 16_486, "ex_pglz"),
        (include_bytes!("data/15-lz4.record"), 16_571, 840, 16_586, "ex_lz4"),
        (include_bytes!("data/15-zstd.record"), 16_671, 897, 16_686, "ex_zstd"),
    ];
    for (record, file, xid, oid, name) in data {
        let mut log = Log::new(Major::V15);
        let at = log.push_raw(record);
        let mut judge = Learner::usual();
        judge.files = [(file, Catalog::Database)].into();
        let run = filter(&log, &mut judge);
        let (oid, name, tablespace) = (Oid(oid), name.into(), Oid(1663));
        assert_eq!(run.events, [Event::DatabaseRow { at, xid: Xid(xid), oid, name, tablespace }]);
        assert!(run.output == log.bytes, "a row passes");
    }
}

#[test]
fn a_tablespace_and_a_relation_map_that_a_server_wrote() {
    let mut log = Log::new(Major::V15);
    let row = log.push_raw(include_bytes!("data/15-tablespace.record"));
    let map = log.push_raw(include_bytes!("data/15-relmap.record"));
    let run = filter(&log, &mut Learner::usual());
    let row = Event::TablespaceRow { at: row, xid: Xid(724), oid: Oid(16_384), name: b"ts".into() };
    let map = Event::Relmap { at: map, database: Oid(16_471), tablespace: Oid(1213) };
    assert_eq!(run.events, [row, map]);
}

#[test]
fn a_row_of_every_version_as_data_and_in_an_image() {
    for major in Major::ALL {
        let row = database_row(major, 60_000, "a name with spaces", 30_000);
        let (page, offset, hole) = page_with(&row);
        let mut stored = page.get(..usize::from(offset)).unwrap().to_vec();
        stored.extend(page.get(usize::from(offset + hole)..).unwrap());
        let image = Body::new(10, 0x80).block(place(1664, 0), 1262, []).main([2, 0, 0]);
        let image = image.image(0x01, offset, None, stored);
        for body in [insert(1262, &row, 24), insert(1262, &row, 32), image] {
            let (at, events) = events(major, &body);
            let name = b"a name with spaces".to_vec();
            let (oid, tablespace) = (Oid(60_000), Oid(30_000));
            assert_eq!(events, [Event::DatabaseRow { at, xid: Xid(700), oid, name, tablespace }]);
        }
    }
}

#[test]
fn a_row_that_cannot_be_read_is_told() {
    let row = database_row(Major::V15, 60_000, "x", 1663);
    let no_page = Body::new(10, 0).block(place(1664, 0), 1262, []).main([2, 0, 0]);
    let long = Body::new(10, 0).block(place(1664, 0), 1262, [0; 9]).main(vec![0; 70_000]);
    for body in [
        insert(1262, &row[..80], 24),
        insert(1262, &row[..20], 24),
        insert(1262, &[], 255),
        Body::new(10, 0).block(place(1664, 0), 1262, []).main([1, 0, 0]),
        no_page.clone().image(0x01, 9, None, vec![0xFF; 100]),
        no_page.clone().image(0x05, 9, Some(8000), vec![0xFF; 100]),
        no_page.clone().image(0x09, 9, Some(8000), vec![0xFF; 100]),
        no_page.clone().image(0x11, 9, Some(8000), vec![0xFF; 100]),
        no_page.image(0x1D, 9, Some(9000), vec![0xFF; 100]),
        long,
    ] {
        let (_, events) = events(Major::V15, &body);
        assert!(matches!(events[..], [Event::Unreadable { .. }]), "{events:?}");
    }
}

#[test]
fn databases_and_tablespaces_come_and_go() {
    let (database, tablespace) = (Oid(5), Oid(1663));
    let source = Some(place(30_000, 1));
    let xid = Xid(700);
    let copy = Body::new(4, 0x01).words(&[5, 1663, 1, 30_000]);
    for major in Major::ALL {
        let (at, told) = events(major, &copy);
        assert_eq!(told, [Event::DatabaseCreate { at, xid, database, tablespace, source }]);
        let info = if major >= Major::V15 { 0x21 } else { 0x11 };
        let drop = match major {
            Major::V12 => Body::new(4, info).words(&[5, 1663]),
            _ => Body::new(4, info).words(&[5, 2, 1663, 30_000]),
        };
        let (at, told) = events(major, &drop);
        let mut tablespaces = vec![Oid(1663), Oid(30_000)];
        tablespaces.truncate(if major == Major::V12 { 1 } else { 2 });
        assert_eq!(told, [Event::DatabaseDrop { at, database, tablespaces }]);
    }
    let (at, told) = events(Major::V15, &Body::new(4, 0x11).words(&[5, 1663]));
    assert_eq!(told, [Event::DatabaseCreate { at, xid, database, tablespace, source: None }]);
    let (at, told) = events(Major::V15, &Body::new(5, 0x00).words(&[30_000, 0]));
    assert_eq!(told, [Event::TablespaceCreate { at, xid, oid: Oid(30_000) }]);
    let (at, told) = events(Major::V15, &Body::new(5, 0x10).words(&[30_001]));
    assert_eq!(told, [Event::TablespaceDrop { at, oid: Oid(30_001) }]);
}

/// The judge changes its mind after the event, before the record is judged.
#[test]
fn a_copy_of_an_excluded_template_goes() {
    let mut log = Log::new(Major::V15);
    log.push(&Body::new(4, 0x01).words(&[16_385, 1663, 16_384, 1663]));
    log.push(&Body::new(4, 0x01).words(&[16_385, 1663, 5, 30_001]));
    log.push(&Body::new(4, 0x01).words(&[16_385, 30_001, 5, 1663]));
    log.push(&Body::new(4, 0x01).words(&[16_385, 1663, 5, 1663]));
    let run = filter(&log, &mut Learner::usual());
    let kinds: Vec<_> = support::read::records(log.layout, log.start, &run.output)
        .iter()
        .map(support::read::Found::kind)
        .collect();
    assert_eq!(kinds, [(0, 0x20), (0, 0x20), (0, 0x20), (4, 0x01)]);
}

#[test]
fn an_unknown_place_is_asked_once_and_must_be_settled() {
    let mut log = Log::new(Major::V15);
    let at = log.push(&Body::new(10, 0).block(place(1663, 70_000), 9, []).main([1, 2]));
    log.push(&Body::new(10, 0).block(place(1663, 70_000), 9, []).main([1, 2]));
    let question = Event::Unknown { at, xid: Xid(700), place: place(1663, 70_000) };
    let run = filter(&log, &mut Learner::usual());
    assert_eq!((run.error, run.events), (None, vec![question.clone()]));

    let mut rewriter = Rewriter::new(log.layout, log.start, Entry::Unknown);
    let mut bytes = log.bytes.clone();
    let judge = Learner::usual();
    let first = rewriter.feed(&mut bytes, &judge).unwrap();
    assert_eq!(first.outcome, wal::Outcome::Event(question));
    let second = rewriter.feed(bytes.get_mut(first.done..).unwrap(), &judge);
    assert_eq!(second, Err(WalError::Undecided { at, place: place(1663, 70_000) }));
}

/// A record of two databases passes and is told; so does one with a shared part.
#[test]
fn references_that_disagree() {
    for other in [place(1663, 5), place(1664, 0)] {
        let mut log = Log::new(Major::V16);
        let body = Body::new(20, 0).block(place(1663, 16_384), 9, []).block(other, 8, [1]);
        let at = log.push(&body.main([1; 9]));
        let run = filter(&log, &mut Learner::usual());
        assert_eq!(run.events, [Event::Torn { at, rmid: 20, info: 0 }]);
        assert!(run.output == log.bytes);
    }
    let mut log = Log::new(Major::V16);
    let body = Body::new(20, 0).block(place(1663, 16_384), 9, []);
    log.push(&body.block(place(30_001, 5), 8, [1]).main([1; 9]));
    let run = filter(&log, &mut Learner::usual());
    assert_eq!(run.events, [], "all are excluded");
    assert!(run.output != log.bytes);
}

/// Questions about databases alone, tablespaces alone, and none about shared things.
#[test]
fn what_the_judge_is_asked() {
    let mut log = Log::new(Major::V16);
    log.push(&Body::new(21, 0).words(&[16_384, 0, 0, 0, 0, 0]));
    log.push(&Body::new(5, 0x10).words(&[30_001]));
    log.push(&Body::new(9, 0x00).words(&[0; 10]));
    log.push(&Body::new(2, 0x10).words(&[1664, 0, 1, 0]));
    log.push(&Body::new(10, 0x10).block(place(1664, 0), 9, [1]));
    log.push(&Body::new(130, 0x10).main([1; 9]));
    let mut judge = Learner::usual();
    filter(&log, &mut judge);
    let asked: Vec<_> = judge.asked.borrow().iter().copied().collect();
    assert_eq!(asked, [(0, 16_384), (30_001, 0)]);
    assert_eq!(Place::database(Oid(5)), place(0, 5));
    let unknown = wal::Judge::place(&judge, Place::tablespace(Oid(77)), Lsn(0));
    assert_eq!(unknown, Verdict::Unknown);
}

/// A page image may be anything: the decompressors must take it.
#[test]
fn spoiled_images_do_no_harm() {
    let records: [&[u8]; 4] = [
        include_bytes!("data/15-pglz.record"),
        include_bytes!("data/15-lz4.record"),
        include_bytes!("data/15-zstd.record"),
        include_bytes!("data/15-image.record"),
    ];
    for record in records {
        for at in 24..record.len() {
            for mask in [0x01, 0x80, 0xFF] {
                let mut spoiled = record.to_vec();
                spoiled[at] ^= mask;
                let mut log = Log::new(Major::V15);
                log.push_raw(&spoiled);
                let mut judge = Learner::usual();
                judge.files =
                    [1262, 16_471, 16_571, 16_671].map(|file| (file, Catalog::Database)).into();
                filter(&log, &mut judge);
            }
        }
    }
}
