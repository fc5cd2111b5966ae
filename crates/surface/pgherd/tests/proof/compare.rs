//! Filtered WAL beside the original, record by record, with `pg_waldump` as the judge.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use pgtypes::{Lsn, Major, Timeline};
use tempfile::TempDir;
use testkit::{Record, WalDump};

use super::Stretch;

const PAGE_BYTES: u64 = 8192;
/// Longest prefix of a no-op that is not zero.
const NOOP_HEAD_BYTES: usize = 37;

/// What must not be there.
#[derive(Clone, Debug, Default)]
pub struct Excluded {
    /// OIDs of databases.
    pub databases: BTreeSet<u32>,
    /// OIDs of tablespaces.
    pub tablespaces: BTreeSet<u32>,
}

/// What a comparison found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Records looked at.
    pub records: u64,
    /// Records replaced.
    pub replaced: u64,
    /// Bytes of WAL.
    pub bytes: u64,
    /// Original resource managers of the replaced ones, with how many.
    pub replaced_kinds: BTreeMap<String, u64>,
    /// Resource managers of those that passed.
    pub passed_kinds: BTreeMap<String, u64>,
}

/// Where both come from.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    /// Its version, which has a `pg_waldump`.
    pub major: Major,
    /// Its segments.
    pub segment_bytes: u64,
    /// The timeline that the files are named after.
    pub timeline: u32,
}

/// What should become of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Passed,
    Replaced,
    /// The dump does not say which database it is about; its transaction might.
    ByTransaction,
}

/// Compares two stretches of the same WAL.
///
/// Every record has the same position, length, transaction and predecessor; exactly the
/// excluded ones are no-ops with an empty body; every other byte is the same; and `pg_waldump`
/// accepts all checksums.
///
/// # Errors
///
/// The first thing that is wrong.
pub fn compare(
    server: Server,
    original: &Stretch,
    filtered: &Stretch,
    excluded: &Excluded,
) -> Result<Found> {
    ensure!(original.start == filtered.start && original.end() == filtered.end(), "ranges differ");
    same_page_headers(server, original, filtered)?;
    let folders = [TempDir::with_prefix("pgherd-wal-")?, TempDir::with_prefix("pgherd-wal-")?];
    original.write(folders[0].path(), server.timeline, server.segment_bytes)?;
    filtered.write(folders[1].path(), server.timeline, server.segment_bytes)?;
    let first = first_record(server, original)?;
    let dump = |folder: &TempDir| {
        let timeline = Timeline(server.timeline);
        WalDump::open(server.major, folder.path(), timeline, first, original.end())
    };
    let transactions = transactions(dump(&folders[0])?)?;
    let mut filtered_dump = dump(&folders[1])?;
    let mut found = Found { bytes: original.bytes.len() as u64, ..Found::default() };
    let mut same_from = first;
    for record in dump(&folders[0])? {
        let record = record.context("the original")?;
        let other = filtered_dump.next().context("the filtered WAL ends early")?;
        let other = other.with_context(|| format!("filtered, at {}", record.lsn))?;
        ensure!(
            (record.lsn, record.len_tot, record.xid, record.prev)
                == (other.lsn, other.len_tot, other.xid, other.prev),
            "{record:?} became {other:?}"
        );
        let expected = match expect(&record, excluded) {
            Expected::ByTransaction => by_transaction(&record, &other, &transactions, excluded),
            expected => expected,
        };
        found.records += 1;
        if expected == Expected::Passed {
            ensure!(other == record, "should have passed: {record:?} became {other:?}");
            *found.passed_kinds.entry(record.rmgr).or_default() += 1;
            continue;
        }
        ensure!(other.is_noop(), "should be gone: {record:?} became {other:?}");
        let (until, old) = record_bytes(server, original, &record)?;
        let (_, new) = record_bytes(server, filtered, &record)?;
        ensure!(new.get(..16) == old.get(..16), "the header of {record:?}");
        let body = new.get(NOOP_HEAD_BYTES..).unwrap_or_default();
        ensure!(body.iter().all(|byte| *byte == 0), "something is left of {record:?}");
        ensure!(
            original.get(same_from, record.lsn)? == filtered.get(same_from, record.lsn)?,
            "bytes between {same_from} and {} differ",
            record.lsn
        );
        same_from = until;
        found.replaced += 1;
        *found.replaced_kinds.entry(record.rmgr).or_default() += 1;
    }
    ensure!(filtered_dump.next().is_none(), "the filtered WAL has more records");
    // What lies behind the last record may be the beginning of one that was cut off.
    Ok(found)
}

