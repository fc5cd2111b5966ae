//! Lays records over pages and segments as `CopyXLogRecordToWAL` (`xlog.c`) does.

use pgtypes::{Lsn, Major, Oid, SegmentBytes};
use wal::{Layout, Place};

use super::read::slow_record_crc;

pub const PAGE: usize = 8192;

/// A block reference to write.
#[derive(Clone, Debug, Default)]
pub struct Block {
    /// Tablespace, database, relfilenumber; `None` for the relation of the block before.
    pub locator: Option<(u32, u32, u32)>,
    pub data: Vec<u8>,
    /// `bimg_info`, hole offset, stored hole length, bytes.
    pub image: Option<(u8, u16, Option<u16>, Vec<u8>)>,
}

/// A record to write.
#[derive(Clone, Debug, Default)]
pub struct Body {
    pub rmid: u8,
    pub info: u8,
    pub xid: u32,
    pub blocks: Vec<Block>,
    pub origin: Option<u16>,
    pub toplevel: Option<u32>,
    pub main: Vec<u8>,
}

impl Body {
    pub fn new(rmid: u8, info: u8) -> Self {
        Self { rmid, info, xid: 700, ..Self::default() }
    }

    pub fn main(mut self, main: impl Into<Vec<u8>>) -> Self {
        self.main = main.into();
        self
    }

    /// Main data of 32-bit numbers.
    pub fn words(self, words: &[u32]) -> Self {
        let main: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.main(main)
    }

    pub fn block(mut self, place: Place, rel: u32, data: impl Into<Vec<u8>>) -> Self {
        let locator = Some((place.tablespace.0, place.database.0, rel));
        self.blocks.push(Block { locator, data: data.into(), image: None });
        self
    }

    /// Another block of the same relation.
    pub fn same(mut self, data: impl Into<Vec<u8>>) -> Self {
        self.blocks.push(Block { locator: None, data: data.into(), image: None });
        self
    }

    /// Gives the last block an image.
    pub fn image(mut self, info: u8, offset: u16, hole: Option<u16>, bytes: Vec<u8>) -> Self {
        self.blocks.last_mut().unwrap().image = Some((info, offset, hole, bytes));
        self
    }

    /// The record, with its checksum.
    pub fn bytes(&self, prev: Lsn) -> Vec<u8> {
        let mut heads: Vec<u8> = vec![];
        let mut data: Vec<u8> = vec![];
        for (id, block) in (0_u8..).zip(&self.blocks) {
            let mut flags = 0;
            flags |= if block.image.is_some() { 0x10 } else { 0 };
            flags |= if block.data.is_empty() { 0 } else { 0x20 };
            flags |= if block.locator.is_none() { 0x80 } else { 0 };
            heads.extend([id, flags]);
            heads.extend((block.data.len() as u16).to_le_bytes());
            if let Some((info, offset, hole, bytes)) = &block.image {
                heads.extend((bytes.len() as u16).to_le_bytes());
                heads.extend(offset.to_le_bytes());
                heads.push(*info);
                heads.extend(hole.iter().flat_map(|hole| hole.to_le_bytes()));
                data.extend(bytes);
            }
            if let Some((tablespace, database, rel)) = block.locator {
                heads.extend([tablespace, database, rel].iter().flat_map(|oid| oid.to_le_bytes()));
            }
            heads.extend(77_u32.to_le_bytes());
            data.extend(&block.data);
        }
        if let Some(origin) = self.origin {
            heads.push(253);
            heads.extend(origin.to_le_bytes());
        }
        if let Some(xid) = self.toplevel {
            heads.push(252);
            heads.extend(xid.to_le_bytes());
        }
        match self.main.len() {
            0 => {}
            len @ 1..256 => heads.extend([255, len as u8]),
            len => {
                heads.push(254);
                heads.extend((len as u32).to_le_bytes());
            }
        }
        let mut record =
            ((24 + heads.len() + data.len() + self.main.len()) as u32).to_le_bytes().to_vec();
        record.extend(self.xid.to_le_bytes());
        record.extend(prev.0.to_le_bytes());
        record.extend([self.info, self.rmid, 0, 0, 0, 0, 0, 0]);
        record.extend(heads);
        record.extend(data);
        record.extend(&self.main);
        let crc = slow_record_crc(&record);
        record[20..24].copy_from_slice(&crc.to_le_bytes());
        record
    }
}

