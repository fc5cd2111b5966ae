//! Checksums of files in a manifest; `pg_checksum_type` (`checksum_helper.h`).

use sha2::{Digest as _, Sha224, Sha256, Sha384, Sha512};

/// How the files of a backup are summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// CRC-32C, shown as its little-endian bytes.
    Crc32c,
    /// SHA-224
    Sha224,
    /// SHA-256
    Sha256,
    /// SHA-384
    Sha384,
    /// SHA-512
    Sha512,
}

impl Algorithm {
    /// The algorithm of this name in a manifest; `None` for one that is not known.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "CRC32C" => Self::Crc32c,
            "SHA224" => Self::Sha224,
            "SHA256" => Self::Sha256,
            "SHA384" => Self::Sha384,
            "SHA512" => Self::Sha512,
            _ => return None,
        })
    }

    /// The checksum of `content`, as a manifest shows it.
    #[must_use]
    pub fn of(self, content: &[u8]) -> String {
        match self {
            Self::Crc32c => hex(&crc32c::crc32c(content).to_le_bytes()),
            Self::Sha224 => hex(&Sha224::digest(content)),
            Self::Sha256 => hex(&Sha256::digest(content)),
            Self::Sha384 => hex(&Sha384::digest(content)),
            Self::Sha512 => hex(&Sha512::digest(content)),
        }
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| DIGITS.get(usize::from(value)).map_or('0', |digit| char::from(*digit));
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_sums_as_a_manifest_does() {
        // "123456789" has the CRC-32C e3069283.
        assert_eq!(Algorithm::Crc32c.of(b"123456789"), "839206e3");
        assert!(Algorithm::Sha224.of(b"").starts_with("d14a028c"));
        assert!(Algorithm::Sha256.of(b"").starts_with("e3b0c442"));
        assert_eq!(Algorithm::named("MD5"), None);
    }
}
