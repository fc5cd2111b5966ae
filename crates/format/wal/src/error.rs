//! Why bytes are not WAL that can be forwarded. Every variant tells place, field and value.

use pgtypes::{Lsn, Major, Timeline};

use crate::judge::Place;

/// The stream cannot go on. Bytes before the rewriter's position are final nevertheless.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WalError {
    /// A stream can only be entered at a page.
    #[error("a stream cannot start at {at}, which is not the start of a WAL page")]
    Start {
        /// Where it was told to start.
        at: Lsn,
    },
    /// A page header is wrong.
    #[error("WAL page at {at}: {problem}")]
    Page {
        /// Start of the page.
        at: Lsn,
        /// What is wrong.
        problem: PageProblem,
    },
    /// A record is wrong.
    #[error("WAL record at {at}: {problem}")]
    Record {
        /// Start of the record.
        at: Lsn,
        /// What is wrong.
        problem: RecordProblem,
    },
    /// The judge did not learn from [`Event::Unknown`](crate::Event::Unknown).
    #[error(
        "WAL record at {at}: still undecided about database {} in tablespace {}",
        place.database, place.tablespace
    )]
    Undecided {
        /// Start of the record.
        at: Lsn,
        /// What has no fate.
        place: Place,
    },
    /// [`Event::NeedsLookBack`](crate::Event::NeedsLookBack) was ignored.
    #[error(
        "WAL page at {at}: {rem_len} bytes of a record whose beginning is not known continue here"
    )]
    TailUnknown {
        /// Start of the page.
        at: Lsn,
        /// Bytes of the record that remain.
        rem_len: u32,
    },
}

/// What is wrong with a page header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PageProblem {
    /// `xlp_magic` is another version's, or none.
    #[error("xlp_magic is {found:04X}, PostgreSQL {major} writes {:04X}{}", major.page_magic(), whose(*found))]
    Magic {
        /// What is there.
        found: u16,
        /// The version that was expected.
        major: Major,
    },
    /// `xlp_info` has bits that mean nothing.
    #[error("xlp_info is {found:04X}, which has unknown bits")]
    Info {
        /// What is there.
        found: u16,
    },
    /// The long header is missing at the start of a segment, or is elsewhere.
    #[error(
        "xlp_info is {found:04X}: a long header belongs at the start of a segment and only there"
    )]
    LongHeader {
        /// `xlp_info`
        found: u16,
    },
    /// `xlp_pageaddr` is another page's: a recycled segment, or bytes are missing.
    #[error("xlp_pageaddr is {found}")]
    Address {
        /// What is there.
        found: Lsn,
    },
    /// `xlp_tli` went back.
    #[error("xlp_tli is {found} after {before}")]
    Timeline {
        /// What is there.
        found: Timeline,
        /// Timeline of an earlier page.
        before: Timeline,
    },
    /// `xlp_seg_size` is not what the server said.
    #[error("xlp_seg_size is {found}, {expected} expected")]
    SegmentBytes {
        /// What is there.
        found: u32,
        /// What the layout says.
        expected: u64,
    },
    /// `xlp_xlog_blcksz` is not 8192.
    #[error("xlp_xlog_blcksz is {found}, only 8192 can be read")]
    BlockBytes {
        /// What is there.
        found: u32,
    },
    /// `xlp_sysid` changed: another cluster's WAL.
    #[error("xlp_sysid is {found}, {expected} before")]
    System {
        /// What is there.
        found: u64,
        /// What earlier segments said.
        expected: u64,
    },
    /// A record should go on here, but the page does not say so.
    #[error("{missing} bytes of the record at {record} are missing: no record continues here")]
    NotContinued {
        /// Start of the record.
        record: Lsn,
        /// Bytes that it lacks.
        missing: u32,
    },
    /// The page says that a record goes on, but none is open.
    #[error("xlp_rem_len is {found}, but no record is open")]
    Continued {
        /// `xlp_rem_len`
        found: u32,
    },
    /// `xlp_rem_len` contradicts the record that goes on here.
    #[error("xlp_rem_len is {found}, the record at {record} lacks {expected} bytes")]
    RemLen {
        /// What is there.
        found: u32,
        /// What the record lacks.
        expected: u32,
        /// Start of the record; `0/0` when it was not seen.
        record: Lsn,
    },
}

