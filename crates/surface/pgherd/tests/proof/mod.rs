//! What the proofs about bytes share: a client that reads a stream itself, PostgreSQL's own
//! `pg_receivewal`, and the comparison of filtered WAL with the original.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

pub mod client;
pub mod compare;
pub mod load;
pub mod receive;

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use pgtypes::Lsn;

/// Name of the standby, and of the configuration, that has the filter below.
pub const FILTERED: &str = "berlin";

/// A filter without the databases `drop*`; every other client gets everything.
pub const WITHOUT_DROP: &str = "
configurations:
  - berlin:
      match: {application_name: berlin}
      filter: {exclude_databases: [\"drop*\"]}
  - everybody: {}
";

/// The program under test.
pub fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pgherd"))
}

/// A piece of WAL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Where it begins.
    pub start: Lsn,
    /// What it is.
    pub bytes: Vec<u8>,
}

impl Stretch {
    /// The position behind it.
    pub fn end(&self) -> Lsn {
        self.start + self.bytes.len() as u64
    }

    /// The bytes of a range that it has.
    pub fn get(&self, from: Lsn, until: Lsn) -> Result<&[u8]> {
        let from_index = usize::try_from(from.bytes_since(self.start))?;
        let until_index = usize::try_from(until.bytes_since(self.start))?;
        self.bytes.get(from_index..until_index).with_context(|| {
            format!("{from} to {until} is not in {} to {}", self.start, self.end())
        })
    }

    /// Writes it as segment files, the last one filled up with zeros; it must begin at one.
    pub fn write(&self, folder: &Path, timeline: u32, segment_bytes: u64) -> Result<()> {
        ensure!(self.start.0.is_multiple_of(segment_bytes), "{} is inside a segment", self.start);
        let mut at = self.start;
        for bytes in self.bytes.chunks(usize::try_from(segment_bytes)?) {
            let path = folder.join(segment_name(timeline, at, segment_bytes));
            fs::write(&path, bytes)?;
            fs::OpenOptions::new().write(true).open(&path)?.set_len(segment_bytes)?;
            at += segment_bytes;
        }
        Ok(())
    }
}

/// The file name of the segment with this position.
pub fn segment_name(timeline: u32, at: Lsn, segment_bytes: u64) -> String {
    let number = at.0 / segment_bytes;
    let per_id = (1 << 32) / segment_bytes;
    format!("{timeline:08X}{:08X}{:08X}", number / per_id, number % per_id)
}

/// Whether a text is in any file below a folder.
pub fn contains(folder: &Path, text: &str) -> Result<bool> {
    let mut grep = Command::new("grep");
    let status = grep.args(["-r", "-q", "-a", "-F", "-e", text]).arg(folder).status()?;
    match status.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        _ => anyhow::bail!("grep ended with {status}"),
    }
}

/// The first place at which two stretches differ, for messages.
pub fn first_difference(one: &Stretch, other: &Stretch) -> Option<Lsn> {
    let at = one.bytes.iter().zip(&other.bytes).position(|(left, right)| left != right);
    at.map(|at| one.start + at as u64)
}
