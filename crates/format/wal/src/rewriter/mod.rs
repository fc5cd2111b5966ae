//! The state machine that reads WAL in pieces of any size and rewrites it in place.
//!
//! A record's fate is known once its headers have been seen, so its body goes on as it comes.
//! Held back are only headers that are not complete yet: they are not kept here but presented
//! again by the caller, which makes every step a function of position, state and bytes.
//!
//! `records` walks over the records of a page, `plain` fast over the commonest ones, `weigh`
//! decides about one, `cross` follows the ones that go over a page border, this file ties them
//! together.

mod cross;
mod plain;
mod records;
mod weigh;

use pgtypes::Lsn;

use crate::Layout;
use crate::block::{REF_BYTES_MAX, REFS_MAX, Survey};
use crate::error::WalError;
use crate::event::{Event, Fed, Outcome};
use crate::judge::{Judge, Place};
use crate::noop::{Blank, KEPT_BYTES_MAX, PREFIX_BYTES_MAX, Prefix};
use crate::page::{LONG_HEADER_BYTES, PAGE, PAGE_BYTES, Pages};
use crate::record::HEADER_BYTES;
use crate::row::Lesson;
use crate::rules::MAIN_BYTES_MAX;
use crate::span::{Entry, Span, SpanFate};

/// Bytes of a record that must be seen to judge it, at most.
const HEAD_BYTES_MAX: usize =
    HEADER_BYTES + REFS_MAX * REF_BYTES_MAX + KEPT_BYTES_MAX + 5 + MAIN_BYTES_MAX;

/// What [`Rewriter::feed`] leaves over is always shorter than this, in bytes: the headers of
/// one record and the page header between them.
pub const HELD_BYTES_MAX: usize = 1024;
const _: () = assert!(HEAD_BYTES_MAX + LONG_HEADER_BYTES < HELD_BYTES_MAX);
// Headers go over one page border at most.
const _: () = assert!(HEAD_BYTES_MAX < PAGE - LONG_HEADER_BYTES);

/// What a stream has been through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Records that went as they are.
    pub records_passed: u64,
    /// Records that became no-ops.
    pub records_replaced: u64,
    /// Bytes of the records that became no-ops.
    pub replaced_bytes: u64,
}

/// Rewrites one stream of WAL.
#[derive(Debug)]
pub struct Rewriter {
    pages: Pages,
    at: Lsn,
    phase: Phase,
    open: Open,
    /// Start of the last record that was judged.
    prev: Option<Lsn>,
    /// The one before it, in case it is given up.
    before: Option<Lsn>,
    /// `xl_prev` of the first record.
    first_prev: Option<Lsn>,
    told: Told,
    /// An event that comes before everything else.
    pending: Option<Event>,
    /// The last segment start that was announced.
    announced: Lsn,
    survey: Survey,
    /// What the record at the position is about: the first place of a database.
    subject: Option<Place>,
    /// Headers of a record that go over a page border, without the page header.
    gathered: Vec<u8>,
    /// The record whose content is learned, so far.
    captured: Vec<u8>,
    blank: Blank,
    stats: Stats,
}

/// What comes at the position.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// The first page.
    Start(Entry),
    /// A record or the alignment before it.
    Head,
    /// The rest of the open record.
    Body,
    /// What an XLOG_SWITCH leaves of its segment, up to this position.
    Skip(Lsn),
    /// The tail of a record whose beginning is missing.
    Lost(u32),
}

/// The record that is under way.
#[derive(Clone, Debug)]
struct Open {
    start: Lsn,
    total: u32,
    /// Bytes that are not final yet.
    remaining: u32,
    fate: SpanFate,
    /// What a no-op begins with; empty for what passes.
    prefix: Prefix,
    lesson: Option<Lesson>,
}

/// Which questions about a record have been put to the caller: the next one's number.
#[derive(Clone, Copy, Debug)]
struct Told {
    record: Lsn,
    next: usize,
}

/// What one step did.
enum Step {
    /// So many bytes more are final.
    Moved(usize),
    /// More bytes are needed.
    Hold,
    /// The caller has to hear this first.
    Tell(Event),
}

