//! CRC-32C of records, also of records whose body is mostly a run of zeros.
//!
//! The state of a CRC after a zero byte is the state before times x^8, modulo the
//! polynomial. So a run of n zeros is one multiplication by x^8n, which needs one step for
//! each bit of n, and a no-op of a gigabyte costs no pass over its bytes.

use std::ops::Range;

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

/// Where `xl_xid` and `xl_prev` stand, the fields in which no-ops of one length differ.
pub(crate) const VARYING: Range<usize> = 4..16;

/// What each value of each varying byte of a header adds to the checksum of the record.
///
/// A CRC is linear: where two messages of one length differ in some bytes, their checksums
/// differ by the sum of what each of these bytes makes. A byte with n bytes from itself to
/// the end of the sum makes its value times x^8n.
static SHARES: [[u32; 256]; VARYING.end - VARYING.start] = {
    let mut shares = [[0; 256]; VARYING.end - VARYING.start];
    // of the last varying byte first
    let mut power = POWERS[2];
    let mut at = shares.len();
    #[allow(clippy::indexing_slicing, reason = "evaluated at compile time, inside the bounds")]
    while at > 0 {
        at -= 1;
        power = multiply(power, POWERS[0]);
        let mut byte = 1;
        let mut value = 1;
        while byte < 256 {
            // one bit by multiplication, the others by addition
            let lowest = byte & (!byte + 1);
            shares[at][byte] = if byte == lowest {
                multiply(value, power)
            } else {
                shares[at][lowest] ^ shares[at][byte ^ lowest]
            };
            byte += 1;
            value += 1;
        }
    }
    shares
};

/// What these bytes of a header, at [`VARYING`], add to the checksum of a record in which
/// they are zero.
///
/// Look-ups do not wait for each other: erasing a short record took 10 ns with `crc32c` over
/// its header, and takes 7 so.
#[inline]
pub(crate) fn share(varying: &[u8; VARYING.end - VARYING.start]) -> u32 {
    let shares = varying.iter().zip(&SHARES);
    #[allow(clippy::indexing_slicing, reason = "a byte is below 256")]
    shares.fold(0, |sum, (byte, share)| sum ^ share[usize::from(*byte)])
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
        fn the_share_of_a_header(mut record in any::<[u8; 40]>()) {
            let whole = record_crc(&record).unwrap();
            let varying = *record[VARYING].first_chunk().unwrap();
            record[VARYING].fill(0);
            prop_assert_eq!(record_crc(&record).unwrap() ^ share(&varying), whole);
        }

        #[test]
        fn runs_add_up(crc: u32, a in 0_u32..1 << 30, b in 0_u32..1 << 30) {
            prop_assert_eq!(append_zeros(append_zeros(crc, a), b), append_zeros(crc, a + b));
        }
    }
}
