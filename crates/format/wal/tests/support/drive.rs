//! Feeds a rewriter as a relay does: pieces of any size, what is held back comes again.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use pgtypes::{Lsn, Oid};
use wal::{Catalog, Event, HELD_BYTES_MAX, Judge, Outcome, Place, Rewriter, Verdict, WalError};

/// Knows a set of excluded databases and tablespaces, and learns the rest from events.
#[derive(Clone, Debug, Default)]
pub struct Learner {
    pub databases: BTreeMap<u32, bool>,
    pub tablespaces: BTreeMap<u32, bool>,
    pub files: BTreeMap<u32, Catalog>,
    /// Every place that was asked about.
    pub asked: RefCell<BTreeSet<(u32, u32)>>,
}

pub fn files() -> BTreeMap<u32, Catalog> {
    [(1262, Catalog::Database), (1213, Catalog::Tablespace)].into()
}

impl Learner {
    /// Databases 16384 and 16386 and tablespace 30001 are excluded, some others are not.
    pub fn usual() -> Self {
        Self {
            databases: [(1, true), (5, true), (16384, false), (16385, true), (16386, false)].into(),
            tablespaces: [(1663, true), (30000, true), (30001, false)].into(),
            files: files(),
            asked: RefCell::default(),
        }
    }

    /// What a relay does with an event; even OIDs that nobody announced are excluded.
    pub fn hear(&mut self, event: &Event) {
        match event {
            Event::Unknown { place, .. } => {
                let Place { tablespace, database } = *place;
                if database != Oid::INVALID {
                    self.databases.entry(database.0).or_insert(database.0 % 2 == 1);
                }
                if tablespace != Oid::INVALID {
                    self.tablespaces.entry(tablespace.0).or_insert(tablespace.0 % 2 == 1);
                }
            }
            Event::DatabaseRow { oid, name, .. } => {
                self.databases.entry(oid.0).or_insert(!name.starts_with(b"ex"));
            }
            Event::TablespaceRow { oid, name, .. } => {
                self.tablespaces.entry(oid.0).or_insert(!name.starts_with(b"ex"));
            }
            Event::Relmap { database, tablespace, .. } => {
                let pair = [(database.0, Catalog::Database), (tablespace.0, Catalog::Tablespace)];
                self.files = pair.into();
            }
            _ => {}
        }
    }
}

impl Judge for Learner {
    fn place(&self, place: Place, _at: Lsn) -> Verdict {
        assert_ne!(place, Place::SHARED, "shared catalogs are nobody's to exclude");
        self.asked.borrow_mut().insert((place.tablespace.0, place.database.0));
        let known = |map: &BTreeMap<u32, bool>, oid: Oid| match oid {
            Oid::INVALID => Some(true),
            Oid(oid) => map.get(&oid).copied(),
        };
        match (known(&self.databases, place.database), known(&self.tablespaces, place.tablespace)) {
            (Some(false), _) | (_, Some(false)) => Verdict::Replace,
            (Some(true), Some(true)) => Verdict::Pass,
            _ => Verdict::Unknown,
        }
    }

    fn catalog_file(&self, relfilenumber: Oid) -> Option<Catalog> {
        self.files.get(&relfilenumber.0).copied()
    }
}

/// What came out of a run.
#[derive(Debug, Default)]
pub struct Run {
    pub output: Vec<u8>,
    pub events: Vec<Event>,
    pub error: Option<WalError>,
    /// The learner's state before each boundary event, to start there again.
    pub snapshots: Vec<Learner>,
}

/// Feeds `bytes` in pieces of the given lengths, again and again.
pub fn run(rewriter: &mut Rewriter, judge: &mut Learner, bytes: &[u8], pieces: &[usize]) -> Run {
    let mut run = Run::default();
    let mut buffer: Vec<u8> = vec![];
    let mut given = 0;
    let start = rewriter.position();
    for piece in pieces.iter().cycle() {
        let piece = (*piece).clamp(1, bytes.len() - given);
        buffer.extend(&bytes[given..given + piece]);
        given += piece;
        loop {
            let fed = rewriter.feed(&mut buffer, judge);
            let position = rewriter.position().bytes_since(start) as usize;
            let done = position - run.output.len();
            run.output.extend(buffer.drain(..done));
            match fed {
                Err(error) => {
                    run.error = Some(error);
                    return run;
                }
                Ok(fed) => {
                    assert_eq!(fed.done, done, "done and position agree");
                    match fed.outcome {
                        Outcome::Drained => break,
                        Outcome::Event(event) => {
                            if matches!(event, Event::Boundary(_)) {
                                run.snapshots.push(judge.clone());
                            }
                            judge.hear(&event);
                            run.events.push(event);
                        }
                    }
                }
            }
        }
        assert!(buffer.len() < HELD_BYTES_MAX, "{} bytes are held back", buffer.len());
        if given == bytes.len() {
            return run;
        }
    }
    run
}
