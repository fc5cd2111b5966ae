//! The server's side of SCRAM-SHA-256 and SCRAM-SHA-256-PLUS: what is computed of messages.
//!
//! [`Exchange`] takes a client's two messages and gives the server's two. The nonce is an
//! argument, so that an exchange can be computed again in a test.
//!
//! # Where the truth comes from
//!
//! RFC 5802 and RFC 7677; `auth-scram.c` for what PostgreSQL makes of them: the user's name in the
//! messages does not count (that of the startup packet does), and a user that does not exist
//! goes through the same steps as one that does.
//!
//! # What it does not do
//!
//! No password is ever here, only verifiers. Nothing is read or sent.

mod exchange;
mod message;
mod verifier;

pub use exchange::{Exchange, Proof};
pub use message::ScramError;
pub use verifier::{BadVerifier, Mock, Verifier};

/// Bytes of a nonce before it is made printable; `SCRAM_RAW_NONCE_LEN` (`scram-common.h`).
const NONCE_BYTES: usize = 18;

/// A new nonce for [`Exchange::first`].
///
/// # Errors
///
/// When the system has no random numbers.
pub fn nonce() -> Result<String, aws_lc_rs::error::Unspecified> {
    let mut bytes = [0; NONCE_BYTES];
    aws_lc_rs::rand::fill(&mut bytes)?;
    Ok(base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes))
}
