//! A replication client that reads a stream itself: from any position, on any timeline.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, bail, ensure};
use pgproto::copy::{ServerMessage, StandbyStatus};
use pgproto::frame::{Header, backend, limit, write};
use pgproto::{backend as parse, frontend};
use pgtypes::Lsn;
use testkit::PATIENCE;

use super::Stretch;

/// A replication connection between commands.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<TcpStream>,
}

/// What a command gave: rows of text.
pub type Rows = Vec<Vec<Option<String>>>;

struct Message {
    tag: u8,
    payload: Vec<u8>,
}

impl Client {
    /// Logs in as `postgres` under an application name.
    pub fn connect(port: u16, name: &str) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut client = Self { stream: BufReader::with_capacity(1 << 18, stream) };
        let mut body = (3_u32 << 16).to_be_bytes().to_vec();
        for text in ["user", "postgres", "replication", "true", "application_name", name, ""] {
            body.extend_from_slice(text.as_bytes());
            body.push(0);
        }
        let length = u32::try_from(body.len() + 4)?.to_be_bytes();
        client.send(&[&length[..], &body].concat())?;
        client.rows().context("log in")?;
        Ok(client)
    }

    /// Runs a command that gives rows.
    pub fn command(&mut self, text: &str) -> Result<Rows> {
        self.query(text)?;
        self.rows().with_context(|| text.to_owned())
    }

    /// Starts a stream.
    pub fn start(mut self, start: Lsn, timeline: u32) -> Result<Streaming> {
        let command = format!("START_REPLICATION {start} TIMELINE {timeline}");
        self.query(&command)?;
        let message = self.message()?;
        match message.tag {
            backend::COPY_BOTH => {
                Ok(Streaming { client: self, at: start, late: Vec::new(), messages: 0 })
            }
            backend::ERROR => {
                let error = parse::parse_error_response(&message.payload);
                bail!("{command}: {} {}", error.sqlstate, error.message)
            }
            tag => bail!("{command}: answered with {:?}", char::from(tag)),
        }
    }

    fn query(&mut self, text: &str) -> Result<()> {
        let mut message = Vec::new();
        frontend::query(text, &mut message);
        self.send(&message)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.get_mut().write_all(bytes)?)
    }

    fn message(&mut self) -> Result<Message> {
        let mut header = [0; Header::BYTES];
        self.stream.read_exact(&mut header).context("the connection ended")?;
        let header = Header::parse(&header)?.check_limit(limit::STREAM)?;
        let mut payload = vec![0; header.payload_bytes];
        self.stream.read_exact(&mut payload).context("the connection ended in a message")?;
        Ok(Message { tag: header.tag, payload })
    }

    /// Rows up to `ReadyForQuery`.
    fn rows(&mut self) -> Result<Rows> {
        let mut rows = Vec::new();
        let mut failure = None;
        loop {
            let message = match (self.message(), &failure) {
                (Ok(message), _) => message,
                (Err(_), Some(failure)) => bail!("{failure}"),
                (Err(error), None) => return Err(error),
            };
            match message.tag {
                backend::DATA_ROW => {
                    let values = parse::data_row(&message.payload)?;
                    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
                    rows.push(values.into_iter().map(|value| value.map(text)).collect());
                }
                backend::ERROR => {
                    let error = parse::parse_error_response(&message.payload);
                    failure = Some(format!("{} {}", error.sqlstate, error.message));
                }
                backend::READY => match failure {
                    Some(failure) => bail!("{failure}"),
                    None => return Ok(rows),
                },
                _ => {}
            }
        }
    }
}

/// A stream that is under way.
#[derive(Debug)]
pub struct Streaming {
    client: Client,
    at: Lsn,
    /// What came behind the last position that was asked for.
    late: Vec<u8>,
    messages: u64,
}

