//! A record as a no-op of the same length.
//!
//! `XLOG_NOOP` is accepted by every reader of 12 to 18 with any main data. Kept are length,
//! transaction and `xl_prev`, which other records and the standby's bookkeeping rely on, and
//! the origin and top-level transaction, which logical decoding on a standby uses. The rest
//! is main data of zeros.

use crate::crc;
use crate::record::{CRC_OFFSET, HEADER_BYTES, XLOG_NOOP, rmid};

/// `XLR_BLOCK_ID_DATA_SHORT` (`xlogrecord.h`)
pub(crate) const ID_DATA_SHORT: u8 = 255;
/// `XLR_BLOCK_ID_DATA_LONG`
pub(crate) const ID_DATA_LONG: u8 = 254;
/// `XLR_BLOCK_ID_ORIGIN`
pub(crate) const ID_ORIGIN: u8 = 253;
/// `XLR_BLOCK_ID_TOPLEVEL_XID`, since 14
pub(crate) const ID_TOPLEVEL_XID: u8 = 252;

/// Bytes of the chunks that are kept: origin (3) and top-level transaction (5).
pub(crate) const KEPT_BYTES_MAX: usize = 8;
/// The longest prefix: record header, kept chunks, header of the main data.
pub(crate) const PREFIX_BYTES_MAX: usize = HEADER_BYTES + KEPT_BYTES_MAX + 5;
const _: () = assert!(PREFIX_BYTES_MAX == 37);

/// Bodies up to this length find their checksum in a table.
const TABLE_LEN: usize = 8192;

/// A few bytes by value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Short<const N: usize> {
    bytes: [u8; N],
    len: u8,
}

impl<const N: usize> Short<N> {
    pub(crate) const EMPTY: Self = Self { bytes: [0; N], len: 0 };

    /// Appends; what does not fit is refused as a whole.
    pub(crate) fn push(&mut self, more: &[u8]) -> bool {
        let from = usize::from(self.len);
        let Some(room) = self.bytes.get_mut(from..from + more.len()) else { return false };
        room.copy_from_slice(more);
        self.len = u8::try_from(from + more.len()).unwrap_or(u8::MAX);
        true
    }

    #[inline]
    pub(crate) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// The first bytes of a no-op; zeros follow up to its length.
pub(crate) type Prefix = Short<PREFIX_BYTES_MAX>;
/// The chunks of a record that its no-op keeps.
pub(crate) type Kept = Short<KEPT_BYTES_MAX>;

/// Makes no-ops.
#[derive(Debug)]
pub(crate) struct Blank {
    /// Checksum of a no-op by the length of its body, when nothing is kept and with zeros
    /// at [`crc::VARYING`]. Zero: not computed yet.
    table: Box<[u32]>,
}

impl Blank {
    pub(crate) fn new() -> Self {
        Self { table: vec![0; TABLE_LEN].into_boxed_slice() }
    }

    /// Makes the complete `record` a no-op in place; `kept` are the chunks of it that stay.
    ///
    /// `None` when the body has exactly one byte besides what is kept, which cannot be
    /// expressed; a record with block references or main data has more.
    #[inline]
    pub(crate) fn erase(&mut self, record: &mut [u8], kept: &Kept) -> Option<()> {
        let (head, body) = record.split_first_chunk_mut::<HEADER_BYTES>()?;
        let bare = self.bare_crc(u32::try_from(body.len()).ok()?, kept)?;
        finish(head, bare)?;
        let mut rest = body;
        if kept.len > 0 {
            let chunks;
            (chunks, rest) = rest.split_at_mut_checked(usize::from(kept.len))?;
            chunks.copy_from_slice(kept.as_slice());
        }
        fill(rest);
        Some(())
    }

    /// The first bytes of what [`erase`](Self::erase) would make of the record with this header.
    pub(crate) fn prefix(&mut self, header: &[u8; HEADER_BYTES], kept: &Kept) -> Option<Prefix> {
        let [t0, t1, t2, t3, ..] = *header;
        let body_bytes = u32::from_le_bytes([t0, t1, t2, t3]).checked_sub(24)?;
        let (data_header, _zeros) = data_header(body_bytes, kept)?;
        let mut head = *header;
        finish(&mut head, self.bare_crc(body_bytes, kept)?)?;
        let mut prefix = Prefix::EMPTY;
        let fits = prefix.push(&head)
            && prefix.push(kept.as_slice())
            && prefix.push(data_header.as_slice());
        fits.then_some(prefix)
    }

