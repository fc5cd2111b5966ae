//! How much of a stream is read at once.
//!
//! A stream that keeps up has a small buffer. One that is behind gets a large one, for as long as
//! it fills it: the fewer and longer the reads and writes are, the less the kernel and the
//! scheduler take (`docs/benchmarks.md`). Only some streams have a large one at a time, so that
//! many that are behind together do not take more memory than the relay promises.

use std::sync::Arc;

use pgproto::copy::XLogData;
use pgproto::frame::Header;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A full message of a stream (`MAX_SEND_SIZE`, walsender.c).
const MESSAGE_BYTES: usize = Header::BYTES + XLogData::BYTES + (128 << 10);
/// Room of a stream that keeps up. Whole messages, so that a read of one that is behind ends
/// where a message does, and a filter has no half message to keep.
pub(crate) const SMALL_BYTES: usize = 2 * MESSAGE_BYTES;
/// Room of a stream that is behind.
const LARGE_BYTES: usize = 6 * MESSAGE_BYTES;
/// Streams with so much room at a time.
const LARGE_MAX: usize = 4;
/// Reads in a row that would have fitted into the small room, before the large one is given back.
const SHORT_READS_MAX: u32 = 64;

/// The large rooms that all streams share.
#[derive(Clone, Debug)]
pub(crate) struct Rooms(Arc<Semaphore>);

impl Default for Rooms {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LARGE_MAX)))
    }
}

impl Rooms {
    /// The room of a stream that begins: a small one.
    pub(crate) fn enter(&self) -> Room {
        Room { rooms: self.clone(), large: None, short_reads: 0 }
    }
}

/// How much room a stream has.
#[derive(Debug)]
pub(crate) struct Room {
    rooms: Rooms,
    large: Option<OwnedSemaphorePermit>,
    short_reads: u32,
}

impl Room {
    /// The bytes to have room for at the next read, after one of `read` bytes that could have
    /// been `space`.
    pub(crate) fn after(&mut self, read: usize, space: usize) -> usize {
        if read >= SMALL_BYTES {
            self.short_reads = 0;
        } else if self.large.is_some() {
            self.short_reads += 1;
        }
        if self.large.is_none() && read >= space {
            self.large = Arc::clone(&self.rooms.0).try_acquire_owned().ok();
        } else if self.short_reads > SHORT_READS_MAX {
            self.short_reads = 0;
            self.large = None;
        }
        if self.large.is_some() { LARGE_BYTES } else { SMALL_BYTES }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_behind_has_more_room_until_it_keeps_up() {
        let mut room = Rooms::default().enter();
        assert_eq!(room.after(SMALL_BYTES - 1, SMALL_BYTES), SMALL_BYTES);
        assert_eq!(room.after(SMALL_BYTES, SMALL_BYTES), LARGE_BYTES);
        for _ in 0..SHORT_READS_MAX {
            assert_eq!(room.after(100, LARGE_BYTES), LARGE_BYTES);
        }
        assert_eq!(room.after(LARGE_BYTES, LARGE_BYTES), LARGE_BYTES);
        let rooms: Vec<_> = (0..=SHORT_READS_MAX).map(|_| room.after(9, LARGE_BYTES)).collect();
        assert_eq!(rooms.last(), Some(&SMALL_BYTES));
    }

    #[test]
    fn only_some_have_more_room_at_a_time() {
        let rooms = Rooms::default();
        let mut all: Vec<_> = (0..2 * LARGE_MAX).map(|_| rooms.enter()).collect();
        let large = |all: &mut Vec<Room>| {
            let sizes = all.iter_mut().map(|room| room.after(SMALL_BYTES, SMALL_BYTES));
            sizes.filter(|size| *size == LARGE_BYTES).count()
        };
        assert_eq!(large(&mut all), LARGE_MAX);
        all.drain(..3);
        assert_eq!(large(&mut all), LARGE_MAX);
    }
}
