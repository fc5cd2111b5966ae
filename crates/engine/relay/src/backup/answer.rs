//! The messages of a server's answer to `BASE_BACKUP`, and what the client gets of them.
//!
//! Two result sets come first, where the backup starts and the tablespaces. Up to 14 a copy
//! follows for each tablespace, in the order of the rows, and one for the manifest; from 15 on
//! there is a single copy whose messages begin with a letter. A last result set says where
//! the backup ends. (`basebackup.c`, `basebackup_copy.c`)

mod whole;

use std::collections::{HashMap, VecDeque};

use basebackup::{Archive, Manifest, Piece, Place, Selection as _, Undecided};
use pgnet::{Inbound, Message};
use pgproto::backend::data_row;
use pgproto::frame::{Header, backend, limit};
use pgtypes::{Major, Oid};
use tracing::info;

use super::BackupError;
use super::holdings::Holdings;
use super::wal_files::WalFiles;
use crate::room::SMALL_BYTES;
use crate::session::{Outbound, SessionError};
use crate::stream::Course;
use whole::Run;

/// Output is written when this much is ready, or when nothing more has arrived.
const WRITE_BYTES: usize = 128 * 1024;

/// Less than this is gathered before it is written.
const COPY_BYTES: usize = 16 * 1024;

/// What is being copied.
enum Copying {
    Nothing,
    /// An archive that is left out.
    LeftOut,
    Archive(Box<Archive>),
    Manifest(Box<Manifest>),
}

/// An answer on its way.
pub(super) struct Answer {
    wal: WalFiles,
    holdings: Holdings,
    in_one_copy: bool,
    sizes: HashMap<Oid, u64>,
    /// Result sets that are complete.
    results: u32,
    /// Tablespaces in the order of the rows; the last is the data directory.
    archives: Vec<Place>,
    /// Copies that have begun, up to 14.
    copies: usize,
    copying: Copying,
    /// What `tablespace_map` became.
    map: Option<Vec<u8>>,
    /// Bytes that were left out.
    dropped_bytes: u64,
    kept_bytes: u64,
    out: Vec<u8>,
    /// Archive bytes that are not in `out` yet.
    body: Vec<u8>,
    /// Where messages have to end in `body`: `pg_basebackup` up to 14 relies on headers,
    /// contents and padding coming in messages of their own.
    cuts: VecDeque<usize>,
}

impl Answer {
    pub(super) fn new(
        course: Course,
        major: Major,
        in_one_copy: bool,
        sizes: HashMap<Oid, u64>,
    ) -> Self {
        Self {
            wal: WalFiles::new(course, major),
            holdings: Holdings::default(),
            in_one_copy,
            sizes,
            results: 0,
            archives: Vec::new(),
            copies: 0,
            copying: Copying::Nothing,
            map: None,
            dropped_bytes: 0,
            kept_bytes: 0,
            out: Vec::new(),
            body: Vec::new(),
            cuts: VecDeque::new(),
        }
    }

    /// Passes the answer on until the server is ready.
    pub(super) async fn carry(
        &mut self,
        from_upstream: &mut Inbound,
        to_client: &mut Outbound,
    ) -> Result<(), SessionError> {
        let upstream = |error: std::io::Error| SessionError::Upstream(error.into());
        let mut room = self.wal.rooms().enter();
        let mut space = SMALL_BYTES;
        loop {
            match self.run(from_upstream.buffered()) {
                Run::Keep(bytes) => {
                    let run = from_upstream.buffered().get(..bytes).unwrap_or_default();
                    if bytes < COPY_BYTES {
                        self.out.extend_from_slice(run);
                    } else {
                        self.send(to_client).await?;
                        let written = to_client.write_through(run, true).await;
                        written.map_err(|error| SessionError::Client(error.into()))?;
                        self.wal.client().count(|tally| tally.sent_bytes.add(bytes as u64));
                    }
                    from_upstream.consume(bytes);
                }
                Run::Drop(bytes) => from_upstream.consume(bytes),
                Run::None => {}
            }
            if self.out.len() >= WRITE_BYTES {
                self.send(to_client).await?;
            }
            let arrived = from_upstream.take(limit::STREAM)?;
            let Some(message) = arrived else {
                self.send(to_client).await?;
                let bytes = from_upstream.fill_up_to(space).await;
                let bytes = bytes.map_err(upstream)?;
                space = room.after(bytes, space);
                if bytes == 0 {
                    return Err(SessionError::UpstreamLeft);
                }
                self.wal.client().count(|tally| tally.received_bytes.add(bytes as u64));
                continue;
            };
            self.message(&message).await?;
            if message.tag == backend::READY {
                info!(
                    configuration = self.wal.configuration(),
                    kept_bytes = self.kept_bytes,
                    left_out_bytes = self.dropped_bytes,
                    "the filtered backup ended",
                );
                return self.send(to_client).await;
            }
        }
    }

