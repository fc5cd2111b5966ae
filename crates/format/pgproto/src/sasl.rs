//! The messages of SASL, as far as somebody between the two peers, or a server, reads them.
//!
//! What SCRAM computes is not here.

use pgtypes::read::{Reader, Truncated};

use crate::frame::{self, backend};

/// SCRAM without channel binding; `SCRAM_SHA_256_NAME` (`scram.h`).
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
/// SCRAM with it; `SCRAM_SHA_256_PLUS_NAME` (`scram.h`).
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// `AUTH_REQ_SASL` (`protocol.h`)
const AUTH_REQ_SASL: u32 = 10;

/// The mechanisms that an `AuthenticationSASL` offers, from its whole payload.
///
/// # Errors
///
/// [`Truncated`] when the list does not end.
pub fn mechanisms(payload: &[u8]) -> Result<Vec<&[u8]>, Truncated> {
    let mut reader = Reader::new(payload);
    reader.u32_be("kind")?;
    let mut found = Vec::new();
    loop {
        let mechanism = reader.cstr("mechanism")?;
        if mechanism.is_empty() {
            return Ok(found);
        }
        found.push(mechanism);
    }
}

/// Appends an `AuthenticationSASL` that offers `mechanisms`.
pub fn offer(mechanisms: &[&[u8]], out: &mut Vec<u8>) {
    let mut payload = AUTH_REQ_SASL.to_be_bytes().to_vec();
    for mechanism in mechanisms {
        payload.extend_from_slice(mechanism);
        payload.push(0);
    }
    payload.push(0);
    frame::write(backend::AUTHENTICATION, &payload, out);
}

/// A client's answer to an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Initial<'a> {
    /// The mechanism that it chose.
    pub mechanism: &'a [u8],
    /// Its first words, if it has any.
    pub data: Option<&'a [u8]>,
}

impl<'a> Initial<'a> {
    /// Reads the payload of a `SASLInitialResponse`.
    ///
    /// # Errors
    ///
    /// [`Truncated`] when it ends inside a field.
    pub fn parse(payload: &'a [u8]) -> Result<Self, Truncated> {
        let mut reader = Reader::new(payload);
        let mechanism = reader.cstr("mechanism")?;
        let length = reader.i32_be("length")?;
        let data = match usize::try_from(length) {
            Ok(bytes) => Some(reader.take("data", bytes)?),
            Err(_negative) => None,
        };
        Ok(Self { mechanism, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_is_read_back() {
        let offered = [SCRAM_SHA_256_PLUS.as_bytes(), SCRAM_SHA_256.as_bytes()];
        let mut out = Vec::new();
        offer(&offered, &mut out);
        assert_eq!(mechanisms(&out[5..]).unwrap(), offered);
        for cut in 5..out.len() - 1 {
            assert!(mechanisms(&out[5..cut]).is_err());
        }
    }

    #[test]
    fn the_answer_to_an_offer_is_read_and_never_read_too_far() {
        let whole = b"SCRAM-SHA-256\0\0\0\0\x03n,,";
        let initial = Initial::parse(whole).unwrap();
        assert_eq!(initial, Initial { mechanism: b"SCRAM-SHA-256", data: Some(b"n,,") });
        for cut in 0..whole.len() {
            assert!(Initial::parse(&whole[..cut]).is_err(), "{cut}");
        }
        assert_eq!(Initial::parse(b"X\0\xff\xff\xff\xff").unwrap().data, None);
    }
}
