//! Positions in the write-ahead log.

use std::fmt;
use std::ops::{Add, AddAssign, Sub};
use std::str::FromStr;

/// A byte position in the WAL; `XLogRecPtr` of `xlogdefs.h`.
///
/// Shown as PostgreSQL 12 to 17 show it: two hexadecimal halves, `0/1000000`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// `MAXIMUM_ALIGNOF` on every 64-bit platform.
const ALIGN: u64 = 8;

impl Lsn {
    /// `InvalidXLogRecPtr`; no record starts here.
    pub const INVALID: Self = Self(0);

    /// The next multiple of eight at or after this position; `MAXALIGN` of `c.h`.
    #[must_use]
    pub const fn max_align(self) -> Self {
        Self((self.0 + ALIGN - 1) & !(ALIGN - 1))
    }

    /// The last multiple of `bytes`, a power of two, at or before this position.
    #[must_use]
    pub const fn round_down(self, bytes: u64) -> Self {
        Self(self.0 & !(bytes - 1))
    }

    /// Bytes from `earlier` to this position; zero when `earlier` is not earlier.
    #[must_use]
    pub const fn bytes_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// A text that is not an LSN.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a position in the WAL; one looks like 16/B374D848")]
pub struct BadLsn(pub String);

impl FromStr for Lsn {
    type Err = BadLsn;

    /// Accepts what `pg_lsn_in` accepts: one to eight hexadecimal digits, a slash, and the same.
    fn from_str(text: &str) -> Result<Self, BadLsn> {
        let bad = || BadLsn(text.chars().take(40).collect());
        let half = |digits: &str| {
            let sound =
                matches!(digits.len(), 1..=8) && digits.bytes().all(|b| b.is_ascii_hexdigit());
            sound.then(|| u64::from_str_radix(digits, 16).ok()).flatten().ok_or_else(bad)
        };
        let (high, low) = text.split_once('/').ok_or_else(bad)?;
        Ok(Self(half(high)? << 32 | half(low)?))
    }
}

impl Add<u64> for Lsn {
    type Output = Self;
    fn add(self, bytes: u64) -> Self {
        Self(self.0.wrapping_add(bytes))
    }
}

impl AddAssign<u64> for Lsn {
    fn add_assign(&mut self, bytes: u64) {
        *self = *self + bytes;
    }
}

impl Sub<u64> for Lsn {
    type Output = Self;
    fn sub(self, bytes: u64) -> Self {
        Self(self.0.saturating_sub(bytes))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_and_shows_as_the_server_does() {
        assert_eq!("16/B374D848".parse(), Ok(Lsn(0x16_B374_D848)));
        assert_eq!(Lsn(0x16_0000_0001).to_string(), "16/1");
        for bad in ["", "/", "1/", "/1", "123456789/0", "1/+1", "1/ 1", "g/1", "1"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn aligns_as_maxalign_does() {
        assert_eq!(Lsn(0x28).max_align(), Lsn(0x28));
        assert_eq!(Lsn(0x29).max_align(), Lsn(0x30));
        assert_eq!(Lsn(0x1234).round_down(0x1000), Lsn(0x1000));
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(raw: u64) {
            prop_assert_eq!(Lsn(raw).to_string().parse(), Ok(Lsn(raw)));
        }
    }
}
