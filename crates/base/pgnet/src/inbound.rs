//! Messages out of what arrives, in a bounded buffer.

use std::io;

use pgproto::frame::{FrameError, Header};

use crate::ReadHalf;

/// What is read at once while no stream runs: commands and their answers are short.
const STEP_BYTES: usize = 8 * 1024;

/// Why no message could be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The peer closed the connection in the middle of a message.
    #[error("the connection was closed inside a message")]
    CutOff,
    /// The peer sent something that is no message, or one that is too long.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// A message with its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub tag: u8,
    /// Header and payload as they came.
    pub raw: Vec<u8>,
}

impl Message {
    /// What follows the header.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.raw.get(Header::BYTES..).unwrap_or_default()
    }
}

/// The reading side of a connection, with what has arrived and is not used yet.
#[derive(Debug)]
pub struct Inbound {
    half: ReadHalf,
    buffer: Vec<u8>,
    /// Bytes at the front that have been used.
    used: usize,
}

impl Inbound {
    /// Reads from `half`; takes memory only when something comes.
    #[must_use]
    pub const fn new(half: ReadHalf) -> Self {
        Self { half, buffer: Vec::new(), used: 0 }
    }

    /// What has arrived and is not used yet.
    #[must_use]
    pub fn buffered(&self) -> &[u8] {
        self.buffer.get(self.used..).unwrap_or_default()
    }

    /// Marks the first `bytes` of [`Self::buffered`] as used.
    pub fn consume(&mut self, bytes: usize) {
        self.used = self.used.saturating_add(bytes).min(self.buffer.len());
        if self.used == self.buffer.len() {
            self.buffer.clear();
            self.used = 0;
        }
    }

    /// Waits for more bytes; zero at the end of the stream. Cancel-safe.
    ///
    /// # Errors
    ///
    /// What the socket reports.
    pub async fn fill(&mut self) -> io::Result<usize> {
        self.fill_up_to(STEP_BYTES).await
    }

    /// As [`Self::fill`], with room for `bytes`: for the long messages of a backup.
    ///
    /// # Errors
    ///
    /// What the socket reports.
    pub async fn fill_up_to(&mut self, bytes: usize) -> io::Result<usize> {
        if self.used > 0 {
            self.buffer.drain(..self.used);
            self.used = 0;
        }
        self.buffer.reserve(bytes);
        tokio::io::AsyncReadExt::read_buf(&mut self.half, &mut self.buffer).await
    }

    /// Reads straight into `into` what is not buffered here; for streams, which bring a
    /// large buffer of their own. What is buffered comes first. Cancel-safe.
    ///
    /// # Errors
    ///
    /// What the socket reports.
    pub async fn read_some(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.buffered().is_empty() {
            return self.half.read_some(into).await;
        }
        let bytes = self.buffered().len().min(into.len());
        if let (Some(to), Some(from)) = (into.get_mut(..bytes), self.buffered().get(..bytes)) {
            to.copy_from_slice(from);
        }
        self.consume(bytes);
        Ok(bytes)
    }

    /// Takes the connection out, with what has arrived and is not used yet; what stays here is
    /// at its end.
    pub fn take_half(&mut self) -> (ReadHalf, Vec<u8>) {
        let rest = self.buffered().to_vec();
        self.consume(usize::MAX);
        (std::mem::replace(&mut self.half, ReadHalf::Gone), rest)
    }

    /// Puts bytes back in front of those not used yet.
    pub fn unread(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.buffer.splice(..self.used, bytes.iter().copied());
            self.used = 0;
        }
    }

    /// The header of the next message, when it has arrived.
    ///
    /// # Errors
    ///
    /// [`FrameError`] when that is no header, or its payload is longer than `limit`.
    pub fn next_header(&self, limit: usize) -> Result<Option<Header>, FrameError> {
        match self.buffered().first_chunk() {
            Some(header) => Header::parse(header)?.check_limit(limit).map(Some),
            None => Ok(None),
        }
    }

    /// Takes the next message when it has arrived whole.
    ///
    /// # Errors
    ///
    /// [`FrameError`] as [`Self::next_header`].
    pub fn take(&mut self, limit: usize) -> Result<Option<Message>, FrameError> {
        let Some(header) = self.next_header(limit)? else { return Ok(None) };
        let Some(raw) = self.buffered().get(..Header::BYTES + header.payload_bytes) else {
            return Ok(None);
        };
        let message = Message { tag: header.tag, raw: raw.to_vec() };
        self.consume(message.raw.len());
        Ok(Some(message))
    }

    /// Waits for the next message; `None` when the peer closed the connection between
    /// messages. Cancel-safe: an incomplete message stays in the buffer.
    ///
    /// # Errors
    ///
    /// [`ReadError`]; after it the connection is of no use.
    pub async fn message(&mut self, limit: usize) -> Result<Option<Message>, ReadError> {
        loop {
            if let Some(message) = self.take(limit)? {
                return Ok(Some(message));
            }
            if self.fill().await? == 0 {
                return if self.buffered().is_empty() { Ok(None) } else { Err(ReadError::CutOff) };
            }
        }
    }
}
