//! Block references and the other headers inside a record's body; `xlogrecord.h`.
//!
//! [`BlockRef::parse`] reads one reference, [`Survey`] walks over all headers of a record the
//! way `DecodeXLogRecord` (`xlogreader.c`) does. Neither looks at images or data.

use pgtypes::{Major, Oid};

use crate::error::RecordProblem;
use crate::judge::Place;
use crate::noop::{ID_DATA_LONG, ID_DATA_SHORT, ID_ORIGIN, ID_TOPLEVEL_XID, Kept};
use crate::record::HEADER_BYTES;

/// `XLR_MAX_BLOCK_ID`
const BLOCK_ID_MAX: u8 = 32;
/// Block references that a record can have.
pub(crate) const REFS_MAX: usize = BLOCK_ID_MAX as usize + 1;
/// Bytes of the longest block reference: fixed part, image header, locator, block number.
pub(crate) const REF_BYTES_MAX: usize = 4 + 7 + 12 + 4;

/// `BKPBLOCK_FORK_MASK`
const FORK_MASK: u8 = 0x0F;
/// `BKPBLOCK_HAS_IMAGE`
const HAS_IMAGE: u8 = 0x10;
/// `BKPBLOCK_SAME_REL`
const SAME_REL: u8 = 0x80;

/// `RelFileLocator`: a relation's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locator {
    /// Tablespace and database.
    pub place: Place,
    /// `relNumber`; `relNode` up to 15.
    pub relfilenumber: Oid,
}

/// `XLogRecordBlockImageHeader`: a page image that comes with a block reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    /// `bimg_len`: bytes of the image in the record.
    pub bytes: u16,
    /// `hole_offset`
    pub hole_offset: u16,
    /// `hole_length` when it is stored, which is when the image is compressed and has a hole.
    pub hole_bytes: Option<u16>,
    /// `bimg_info`; the meaning of its bits changed with 15.
    pub info: u8,
}

/// `XLogRecordBlockHeader`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRef {
    /// 0 to 32
    pub id: u8,
    /// Main fork 0, free space map 1, visibility map 2, init fork 3.
    pub fork: u8,
    /// `data_length`: bytes of data beside the image.
    pub data_bytes: u16,
    /// The page image, if there is one.
    pub image: Option<Image>,
    /// `None`: the relation of the reference before.
    pub locator: Option<Locator>,
}

impl BlockRef {
    /// Reads the reference at the start of `bytes`; returns what follows it too.
    ///
    /// `None` when `bytes` end inside it. The id is not checked.
    #[inline]
    #[must_use]
    pub fn parse(major: Major, bytes: &[u8]) -> Option<(Self, &[u8])> {
        let ([id, flags, d0, d1], mut rest) = bytes.split_first_chunk::<4>()?;
        let mut image = None;
        if flags & HAS_IMAGE != 0 {
            let (parsed, after) = Image::parse(major, rest)?;
            image = Some(parsed);
            rest = after;
        }
        let mut locator = None;
        if flags & SAME_REL == 0 {
            let (parsed, after) = Locator::parse(rest)?;
            locator = Some(parsed);
            rest = after;
        }
        let (_block_number, rest) = rest.split_first_chunk::<4>()?;
        let data_bytes = u16::from_le_bytes([*d0, *d1]);
        Some((Self { id: *id, fork: flags & FORK_MASK, data_bytes, image, locator }, rest))
    }
}

impl Locator {
    #[inline]
    fn parse(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let ([s0, s1, s2, s3, d0, d1, d2, d3, r0, r1, r2, r3], rest) =
            bytes.split_first_chunk::<12>()?;
        let tablespace = Oid(u32::from_le_bytes([*s0, *s1, *s2, *s3]));
        let database = Oid(u32::from_le_bytes([*d0, *d1, *d2, *d3]));
        let relfilenumber = Oid(u32::from_le_bytes([*r0, *r1, *r2, *r3]));
        Some((Self { place: Place { tablespace, database }, relfilenumber }, rest))
    }
}

impl Image {
    /// `BKPIMAGE_HAS_HOLE`
    pub(crate) const HAS_HOLE: u8 = 0x01;

