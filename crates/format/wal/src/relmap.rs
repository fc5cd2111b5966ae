//! The map from a mapped catalog to its file; `RelMapFile` of `relmapper.c`.
//!
//! It is the content of `pg_filenode.map` and of the record that changes it.

use pgtypes::read::{Reader, Truncated};
use pgtypes::{Major, Oid};

/// `RELMAPPER_FILEMAGIC`
const MAGIC: u32 = 0x0059_2717;

/// Why bytes are no relation map.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RelmapError {
    /// They end inside a field.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// The magic number is another.
    #[error("magic is {0:08X}, not 00592717")]
    Magic(u32),
    /// More mappings than fit.
    #[error("num_mappings is {found}, at most {max} fit")]
    Count {
        /// What is there.
        found: u32,
        /// `MAX_MAPPINGS`
        max: u32,
    },
}

/// A relation map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relmap {
    pairs: Vec<(Oid, Oid)>,
}

impl Relmap {
    /// Reads a map; its checksum is not verified.
    ///
    /// # Errors
    ///
    /// [`RelmapError`] when it is none.
    pub fn parse(major: Major, bytes: &[u8]) -> Result<Self, RelmapError> {
        let mut reader = Reader::new(bytes);
        let magic = reader.u32_le("magic")?;
        if magic != MAGIC {
            return Err(RelmapError::Magic(magic));
        }
        let found = reader.u32_le("num_mappings")?;
        let max = if major >= Major::V16 { 64 } else { 62 };
        if found > max {
            return Err(RelmapError::Count { found, max });
        }
        let pairs = (0..found)
            .map(|_| Ok((Oid(reader.u32_le("mapoid")?), Oid(reader.u32_le("mapfilenumber")?))))
            .collect::<Result<_, Truncated>>()?;
        Ok(Self { pairs })
    }

    /// The file of a catalog; `None` when the catalog is not mapped here.
    #[must_use]
    pub fn file_of(&self, catalog: Oid) -> Option<Oid> {
        self.pairs.iter().find(|(oid, _)| *oid == catalog).map(|(_, file)| *file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(u32, u32)]) -> Vec<u8> {
        let mut bytes = MAGIC.to_le_bytes().to_vec();
        bytes.extend(u32::try_from(pairs.len()).unwrap().to_le_bytes());
        for (oid, file) in pairs {
            bytes.extend(oid.to_le_bytes());
            bytes.extend(file.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn finds_the_catalogs() {
        let bytes = map(&[(1260, 1260), (1262, 16598), (1213, 1213)]);
        let relmap = Relmap::parse(Major::V15, &bytes).unwrap();
        assert_eq!(relmap.file_of(Oid::PG_DATABASE), Some(Oid(16598)));
        assert_eq!(relmap.file_of(Oid(1261)), None);
        for cut in 0..bytes.len() {
            let error = Relmap::parse(Major::V15, &bytes[..cut]).unwrap_err();
            assert!(matches!(error, RelmapError::Truncated(_)));
        }
    }

    #[test]
    fn refuses_what_is_no_map() {
        assert_eq!(Relmap::parse(Major::V15, &[0; 512]), Err(RelmapError::Magic(0)));
        let bytes = map(&[(1, 1); 63]);
        assert!(Relmap::parse(Major::V16, &bytes).is_ok());
        let count = RelmapError::Count { found: 63, max: 62 };
        assert_eq!(Relmap::parse(Major::V15, &bytes), Err(count));
    }
}