    /// Sends what is ready, and counts it.
    async fn send(&mut self, to_client: &mut Outbound) -> Result<(), SessionError> {
        to_client.send(&self.out).await?;
        let bytes = self.out.len() as u64;
        self.wal.client().count(|tally| tally.sent_bytes.add(bytes));
        self.out.clear();
        Ok(())
    }

    async fn message(&mut self, message: &Message) -> Result<(), SessionError> {
        match message.tag {
            backend::DATA_ROW if self.results == 1 => self.tablespace(message).await?,
            backend::COMMAND_COMPLETE => {
                self.results += 1;
                self.pass(message);
            }
            backend::COPY_OUT => self.begin_copy(message),
            backend::COPY_DATA if self.in_one_copy => self.one_copy_data(message).await?,
            backend::COPY_DATA => {
                self.data(message.payload()).await?;
                self.emit(&[]);
            }
            backend::COPY_DONE => {
                let left_out = matches!(self.copying, Copying::LeftOut);
                self.end_archive()?;
                self.emit_body();
                if self.in_one_copy || !left_out {
                    self.pass(message);
                }
            }
            _ => self.pass(message),
        }
        Ok(())
    }

    fn pass(&mut self, message: &Message) {
        self.out.extend_from_slice(&message.raw);
    }

    /// A row of the list of tablespaces: OID, path and size in kilobytes; the data directory
    /// has neither OID nor path.
    async fn tablespace(&mut self, message: &Message) -> Result<(), SessionError> {
        let row = data_row(message.payload())
            .map_err(|_malformed| BackupError::Answer("a row of the tablespaces"))?;
        let [oid, path, size, ..] = row.as_slice() else {
            return Err(BackupError::Answer("the tablespaces do not have three columns").into());
        };
        let number = |value: &Option<&[u8]>| {
            value.and_then(|it| str::from_utf8(it).ok()).and_then(|it| it.parse::<u64>().ok())
        };
        let oid = oid.map(|_| number(oid).and_then(|oid| u32::try_from(oid).ok()).map(Oid));
        let (place, home) = match oid {
            None => (Place::Data, Oid::PG_DEFAULT),
            Some(Some(oid)) => (Place::Tablespace(oid), oid),
            Some(None) => return Err(BackupError::Answer("the OID of a tablespace").into()),
        };
        self.archives.push(place);
        if let Place::Tablespace(tablespace) = place {
            let folder = Undecided { tablespace, database: Oid::INVALID };
            let decided = self.holdings.decide(folder, self.wal.flow()).await;
            if !decided.map_err(SessionError::from)? {
                return Ok(());
            }
        }
        let left_out = self.sizes.get(&home).copied().unwrap_or(0) / 1024;
        let size = number(size).map(|size| size.saturating_sub(left_out).to_string());
        let size = size.as_ref().map(String::as_bytes);
        let oid = oid.flatten().map(|oid| oid.to_string());
        let mut payload = 3_u16.to_be_bytes().to_vec();
        for value in [oid.as_ref().map(String::as_bytes), *path, size] {
            let length = value.map_or(-1, |value| i32::try_from(value.len()).unwrap_or(0));
            payload.extend_from_slice(&length.to_be_bytes());
            payload.extend_from_slice(value.unwrap_or_default());
        }
        pgproto::frame::write(backend::DATA_ROW, &payload, &mut self.out);
        Ok(())
    }

    fn holds(&self, place: Place) -> bool {
        match place {
            Place::Data => true,
            // All of them came in the list before the archives.
            Place::Tablespace(oid) => self.holdings.holds(oid, Oid::INVALID) == Some(true),
        }
    }

    fn begin_copy(&mut self, message: &Message) {
        if self.in_one_copy {
            return self.pass(message);
        }
        let place = self.archives.get(self.copies).copied();
        self.copies += 1;
        self.copying = match place {
            Some(place) if !self.holds(place) => Copying::LeftOut,
            Some(place) => Copying::Archive(Box::new(Archive::new(place))),
            None => Copying::Manifest(Box::new(Manifest::new(self.map.clone()))),
        };
        if !matches!(self.copying, Copying::LeftOut) {
            self.pass(message);
        }
    }

