//! Random WAL with every trap, and what must become of each record.

use pgtypes::{Lsn, Major};

use super::build::{Body, Log, database_row, insert, page_with, place};

/// A small generator of numbers, so that a scene follows from its seed.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.below(256) as u8).collect()
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// WAL, and the records of it that must go.
#[derive(Debug)]
pub struct Scene {
    pub log: Log,
    pub replaced: Vec<Lsn>,
    dice: Dice,
    next_oid: u32,
}

impl Scene {
    /// About `records` records; for `drive::Learner::usual`.
    pub fn random(major: Major, seed: u64, records: usize) -> Self {
        let dice = Dice::new(seed);
        let mut scene = Self { log: Log::new(major), replaced: vec![], dice, next_oid: 50_000 };
        for _ in 0..records {
            scene.step();
        }
        // something that a reader can be sure of at the end
        scene.keep(&Body::new(0, 0x20).main([0; 8]));
        scene
    }

    fn keep(&mut self, body: &Body) {
        self.log.push(body);
    }

    fn put(&mut self, body: &Body, goes: bool) {
        let at = self.log.push(body);
        if goes {
            self.replaced.push(at);
        }
    }

    fn step(&mut self) {
        match self.dice.below(100) {
            0..=44 => self.block_record(),
            45..=59 => self.cluster_record(),
            60..=74 => self.main_record(),
            75..=79 => self.new_database(),
            80..=82 => self.new_tablespace(),
            83..=84 => self.relmap(),
            85..=90 => {
                let room = self.dice.pick(&[8, 16, 24, 32, 40, 48, 64, 120]);
                self.log.pad_to(room);
                self.block_record();
            }
            91..=93 => self.many_blocks(),
            94 => self.huge(),
            95 => {
                _ = {
                    let headers = self.dice.below(2) == 0;
                    self.log.switch(headers)
                }
            }
            96..=97 => {
                let pages = 1 + self.dice.below(2);
                let body = self.some_blocks(16_384, 30_000);
                self.log.torn(&body.main(vec![1; 3 * 8192]), pages);
            }
            _ => self.keep(&Body::new(0, 0x20)),
        }
    }

    fn size(&mut self) -> usize {
        let kind = self.dice.below(20);
        match kind {
            0 => self.dice.below(20_000),
            1..=4 => self.dice.below(2_000),
            5 => 0,
            _ => self.dice.below(120),
        }
    }

    fn some_blocks(&mut self, database: u32, rel: u32) -> Body {
        let rmid = self.dice.pick(&[9, 10, 11, 12, 13, 14, 15, 16, 17, 20]);
        let info = self.dice.pick(&[0x00, 0x10, 0x60, 0x90, 0xC0]);
        let len = self.size();
        let main = self.dice.bytes(len);
        let data = self.dice.below(100);
        let mut body =
            Body::new(rmid, info).main(main).block(place(1663, database), rel, vec![7; data]);
        for _ in 0..self.dice.pick(&[0, 0, 0, 1, 3]) {
            body = body.same(vec![8; 3]);
            if self.dice.below(3) == 0 {
                let len = self.dice.below(8000);
                let info = if self.log.layout.major >= Major::V15 { 0x05 } else { 0x03 };
                body = body.image(info, 100, Some(50), vec![0xAB; len]);
            }
        }
        if self.dice.below(4) == 0 {
            body = body.image(0x01, 40, None, vec![0xCD; 3000]);
        }
        body.origin = (self.dice.below(6) == 0).then_some(0x1234);
        body.toplevel = (self.dice.below(6) == 0).then_some(999);
        body
    }

    fn block_record(&mut self) {
        let (database, goes) = self.database();
        let mut body = self.some_blocks(database, 2600);
        let tablespace = self.dice.pick(&[1663, 1663, 30_000, 30_001]);
        if let Some((old, ..)) = &mut body.blocks[0].locator {
            *old = tablespace;
        }
        self.put(&body, goes || tablespace == 30_001);
    }

    /// A database, now and then one that nobody knows, and whether it goes.
    fn database(&mut self) -> (u32, bool) {
        let known = [(5, false), (16_384, true), (16_385, false), (16_386, true)];
        match self.dice.below(12) {
            0 => {
                self.next_oid += 1;
                (self.next_oid, self.next_oid.is_multiple_of(2))
            }
            _ => self.dice.pick(&known),
        }
    }

    fn cluster_record(&mut self) {
        let (rmid, info) = self.dice.pick(&[
            (0, 0x00),
            (0, 0x10),
            (0, 0x70),
            (1, 0x00),
            (1, 0x80),
            (1, 0x20),
            (3, 0x00),
            (6, 0x20),
            (8, 0x00),
            (8, 0x10),
            (18, 0x00),
            (19, 0x00),
        ]);
        let len = self.size();
        let main = self.dice.bytes(len);
        self.keep(&Body::new(rmid, info).main(main));
    }

