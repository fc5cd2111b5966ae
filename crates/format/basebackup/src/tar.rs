//! Headers of tar members, as PostgreSQL writes them: ustar, one block, no extensions.

/// `TAR_BLOCK_SIZE` (`pgtar.h`): headers, and the multiple to which contents are padded.
pub(crate) const BLOCK_BYTES: usize = 512;

/// Where the checksum stands, and how long it is.
const CHECKSUM: std::ops::Range<usize> = 148..156;
/// Where the size stands.
const SIZE: std::ops::Range<usize> = 124..136;
/// Largest size that eleven octal digits hold; `tarCreateHeader` goes binary above.
const OCTAL_MAX: u64 = 0o777_7777_7777;

/// One header block.
pub(crate) type Block = [u8; BLOCK_BYTES];

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// Full name, without a slash at its end.
    pub(crate) name: Vec<u8>,
    /// Length of the content in bytes.
    pub(crate) size: u64,
    /// `0` a file, `5` a folder, `2` a symbolic link.
    pub(crate) kind: u8,
}

/// Why a block is no header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// The checksum does not fit.
    #[error("checksum {found:o}, {expected:o} would be right")]
    Checksum {
        /// The checksum that is stored; zero when it cannot be read.
        found: u64,
        /// The right one.
        expected: u64,
    },
    /// The size is not a number.
    #[error("the size is not a number")]
    Size,
}

impl Member {
    /// Reads a header; `None` for a block of zeros, which ends an archive.
    pub(crate) fn parse(block: &Block) -> Result<Option<Self>, HeaderError> {
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let expected = checksum(block);
        let found = block.get(CHECKSUM).and_then(number).unwrap_or(0);
        if found != expected {
            return Err(HeaderError::Checksum { found, expected });
        }
        let size = block.get(SIZE).and_then(number).ok_or(HeaderError::Size)?;
        let (name, prefix) = (text(block, 0..100), text(block, 345..500));
        let mut full = prefix.to_vec();
        if !prefix.is_empty() {
            full.push(b'/');
        }
        full.extend_from_slice(name);
        while full.last() == Some(&b'/') {
            full.pop();
        }
        let kind = block.get(156).copied().unwrap_or(b'0');
        // Links carry a size of zero; folders too.
        Ok(Some(Self { name: full, size: if kind == b'0' { size } else { 0 }, kind }))
    }

    /// Length of the content with its padding.
    pub(crate) fn padded(&self) -> u64 {
        self.size.next_multiple_of(BLOCK_BYTES as u64)
    }
}

/// Gives a header another size, and the checksum that belongs to it.
pub(crate) fn resize(block: &mut Block, size: u64) {
    let digits = format!("{:011o}\0", size.min(OCTAL_MAX));
    put(block, SIZE, digits.as_bytes());
    let sum = checksum(block);
    put(block, CHECKSUM, format!("{sum:06o}\0 ").as_bytes());
}

fn put(block: &mut Block, range: std::ops::Range<usize>, bytes: &[u8]) {
    if let Some(place) = block.get_mut(range) {
        for (to, from) in place.iter_mut().zip(bytes) {
            *to = *from;
        }
    }
}

/// `tarChecksum`: the sum of all bytes, the checksum itself taken as blanks.
fn checksum(block: &Block) -> u64 {
    let blank = |at: usize| CHECKSUM.contains(&at);
    let byte = |(at, byte): (usize, &u8)| u64::from(if blank(at) { b' ' } else { *byte });
    block.iter().enumerate().map(byte).sum()
}

/// Octal digits, or eight bytes of binary behind a 0x80 (`print_tar_number`).
fn number(field: &[u8]) -> Option<u64> {
    if field.first() == Some(&0x80) {
        let bytes = field.last_chunk::<8>()?;
        return Some(u64::from_be_bytes(*bytes));
    }
    let digits: Vec<u8> = field.iter().copied().filter(|byte| !matches!(byte, 0 | b' ')).collect();
    u64::from_str_radix(str::from_utf8(&digits).ok()?, 8).ok()
}

fn text(block: &Block, range: std::ops::Range<usize>) -> &[u8] {
    let field = block.get(range).unwrap_or_default();
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A header as PostgreSQL writes one.
    pub(crate) fn header(name: &str, size: u64, kind: u8) -> Block {
        let mut block = [0; BLOCK_BYTES];
        put(&mut block, 0..100, name.as_bytes());
        put(&mut block, 100..108, b"0000600\0");
        block[156] = kind;
        put(&mut block, 257..265, b"ustar\x0000");
        resize(&mut block, size);
        block
    }

    #[test]
    fn reads_what_it_writes() {
        let block = header("base/5/", 0, b'5');
        let member = Member::parse(&block).unwrap().unwrap();
        assert_eq!((member.name.as_slice(), member.kind), (&b"base/5"[..], b'5'));
        let mut block = header("backup_label", 226, b'0');
        assert_eq!(Member::parse(&block).unwrap().unwrap().size, 226);
        resize(&mut block, 0);
        assert_eq!(Member::parse(&block).unwrap().unwrap().size, 0);
        block[3] ^= 1;
        assert!(matches!(Member::parse(&block), Err(HeaderError::Checksum { .. })));
        assert_eq!(Member::parse(&[0; BLOCK_BYTES]), Ok(None));
    }

    #[test]
    fn reads_sizes_over_eight_gigabytes() {
        let mut field = [0; 12];
        field[0] = 0x80;
        field[4..].copy_from_slice(&(9_u64 << 30).to_be_bytes());
        assert_eq!(number(&field), Some(9 << 30));
    }
}
