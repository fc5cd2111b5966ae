//! The buffer through which a filtered stream flows.
//!
//! Bytes are read behind a head room, rewritten where they lie, and written from there.
//! What is held back of one message stands in front of the next one; since it was part of
//! the message before, or fits into the head room, nothing else has to move:
//!
//! ```text
//! | head room | d w … payload           | d w … payload | k | d w … half a payl
//!                     ready     held ┘    ready …
//! ```
//!
//! The output is written over the heads of the messages, so that what goes out is one
//! contiguous range as long as nothing was dropped in between.

use std::ops::Range;

use pgproto::copy::XLogData;
use pgproto::frame::{Header, backend};
use pgtypes::Lsn;
use wal::HELD_BYTES_MAX;

use crate::room::SMALL_BYTES;

/// Length of all that stands before the WAL in a message.
pub(super) const HEAD_BYTES: usize = Header::BYTES + XLogData::BYTES;

/// Room in front of what is read: what may be held back, and the head of its message.
const ROOM_BYTES: usize = (HELD_BYTES_MAX + HEAD_BYTES).next_multiple_of(64);

/// The buffer, and what of it is to be written.
pub(super) struct Window {
    buffer: Vec<u8>,
    /// The next byte to look at.
    at: usize,
    /// The end of what was read.
    end: usize,
    /// What is ready to go out.
    ready: Range<usize>,
}

impl Window {
    pub(super) fn new() -> Self {
        let buffer = vec![0; ROOM_BYTES + SMALL_BYTES];
        Self { buffer, at: ROOM_BYTES, end: ROOM_BYTES, ready: 0..0 }
    }

    /// Has room for so many bytes that are read, if what was not looked at yet fits as well.
    /// To be called when everything that is ready has been written.
    pub(super) fn resize(&mut self, bytes: usize) {
        if self.buffer.len() != ROOM_BYTES + bytes && self.rest().len() < bytes {
            self.space();
            self.buffer.resize(ROOM_BYTES + bytes, 0);
            self.buffer.shrink_to_fit();
        }
    }

    /// Where to read to. What was not looked at yet moves to the front; everything that is
    /// ready must have been written.
    pub(super) fn space(&mut self) -> &mut [u8] {
        let left = self.end - self.at;
        self.buffer.copy_within(self.at..self.end, ROOM_BYTES);
        self.at = ROOM_BYTES;
        self.end = ROOM_BYTES + left;
        self.ready = 0..0;
        self.buffer.get_mut(self.end..).unwrap_or_default()
    }

    /// `bytes` have been read to [`Self::space`].
    pub(super) fn filled(&mut self, bytes: usize) {
        self.end = (self.end + bytes).min(self.buffer.len());
    }

    /// What was read and not looked at.
    pub(super) fn rest(&self) -> &[u8] {
        self.buffer.get(self.at..self.end).unwrap_or_default()
    }

    /// Steps over bytes that do not go out.
    pub(super) fn skip(&mut self, bytes: usize) {
        self.at = (self.at + bytes).min(self.end);
    }

    /// Puts `held` in front of what comes next.
    pub(super) fn put_back(&mut self, held: &[u8]) {
        let start = self.at - held.len();
        if let Some(place) = self.buffer.get_mut(start..self.at) {
            place.copy_from_slice(held);
        }
    }

    /// The next `bytes` with `held_bytes` in front of them, but for the first `done`.
    pub(super) fn payload(&mut self, held_bytes: usize, bytes: usize, done: usize) -> &mut [u8] {
        let start = self.at - held_bytes + done;
        self.buffer.get_mut(start..self.at + bytes).unwrap_or_default()
    }

    /// Steps over the next `bytes`; of them, and of `held_bytes` in front of them, the part
    /// `done` goes out as a message with this head.
    ///
    /// `false` when what is ready has to be written first; nothing has changed then.
    pub(super) fn pass(
        &mut self,
        held_bytes: usize,
        bytes: usize,
        done: Range<usize>,
        head: XLogData,
    ) -> bool {
        let start = self.at - held_bytes;
        let body = start + done.start..start + done.end;
        if !body.is_empty() {
            let whole = body.start - HEAD_BYTES..body.end;
            if !self.append(whole.clone()) {
                return false;
            }
            let payload_bytes = XLogData::BYTES + body.len();
            let frame = Header { tag: backend::COPY_DATA, payload_bytes }.to_bytes();
            let heads = frame.into_iter().chain(head.to_bytes());
            let place = self.buffer.iter_mut().skip(whole.start);
            place.zip(heads).for_each(|(place, byte)| *place = byte);
        }
        self.at += bytes;
        true
    }

    /// Lets the next `bytes` go out as they are. They move in front of the bytes that are
    /// held back, whose copy in the buffer is lost.
    ///
    /// `false` as [`Self::pass`].
    pub(super) fn pass_whole(&mut self, bytes: usize) -> bool {
        let to = if self.ready.is_empty() { self.at } else { self.ready.end };
        self.buffer.copy_within(self.at..self.at + bytes, to);
        if !self.append(to..to + bytes) {
            return false;
        }
        self.at += bytes;
        true
    }

    fn append(&mut self, range: Range<usize>) -> bool {
        if self.ready.is_empty() {
            self.ready = range;
        } else if self.ready.end == range.start {
            self.ready.end = range.end;
        } else {
            return false;
        }
        true
    }

    /// What is ready to go out.
    pub(super) fn ready(&self) -> &[u8] {
        self.buffer.get(self.ready.clone()).unwrap_or_default()
    }

    /// What was ready has been written.
    pub(super) fn written(&mut self) {
        self.ready = 0..0;
    }
}

/// The head of what goes out: the upstream's, but for where it starts.
pub(super) const fn head_at(start: Lsn, upstream: XLogData) -> XLogData {
    XLogData { start, ..upstream }
}

const _: () = assert!(ROOM_BYTES >= HELD_BYTES_MAX + HEAD_BYTES);