fn whose(magic: u16) -> String {
    let owner = |magic: u16| Major::ALL.into_iter().find(|major| major.page_magic() == magic);
    match (owner(magic), owner(magic.swap_bytes())) {
        (Some(major), _) => format!("; it is the one of PostgreSQL {major}"),
        (None, Some(_)) => "; the server has another byte order".to_owned(),
        (None, None) => String::new(),
    }
}

/// What is wrong with a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordProblem {
    /// `xl_tot_len` is impossible; zero is what follows the end of the WAL in a file.
    #[error("xl_tot_len is {found}, which is not between 24 and {max}")]
    Length {
        /// What is there.
        found: u32,
        /// The longest that the version writes.
        max: u32,
    },
    /// `xl_rmid` is no resource manager of this version.
    #[error("xl_rmid is {found}, which is no resource manager of PostgreSQL {major}")]
    Rmid {
        /// What is there.
        found: u8,
        /// The version.
        major: Major,
    },
    /// `xl_prev` does not name the record before.
    #[error("xl_prev is {found}, the record before starts at {expected}")]
    Prev {
        /// What is there.
        found: Lsn,
        /// Start of the record before.
        expected: Lsn,
    },
    /// `xl_prev` does not name an earlier record; the record before was not seen.
    #[error("xl_prev is {found}, which is not earlier")]
    PrevNotEarlier {
        /// What is there.
        found: Lsn,
    },
    /// An XLOG_SWITCH has no body.
    #[error("xl_tot_len of an XLOG_SWITCH is {found}, not 24")]
    SwitchLength {
        /// What is there.
        found: u32,
    },
    /// Block references are numbered upwards from 0 to 32.
    #[error("block id {found} is unknown or out of order")]
    BlockId {
        /// What is there.
        found: u8,
    },
    /// The first block reference says "same relation as before".
    #[error("block id {id} has BKPBLOCK_SAME_REL, but no reference is before it")]
    SameRel {
        /// The block's id.
        id: u8,
    },
    /// Headers and data do not add up to `xl_tot_len`.
    #[error("headers and data add up to {found} bytes, xl_tot_len is {total}")]
    Sum {
        /// What they add up to.
        found: u64,
        /// `xl_tot_len`
        total: u32,
    },
    /// The record ends inside its headers.
    #[error("the record ends inside {field}")]
    Cut {
        /// The part that is cut.
        field: &'static str,
    },
    /// The main data is too short for this kind of record.
    #[error("main data has {have} bytes, {need} are needed of rmgr {rmid} info {info:02X}")]
    MainData {
        /// Its length.
        have: u32,
        /// What the layout needs.
        need: usize,
        /// Resource manager.
        rmid: u8,
        /// `xl_info`
        info: u8,
    },
}

/// Why the content of a record could not be learned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnreadableProblem {
    /// It is longer than any of its kind.
    #[error("{what} of {bytes} bytes, longer than any that a server writes")]
    TooLong {
        /// The kind of record.
        what: &'static str,
        /// `xl_tot_len`
        bytes: u32,
    },
    /// It ends inside a field.
    #[error("{what} ends inside {field}")]
    Cut {
        /// The kind of record.
        what: &'static str,
        /// The field.
        field: &'static str,
    },
    /// The page image is no page.
    #[error("page image in {what}: {detail}")]
    Image {
        /// The kind of record.
        what: &'static str,
        /// What is wrong with it.
        detail: &'static str,
    },
    /// The relation map is none, or lacks a catalog.
    #[error("shared relation map: {detail}")]
    Relmap {
        /// What is wrong with it.
        detail: &'static str,
    },
}
