//! CRC-32C of records, also of records whose body is mostly a run of zeros.
//!
//! The state of a CRC after a zero byte is the state before times x^8, modulo the
//! polynomial. So a run of n zeros is one multiplication by x^8n, which needs one step for
//! each bit of n, and a no-op of a gigabyte costs no pass over its bytes.

use crate::record::{CRC_OFFSET, HEADER_BYTES};

/// The Castagnoli polynomial, bits reflected.
const POLYNOMIAL: u32 = 0x82F6_3B78;
/// 1, bits reflected: the coefficient of x^0 is the highest bit.
const ONE: u32 = 1 << 31;

/// `a * b` modulo the polynomial, bits reflected.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = ONE;
    while bit != 0 {
        if a & bit != 0 {
            product ^= b;
        }
        b = if b & 1 == 0 { b >> 1 } else { (b >> 1) ^ POLYNOMIAL };
        bit >>= 1;
    }
    product
}

/// Entry k is x^(8 * 2^k): what 2^k zero bytes multiply the state with.
const POWERS: [u32; 32] = {
    let mut powers = [ONE >> 8; 32];
    let mut k = 1;
    #[allow(clippy::indexing_slicing, reason = "evaluated at compile time, inside the bounds")]
    while k < powers.len() {
        powers[k] = multiply(powers[k - 1], powers[k - 1]);
        k += 1;
    }
    powers
};

/// The checksum of some bytes followed by `zeros` zero bytes, from the checksum of the bytes.
///
/// Cost: at most 32 multiplications of 32 steps, about a microsecond.
#[must_use]
pub fn append_zeros(crc: u32, zeros: u32) -> u32 {
    let mut state = !crc;
    let mut left = zeros;
    for power in POWERS {
        if left == 0 {
            break;
        }
        if left & 1 != 0 {
            state = multiply(power, state);
        }
        left >>= 1;
    }
    !state
}

/// The checksum that `xl_crc` of `record` has to hold; `None` when it is shorter than a header.
///
/// `record` is the whole record without page headers and alignment. The body comes first
/// and the header after it, as in `ValidXLogRecord` (`xlogreader.c`).
#[must_use]
pub fn record_crc(record: &[u8]) -> Option<u32> {
    let (header, body) = record.split_at_checked(HEADER_BYTES)?;
    let (covered, _stored) = header.split_at_checked(CRC_OFFSET)?;
    Some(crc32c::crc32c_append(crc32c::crc32c(body), covered))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_check_value_of_the_catalogue_of_crcs() {
        assert_eq!(crc32c::crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn a_run_of_zeros_of_every_short_length() {
        let mut bytes = b"head".to_vec();
        let head = crc32c::crc32c(&bytes);
        for zeros in 0..10_000 {
            assert_eq!(append_zeros(head, zeros), crc32c::crc32c(&bytes), "{zeros} zeros");
            bytes.push(0);
        }
    }

    proptest! {
        #[test]
        fn runs_add_up(crc: u32, a in 0_u32..1 << 30, b in 0_u32..1 << 30) {
            prop_assert_eq!(append_zeros(append_zeros(crc, a), b), append_zeros(crc, a + b));
        }
    }
}