/// The first record that begins in a stretch which begins with a segment.
pub fn first_record(server: Server, stretch: &Stretch) -> Result<Lsn> {
    let mut page = stretch.start;
    loop {
        let info = u16::from_le_bytes(stretch.get(page + 2, page + 4)?.try_into()?);
        let rem_len = u32::from_le_bytes(stretch.get(page + 16, page + 20)?.try_into()?);
        let rem_len = u64::from(rem_len);
        let data = page + header_bytes(server, page);
        if info & 1 == 0 {
            return Ok(data);
        }
        if (data + rem_len).max_align() < page + PAGE_BYTES {
            return Ok((data + rem_len).max_align());
        }
        page += PAGE_BYTES;
    }
}

const fn header_bytes(server: Server, page: Lsn) -> u64 {
    if page.0.is_multiple_of(server.segment_bytes) { 40 } else { 24 }
}

fn same_page_headers(server: Server, original: &Stretch, filtered: &Stretch) -> Result<()> {
    let mut page = original.start;
    while page + 40 <= original.end() {
        let until = page + header_bytes(server, page);
        ensure!(
            original.get(page, until)? == filtered.get(page, until)?,
            "the page headers at {page} differ"
        );
        page += PAGE_BYTES;
    }
    Ok(())
}

/// Where a record ends, and its bytes without page headers.
fn record_bytes(server: Server, stretch: &Stretch, record: &Record) -> Result<(Lsn, Vec<u8>)> {
    let mut left = u64::from(record.len_tot);
    let mut bytes = Vec::with_capacity(usize::try_from(left)?);
    let mut at = record.lsn;
    while left > 0 {
        if at.0.is_multiple_of(PAGE_BYTES) {
            at += header_bytes(server, at);
        }
        let here = left.min(PAGE_BYTES - at.0 % PAGE_BYTES);
        bytes.extend_from_slice(stretch.get(at, at + here)?);
        at += here;
        left -= here;
    }
    Ok((at, bytes))
}

/// The databases that each transaction touches, by its block references.
fn transactions(dump: WalDump) -> Result<BTreeMap<u32, BTreeSet<u32>>> {
    let mut transactions: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    for record in dump {
        let record = record?;
        let databases = record.locators().into_iter().map(|locator| locator.database);
        let databases: BTreeSet<_> = databases.filter(|database| *database != 0).collect();
        if record.xid.0 != 0 && !databases.is_empty() {
            transactions.entry(record.xid.0).or_default().extend(databases);
        }
    }
    Ok(transactions)
}

fn by_transaction(
    record: &Record,
    other: &Record,
    transactions: &BTreeMap<u32, BTreeSet<u32>>,
    excluded: &Excluded,
) -> Expected {
    match transactions.get(&record.xid.0) {
        Some(databases) if databases.is_disjoint(&excluded.databases) => Expected::Passed,
        Some(_) => Expected::Replaced,
        // Nobody knows: the search for a marker in the bytes has to do.
        None if other.is_noop() => Expected::Replaced,
        None => Expected::Passed,
    }
}

