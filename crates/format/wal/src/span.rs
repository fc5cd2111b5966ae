//! The record that continues into the place where a stream starts.
//!
//! Nearly every segment starts inside a record. Its tail must be treated as its head was:
//! raw bytes after a head that became a no-op give a record with a wrong checksum.

use pgtypes::Lsn;

/// What is known about the record that continues into the first page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Nothing. Fine when the first page does not begin with a continued record; otherwise
    /// [`Event::NeedsLookBack`](crate::Event::NeedsLookBack) comes before anything is final.
    Unknown,
    /// What [`Event::Boundary`](crate::Event::Boundary) gave when this place was passed before.
    ///
    /// A span that does not fit the first page counts as [`Entry::Unknown`].
    Span(Span),
    /// The caller gave up on looking back: the tail passes as it is.
    Raw,
}

/// What became of the head of a record that crosses into another segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanFate {
    /// It went as it is.
    Passed,
    /// It became a no-op.
    Replaced,
    /// It passed, but a stream that starts at the boundary would miss something: its
    /// content is still being learned, or its beginning was not seen. Store nothing, so
    /// that a later start looks back.
    Unresolved,
}

/// A record that crosses the start of a segment, with all that is needed to go on there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Start of the segment.
    pub boundary: Lsn,
    /// Start of the record; [`Lsn::INVALID`] when it was not seen.
    pub record: Lsn,
    /// `xl_tot_len`, or what was left of it when the beginning was not seen.
    pub total_bytes: u32,
    /// Bytes of the record from the boundary on, page headers not counted.
    pub remaining_bytes: u32,
    /// What became of the head.
    pub fate: SpanFate,
    /// Of a replaced record the first bytes as they went out, when the boundary may fall
    /// inside them; else empty. At most 37 bytes.
    pub prefix: Vec<u8>,
}
