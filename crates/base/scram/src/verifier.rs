//! What a server keeps instead of a password.

use std::fmt;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Length of a key: of SHA-256.
pub(crate) const KEY_BYTES: usize = 32;
/// Bytes of a salt that is made up; `SCRAM_DEFAULT_SALT_LEN` (`scram-common.h`).
const SALT_BYTES: usize = 16;
/// Longest salt that is taken, in bytes.
const SALT_BYTES_MAX: usize = 256;
/// How `rolpassword` begins.
const SCHEME: &str = "SCRAM-SHA-256";

/// A verifier as `pg_authid.rolpassword` has it; never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    pub(crate) iterations: u32,
    pub(crate) salt: Vec<u8>,
    pub(crate) stored_key: [u8; KEY_BYTES],
    pub(crate) server_key: [u8; KEY_BYTES],
}

/// A text that is no verifier. Does not repeat it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a verifier of the form SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY")]
pub struct BadVerifier;

impl Verifier {
    /// Reads `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`, as `parse_scram_secret` does.
    ///
    /// # Errors
    ///
    /// [`BadVerifier`].
    pub fn parse(text: &str) -> Result<Self, BadVerifier> {
        let mut parts = text.split('$');
        let (Some(SCHEME), Some(first), Some(second), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(BadVerifier);
        };
        let (iterations, salt) = first.split_once(':').ok_or(BadVerifier)?;
        let (stored, server) = second.split_once(':').ok_or(BadVerifier)?;
        let bytes = |text: &str| STANDARD.decode(text).map_err(|_invalid| BadVerifier);
        let key = |text: &str| <[u8; KEY_BYTES]>::try_from(bytes(text)?).map_err(|_| BadVerifier);
        let iterations = iterations.parse().ok().filter(|count| *count > 0).ok_or(BadVerifier)?;
        let salt = bytes(salt)?;
        if salt.is_empty() || salt.len() > SALT_BYTES_MAX {
            return Err(BadVerifier);
        }
        Ok(Self { iterations, salt, stored_key: key(stored)?, server_key: key(server)? })
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier(***)")
    }
}

/// Makes verifiers up for users that do not exist: each has a salt of its own that stays, so that
/// nobody can tell them from those that do.
#[derive(Clone, PartialEq, Eq)]
pub struct Mock {
    iterations: u32,
    secret: [u8; KEY_BYTES],
}

impl Mock {
    /// In the likeness of a real one, whose secret is also that of the salts: they stay as long
    /// as it does, over restarts.
    #[must_use]
    pub fn like(real: &Verifier) -> Self {
        let secret = hmac_sha256(&real.server_key, &[b"pgherd mock authentication"]);
        Self { iterations: real.iterations, secret }
    }

    /// With a secret that was made for it ([`Self::secret`]) and is kept.
    #[must_use]
    pub const fn new(secret: [u8; KEY_BYTES], iterations: u32) -> Self {
        Self { iterations, secret }
    }

    /// A new secret for [`Self::new`].
    ///
    /// # Errors
    ///
    /// When the system has no random numbers.
    pub fn secret() -> Result<[u8; KEY_BYTES], aws_lc_rs::error::Unspecified> {
        let mut secret = [0; KEY_BYTES];
        aws_lc_rs::rand::fill(&mut secret)?;
        Ok(secret)
    }

    /// The verifier of a user. No password fits: a client would have to find the key of a hash.
    #[must_use]
    pub fn verifier(&self, user: &[u8]) -> Verifier {
        let part = |what: &[u8]| hmac_sha256(&self.secret, &[what, user]);
        let salt = part(b"salt").into_iter().take(SALT_BYTES).collect();
        let (stored_key, server_key) = (part(b"stored"), part(b"server"));
        Verifier { iterations: self.iterations, salt, stored_key, server_key }
    }
}

impl fmt::Debug for Mock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mock(***)")
    }
}

/// HMAC-SHA-256 of the pieces, one after the other.
pub(crate) fn hmac_sha256(key: &[u8], pieces: &[&[u8]]) -> [u8; KEY_BYTES] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    pieces.iter().for_each(|piece| context.update(piece));
    let mut out = [0; KEY_BYTES];
    out.iter_mut().zip(context.sign().as_ref()).for_each(|(to, from)| *to = *from);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_postgresql_writes_and_nothing_else() {
        let good = postgres_protocol::password::scram_sha_256(b"correct horse");
        assert!(Verifier::parse(&good).is_ok());
        assert_eq!(format!("{:?}", Verifier::parse(&good).unwrap()), "Verifier(***)");
        for cut in 0..good.len() - 1 {
            let cut: String = good.chars().take(cut).collect();
            assert_eq!(Verifier::parse(&cut), Err(BadVerifier), "{cut}");
        }
        for bad in ["md5abc", "SCRAM-SHA-256$0:AAAA$A:A", &format!("{good}$"), &format!("{good}A")]
        {
            assert_eq!(Verifier::parse(bad), Err(BadVerifier), "{bad}");
        }
    }

    #[test]
    fn a_made_up_salt_stays_and_is_the_users_own() {
        let real = postgres_protocol::password::scram_sha_256(b"x");
        let real = Verifier::parse(&real).unwrap();
        let (one, two) = (Mock::like(&real), Mock::like(&real));
        assert_eq!(one.verifier(b"a"), two.verifier(b"a"));
        assert_ne!(one.verifier(b"a").salt, one.verifier(b"b").salt);
        assert_eq!(one.verifier(b"a").iterations, real.iterations);
    }
}
