//! Major versions of PostgreSQL and the size of their WAL segments.
//!
//! Versions are data: code asks `major >= Major::V15`, there are no copies of files.

use std::fmt;

/// A major version whose WAL and protocol pgherd knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Major {
    /// PostgreSQL 12
    V12 = 12,
    /// PostgreSQL 13
    V13 = 13,
    /// PostgreSQL 14
    V14 = 14,
    /// PostgreSQL 15
    V15 = 15,
    /// PostgreSQL 16
    V16 = 16,
    /// PostgreSQL 17
    V17 = 17,
    /// PostgreSQL 18
    V18 = 18,
}

/// A server version whose WAL is not known here; reading it by guess would lose data.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server is PostgreSQL {0:?}, this pgherd knows 12 to 18")]
pub struct UnknownMajor(pub String);

impl Major {
    /// Every known version, oldest first.
    pub const ALL: [Self; 7] =
        [Self::V12, Self::V13, Self::V14, Self::V15, Self::V16, Self::V17, Self::V18];

    /// The major of what `server_version` reports, as in `15.18 (Debian 15.18-0+deb12u1)`.
    ///
    /// # Errors
    ///
    /// [`UnknownMajor`] for anything but 12 to 18, pre-releases of later ones included.
    pub fn from_server_version(text: &str) -> Result<Self, UnknownMajor> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let number = text.get(..digits).and_then(|digits| digits.parse::<u8>().ok());
        Self::ALL
            .into_iter()
            .find(|major| Some(major.number()) == number)
            .ok_or_else(|| UnknownMajor(text.chars().take(60).collect()))
    }

    /// The version as a number: 12 to 18.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// `XLOG_PAGE_MAGIC` (`xlog_internal.h`), the first two bytes of each WAL page.
    #[must_use]
    pub const fn page_magic(self) -> u16 {
        match self {
            Self::V12 => 0xD101,
            Self::V13 => 0xD106,
            Self::V14 => 0xD10D,
            Self::V15 => 0xD110,
            Self::V16 => 0xD113,
            Self::V17 => 0xD116,
            Self::V18 => 0xD118,
        }
    }
}

impl fmt::Display for Major {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number().fmt(f)
    }
}

/// The size of a WAL segment in bytes: a power of two from 1 MB to 1 GB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentBytes(u32);

/// A segment size that no server has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a WAL segment size: a power of two from 1MB to 1GB")]
pub struct BadSegmentBytes(pub String);

impl SegmentBytes {
    /// What `initdb` takes without `--wal-segsize`.
    pub const DEFAULT: Self = Self(16 << 20);

    /// Checks `bytes`; `IsValidWalSegSize` of `xlog_internal.h`.
    ///
    /// # Errors
    ///
    /// [`BadSegmentBytes`] when it is not a power of two from 1 MB to 1 GB.
    pub fn new(bytes: u32) -> Result<Self, BadSegmentBytes> {
        let sound = bytes.is_power_of_two() && ((1 << 20)..=(1 << 30)).contains(&bytes);
        if sound { Ok(Self(bytes)) } else { Err(BadSegmentBytes(bytes.to_string())) }
    }

    /// Reads what `SHOW wal_segment_size` prints: `16MB`, `1GB`.
    ///
    /// # Errors
    ///
    /// [`BadSegmentBytes`] with the text when it is no such size.
    pub fn from_show(text: &str) -> Result<Self, BadSegmentBytes> {
        let bad = || BadSegmentBytes(text.chars().take(40).collect());
        let (digits, shift) = match (text.strip_suffix("MB"), text.strip_suffix("GB")) {
            (Some(digits), _) => (digits, 20),
            (_, Some(digits)) => (digits, 30),
            _ => return Err(bad()),
        };
        let count: u32 = digits.parse().map_err(|_not_a_number| bad())?;
        let bytes = count.checked_mul(1 << shift).ok_or_else(bad)?;
        Self::new(bytes).map_err(|_bad_size| bad())
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0 as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_versions_that_servers_report() {
        for (text, major) in [
            ("12.22", Major::V12),
            ("15.18 (Debian 15.18-0+deb12u1)", Major::V15),
            ("18beta1", Major::V18),
        ] {
            assert_eq!(Major::from_server_version(text), Ok(major));
        }
        for text in ["11.22", "19devel", "9.6.24", "", "devel", "1800"] {
            assert!(Major::from_server_version(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn reads_every_segment_size_and_no_other() {
        for shift in 20..=30 {
            let size = SegmentBytes::new(1 << shift).unwrap();
            let shown = if shift == 30 { "1GB".into() } else { format!("{}MB", 1 << (shift - 20)) };
            assert_eq!(SegmentBytes::from_show(&shown), Ok(size));
        }
        for text in ["16", "3MB", "2GB", "-1MB", "16 MB", "4294967297MB", "0MB"] {
            assert!(SegmentBytes::from_show(text).is_err(), "{text:?} was taken");
        }
    }
}
