//! One tar archive, followed member by member.

use pgtypes::Timeline;

use crate::tar::{BLOCK_BYTES, Block, HeaderError, Member, resize};
use crate::{Place, Selection, map};

/// Why an archive cannot be filtered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// A block that should be a header is none.
    #[error("tar header at byte {at} of the archive: {source}")]
    Header {
        /// Offset in the archive as the server sent it.
        at: u64,
        /// What is wrong.
        source: HeaderError,
    },
    /// A tablespace map that no server writes.
    #[error("tablespace_map of {bytes} bytes, {} are allowed", map::BYTES_MAX)]
    MapTooLong {
        /// Its length.
        bytes: u64,
    },
    /// The archive ended inside a member.
    #[error("the archive ends inside {}", String::from_utf8_lossy(name))]
    Cut {
        /// The member.
        name: Vec<u8>,
    },
}

/// What comes out of an archive, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Bytes that belong in the filtered archive.
    Keep(&'a [u8]),
    /// Bytes that were left out.
    Drop(usize),
    /// A segment of WAL begins; its header was kept.
    Segment {
        /// The timeline in its name.
        timeline: Timeline,
        /// Its number, counted in segments from the start of the WAL.
        low: u32,
        /// The upper part of the number, as it stands in the name.
        high: u32,
    },
    /// Bytes of the segment that began: they belong in the archive after they were filtered.
    Wal(&'a [u8]),
}

/// What is done with the content of the current member.
#[derive(Debug)]
enum Content {
    Keep,
    Drop,
    /// The tablespace map, so far, behind its header.
    Map(Box<Block>, Vec<u8>),
    Wal,
}

/// Follows one archive.
#[derive(Debug)]
pub struct Archive {
    place: Place,
    /// Bytes of the archive that were looked at.
    at: u64,
    header: Vec<u8>,
    name: Vec<u8>,
    content: Content,
    /// Bytes of the content that are to come.
    content_left: u64,
    /// Bytes of padding behind it.
    padding_left: u64,
    map: Option<Vec<u8>>,
}

impl Archive {
    /// Begins an archive whose names begin at `place`.
    #[must_use]
    pub const fn new(place: Place) -> Self {
        Self {
            place,
            at: 0,
            header: Vec::new(),
            name: Vec::new(),
            content: Content::Keep,
            content_left: 0,
            padding_left: 0,
            map: None,
        }
    }

    /// What `tablespace_map` became, when there was one.
    #[must_use]
    pub fn map(&self) -> Option<&[u8]> {
        self.map.as_deref()
    }

    /// Takes the next bytes and gives `out` what they become, piece by piece.
    ///
    /// # Errors
    ///
    /// [`ArchiveError`], or what `out` returned.
    pub fn feed<E: From<ArchiveError>>(
        &mut self,
        mut bytes: &[u8],
        selection: &impl Selection,
        mut out: impl FnMut(Piece<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        while !bytes.is_empty() {
            let taken = if self.content_left > 0 {
                self.content(bytes, selection, &mut out)?
            } else if self.padding_left > 0 {
                let (padding, _) = cut(bytes, self.padding_left);
                self.padding_left -= padding.len() as u64;
                out(if matches!(self.content, Content::Drop | Content::Map(..)) {
                    Piece::Drop(padding.len())
                } else {
                    Piece::Keep(padding)
                })?;
                padding.len()
            } else {
                let (part, _) = cut(bytes, (BLOCK_BYTES - self.header.len()) as u64);
                self.header.extend_from_slice(part);
                let taken = part.len();
                if let Ok(block) = Block::try_from(self.header.as_slice()) {
                    self.header.clear();
                    self.member(block, selection, &mut out)?;
                }
                taken
            };
            self.at += taken as u64;
            bytes = bytes.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    /// Ends the archive.
    ///
    /// # Errors
    ///
    /// [`ArchiveError::Cut`] when it ends inside a member.
    pub fn finish(&self) -> Result<(), ArchiveError> {
        if self.content_left == 0 && self.padding_left == 0 && self.header.is_empty() {
            Ok(())
        } else {
            Err(ArchiveError::Cut { name: self.name.clone() })
        }
    }

    fn member<E: From<ArchiveError>>(
        &mut self,
        block: Block,
        selection: &impl Selection,
        out: &mut impl FnMut(Piece<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let at = self.at;
        let member = Member::parse(&block).map_err(|source| ArchiveError::Header { at, source })?;
        // The end of the archive: blocks of zeros.
        let Some(member) = member else { return out(Piece::Keep(&block)) };
        self.content_left = member.size;
        self.padding_left = member.padded() - member.size;
        let segment = segment_of(&member).filter(|_| self.place == Place::Data);
        if !self.place.keeps(&member.name, selection) {
            self.content = Content::Drop;
            out(Piece::Drop(block.len()))?;
        } else if self.place == Place::Data && member.name == b"tablespace_map" {
            if member.size > map::BYTES_MAX {
                return Err(ArchiveError::MapTooLong { bytes: member.size }.into());
            }
            self.content = Content::Map(Box::new(block), Vec::new());
            if member.size == 0 {
                self.emit_map(selection, out)?;
            }
        } else {
            self.content = if segment.is_some() { Content::Wal } else { Content::Keep };
            out(Piece::Keep(&block))?;
            if let Some(segment) = segment {
                out(segment)?;
            }
        }
        self.name = member.name;
        Ok(())
    }

    fn content<E: From<ArchiveError>>(
        &mut self,
        bytes: &[u8],
        selection: &impl Selection,
        out: &mut impl FnMut(Piece<'_>) -> Result<(), E>,
    ) -> Result<usize, E> {
        let (part, _) = cut(bytes, self.content_left);
        self.content_left -= part.len() as u64;
        match &mut self.content {
            Content::Keep => out(Piece::Keep(part))?,
            Content::Drop => out(Piece::Drop(part.len()))?,
            Content::Wal => out(Piece::Wal(part))?,
            Content::Map(_, map) => {
                map.extend_from_slice(part);
                if self.content_left == 0 {
                    self.emit_map(selection, out)?;
                }
            }
        }
        Ok(part.len())
    }

    /// The whole map has come: gives it out without what is left out.
    fn emit_map<E: From<ArchiveError>>(
        &mut self,
        selection: &impl Selection,
        out: &mut impl FnMut(Piece<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let Content::Map(block, whole) = &mut self.content else { return Ok(()) };
        let kept = map::filter(whole, selection);
        resize(block, kept.len() as u64);
        out(Piece::Keep(block.as_slice()))?;
        out(Piece::Keep(&kept))?;
        let padding = kept.len().next_multiple_of(BLOCK_BYTES) - kept.len();
        out(Piece::Keep([0; BLOCK_BYTES].get(..padding).unwrap_or_default()))?;
        self.map = Some(kept);
        Ok(())
    }
}

fn cut(bytes: &[u8], most: u64) -> (&[u8], &[u8]) {
    bytes.split_at(usize::try_from(most).unwrap_or(usize::MAX).min(bytes.len()))
}

/// The segment that a member is, by its name: `pg_wal/` and 24 hexadecimal digits.
fn segment_of(member: &Member) -> Option<Piece<'static>> {
    let name = member.name.strip_prefix(b"pg_wal/")?;
    let sound = name.len() == 24 && name.iter().all(u8::is_ascii_hexdigit) && member.kind == b'0';
    let part = |at: std::ops::Range<usize>| {
        let digits = str::from_utf8(name.get(at)?).ok()?;
        u32::from_str_radix(digits, 16).ok()
    };
    let segment =
        Piece::Segment { timeline: Timeline(part(0..8)?), high: part(8..16)?, low: part(16..24)? };
    sound.then_some(segment)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::selection::tests::Without;
    use crate::tar::tests::header;

    fn file(name: &str, content: &[u8]) -> Vec<u8> {
        let mut bytes = header(name, content.len() as u64, b'0').to_vec();
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
        bytes
    }

    fn filtered(archive: &[u8], step: usize) -> (Vec<u8>, Vec<u8>, usize) {
        let mut follower = Archive::new(Place::Data);
        let (mut kept, mut wal, mut dropped) = (Vec::new(), Vec::new(), 0);
        for piece in archive.chunks(step) {
            let out = |piece: Piece<'_>| {
                match piece {
                    Piece::Keep(bytes) => kept.extend_from_slice(bytes),
                    Piece::Wal(bytes) => {
                        wal.extend_from_slice(bytes);
                        kept.extend_from_slice(bytes);
                    }
                    Piece::Drop(bytes) => dropped += bytes,
                    Piece::Segment { timeline, low, .. } => {
                        assert_eq!((timeline, low), (Timeline(1), 5));
                    }
                }
                Ok::<_, ArchiveError>(())
            };
            follower.feed(piece, &Without(5, 77), out).unwrap();
        }
        follower.finish().unwrap();
        (kept, wal, dropped)
    }

    fn archive(with: bool) -> Vec<u8> {
        let map: &[u8] = if with { b"77 /x\n78 /y\n" } else { b"78 /y\n" };
        let mut bytes = file("backup_label", b"START");
        bytes.extend(file("tablespace_map", map));
        bytes.extend(header("base/", 0, b'5'));
        if with {
            bytes.extend(header("base/5/", 0, b'5'));
            bytes.extend(file("base/5/1259", &[7; 8192]));
            bytes.extend(header("pg_tblspc/77", 0, b'2'));
        }
        bytes.extend(file("base/1/1259", &[8; 1000]));
        bytes.extend(file("pg_wal/000000010000000000000005", &[9; 700]));
        bytes.extend([0; 2 * BLOCK_BYTES]);
        bytes
    }

    proptest! {
        #[test]
        fn members_go_and_the_rest_stays_however_it_is_cut(step in 1_usize..20_000) {
            let (kept, wal, dropped) = filtered(&archive(true), step);
            prop_assert_eq!(kept, archive(false));
            prop_assert_eq!(wal, vec![9; 700]);
            prop_assert!(dropped > 8192);
        }

        #[test]
        fn any_bytes_are_an_error_or_an_archive(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            let mut follower = Archive::new(Place::Data);
            let fed: Result<(), ArchiveError> = follower.feed(&bytes, &Without(5, 77), |_| Ok(()));
            if bytes.len() >= BLOCK_BYTES && bytes.iter().any(|byte| *byte != 0) {
                prop_assert!(fed.is_err() || follower.finish().is_err() || bytes[..BLOCK_BYTES].iter().all(|byte| *byte == 0));
            }
        }
    }
}
