//! The PostgreSQL write-ahead log as bytes: pages, records, checksums, and the rewrite
//! that replaces the records of unwanted databases by no-ops of the same length.
//!
//! This crate does no I/O and knows no clock and no async. Everything here is a function
//! of byte slices, so each rule is tested with bytes that a server wrote, cut at every
//! possible place.
//!
//! [`Rewriter`] is the centre: it is fed the WAL as it comes, in pieces of any size, changes
//! it in place, and says how many bytes are final. What must go is asked from a [`Judge`];
//! what the judge has to learn from the WAL itself (new databases, new tablespaces) comes
//! back as an [`Event`].
//!
//! # Where the truth comes from
//!
//! Layouts follow `src/include/access/xlog_internal.h`, `xlogrecord.h` and the `*_xlog.h` of
//! PostgreSQL 12 to 18. Each item names the C struct or macro that it mirrors.
//!
//! # What it does not do
//!
//! Only WAL of little-endian servers with pages of 8 kB is read; any other fails at the
//! first page. The checksums of incoming records are not verified: that costs a pass over
//! every byte, and the standby does it anyway.

mod block;
pub mod crc;
mod error;
mod event;
mod image;
mod judge;
mod noop;
pub mod page;
mod pglz;
pub mod record;
pub mod relmap;
mod rewriter;
mod row;
mod rules;
mod span;

pub use block::{BlockRef, Image, Locator};
pub use error::{PageProblem, RecordProblem, UnreadableProblem, WalError};
pub use event::{Catalog, Event, Fed, Outcome};
pub use judge::{Judge, Place, Verdict};
pub use rewriter::{HELD_BYTES_MAX, Rewriter, Stats};
pub use span::{Entry, Span, SpanFate};

use pgtypes::{Major, SegmentBytes};

/// What has to be known about a server to read its WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The major version; each has its own page magic and some record layouts of its own.
    pub major: Major,
    /// The size of a segment; `wal_segment_size`.
    pub segment_bytes: SegmentBytes,
}
