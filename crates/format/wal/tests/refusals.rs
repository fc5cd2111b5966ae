//! WAL that is refused, and how the reason reads.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test that panics is a test that fails"
)]

mod support;

use pgtypes::{Lsn, Major};
use support::build::{Body, Log, place};
use support::drive::{Learner, run};
use wal::{Entry, Rewriter, WalError};

/// A log of four pages with its second record at a known place.
fn log() -> (Log, Lsn) {
    let mut log = Log::new(Major::V15);
    log.push(&Body::new(0, 0x20).main([0; 50]));
    let at = log.push(&Body::new(10, 0).block(place(1663, 5), 9, vec![1; 9]).main([1; 3]));
    log.push(&Body::new(10, 0).block(place(1663, 5), 9, []).main(vec![1; 12_000]));
    log.push(&Body::new(0, 0x20).main(vec![0; 4_200]));
    log.pad_to(64);
    log.push(&Body::new(0, 0x20).main([0; 38]));
    log.push(&Body::new(0, 0x20).main([0; 50]));
    (log, at)
}

fn refusal(log: &Log) -> String {
    let message = |pieces: &[usize]| {
        let mut rewriter = Rewriter::new(log.layout, log.start, Entry::Unknown);
        let run = run(&mut rewriter, &mut Learner::usual(), &log.bytes, pieces);
        run.error.map_or("accepted".to_owned(), |error: WalError| error.to_string())
    };
    let whole = message(&[usize::MAX]);
    assert_eq!(whole, message(&[1]), "the cut shows in the error");
    whole
}

/// Spoils `bytes` at `offset` from the start of the log and compares the reason.
fn page(offset: usize, bytes: &[u8], reason: &str) {
    let (mut log, _) = log();
    log.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    assert_eq!(refusal(&log), reason);
}

#[test]
fn pages() {
    assert_eq!(refusal(&log().0), "accepted");
    page(
        0,
        &[0x16, 0xD1],
        "WAL page at 1/FFE00000: xlp_magic is D116, PostgreSQL 15 writes D110; it is the one of PostgreSQL 17",
    );
    page(
        0,
        &[0xD1, 0x10],
        "WAL page at 1/FFE00000: xlp_magic is 10D1, PostgreSQL 15 writes D110; the server has another byte order",
    );
    page(8192, &[0, 0], "WAL page at 1/FFE02000: xlp_magic is 0000, PostgreSQL 15 writes D110");
    page(8194, &[0x11], "WAL page at 1/FFE02000: xlp_info is 0011, which has unknown bits");
    page(
        8194,
        &[0x03],
        "WAL page at 1/FFE02000: xlp_info is 0003: a long header belongs at the start of a segment and only there",
    );
    page(
        2,
        &[0x00],
        "WAL page at 1/FFE00000: xlp_info is 0000: a long header belongs at the start of a segment and only there",
    );
    page(8196, &[2], "WAL page at 1/FFE02000: xlp_tli is 2 after 3");
    page(8200, &[1], "WAL page at 1/FFE02000: xlp_pageaddr is 1/FFE02001");
    page(
        8208,
        &[0, 0],
        "WAL page at 1/FFE02000: xlp_rem_len is 0, the record at 1/FFE000B8 lacks 4041 bytes",
    );
    page(
        8194,
        &[0x00],
        "WAL page at 1/FFE02000: 4041 bytes of the record at 1/FFE000B8 are missing: no record continues here",
    );
    page(24_578, &[0x01], "WAL page at 1/FFE06000: xlp_rem_len is 0, but no record is open");
    page(34, &[0x20], "WAL page at 1/FFE00000: xlp_seg_size is 2097152, 1048576 expected");
    page(37, &[0x40], "WAL page at 1/FFE00000: xlp_xlog_blcksz is 16384, only 8192 can be read");
}

#[test]
fn another_cluster() {
    let (mut log, _) = log();
    log.pad_to_segment(64);
    log.push(&Body::new(0, 0x20).main([0; 100]));
    log.bytes[(1 << 20) + 24] = 0;
    let reason =
        "WAL page at 1/FFF00000: xlp_sysid is 1311768467463790080, 1311768467463790320 before";
    assert_eq!(refusal(&log), reason);
}

/// Spoils the second record.
fn record(offset: usize, bytes: &[u8], reason: &str) {
    let (mut log, at) = log();
    let from = usize::try_from(at.bytes_since(log.start)).unwrap() + offset;
    log.bytes[from..from + bytes.len()].copy_from_slice(bytes);
    assert_eq!(refusal(&log), format!("WAL record at {at}: {reason}"));
}

#[test]
fn records() {
    record(0, &[0; 4], "xl_tot_len is 0, which is not between 24 and 1073741823");
    record(0, &[23, 0], "xl_tot_len is 23, which is not between 24 and 1073741823");
    record(3, &[0x40], "xl_tot_len is 1073741882, which is not between 24 and 1073741823");
    record(17, &[22], "xl_rmid is 22, which is no resource manager of PostgreSQL 15");
    record(17, &[127], "xl_rmid is 127, which is no resource manager of PostgreSQL 15");
    record(8, &[0x29], "xl_prev is 1/FFE00029, the record before starts at 1/FFE00028");
    record(16, &[0x40, 0], "xl_tot_len of an XLOG_SWITCH is 58, not 24");
    record(24, &[33], "block id 33 is unknown or out of order");
    record(24, &[251], "block id 251 is unknown or out of order");
    record(25, &[0x80], "block id 0 has BKPBLOCK_SAME_REL, but no reference is before it");
    record(26, &[10], "headers and data add up to 59 bytes, xl_tot_len is 58");
    record(44, &[255, 200], "headers and data add up to 255 bytes, xl_tot_len is 58");
    record(44, &[0], "block id 0 is unknown or out of order");
    record(44, &[1], "the record ends inside a block header");
}

#[test]
fn main_data_that_is_too_short() {
    let mut log = Log::new(Major::V15);
    let at = log.push(&Body::new(2, 0x10).main([0; 7]));
    let reason =
        format!("WAL record at {at}: main data has 7 bytes, 8 are needed of rmgr 2 info 10");
    assert_eq!(refusal(&log), reason);
}

#[test]
fn a_custom_resource_manager_before_they_existed() {
    for (major, reason) in [(Major::V14, Some("xl_rmid is 200")), (Major::V15, None)] {
        let mut log = Log::new(major);
        log.push(&Body::new(200, 0x10).main([0; 7]));
        match reason {
            Some(reason) => assert!(refusal(&log).contains(reason)),
            None => assert_eq!(refusal(&log), "accepted"),
        }
    }
}

#[test]
fn a_first_record_that_comes_before_its_predecessor() {
    let mut log = Log::new(Major::V15);
    log.prev = Lsn(log.start.0 + 0x100);
    log.push(&Body::new(0, 0x20));
    assert_eq!(
        refusal(&log),
        "WAL record at 1/FFE00028: xl_prev is 1/FFE00100, which is not earlier"
    );
}