    /// A message of the one copy of 15 and later, by its letter.
    async fn one_copy_data(&mut self, message: &Message) -> Result<(), SessionError> {
        let Some((letter, rest)) = message.payload().split_first() else {
            return Err(BackupError::Answer("an empty message in a copy").into());
        };
        match letter {
            b'n' => {
                self.end_archive()?;
                self.emit_body_with(b'd');
                let place = place_of(rest)?;
                if self.holds(place) {
                    self.copying = Copying::Archive(Box::new(Archive::new(place)));
                    self.pass(message);
                } else {
                    self.copying = Copying::LeftOut;
                }
            }
            b'm' => {
                self.end_archive()?;
                self.emit_body_with(b'd');
                self.copying = Copying::Manifest(Box::new(Manifest::new(self.map.clone())));
                self.pass(message);
            }
            b'd' => {
                self.data(rest).await?;
                self.emit(b"d");
            }
            b'p' => {
                let done = rest.first_chunk().map(|it| i64::from_be_bytes(*it)).unwrap_or(0);
                let left_out = i64::try_from(self.dropped_bytes).unwrap_or(i64::MAX);
                let done = done.saturating_sub(left_out).max(0);
                let payload = [&b"p"[..], &done.to_be_bytes()].concat();
                pgproto::frame::write(backend::COPY_DATA, &payload, &mut self.out);
            }
            _ => return Err(BackupError::Answer("a message of an unknown kind in a copy").into()),
        }
        Ok(())
    }

    /// Bytes of the archive or the manifest that is being copied.
    async fn data(&mut self, mut bytes: &[u8]) -> Result<(), SessionError> {
        loop {
            let Self { copying, wal, holdings, body, cuts, dropped_bytes, .. } = self;
            let archive = match copying {
                Copying::Nothing => {
                    return Err(BackupError::Answer("data before an archive").into());
                }
                Copying::LeftOut => {
                    *dropped_bytes += bytes.len() as u64;
                    return Ok(());
                }
                Copying::Manifest(manifest) => {
                    manifest.feed(bytes, holdings, body).map_err(BackupError::from)?;
                    return Ok(());
                }
                Copying::Archive(archive) => archive,
            };
            let fed = archive.feed(bytes, holdings, |piece| -> Result<(), BackupError> {
                match piece {
                    Piece::Keep(bytes) => body.extend_from_slice(bytes),
                    Piece::Drop(bytes) => *dropped_bytes += bytes as u64,
                    Piece::Segment { timeline, high, low } => wal.segment(timeline, high, low),
                    Piece::Wal(bytes) => {
                        wal.note(body.len(), bytes.len());
                        body.extend_from_slice(bytes);
                    }
                }
                if cuts.back().copied().unwrap_or(0) < body.len() {
                    cuts.push_back(body.len());
                }
                Ok(())
            })?;
            wal.filter(body).await?;
            let Some(folder) = fed.undecided else { return Ok(()) };
            holdings.decide(folder, wal.flow()).await?;
            bytes = bytes.get(fed.taken..).unwrap_or_default();
        }
    }

    /// Ends what was being copied.
    fn end_archive(&mut self) -> Result<(), BackupError> {
        match std::mem::replace(&mut self.copying, Copying::Nothing) {
            Copying::Archive(archive) => {
                archive.finish()?;
                self.wal.end(&mut self.body);
                if let Some(map) = archive.map() {
                    self.map = Some(map.to_vec());
                }
            }
            Copying::Manifest(manifest) => manifest.finish()?,
            Copying::Nothing | Copying::LeftOut => {}
        }
        Ok(())
    }

    /// Sends what of the body is final.
    fn emit(&mut self, letter: &[u8]) {
        let mut bytes = self.wal.final_bytes(self.body.len());
        if self.in_one_copy {
            self.cuts.clear();
        }
        while bytes > 0 {
            let part = self.cuts.front().map_or(bytes, |cut| bytes.min(*cut));
            let payload_bytes = letter.len() + part;
            let header = Header { tag: backend::COPY_DATA, payload_bytes };
            self.out.extend_from_slice(&header.to_bytes());
            self.out.extend_from_slice(letter);
            self.out.extend(self.body.drain(..part));
            self.wal.emitted(part);
            self.cuts.iter_mut().for_each(|cut| *cut -= part);
            if self.cuts.front() == Some(&0) {
                self.cuts.pop_front();
            }
            self.kept_bytes += part as u64;
            bytes -= part;
        }
    }

    fn emit_body(&mut self) {
        let letter: &[u8] = if self.in_one_copy { b"d" } else { b"" };
        self.emit(letter);
    }

    fn emit_body_with(&mut self, letter: u8) {
        self.emit(&[letter]);
    }
}

/// Where the names of an archive begin, by its own name: `base.tar`, `16390.tar`.
fn place_of(payload: &[u8]) -> Result<Place, BackupError> {
    let name = payload.split(|byte| *byte == 0).next().unwrap_or_default();
    match name.strip_suffix(b".tar") {
        Some(b"base") => Ok(Place::Data),
        Some(digits) => {
            let oid = str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
            let oid = oid.ok_or(BackupError::Answer("the name of an archive"))?;
            Ok(Place::Tablespace(Oid(oid)))
        }
        None => Err(BackupError::Answer("the name of an archive")),
    }
}