    fn main_record(&mut self) {
        let major = self.log.layout.major.number();
        let (db, goes) = self.database();
        let old = major <= 13;
        let cases: &[(u8, u8, &[u32], bool)] = &[
            (2, 0x10, &[1663, db, 9, 0], goes),
            (2, 0x20, &[0, 30_001, 5, 9, 7], true),
            (2, 0x20, &[0, 1663, db, 9, 7], goes),
            (2, 0x10, &[1664, 0, 9, 0], false),
            (9, 0x00, &[1, db, 2, 0, 0, 0, 0, 0, 0, 0], goes),
            (9, 0x00, &[1, 0, 2, 0, 0, 0, 0, 0, 0, 0], false),
            (9, 0x70, &[1, 2, 3, 4, 1663, db, 9, 0, 0], goes),
            (9, 0x70, &[1, 2, 3, 4, 1664, 0, 9, 0, 0], false),
            (9, 0x30, &[1663, db, 9, 1], goes && old),
            (10, 0x30, &[db, 1, 2, 3], goes),
            (11, 0xD0, &[1663, db, 9, 1, 2], goes),
            (14, 0x20, &[1663, db, 9, 1, 2, 3], goes),
            (14, 0x70, &[0], false),
            (21, 0x00, &[db, 1, 2, 3, 4, 5, 6, 7, 8, 9], goes),
            (7, 0x00, &[db, 1663, 4, 5], goes),
            (5, 0x10, &[30_001], true),
            (5, 0x10, &[30_000], false),
            (4, if major >= 15 { 0x21 } else { 0x11 }, &[db, 1, 1663], false),
            (4, 0x01, &[5, 30_001, 1, 1663], true),
            (4, 0x01, &[16_385, 1663, 16_384, 1663], true),
            (4, 0x01, &[db, 1663, 1, 1663], goes),
        ];
        let (rmid, info, words, goes) = self.dice.pick(cases);
        self.put(&Body::new(rmid, info).words(words), goes);
    }

    fn new_database(&mut self) {
        let major = self.log.layout.major;
        self.next_oid += 1;
        let oid = self.next_oid;
        let goes = self.dice.below(2) == 0;
        let name = if goes { "excluded one" } else { "kept one" };
        let row = database_row(major, oid, name, 1663);
        if self.dice.below(2) == 0 {
            let hoff = self.dice.pick(&[24, 32]);
            self.keep(&insert(1262, &row, hoff));
        } else {
            let (page, offset, hole) = page_with(&row);
            let mut stored = page[..usize::from(offset)].to_vec();
            stored.extend(&page[usize::from(offset + hole)..]);
            let (info, hole, stored) = match (major >= Major::V15, self.dice.below(3)) {
                (true, 0) => (0x0B, Some(hole), lz4_flex::block::compress(&stored)),
                _ => (0x01, None, stored),
            };
            let body = Body::new(10, 0x00).block(place(1664, 0), 1262, []);
            self.keep(&body.main([2, 0, 0]).image(info, offset, hole, stored));
        }
        if major >= Major::V15 {
            self.put(&Body::new(4, 0x11).words(&[oid, 1663]), goes);
        } else {
            self.put(&Body::new(4, 0x01).words(&[oid, 1663, 1, 1663]), goes);
        }
        self.put(&Body::new(2, 0x10).words(&[1663, oid, 9, 0]), goes);
    }

    fn new_tablespace(&mut self) {
        self.next_oid += 1;
        let oid = self.next_oid;
        let goes = self.dice.below(2) == 0;
        let mut row = oid.to_le_bytes().to_vec();
        row.extend(if goes { b"excluded" } else { b"included" });
        row.resize(80, 0);
        self.keep(&insert(1213, &row, 24));
        let mut main = oid.to_le_bytes().to_vec();
        main.extend(b"/somewhere\0");
        self.put(&Body::new(5, 0x00).main(main), goes);
    }

    fn relmap(&mut self) {
        let mut words = vec![0, 1664, 512, 0x59_2717, 2, 1262, 1262, 1213, 1213];
        words.resize(131, 0);
        self.keep(&Body::new(7, 0x00).words(&words));
        self.keep(&Body::new(10, 0x40).block(place(1664, 0), 1262, [1; 9]).main([1; 14]));
    }

    fn many_blocks(&mut self) {
        let (db, goes) = self.database();
        let mut body = Body::new(0, 0xB0);
        for _ in 0..33 {
            body = body.block(place(1663, db), 9, []).image(0x01, 9, None, vec![1; 20]);
        }
        let room = self.dice.pick(&[8, 32, 200, 600, 904]);
        self.log.pad_to(room);
        self.put(&body, goes);
    }

    fn huge(&mut self) {
        let (db, goes) = self.database();
        let len = self.dice.pick(&[70_000, 1 << 20, 2_500_000]);
        self.put(
            &Body::new(21, 0x00).main([&db.to_le_bytes()[..], &vec![0x77; len]].concat()),
            goes,
        );
    }
}
