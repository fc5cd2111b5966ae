//! A second opinion: reads whole WAL in the plainest way, with a checksum of its own.

use pgtypes::Lsn;
use wal::Layout;

const PAGE: usize = 8192;

/// CRC-32C byte by byte, as in any textbook.
const TABLE: [u32; 256] = {
    let mut table = [0_u32; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut entry = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            entry = if entry & 1 == 1 { (entry >> 1) ^ 0x82F6_3B78 } else { entry >> 1 };
            bit += 1;
        }
        table[byte] = entry;
        byte += 1;
    }
    table
};

fn slow_crc(parts: &[&[u8]]) -> u32 {
    let mut crc = !0;
    for byte in parts.iter().copied().flatten() {
        crc = (crc >> 8) ^ TABLE[((crc ^ u32::from(*byte)) & 0xFF) as usize];
    }
    !crc
}

pub fn slow_record_crc(record: &[u8]) -> u32 {
    slow_crc(&[&record[24..], &record[..20]])
}

/// A record as a standby sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub at: Lsn,
    pub bytes: Vec<u8>,
}

impl Found {
    pub fn kind(&self) -> (u8, u8) {
        (self.bytes[17], self.bytes[16])
    }

    pub fn checksum_holds(&self) -> bool {
        self.bytes[20..24] == slow_record_crc(&self.bytes).to_le_bytes()
    }
}

/// All complete records of `bytes`, which begin at `start` with a page that continues none.
pub fn records(layout: Layout, start: Lsn, bytes: &[u8]) -> Vec<Found> {
    let segment = layout.segment_bytes.bytes() as usize;
    assert_eq!(start.0 as usize % segment, 0);
    let header = |at: usize| if at.is_multiple_of(segment) { 40 } else { 24 };
    let mut found = vec![];
    let mut at = 0;
    'next: loop {
        at = usize::next_multiple_of(at, 8);
        if at.is_multiple_of(PAGE) {
            at += header(at);
        }
        if at + 24 > bytes.len() {
            return found;
        }
        let from = at;
        let total = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let mut record = vec![];
        while record.len() < total {
            if at.is_multiple_of(PAGE) {
                if at + 24 > bytes.len() {
                    return found;
                }
                let info = bytes[at + 2];
                if info & 8 != 0 {
                    continue 'next;
                }
                assert_eq!(info & 1, 1, "page at {at:X} continues a record");
                at += header(at);
            }
            let chunk = (PAGE - at % PAGE).min(total - record.len());
            if at + chunk > bytes.len() {
                return found;
            }
            record.extend(&bytes[at..at + chunk]);
            at += chunk;
        }
        if record[16..18] == [0x40, 0] {
            at = at.next_multiple_of(segment);
        }
        found.push(Found { at: start + from as u64, bytes: record });
    }
}