/// What the dump of a record says that must become of it; `wal-format` has the catalogue.
fn expect(record: &Record, excluded: &Excluded) -> Expected {
    let gone = |tablespace: u32, database: u32| {
        let gone =
            excluded.databases.contains(&database) || excluded.tablespaces.contains(&tablespace);
        if gone { Expected::Replaced } else { Expected::Passed }
    };
    if let Some(locator) = record.locators().first() {
        return gone(locator.tablespace, locator.database);
    }
    let (operation, rest) = record.desc.split_once(' ').unwrap_or((&record.desc, ""));
    match (record.rmgr.as_str(), operation) {
        ("Storage", _) => path(rest).map_or(Expected::ByTransaction, |(a, b)| gone(a, b)),
        ("Database", operation) if operation.starts_with("CREATE") => {
            database_target(rest).map_or(Expected::ByTransaction, |(a, b)| gone(a, b))
        }
        ("Tablespace", _) => {
            let oid = rest.split_whitespace().next().and_then(|oid| oid.parse().ok());
            oid.map_or(Expected::ByTransaction, |oid| gone(oid, 0))
        }
        ("RelMap", _) => {
            let mut numbers = rest.split_whitespace().filter_map(|word| word.parse().ok());
            let (database, tablespace) = (numbers.next(), numbers.next());
            gone(tablespace.unwrap_or(0), database.unwrap_or(0))
        }
        ("Heap2", "NEW_CID") | ("Btree", "REUSE_PAGE") | ("Gist", "PAGE_REUSE") => {
            let locator = rest.split_whitespace().find_map(three_numbers);
            locator.map_or(Expected::ByTransaction, |(a, b)| gone(a, b))
        }
        ("Heap", "TRUNCATE") | ("LogicalMessage", _) | ("Heap2", "REWRITE" | "CLEANUP_INFO") => {
            Expected::ByTransaction
        }
        _ => Expected::Passed,
    }
}

/// `1663/16384/2619;` as tablespace and database.
fn three_numbers(word: &str) -> Option<(u32, u32)> {
    let mut numbers = word.trim_end_matches([';', ',']).split('/').map(str::parse);
    let pair = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    numbers.next()?.ok()?;
    Some(pair)
}

/// `base/16384/2619` or `pg_tblspc/16390/PG_15_202209061/16384/2619` or `global/1262`, as
/// tablespace and database.
fn path(text: &str) -> Option<(u32, u32)> {
    let word = text.split_whitespace().next()?;
    let parts: Vec<_> = word.split('/').collect();
    match parts[..] {
        ["base", database, ..] => Some((1663, database.parse().ok()?)),
        ["global", ..] => Some((1664, 0)),
        ["pg_tblspc", tablespace, _, database, ..] => {
            Some((tablespace.parse().ok()?, database.parse().ok()?))
        }
        _ => None,
    }
}

/// The database that a record of `CREATE DATABASE` makes: `copy dir 1/1663 to 16384/1663`.
fn database_target(text: &str) -> Option<(u32, u32)> {
    let word = text.split_whitespace().last()?;
    let numbers: Vec<u32> = word.split('/').filter_map(|part| part.parse().ok()).collect();
    match (word.starts_with("base/"), &numbers[..]) {
        (true, [database, ..]) => Some((1663, *database)),
        (false, [first, second]) if word.starts_with("pg_tblspc/") => Some((*first, *second)),
        // 17: tablespace/database; before: database/tablespace. Both only name real ones.
        (false, [first, second]) if *first == 1663 => Some((*first, *second)),
        (false, [first, second]) => Some((*second, *first)),
        _ => None,
    }
}

impl Found {
    /// Adds what another comparison found.
    pub fn add(&mut self, other: Self) {
        self.records += other.records;
        self.replaced += other.replaced;
        self.bytes += other.bytes;
        for (mine, others) in [
            (&mut self.replaced_kinds, other.replaced_kinds),
            (&mut self.passed_kinds, other.passed_kinds),
        ] {
            for (kind, count) in others {
                *mine.entry(kind).or_default() += count;
            }
        }
    }

    /// Fails when one of these resource managers was not met on both sides: then the
    /// comparison proves less than it should.
    pub fn require(&self, kinds: &[&str]) -> Result<()> {
        for kind in kinds {
            for (side, met) in [("replaced", &self.replaced_kinds), ("passed", &self.passed_kinds)]
            {
                if !met.contains_key(*kind) {
                    bail!("no record of {kind} was {side}: {met:?}");
                }
            }
        }
        Ok(())
    }
}
