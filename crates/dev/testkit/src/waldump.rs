//! PostgreSQL's own `pg_waldump` as the judge of WAL files.

use std::io::{BufRead, BufReader, Lines, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, bail};
use pgtypes::{Lsn, Major, Timeline, Xid};

use crate::install::{Install, clean_command};

/// A record as `pg_waldump` prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Resource manager, as `Heap`.
    pub rmgr: String,
    /// Length without page images, in bytes.
    pub len_rec: u32,
    /// `xl_tot_len`, in bytes.
    pub len_tot: u32,
    /// Transaction.
    pub xid: Xid,
    /// Where it begins.
    pub lsn: Lsn,
    /// Where the one before begins.
    pub prev: Lsn,
    /// Everything after `desc: `, block references included.
    pub desc: String,
}

/// Tablespace, database and relation of a block reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Locator {
    /// OID of the tablespace.
    pub tablespace: u32,
    /// OID of the database.
    pub database: u32,
    /// `relfilenode`.
    pub relation: u32,
}

impl Record {
    /// Reads a line of output; `None` for lines that are something else.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let rest = line.strip_prefix("rmgr: ")?;
        let (rmgr, rest) = rest.split_once("len (rec/tot):")?;
        let (lengths, rest) = rest.split_once(", tx:")?;
        let (xid, rest) = rest.split_once(", lsn:")?;
        let (lsn, rest) = rest.split_once(", prev")?;
        let (prev, desc) = rest.split_once(", desc:")?;
        let (len_rec, len_tot) = lengths.split_once('/')?;
        Some(Self {
            rmgr: rmgr.trim().to_owned(),
            len_rec: len_rec.trim().parse().ok()?,
            len_tot: len_tot.trim().parse().ok()?,
            xid: Xid(xid.trim().parse().ok()?),
            lsn: lsn.trim().parse().ok()?,
            prev: prev.trim().parse().ok()?,
            desc: desc.trim().to_owned(),
        })
    }

    /// Whether this is a no-op.
    #[must_use]
    pub fn is_noop(&self) -> bool {
        self.rmgr == "XLOG" && self.desc.starts_with("NOOP")
    }

    /// The relations of its block references.
    #[must_use]
    pub fn locators(&self) -> Vec<Locator> {
        let blocks = self.desc.split("blkref #").skip(1);
        blocks.filter_map(|block| locator(block.split_once("rel ")?.1)).collect()
    }
}

/// Reads `1663/16384/2619 ...`.
fn locator(text: &str) -> Option<Locator> {
    let mut numbers = text.split_whitespace().next()?.split('/').map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some(Locator { tablespace: next()?, database: next()?, relation: next()? })
}

/// The records of a range of WAL, in order, read while `pg_waldump` prints them.
#[derive(Debug)]
pub struct WalDump {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    complaints: Option<JoinHandle<String>>,
}

impl WalDump {
    /// Dumps the WAL of timeline `timeline` in the folder `wal` from the record at `start` up to
    /// the position `end`.
    ///
    /// # Errors
    ///
    /// When `major` has no `pg_waldump` ([`Install::has_clients`]). That the WAL is not sound
    /// shows as an error of the iterator.
    pub fn open(
        major: Major,
        wal: &Path,
        timeline: Timeline,
        start: Lsn,
        end: Lsn,
    ) -> Result<Self> {
        let mut command = clean_command(&Install::of(major)?.client("pg_waldump")?);
        command.arg("-p").arg(wal);
        command.args(["-t", &timeline.to_string()]);
        command.args(["-s", &start.to_string(), "-e", &end.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("start pg_waldump")?;
        let stdout = child.stdout.take().context("pg_waldump without output")?;
        let mut stderr = child.stderr.take().context("pg_waldump without errors")?;
        let complaints = thread::spawn(move || {
            let mut bytes = Vec::new();
            // What was read before an error is all there is to show.
            drop(stderr.read_to_end(&mut bytes));
            String::from_utf8_lossy(&bytes).into_owned()
        });
        Ok(Self { child, lines: BufReader::new(stdout).lines(), complaints: Some(complaints) })
    }

    fn end(&mut self) -> Result<()> {
        let Some(complaints) = self.complaints.take() else { return Ok(()) };
        let status = self.child.wait()?;
        let complaints = complaints.join().unwrap_or_default();
        if !status.success() {
            bail!("pg_waldump ended with {status}: {}", complaints.trim_end());
        }
        Ok(())
    }
}

impl Iterator for WalDump {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.lines.next() {
            Some(Ok(line)) => Some(
                Record::parse(&line).with_context(|| format!("no record of pg_waldump: {line:?}")),
            ),
            Some(Err(error)) => Some(Err(error.into())),
            None => self.end().err().map(Err),
        }
    }
}

impl Drop for WalDump {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// All records of [`WalDump::open`] on timeline 1.
///
/// # Errors
///
/// When the WAL cannot be read up to `end`, as after a wrong CRC.
pub fn waldump(major: Major, wal: &Path, start: Lsn, end: Lsn) -> Result<Vec<Record>> {
    WalDump::open(major, wal, Timeline(1), start, end)?.collect()
}