    /// The checksum of a no-op of this length, with zeros at [`crc::VARYING`].
    #[inline]
    fn bare_crc(&mut self, body_bytes: u32, kept: &Kept) -> Option<u32> {
        match self.table.get_mut(body_bytes as usize) {
            Some(known) if kept.len == 0 => {
                if *known == 0 {
                    *known = compute_bare_crc(body_bytes, kept)?;
                }
                Some(*known)
            }
            _ => compute_bare_crc(body_bytes, kept),
        }
    }
}

#[cold]
fn compute_bare_crc(body_bytes: u32, kept: &Kept) -> Option<u32> {
    let (data_header, zeros) = data_header(body_bytes, kept)?;
    let body = crc32c::crc32c_append(crc32c::crc32c(kept.as_slice()), data_header.as_slice());
    let body = crc::append_zeros(body, zeros);
    let header_bytes = u32::try_from(HEADER_BYTES).ok()?;
    let length = (body_bytes + header_bytes).to_le_bytes();
    let covered = [&length[..], &[0; crc::VARYING.end - crc::VARYING.start], &KIND].concat();
    Some(crc32c::crc32c_append(body, &covered))
}

/// `xl_info`, `xl_rmid` and two bytes of padding; they stand between [`crc::VARYING`] and
/// `xl_crc`.
const KIND: [u8; 4] = [XLOG_NOOP, rmid::XLOG, 0, 0];
const _: () = assert!(crc::VARYING.end + KIND.len() == CRC_OFFSET);

/// Turns the header into that of a no-op whose checksum is `bare` with zeros at
/// [`crc::VARYING`].
#[inline]
fn finish(head: &mut [u8; HEADER_BYTES], bare: u32) -> Option<()> {
    let crc = bare ^ crc::share(head.get(crc::VARYING)?.first_chunk()?);
    head.get_mut(crc::VARYING.end..CRC_OFFSET)?.copy_from_slice(&KIND);
    head.get_mut(CRC_OFFSET..)?.copy_from_slice(&crc.to_le_bytes());
    Some(())
}

/// Makes `data` main data of zeros, with its header; one byte alone cannot be.
#[inline]
fn fill(data: &mut [u8]) {
    let zeros = match data {
        [] | [_] => return,
        [id, length, zeros @ ..] if zeros.len() <= usize::from(u8::MAX) => {
            *id = ID_DATA_SHORT;
            *length = u8::try_from(zeros.len()).unwrap_or(u8::MAX);
            zeros
        }
        data => {
            let Some((header, zeros)) = data.split_first_chunk_mut::<5>() else { return };
            let [a, b, c, d] = u32::try_from(zeros.len()).unwrap_or(u32::MAX).to_le_bytes();
            *header = [ID_DATA_LONG, a, b, c, d];
            zeros
        }
    };
    zeros.fill(0);
}

/// The header of the main data, and how many zeros it announces.
fn data_header(body_bytes: u32, kept: &Kept) -> Option<(Short<5>, u32)> {
    let rest = body_bytes.checked_sub(u32::from(kept.len))?;
    let mut header = Short::EMPTY;
    if rest == 0 {
        return Some((header, 0));
    }
    let short = rest.checked_sub(2)?;
    if let Ok(short) = u8::try_from(short) {
        header.push(&[ID_DATA_SHORT, short]);
        return Some((header, u32::from(short)));
    }
    let long = rest.checked_sub(5)?;
    let [a, b, c, d] = long.to_le_bytes();
    header.push(&[ID_DATA_LONG, a, b, c, d]);
    Some((header, long))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(total: u32) -> [u8; HEADER_BYTES] {
        let mut header = [0xEE; HEADER_BYTES];
        header[..4].copy_from_slice(&total.to_le_bytes());
        header
    }

    fn whole(prefix: &Prefix, total: u32) -> Vec<u8> {
        let mut record = prefix.as_slice().to_vec();
        record.resize(total as usize, 0);
        record
    }

    #[test]
    fn every_length_has_the_right_checksum_and_header() {
        let mut blank = Blank::new();
        let mut chunks = Kept::EMPTY;
        for kept in [&[][..], &[253, 1, 2], &[252, 1, 2, 3, 4]] {
            chunks.push(kept);
            let kept_len = u32::from(chunks.len);
            for total in (24 + kept_len..9000).chain([1 << 20, 0x003F_FFFF]) {
                let prefix = blank.prefix(&header(total), &chunks);
                if total == 25 + kept_len {
                    assert!(prefix.is_none(), "one byte cannot be expressed");
                    continue;
                }
                let record = whole(&prefix.unwrap(), total);
                let mut erased = header(total).to_vec();
                erased.resize(total as usize, 0xEE);
                assert_eq!(blank.erase(&mut erased, &chunks), Some(()));
                assert_eq!(erased, record);
                let stored = u32::from_le_bytes(record[20..24].try_into().unwrap());
                assert_eq!(crc::record_crc(&record), Some(stored), "{total} bytes");
                assert_eq!(record[4..16], [0xEE; 12]);
                assert_eq!(record[16..20], [0x20, 0, 0, 0]);
                assert_eq!(record[24..24 + kept_len as usize], *chunks.as_slice());
                let data = &record[24 + kept_len as usize..];
                match data {
                    [] => {}
                    [255, len, rest @ ..] => assert_eq!(usize::from(*len), rest.len()),
                    [254, a, b, c, d, rest @ ..] => {
                        assert_eq!(u32::from_le_bytes([*a, *b, *c, *d]) as usize, rest.len());
                    }
                    other => panic!("unexpected main data {other:?}"),
                }
            }
        }
    }

    #[test]
    fn a_known_record() {
        // 30 bytes: checked with a straightforward bitwise CRC in tests/support as well
        let mut blank = Blank::new();
        let prefix = blank.prefix(&header(30), &Kept::EMPTY).unwrap();
        assert_eq!(prefix.as_slice()[24..], [255, 4]);
    }
}
