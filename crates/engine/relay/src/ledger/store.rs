//! Where a ledger lies on disk.
//!
//! One folder for each configuration in `state_dir/relay/`, named after it:
//!
//! - `lock`: held while a client of the configuration is connected;
//! - `fates`: what was decided about each OID, replaced atomically and synced before the
//!   first byte that depends on it goes out;
//! - `segments`: a journal with a line for each segment that was entered, with what is needed
//!   to start there; it can be worked out again by looking back in the WAL.

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use pgproto::history::History;
use pgtypes::{Lsn, SegmentBytes, Timeline};
use serde::{Deserialize, Serialize};
use state::{Document, Journal, Lock};
use wal::{Span, SpanFate};

use super::LedgerError;
use super::fates::{Fates, Point, holds};

/// Format of the files; a newer one is refused, never guessed.
const FORMAT: u32 = 1;

/// Segments that are kept in the journal, the newest ones. 64 GB of WAL with segments of
/// 16 MB: a standby that was away for longer looks back instead.
const SEGMENTS_KEPT: usize = 4096;

/// What is in `fates`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    format: u32,
    /// The cluster that the OIDs belong to.
    pub(super) system_identifier: String,
    /// The filter that made the fates, in canonical form.
    pub(super) filter: String,
    /// The fates.
    pub(super) fates: Fates,
}

impl Record {
    pub(super) fn new(system_identifier: &str) -> Self {
        Self {
            format: FORMAT,
            system_identifier: system_identifier.to_owned(),
            filter: String::new(),
            fates: Fates::default(),
        }
    }
}

/// A segment that was entered by a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Segment {
    timeline: u32,
    boundary: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    span: Option<SpanLine>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SpanLine {
    record: u64,
    total_bytes: u32,
    remaining_bytes: u32,
    replaced: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    prefix: Vec<u8>,
}

/// The files of one configuration, open and locked.
#[derive(Debug)]
pub(super) struct Store {
    fates: Document,
    journal: Journal,
    segments: Vec<Segment>,
    _lock: Lock,
}

/// The folder of a configuration. Letters, digits, `_`, `-` and inner dots stay; every
/// other byte is written as `%XX`, so that no name leads out of `state_dir`.
pub(super) fn folder(state_dir: &Path, name: &str) -> PathBuf {
    let mut encoded = String::new();
    for byte in name.bytes() {
        let plain = byte.is_ascii_alphanumeric()
            || matches!(byte, b'_' | b'-')
            || (byte == b'.' && !encoded.is_empty());
        if plain {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            write!(encoded, "%{byte:02X}").ok();
        }
    }
    state_dir.join("relay").join(encoded)
}

/// Makes a file in the state folder and removes it again.
pub(super) fn check_folder(state_dir: &Path) -> Result<(), LedgerError> {
    let folder = state_dir.join("relay");
    let path = folder.join(".check");
    let failed = |path: &Path| {
        let path = path.to_owned();
        |source| LedgerError::Folder { path, source }
    };
    fs::create_dir_all(&folder).map_err(failed(&folder))?;
    fs::File::create(&path).map_err(failed(&path))?;
    fs::remove_file(&path).map_err(failed(&path))
}

