//! A client that receives WAL and throws it away: the leanest one, so that what is measured
//! is the way to it. It speaks just as much of the protocol as a server that trusts it needs.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Context as _, Result, bail, ensure};
use pgproto::copy::{Keepalive, ServerMessage, StandbyStatus, XLogData};
use pgproto::frame::{self, Header, backend};
use pgproto::frontend;
use pgtypes::Lsn;

const PROTOCOL_3_0: u32 = 3 << 16;
const BUFFER_BYTES: usize = 256 * 1024;
/// What is looked at of a message: its header and the longest head of a stream message.
const HEAD_BYTES: usize = Header::BYTES + XLogData::BYTES;

/// A replication connection.
pub(crate) struct Receiver {
    stream: TcpStream,
    buffer: Vec<u8>,
    at: usize,
    end: usize,
}

impl Receiver {
    /// Connects to a port of 127.0.0.1 and logs in.
    pub(crate) fn connect(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        let mut receiver = Self { stream, buffer: vec![0; BUFFER_BYTES], at: 0, end: 0 };
        let mut startup = PROTOCOL_3_0.to_be_bytes().to_vec();
        startup.extend(b"user\0postgres\0replication\0true\0application_name\0bench\0\0");
        let length = u32::try_from(startup.len() + 4)?.to_be_bytes();
        receiver.stream.write_all(&[&length[..], &startup].concat())?;
        while receiver.message()?.0 != backend::READY {}
        Ok(receiver)
    }

    /// Receives the WAL of timeline 1 from `start`, the begin of a segment, up to `end`.
    pub(crate) fn receive(&mut self, start: Lsn, end: Lsn) -> Result<()> {
        let mut query = Vec::new();
        frontend::query(&format!("START_REPLICATION PHYSICAL {start} TIMELINE 1"), &mut query);
        self.stream.write_all(&query)?;
        while self.message()?.0 != backend::COPY_BOTH {}
        let mut position = start;
        while position < end {
            let (tag, payload_bytes, head) = self.message()?;
            ensure!(tag == backend::COPY_DATA, "message {tag:#04x} in a stream");
            match ServerMessage::parse(&head)? {
                ServerMessage::XLogData(data, _) => {
                    let expected = position;
                    ensure!(data.start == expected, "{} instead of {expected}", data.start);
                    position = data.start + (payload_bytes - XLogData::BYTES) as u64;
                }
                ServerMessage::Keepalive(Keepalive { reply_requested: true, .. }) => {
                    self.report(position)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Steps over the next message; gives its tag, its length, and the head of its payload.
    fn message(&mut self) -> Result<(u8, usize, Vec<u8>)> {
        self.fill(Header::BYTES)?;
        let header = self.buffer.get(self.at..).and_then(<[u8]>::first_chunk);
        let header = Header::parse(header.context("no header")?)?;
        let seen = (Header::BYTES + header.payload_bytes).min(HEAD_BYTES);
        self.fill(seen)?;
        let head = self.buffer.get(self.at + Header::BYTES..self.at + seen).context("no head")?;
        let head = head.to_vec();
        if header.tag == backend::ERROR {
            bail!("the server says {:?}", String::from_utf8_lossy(&head));
        }
        let mut left = Header::BYTES + header.payload_bytes;
        loop {
            let here = left.min(self.end - self.at);
            self.at += here;
            left -= here;
            if left == 0 {
                return Ok((header.tag, header.payload_bytes, head));
            }
            self.fill(1)?;
        }
    }

    /// Reads until `bytes` are there.
    fn fill(&mut self, bytes: usize) -> Result<()> {
        if self.at == self.end {
            (self.at, self.end) = (0, 0);
        } else if self.at + bytes > self.buffer.len() {
            self.buffer.copy_within(self.at..self.end, 0);
            (self.at, self.end) = (0, self.end - self.at);
        }
        while self.end - self.at < bytes {
            let free = self.buffer.get_mut(self.end..).unwrap_or_default();
            let read = self.stream.read(free)?;
            ensure!(read > 0, "the connection was closed");
            self.end += read;
        }
        Ok(())
    }

    fn report(&mut self, position: Lsn) -> Result<()> {
        let status = StandbyStatus {
            write: position,
            flush: position,
            apply: Lsn::INVALID,
            sent_at_micros: 0,
            reply_requested: false,
        };
        let mut message = Vec::new();
        frame::write(backend::COPY_DATA, &status.to_bytes(), &mut message);
        Ok(self.stream.write_all(&message)?)
    }
}