impl Streaming {
    /// Reads up to `until`, and gives each piece to `each`.
    pub fn read(&mut self, until: Lsn, mut each: impl FnMut(&[u8])) -> Result<()> {
        loop {
            let missing = usize::try_from(until.bytes_since(self.at))?;
            let late = std::mem::take(&mut self.late);
            let (now, later) = late.split_at(missing.min(late.len()));
            self.at += now.len() as u64;
            if !now.is_empty() {
                each(now);
            }
            self.late = later.to_vec();
            if self.at >= until {
                return Ok(());
            }
            self.late = self.next()?.with_context(|| {
                format!("the stream ended at {}, {until} should have come", self.at)
            })?;
        }
    }

    /// Reads up to `until`.
    pub fn take(&mut self, until: Lsn) -> Result<Stretch> {
        let start = self.at;
        let mut bytes = Vec::with_capacity(usize::try_from(until.bytes_since(start))?);
        self.read(until, |piece| bytes.extend_from_slice(piece))?;
        Ok(Stretch { start, bytes })
    }

    /// Reads to the end of the timeline; gives it with the next timeline and where that begins.
    pub fn into_end(mut self) -> Result<(Stretch, u32, Lsn, Client)> {
        let start = self.at;
        let mut bytes = Vec::new();
        loop {
            let late = std::mem::take(&mut self.late);
            self.at += late.len() as u64;
            bytes.extend_from_slice(&late);
            match self.next()? {
                Some(more) => self.late = more,
                None => break,
            }
        }
        let mut done = Vec::new();
        frontend::copy_done(&mut done);
        self.client.send(&done)?;
        let rows = self.client.rows()?;
        let row = rows.first().context("no row with the next timeline")?;
        let [Some(timeline), Some(switch)] = &row[..] else { bail!("strange row {row:?}") };
        let (timeline, switch) = (timeline.parse()?, switch.parse()?);
        Ok((Stretch { start, bytes }, timeline, switch, self.client))
    }

    /// WAL messages that came so far.
    pub const fn messages(&self) -> u64 {
        self.messages
    }

    /// Where the next byte will be.
    pub const fn at(&self) -> Lsn {
        self.at
    }

    /// The WAL of the next message; `None` at the end of the timeline.
    fn next(&mut self) -> Result<Option<Vec<u8>>> {
        let position = self.at + self.late.len() as u64;
        loop {
            let message = self.client.message()?;
            match message.tag {
                backend::COPY_DATA => {}
                backend::COPY_DONE => return Ok(None),
                backend::ERROR => {
                    let error = parse::parse_error_response(&message.payload);
                    bail!("the stream failed: {} {}", error.sqlstate, error.message);
                }
                tag => bail!("message {:?} in a stream", char::from(tag)),
            }
            match ServerMessage::parse(&message.payload)? {
                ServerMessage::XLogData(head, bytes) => {
                    self.messages += 1;
                    ensure!(head.start == position, "{} came, not {position}", head.start);
                    ensure!(!bytes.is_empty(), "an empty message at {position}");
                    return Ok(Some(bytes.to_vec()));
                }
                ServerMessage::Keepalive(alive) if alive.reply_requested => self.confirm()?,
                _ => {}
            }
        }
    }

    /// Confirms what was read.
    pub fn confirm(&mut self) -> Result<()> {
        let at = self.at;
        let status = StandbyStatus {
            write: at,
            flush: at,
            apply: at,
            sent_at_micros: 0,
            reply_requested: false,
        };
        let mut message = Vec::new();
        write(backend::COPY_DATA, &status.to_bytes(), &mut message);
        self.client.send(&message)
    }
}

/// A range of timeline 1, by a connection of its own.
pub fn read(port: u16, name: &str, start: Lsn, until: Lsn) -> Result<Stretch> {
    read_timeline(port, name, 1, start, until)
}

/// A range of a timeline, by a connection of its own.
pub fn read_timeline(
    port: u16,
    name: &str,
    timeline: u32,
    start: Lsn,
    until: Lsn,
) -> Result<Stretch> {
    Client::connect(port, name)?.start(start, timeline)?.take(until)
}