impl Store {
    /// Opens, or makes, the folder of a configuration.
    pub(super) fn open(folder: &Path) -> Result<(Self, Option<Record>), LedgerError> {
        let make = |source| LedgerError::Folder { path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(make)?;
        let lock = take_lock(folder)?;
        let fates = Document::new(folder.join("fates"));
        let record = read(&fates)?;
        let (journal, lines) = Journal::open(folder.join("segments"))?;
        // Each line is checksummed; one that is sound but strange was written by another
        // version, and looking back replaces it.
        let segments = lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let mut store = Self { fates, journal, segments, _lock: lock };
        store.compact()?;
        Ok((store, record))
    }

    /// Makes the fates durable.
    pub(super) fn save(&self, record: &Record) -> Result<(), LedgerError> {
        let text = serde_json::to_string(record).map_err(|error| LedgerError::Format {
            path: self.fates.path().to_owned(),
            reason: error.to_string(),
        })?;
        Ok(self.fates.save(&text)?)
    }

    /// Notes that a stream enters the segment at `boundary`.
    pub(super) fn enter(
        &mut self,
        timeline: Timeline,
        boundary: Lsn,
        span: Option<&Span>,
    ) -> Result<(), LedgerError> {
        let span = span.filter(|span| span.fate != SpanFate::Unresolved).map(|span| SpanLine {
            record: span.record.0,
            total_bytes: span.total_bytes,
            remaining_bytes: span.remaining_bytes,
            replaced: span.fate == SpanFate::Replaced,
            prefix: span.prefix.clone(),
        });
        let segment = Segment { timeline: timeline.0, boundary: boundary.0, span };
        if self.segments.contains(&segment) {
            return Ok(());
        }
        // Every field is a number or a list of them: this cannot fail.
        let line = serde_json::to_string(&segment).unwrap_or_default();
        self.journal.append(&line)?;
        self.segments.push(segment);
        if self.segments.len() > 2 * SEGMENTS_KEPT {
            self.compact()?;
        }
        Ok(())
    }

    fn compact(&mut self) -> Result<(), LedgerError> {
        if self.segments.len() <= SEGMENTS_KEPT {
            return Ok(());
        }
        self.segments.drain(..self.segments.len() - SEGMENTS_KEPT);
        let lines: Vec<_> = self.segments.iter().map(serde_json::to_string).collect();
        let lines = lines.iter().filter_map(|line| line.as_deref().ok());
        Ok(self.journal.rewrite(lines)?)
    }

    /// What continues into the segment at `boundary`, if a stream of this history knew.
    pub(super) fn span(&self, history: &History, boundary: Lsn) -> Option<Span> {
        let ours = |segment: &&Segment| {
            segment.boundary == boundary.0
                && holds(history, Point { timeline: segment.timeline, lsn: segment.boundary })
        };
        let line = self.segments.iter().rev().filter(ours).find_map(|found| found.span.as_ref())?;
        Some(Span {
            boundary,
            record: Lsn(line.record),
            total_bytes: line.total_bytes,
            remaining_bytes: line.remaining_bytes,
            fate: if line.replaced { SpanFate::Replaced } else { SpanFate::Passed },
            prefix: line.prefix.clone(),
        })
    }

    /// A position that no client of this configuration has got past; zero when none got any.
    pub(super) fn behind_all_sent(&self, segment_bytes: SegmentBytes) -> Lsn {
        let last = self.segments.iter().map(|segment| segment.boundary).max();
        last.map_or(Lsn::INVALID, |boundary| Lsn(boundary) + segment_bytes.bytes())
    }
}

fn read(fates: &Document) -> Result<Option<Record>, LedgerError> {
    let Some(text) = fates.load()? else { return Ok(None) };
    let strange = |reason| LedgerError::Format { path: fates.path().to_owned(), reason };
    let record: Record = serde_json::from_str(&text).map_err(|error| strange(error.to_string()))?;
    if record.format != FORMAT {
        return Err(strange(format!("format {}, this pgherd knows {FORMAT}", record.format)));
    }
    Ok(Some(record))
}

/// What is kept for a configuration, without opening it.
pub(super) fn peek(folder: &Path) -> Result<Option<Record>, LedgerError> {
    read(&Document::new(folder.join("fates")))
}

fn take_lock(folder: &Path) -> Result<Lock, LedgerError> {
    Lock::take(folder.join("lock")).map_err(|error| match error {
        state::Error::Locked { .. } => LedgerError::InUse { path: folder.to_owned() },
        other => other.into(),
    })
}

/// Removes what is known of a configuration. `false` when nothing was known.
pub(super) fn forget(folder: &Path) -> Result<bool, LedgerError> {
    if !folder.is_dir() {
        return Ok(false);
    }
    let _lock = take_lock(folder)?;
    let mut known = false;
    // The lock's file stays: another process may be about to take it.
    for name in ["fates", "segments", "fates.new", "segments.new"] {
        let path = folder.join(name);
        match fs::remove_file(&path) {
            Ok(()) => known = true,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(source) => return Err(LedgerError::Folder { path, source }),
        }
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leads_out_of_the_folder() {
        let base = Path::new("/s");
        assert_eq!(folder(base, "berlin-2.eu"), Path::new("/s/relay/berlin-2.eu"));
        assert_eq!(folder(base, "../x y"), Path::new("/s/relay/%2E.%2Fx%20y"));
        assert_eq!(folder(base, "ä"), Path::new("/s/relay/%C3%A4"));
    }

    #[test]
    fn segments_outlive_the_process_and_only_our_history_counts() {
        let base = tempfile::tempdir().unwrap();
        let folder = folder(base.path(), "a");
        let (mut store, record) = Store::open(&folder).unwrap();
        assert_eq!(record, None);
        assert!(matches!(Store::open(&folder), Err(LedgerError::InUse { .. })));
        let boundary = Lsn(0x200_0000);
        let span = Span {
            boundary,
            record: Lsn(0x1FF_FFF0),
            total_bytes: 500,
            remaining_bytes: 490,
            fate: SpanFate::Replaced,
            prefix: vec![1, 2, 255],
        };
        store.enter(Timeline(1), boundary, Some(&span)).unwrap();
        store.enter(Timeline(1), boundary + 0x100_0000, None).unwrap();
        drop(store);
        let (store, _) = Store::open(&folder).unwrap();
        let first = History::without_past(Timeline(1));
        assert_eq!(store.span(&first, boundary), Some(span));
        assert_eq!(store.span(&first, boundary + 0x100_0000), None);
        let left_before = History::parse(Timeline(2), b"1\t0/1FF0000\tx\n").unwrap();
        assert_eq!(store.span(&left_before, boundary), None);
        assert_eq!(store.behind_all_sent(SegmentBytes::DEFAULT), Lsn(0x400_0000));
    }

    #[test]
    fn forgetting_waits_for_nobody_and_removes_everything() {
        let base = tempfile::tempdir().unwrap();
        let folder = folder(base.path(), "a");
        assert!(!forget(&folder).unwrap());
        let (store, _) = Store::open(&folder).unwrap();
        store.save(&Record::new("7")).unwrap();
        assert!(matches!(forget(&folder), Err(LedgerError::InUse { .. })));
        drop(store);
        assert!(forget(&folder).unwrap());
        assert_eq!(Store::open(&folder).unwrap().1, None);
    }
}