/// WAL under construction.
#[derive(Clone, Debug)]
pub struct Log {
    pub layout: Layout,
    pub start: Lsn,
    pub bytes: Vec<u8>,
    pub prev: Lsn,
    pub timeline: u32,
    /// Start of each record.
    pub starts: Vec<Lsn>,
}

impl Log {
    /// Starts at the beginning of a segment of 1 MB.
    pub fn new(major: Major) -> Self {
        let layout = Layout { major, segment_bytes: SegmentBytes::new(1 << 20).unwrap() };
        let start = Lsn(0x1_FFE0_0000);
        let prev = Lsn(start.0 - 0x100);
        Self { layout, start, bytes: vec![], prev, timeline: 3, starts: vec![] }
    }

    pub fn end(&self) -> Lsn {
        self.start + self.bytes.len() as u64
    }

    fn page_header(&mut self, flags: u16, rem_len: u32) {
        let at = self.end();
        let long = at.0.is_multiple_of(self.layout.segment_bytes.bytes());
        self.bytes.extend(self.layout.major.page_magic().to_le_bytes());
        self.bytes.extend((flags | if long { 2 } else { 0 }).to_le_bytes());
        self.bytes.extend(self.timeline.to_le_bytes());
        self.bytes.extend(at.0.to_le_bytes());
        self.bytes.extend(rem_len.to_le_bytes());
        self.bytes.extend([0; 4]);
        if long {
            self.bytes.extend(0x1234_5678_9ABC_DEF0_u64.to_le_bytes());
            self.bytes.extend((self.layout.segment_bytes.bytes() as u32).to_le_bytes());
            self.bytes.extend((PAGE as u32).to_le_bytes());
        }
    }

    /// Where the next record will start, after the page header that it needs.
    pub fn next_start(&mut self) -> Lsn {
        if self.bytes.len().is_multiple_of(PAGE) {
            self.page_header(0, 0);
        }
        self.end()
    }

    /// Room that is left on the page of the next record.
    pub fn room(&mut self) -> usize {
        self.next_start();
        PAGE - self.bytes.len() % PAGE
    }

    /// Writes raw record bytes, page headers between.
    fn lay(&mut self, record: &[u8]) -> Lsn {
        let start = self.next_start();
        let mut rest = record;
        loop {
            let room = PAGE - self.bytes.len() % PAGE;
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.bytes.extend(now);
            rest = later;
            if rest.is_empty() {
                break;
            }
            self.page_header(1, rest.len() as u32);
        }
        start
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
    }

    pub fn push(&mut self, body: &Body) -> Lsn {
        self.next_start();
        let start = self.lay(&body.bytes(self.prev));
        self.align();
        self.prev = start;
        self.starts.push(start);
        start
    }

    /// A record that a server wrote elsewhere; only `xl_prev` and the checksum are made anew.
    pub fn push_raw(&mut self, record: &[u8]) -> Lsn {
        let mut record = record.to_vec();
        record[8..16].copy_from_slice(&self.prev.0.to_le_bytes());
        let crc = slow_record_crc(&record);
        record[20..24].copy_from_slice(&crc.to_le_bytes());
        let start = self.lay(&record);
        self.align();
        self.prev = start;
        self.starts.push(start);
        start
    }

    /// Fillers up to `room` bytes before the end of the current segment.
    pub fn pad_to_segment(&mut self, room: usize) {
        let segment = self.layout.segment_bytes.bytes() as usize;
        self.next_start();
        while segment - self.bytes.len() % segment > PAGE {
            let left = segment - self.bytes.len() % segment - PAGE;
            self.push(&Body::new(0, 0x20).main(vec![0; left.min(30_000)]));
            self.next_start();
        }
        self.pad_to(room);
    }