impl Rewriter {
    /// Starts at `at`, which must be the start of a page; in practice it is that of a segment.
    #[must_use]
    pub fn new(layout: Layout, at: Lsn, entry: Entry) -> Self {
        Self {
            pages: Pages::new(layout),
            at,
            phase: Phase::Start(entry),
            open: Open {
                start: Lsn::INVALID,
                total: 0,
                remaining: 0,
                fate: SpanFate::Passed,
                prefix: Prefix::EMPTY,
                lesson: None,
            },
            prev: None,
            before: None,
            first_prev: None,
            told: Told { record: Lsn::INVALID, next: 0 },
            pending: None,
            announced: Lsn::INVALID,
            survey: Survey::new(),
            subject: None,
            gathered: Vec::new(),
            captured: Vec::new(),
            blank: Blank::new(),
            stats: Stats::default(),
        }
    }

    /// Looks at the bytes that start at [`position`](Self::position), and rewrites them in place.
    ///
    /// The first [`Fed::done`] bytes are final: forward them, and present the rest again with
    /// more bytes behind it. Cut anywhere, the same WAL gives the same bytes and events.
    ///
    /// Cost: about 7 ns for a short record that passes, 12 ns for one that is replaced, and
    /// memory speed for long ones.
    ///
    /// # Errors
    ///
    /// [`WalError`] when the bytes are not WAL of such a server, or when an event was not
    /// heeded. What lies before [`position`](Self::position) is final then too. The stream
    /// cannot go on.
    pub fn feed(&mut self, bytes: &mut [u8], judge: &impl Judge) -> Result<Fed, WalError> {
        if !self.at.0.is_multiple_of(PAGE_BYTES) && matches!(self.phase, Phase::Start(_)) {
            return Err(WalError::Start { at: self.at });
        }
        let mut done = 0;
        loop {
            if let Some(event) = self.pending.take().or_else(|| self.boundary()) {
                return Ok(Fed { done, outcome: Outcome::Event(event) });
            }
            let rest = bytes.get_mut(done..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(Fed { done, outcome: Outcome::Drained });
            }
            let before = self.at;
            let step = match &self.phase {
                Phase::Start(_) => self.enter(rest)?,
                Phase::Head if self.page_offset() == 0 => self.page_at_head(rest)?,
                Phase::Head if self.at.max_align() != self.at => {
                    let pad = (self.at.max_align() - self.at.0).0;
                    Step::Moved(min(pad, rest.len()))
                }
                Phase::Head => self.records(rest, judge)?,
                Phase::Body if self.page_offset() == 0 => self.page_in_body(rest)?,
                Phase::Body => self.body(rest),
                Phase::Skip(end) if *end <= self.at => {
                    self.phase = Phase::Head;
                    Step::Moved(0)
                }
                Phase::Skip(end) => Step::Moved(min(end.bytes_since(self.at), rest.len())),
                Phase::Lost(rem_len) => {
                    return Err(WalError::TailUnknown { at: self.at, rem_len: *rem_len });
                }
            };
            // `records` keeps the position itself, for its errors; the others leave it alone.
            match step {
                Step::Moved(bytes) => {
                    done += bytes;
                    self.at = before + bytes as u64;
                }
                Step::Hold => return Ok(Fed { done, outcome: Outcome::Drained }),
                Step::Tell(event) => return Ok(Fed { done, outcome: Outcome::Event(event) }),
            }
        }
    }

    /// LSN of the first byte that is not final.
    #[must_use]
    pub const fn position(&self) -> Lsn {
        self.at
    }

    /// What the stream has been through.
    #[must_use]
    pub const fn stats(&self) -> Stats {
        self.stats
    }

    /// `xl_prev` of the first complete record, once it was seen: where the record starts that
    /// continued into the start of the stream, when one did.
    #[must_use]
    pub const fn first_prev(&self) -> Option<Lsn> {
        self.first_prev
    }

    fn page_offset(&self) -> usize {
        (self.at.0 % PAGE_BYTES) as usize
    }

    /// The open record as somebody needs it who starts at `self.at`.
    fn span(&self) -> Span {
        let open = &self.open;
        let gone = (open.total - open.remaining) as usize;
        let fate = if open.lesson.is_some() { SpanFate::Unresolved } else { open.fate };
        let prefix = if gone < PREFIX_BYTES_MAX { open.prefix.as_slice() } else { &[] };
        Span {
            boundary: self.at,
            record: open.start,
            total_bytes: open.total,
            remaining_bytes: open.remaining,
            fate,
            prefix: prefix.to_vec(),
        }
    }
}

/// The smaller of a distance in the WAL and the length of a slice.
fn min(distance: u64, len: usize) -> usize {
    usize::try_from(distance).map_or(len, |distance| distance.min(len))
}
