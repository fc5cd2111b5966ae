//! PostgreSQL's own `pg_receivewal`.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Result, ensure};
use pgtypes::Lsn;
use tempfile::TempDir;
use testkit::{Cluster, Program};

use super::segment_name;

/// A running or finished `pg_receivewal` with its folder.
#[derive(Debug)]
pub struct Receiver {
    program: Program,
    folder: TempDir,
}

impl Receiver {
    /// Receives from `port` what begins with the segment of `start`, up to `end`.
    ///
    /// It begins behind the newest complete segment in its folder: an empty one is put there.
    pub fn start(server: &Cluster, port: u16, name: &str, start: Lsn, end: Lsn) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("pgherd-received-").tempdir()?;
        let segment_bytes = segment_bytes(server)?;
        let before = start.round_down(segment_bytes) - segment_bytes;
        let file = File::create(folder.path().join(segment_name(1, before, segment_bytes)))?;
        file.set_len(segment_bytes)?;
        let mut command = server.install().client_command("pg_receivewal")?;
        command.args(["--no-loop", "--no-sync", "--endpos", &end.to_string(), "-D"]);
        command
            .arg(folder.path())
            .arg("-d")
            .arg(format!("host=127.0.0.1 port={port} user=postgres application_name={name}"));
        Ok(Self { program: Program::start(&mut command)?, folder })
    }

    /// Waits for its end, which must be a success.
    pub fn finish(mut self) -> Result<TempDir> {
        let status = self.program.wait(std::time::Duration::from_secs(120))?;
        ensure!(status.success(), "pg_receivewal: {status}: {}", self.program.text());
        Ok(self.folder)
    }
}

/// The size of the server's segments.
pub fn segment_bytes(server: &Cluster) -> Result<u64> {
    let size = server.sql("select setting from pg_settings where name = 'wal_segment_size'")?;
    Ok(size.parse()?)
}

/// Fills the current segment, so that `pg_receivewal` completes it and ends: gives its end.
///
/// It stops only when it has got past the end position, on an idle server with the next WAL.
pub fn fill_segment(server: &Cluster) -> Result<Lsn> {
    let segment_bytes = segment_bytes(server)?;
    let end = (server.switch_wal()? + (segment_bytes - 1)).round_down(segment_bytes);
    server.sql("create table filled(); drop table filled")?;
    Ok(end)
}

/// Whether all complete segments that both folders have are the same, byte for byte, and both have the same; how many.
pub fn same_files(one: &Path, other: &Path) -> Result<usize> {
    let names = |folder: &Path| -> Result<Vec<_>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(folder)? {
            let name = entry?.file_name();
            if !name.to_string_lossy().ends_with(".partial") {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    };
    let (left, right) = (names(one)?, names(other)?);
    ensure!(left == right, "{left:?} and {right:?}");
    for name in &left {
        let (left, right) = (fs::read(one.join(name))?, fs::read(other.join(name))?);
        ensure!(left == right, "{} differs", name.display());
    }
    Ok(left.len())
}