    /// A record that ends `room` bytes before the end of a page.
    pub fn pad_to(&mut self, room: usize) {
        loop {
            let left = self.room();
            // the smallest filler: 24 + 2 + 1, aligned
            if left < room + 32 {
                self.push(&Body::new(0, 0x20).main([0; 100]));
                continue;
            }
            match left - room {
                0 => return,
                gap => {
                    let len = (gap - 26).min(200);
                    if gap > 226 && gap < 226 + 32 {
                        self.push(&Body::new(0, 0x20).main([0; 70]));
                        continue;
                    }
                    self.push(&Body::new(0, 0x20).main(vec![0; len]));
                    if self.bytes.len() % PAGE == (PAGE - room) % PAGE {
                        return;
                    }
                }
            }
        }
    }

    /// XLOG_SWITCH and the zeros behind it; with `headers` the pages keep their headers.
    pub fn switch(&mut self, headers: bool) -> Lsn {
        self.next_start();
        let start = self.push(&Body::new(0, 0x40));
        let segment = self.layout.segment_bytes.bytes() as usize;
        let end = self.bytes.len().next_multiple_of(segment);
        while self.bytes.len() < end {
            if headers && self.bytes.len().is_multiple_of(PAGE) {
                self.page_header(0, 0);
            }
            let next = (self.bytes.len() + 1).next_multiple_of(PAGE);
            self.bytes.resize(next, 0);
        }
        start
    }

    /// A record that a crash cut off after `pages` page borders, and how the server goes on.
    pub fn torn(&mut self, body: &Body, pages: usize) {
        self.next_start();
        let record = body.bytes(self.prev);
        let mut whole = self.clone();
        let start = whole.lay(&record);
        let cut = (self.bytes.len() / PAGE + pages) * PAGE;
        assert!(cut < whole.bytes.len(), "the record must go over {pages} page borders");
        self.bytes = whole.bytes;
        self.bytes.truncate(cut);
        self.page_header(8, 0);
        let mut main = start.0.to_le_bytes().to_vec();
        main.extend([9; 8]);
        self.push(&Body::new(0, 0xD0).main(main));
    }
}

pub fn place(tablespace: u32, database: u32) -> Place {
    Place { tablespace: Oid(tablespace), database: Oid(database) }
}

/// Columns of a new row of pg_database.
pub fn database_row(major: Major, oid: u32, name: &str, tablespace: u32) -> Vec<u8> {
    let mut row = vec![0x5A; 260];
    row[..4].copy_from_slice(&oid.to_le_bytes());
    row[4..68].fill(0);
    row[4..4 + name.len()].copy_from_slice(name.as_bytes());
    let at = if major >= Major::V15 { 92 } else { 224 };
    row[at..at + 4].copy_from_slice(&tablespace.to_le_bytes());
    row
}

/// A heap insert with the tuple as block data.
pub fn insert(file: u32, row: &[u8], hoff: u8) -> Body {
    let mut data = vec![0, 0, 0, 0, hoff];
    data.extend(vec![0xBB; usize::from(hoff) - 23]);
    data.extend(row);
    Body::new(10, 0x00).block(place(1664, 0), file, data).main([1, 0, 0])
}

/// A heap page with one tuple, in line pointer 2; returns page, and offset and length of its hole.
pub fn page_with(row: &[u8]) -> (Vec<u8>, u16, u16) {
    let mut page = vec![0; PAGE];
    page[..24].fill(0xC3);
    let len = 24 + row.len();
    let at = (PAGE - len) & !7;
    page[28..32].copy_from_slice(&((at as u32) | 1 << 15 | (len as u32) << 17).to_le_bytes());
    page[at + 22] = 24;
    page[at + 24..at + len].copy_from_slice(row);
    (page, 32, (at - 32) as u16)
}