    #[inline]
    fn parse(major: Major, bytes: &[u8]) -> Option<(Self, &[u8])> {
        let ([b0, b1, h0, h1, info], mut rest) = bytes.split_first_chunk::<5>()?;
        let mut hole_bytes = None;
        // 0x02 is IS_COMPRESSED up to 14; from 15 on 0x04, 0x08 and 0x10 are pglz, lz4, zstd
        let compressed = if major >= Major::V15 { 0x1C } else { 0x02 };
        if info & Self::HAS_HOLE != 0 && info & compressed != 0 {
            let (length, after) = rest.split_first_chunk::<2>()?;
            hole_bytes = Some(u16::from_le_bytes(*length));
            rest = after;
        }
        let bytes = u16::from_le_bytes([*b0, *b1]);
        let hole_offset = u16::from_le_bytes([*h0, *h1]);
        Some((Self { bytes, hole_offset, hole_bytes, info: *info }, rest))
    }
}

/// How far a walk over headers came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Walk {
    /// Over all of them.
    Complete,
    /// The bytes end before the headers do.
    Short,
}

/// What the headers of one record say. Reused from record to record.
#[derive(Debug)]
pub(crate) struct Survey {
    places: [Place; REFS_MAX],
    runs: usize,
    /// Block references.
    pub(crate) refs: u32,
    /// The relation of the first block reference.
    pub(crate) first: Locator,
    /// Record header and all headers of the body.
    pub(crate) head_bytes: usize,
    /// Bytes of the main data; they end the record.
    pub(crate) main_bytes: u32,
    /// Origin and top-level transaction, as they stand in the record.
    pub(crate) kept: Kept,
}

impl Survey {
    pub(crate) const fn new() -> Self {
        Self {
            places: [Place::SHARED; REFS_MAX],
            runs: 0,
            refs: 0,
            first: Locator { place: Place::SHARED, relfilenumber: Oid::INVALID },
            head_bytes: 0,
            main_bytes: 0,
            kept: Kept::EMPTY,
        }
    }

    /// The places of the block references in order, runs of equal ones once.
    #[inline]
    pub(crate) fn places(&self) -> &[Place] {
        self.places.get(..self.runs).unwrap_or_default()
    }

    /// Takes over what [`plain`] read: as much of it as decides about the record.
    #[inline]
    pub(crate) const fn note_plain(&mut self, first: Locator) {
        self.first = first;
        self.kept = Kept::EMPTY;
    }

    /// Walks over the headers of a record of `total` bytes.
    ///
    /// `record` is what is there of it, from its first byte, at most `total` bytes.
    pub(crate) fn walk(
        &mut self,
        major: Major,
        record: &[u8],
        total: u32,
    ) -> Result<Walk, RecordProblem> {
        self.runs = 0;
        self.refs = 0;
        self.main_bytes = 0;
        self.kept = Kept::EMPTY;
        let Some(mut rest) = record.get(HEADER_BYTES..) else { return Ok(Walk::Short) };
        let mut data_bytes = 0_u64;
        let mut next_id = 0;
        // what of the record lies behind `rest`, seen or not
        let unseen = u64::from(total).saturating_sub(record.len() as u64);
        while rest.len() as u64 + unseen > data_bytes {
            let step = match rest.first() {
                None => None,
                Some(&id @ 0..=BLOCK_ID_MAX) if id >= next_id => {
                    next_id = id + 1;
                    self.block(major, rest, &mut data_bytes)?
                }
                Some(&ID_ORIGIN) => self.keep(rest, 3)?,
                Some(&ID_TOPLEVEL_XID) => self.keep(rest, 5)?,
                Some(&(ID_DATA_SHORT | ID_DATA_LONG)) => {
                    let Some((main_bytes, after)) = main_data_header(rest) else {
                        return short("the header of the main data", unseen);
                    };
                    self.main_bytes = main_bytes;
                    data_bytes += u64::from(main_bytes);
                    rest = after;
                    break;
                }
                Some(&found) => return Err(RecordProblem::BlockId { found }),
            };
            let Some(after) = step else { return short("a block header", unseen) };
            rest = after;
        }
        self.head_bytes = record.len() - rest.len();
        let found = self.head_bytes as u64 + data_bytes;
        if found == u64::from(total) {
            Ok(Walk::Complete)
        } else {
            Err(RecordProblem::Sum { found, total })
        }
    }

