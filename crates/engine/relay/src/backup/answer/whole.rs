//! Messages that need no looking into: most lie inside of one file, and stay or go with it.
//!
//! They are counted where they were read, and written from there.

use pgproto::frame::{Header, backend};

use super::{Answer, Copying};

/// A run of messages at the begin of what was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Run {
    /// So many bytes go to the client as they are.
    Keep(usize),
    /// So many bytes go nowhere.
    Drop(usize),
    /// The first message has to be looked into, or is not complete.
    None,
}

impl Answer {
    /// Takes the messages at the begin of `read` that stay or go as a whole.
    pub(super) fn run(&mut self, read: &[u8]) -> Run {
        let mut run = Run::None;
        let mut rest = read;
        while let Some((bytes, stays)) = self.take_whole(rest) {
            rest = rest.get(bytes..).unwrap_or_default();
            let all = read.len() - rest.len();
            // One member either stays or goes: a run does not change its mind.
            run = if stays { Run::Keep(all) } else { Run::Drop(all) };
        }
        run
    }

    /// The first message of `read`, when it is one: its length, and whether it stays.
    fn take_whole(&mut self, read: &[u8]) -> Option<(usize, bool)> {
        let Header { tag, payload_bytes } = Header::parse(read.first_chunk()?).ok()?;
        let bytes = Header::BYTES + payload_bytes;
        if tag != backend::COPY_DATA || read.len() < bytes || !self.body.is_empty() {
            return None;
        }
        let data_bytes = if self.in_one_copy {
            if read.get(Header::BYTES) != Some(&b'd') {
                return None;
            }
            payload_bytes.checked_sub(1)?
        } else {
            payload_bytes
        };
        let stays = match &mut self.copying {
            Copying::Archive(archive) => archive.take_whole(data_bytes)?,
            Copying::LeftOut => false,
            Copying::Nothing | Copying::Manifest(_) => return None,
        };
        if stays {
            self.kept_bytes += data_bytes as u64;
        } else {
            self.dropped_bytes += data_bytes as u64;
        }
        Some((bytes, stays))
    }
}
