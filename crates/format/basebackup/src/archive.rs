//! One tar archive, followed member by member.

use pgtypes::Timeline;

use crate::tar::{BLOCK_BYTES, Block, HeaderError, Member, resize};
use crate::{Place, Selection, Undecided, map};

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

/// How far an archive got with its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fed {
    /// Bytes that were taken; give the others again.
    pub taken: usize,
    /// What has to be found out before the next member can be judged.
    pub undecided: Option<Undecided>,
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

    /// Takes the next bytes and gives `out` what they become, piece by piece; all of them, unless
    /// a member comes of which `selection` does not know whether it stays.
    ///
    /// # Errors
    ///
    /// [`ArchiveError`], or what `out` returned.
    pub fn feed<E: From<ArchiveError>>(
        &mut self,
        bytes: &[u8],
        selection: &impl Selection,
        mut out: impl FnMut(Piece<'_>) -> Result<(), E>,
    ) -> Result<Fed, E> {
        let mut taken = 0;
        loop {
            // A header that is complete was read before it could be judged.
            if let Ok(block) = Block::try_from(self.header.as_slice()) {
                if let Some(undecided) = self.member(block, selection, &mut out)? {
                    return Ok(Fed { taken, undecided: Some(undecided) });
                }
                self.header.clear();
            }
            let rest = bytes.get(taken..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(Fed { taken, undecided: None });
            }
            let part = if self.content_left > 0 {
                self.content(rest, selection, &mut out)?
            } else if self.padding_left > 0 {
                let (padding, _) = cut(rest, self.padding_left);
                self.padding_left -= padding.len() as u64;
                out(if matches!(self.content, Content::Drop | Content::Map(..)) {
                    Piece::Drop(padding.len())
                } else {
                    Piece::Keep(padding)
                })?;
                padding.len()
            } else {
                let (part, _) = cut(rest, (BLOCK_BYTES - self.header.len()) as u64);
                self.header.extend_from_slice(part);
                part.len()
            };
            self.at += part as u64;
            taken += part;
        }
    }

    /// Whether the next `bytes` stay or go as a whole, inside the content of one member: then
    /// they count as taken, and need not be fed. `None` when they have to be looked into.
    pub fn take_whole(&mut self, bytes: usize) -> Option<bool> {
        let stays = match self.content {
            Content::Keep => true,
            Content::Drop => false,
            Content::Map(..) | Content::Wal => return None,
        };
        self.content_left = self.content_left.checked_sub(bytes as u64)?;
        self.at += bytes as u64;
        Some(stays)
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

    /// Begins a member, unless it cannot be judged yet.
    fn member<E: From<ArchiveError>>(
        &mut self,
        block: Block,
        selection: &impl Selection,
        out: &mut impl FnMut(Piece<'_>) -> Result<(), E>,
    ) -> Result<Option<Undecided>, E> {
        let at = self.at.saturating_sub(BLOCK_BYTES as u64);
        let member = Member::parse(&block).map_err(|source| ArchiveError::Header { at, source })?;
        // The end of the archive: blocks of zeros.
        let Some(member) = member else {
            out(Piece::Keep(&block))?;
            return Ok(None);
        };
        let keeps = match self.place.keeps(&member.name, selection) {
            Ok(keeps) => keeps,
            Err(undecided) => return Ok(Some(undecided)),
        };
        self.content_left = member.size;
        self.padding_left = member.padded() - member.size;
        let segment = segment_of(&member).filter(|_| self.place == Place::Data);
        if !keeps {
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
        Ok(None)
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
    use pgtypes::Oid;
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
            let fed = follower.feed(piece, &Without(5, 77), out).unwrap();
            assert_eq!(fed, Fed { taken: piece.len(), undecided: None });
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

    /// As [`Without`] 5 and 77, once it was asked.
    struct Asked<'a>(&'a std::cell::RefCell<Vec<(Oid, Oid)>>);

    impl Selection for Asked<'_> {
        fn holds(&self, tablespace: Oid, database: Oid) -> Option<bool> {
            if (tablespace, database) == (Oid(78), Oid::INVALID) {
                return Some(true);
            }
            let known = self.0.borrow().contains(&(tablespace, database));
            known.then(|| Without(5, 77).holds(tablespace, database)).flatten()
        }
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
        fn waits_where_it_has_to_be_told_and_goes_on_there(step in 1_usize..20_000) {
            let known = std::cell::RefCell::new(Vec::new());
            let mut follower = Archive::new(Place::Data);
            let mut kept = Vec::new();
            for mut piece in archive(true).chunks(step) {
                if let Some(stays) = follower.take_whole(piece.len()) {
                    kept.extend_from_slice(if stays { piece } else { &[] });
                    continue;
                }
                loop {
                    let fed = follower.feed(piece, &Asked(&known), |piece| {
                        if let Piece::Keep(bytes) | Piece::Wal(bytes) = piece {
                            kept.extend_from_slice(bytes);
                        }
                        Ok::<_, ArchiveError>(())
                    });
                    let fed = fed.unwrap();
                    piece = &piece[fed.taken..];
                    let Some(Undecided { tablespace, database }) = fed.undecided else { break };
                    known.borrow_mut().push((tablespace, database));
                }
                prop_assert!(piece.is_empty());
            }
            follower.finish().unwrap();
            let met: Vec<_> = known.into_inner().iter().map(|(one, two)| (one.0, two.0)).collect();
            // The map asks for nothing: the tablespaces are known before the archives.
            prop_assert_eq!(met, [(1663, 5), (77, 0), (1663, 1)]);
            prop_assert_eq!(kept.len(), archive(false).len());
        }

        #[test]
        fn any_bytes_are_an_error_or_an_archive(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            let mut follower = Archive::new(Place::Data);
            let fed: Result<Fed, ArchiveError> = follower.feed(&bytes, &Without(5, 77), |_| Ok(()));
            if bytes.len() >= BLOCK_BYTES && bytes.iter().any(|byte| *byte != 0) {
                prop_assert!(fed.is_err() || follower.finish().is_err() || bytes[..BLOCK_BYTES].iter().all(|byte| *byte == 0));
            }
        }
    }
}