    #[inline]
    fn block<'a>(
        &mut self,
        major: Major,
        bytes: &'a [u8],
        data_bytes: &mut u64,
    ) -> Result<Option<&'a [u8]>, RecordProblem> {
        let Some((block, rest)) = BlockRef::parse(major, bytes) else { return Ok(None) };
        *data_bytes += u64::from(block.data_bytes);
        if let Some(image) = block.image {
            *data_bytes += u64::from(image.bytes);
        }
        match block.locator {
            Some(locator) => self.add(locator),
            None if self.refs == 0 => return Err(RecordProblem::SameRel { id: block.id }),
            None => {}
        }
        self.refs += 1;
        Ok(Some(rest))
    }

    #[inline]
    fn add(&mut self, locator: Locator) {
        if self.refs == 0 {
            self.first = locator;
        }
        let last = self.runs.checked_sub(1).and_then(|last| self.places.get(last));
        if last == Some(&locator.place) {
            return;
        }
        if let Some(slot) = self.places.get_mut(self.runs) {
            *slot = locator.place;
            self.runs += 1;
        }
    }

    /// Keeps a chunk of `bytes` bytes for the no-op.
    ///
    /// More of them than one of each kind would make the headers longer than any that a
    /// server writes, and than what is ever held back.
    fn keep<'a>(
        &mut self,
        rest: &'a [u8],
        bytes: usize,
    ) -> Result<Option<&'a [u8]>, RecordProblem> {
        let Some((chunk, after)) = rest.split_at_checked(bytes) else { return Ok(None) };
        if self.kept.push(chunk) {
            return Ok(Some(after));
        }
        Err(RecordProblem::BlockId { found: chunk.first().copied().unwrap_or_default() })
    }
}

/// Bytes of all headers of a plain record.
pub(crate) const PLAIN_BYTES: usize = HEADER_BYTES + 4 + 12 + 4 + 2;

/// The relation of a record in the commonest form: one block reference, no image, short main
/// data. Four of five records of a mixed load are plain, and take a third less time so.
///
/// `None` for all others, which [`Survey::walk`] reads as it would read these.
#[inline]
pub(crate) fn plain(record: &[u8], total: u32) -> Option<Locator> {
    let head = record.first_chunk::<PLAIN_BYTES>()?;
    let (_, [id, flags, d0, d1, reference @ ..]) = head.split_first_chunk::<HEADER_BYTES>()? else {
        return None;
    };
    let [.., data_id, main_bytes] = *head;
    let (locator, _block_number) = Locator::parse(reference)?;
    let data_bytes = u32::from(u16::from_le_bytes([*d0, *d1])) + u32::from(main_bytes);
    let is_plain = *id == 0
        && flags & (HAS_IMAGE | SAME_REL) == 0
        && data_id == ID_DATA_SHORT
        && PLAIN_BYTES as u64 + u64::from(data_bytes) == u64::from(total);
    is_plain.then_some(locator)
}

fn short(field: &'static str, unseen: u64) -> Result<Walk, RecordProblem> {
    if unseen == 0 { Err(RecordProblem::Cut { field }) } else { Ok(Walk::Short) }
}

/// Length of the main data, and what follows its header.
fn main_data_header(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (id, rest) = bytes.split_first()?;
    if *id == ID_DATA_SHORT {
        let (length, rest) = rest.split_first()?;
        return Some((u32::from(*length), rest));
    }
    let (length, rest) = rest.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*length), rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Bytes that are plain or nearly so, whole and cut.
        #[test]
        fn the_short_way_gives_what_the_long_way_gives(
            id in prop_oneof![4 => Just(0_u8), 1 => any::<u8>()],
            flags in prop_oneof![4 => Just(0x20_u8), 1 => any::<u8>()],
            data_id in prop_oneof![4 => Just(ID_DATA_SHORT), 1 => any::<u8>()],
            data_bytes in 0_u16..40,
            main_bytes in 0_u8..40,
            reference: [u8; 16],
            off in prop_oneof![4 => Just(0_u32), 1 => 0_u32..3],
            cut in 0_usize..200,
        ) {
            let mut record = vec![0; HEADER_BYTES];
            let [d0, d1] = data_bytes.to_le_bytes();
            record.extend([id, flags, d0, d1]);
            record.extend(reference);
            record.extend([data_id, main_bytes]);
            let total = PLAIN_BYTES + usize::from(data_bytes) + usize::from(main_bytes);
            record.resize(total, 0);
            record.truncate(cut.max(HEADER_BYTES));
            let total = u32::try_from(total).unwrap() + off;
            let mut survey = Survey::new();
            let walked = survey.walk(Major::V16, &record, total);
            if let Some(locator) = plain(&record, total) {
                prop_assert_eq!(walked, Ok(Walk::Complete));
                prop_assert_eq!((survey.refs, survey.first), (1, locator));
                prop_assert_eq!(survey.places(), [locator.place]);
                prop_assert!(survey.kept.as_slice().is_empty());
            } else {
                let simple = id == 0 && flags == 0x20 && data_id == ID_DATA_SHORT;
                prop_assert!(!simple || off > 0 || record.len() < PLAIN_BYTES);
            }
        }
    }
}
