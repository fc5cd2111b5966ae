//! One exchange.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::message::{First, Flag, Last};
use crate::verifier::{KEY_BYTES, hmac_sha256};
use crate::{ScramError, Verifier};

/// The mechanisms, as a client names them.
const PLAIN: &[u8] = b"SCRAM-SHA-256";
const PLUS: &[u8] = b"SCRAM-SHA-256-PLUS";

/// How an exchange ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The client knows the password; it is to get these last words.
    Right(Vec<u8>),
    /// It does not, or there is no such user.
    Wrong,
}

/// The server's part of an exchange with one client.
pub struct Exchange {
    verifier: Verifier,
    /// No proof is right for a user who does not exist.
    is_known: bool,
    /// What a client has to bind to, where it can.
    end_point: Option<Vec<u8>>,
    begun: Option<Begun>,
}

/// What is kept between the client's messages.
struct Begun {
    /// What the client has to repeat of its first message, and the channel.
    binding: String,
    nonce: String,
    /// The messages so far, as the proof has them.
    messages: String,
}

impl Exchange {
    /// An exchange with somebody who says that this verifier is theirs; `end_point` is the hash of
    /// the certificate that the client has seen, for SCRAM-SHA-256-PLUS.
    #[must_use]
    pub const fn new(verifier: Verifier, is_known: bool, end_point: Option<Vec<u8>>) -> Self {
        Self { verifier, is_known, end_point, begun: None }
    }

    /// What is to be offered, the best first.
    #[must_use]
    pub fn mechanisms(&self) -> Vec<&'static [u8]> {
        if self.end_point.is_some() { vec![PLUS, PLAIN] } else { vec![PLAIN] }
    }

    /// Takes the client's first message; gives the server's. `nonce` has to be new each time, and
    /// printable without commas.
    ///
    /// # Errors
    ///
    /// [`ScramError`] when the client breaks the protocol.
    pub fn first(
        &mut self,
        mechanism: &[u8],
        data: &[u8],
        nonce: &str,
    ) -> Result<Vec<u8>, ScramError> {
        if !self.mechanisms().contains(&mechanism) {
            return Err(ScramError::Mechanism);
        }
        let first = First::parse(data)?;
        let channel: &[u8] = match (first.flag, mechanism == PLUS, &self.end_point) {
            (Flag::EndPoint, true, Some(end_point)) => end_point,
            (Flag::EndPoint, ..) | (_, true, _) => {
                return Err(ScramError::Malformed("the mechanism and the binding do not agree"));
            }
            (Flag::Unused, _, Some(_)) => return Err(ScramError::Downgrade),
            (Flag::Unused | Flag::No, ..) => b"",
        };
        let binding = STANDARD.encode([first.header.as_bytes(), channel].concat());
        let nonce = format!("{}{nonce}", first.nonce);
        let salt = STANDARD.encode(&self.verifier.salt);
        let answer = format!("r={nonce},s={salt},i={}", self.verifier.iterations);
        let messages = format!("{},{answer}", first.bare);
        self.begun = Some(Begun { binding, nonce, messages });
        Ok(answer.into_bytes())
    }

    /// Takes the client's last message. The same is computed for a user who does not exist.
    ///
    /// # Errors
    ///
    /// [`ScramError`] when the client breaks the protocol, or the channel is not its own.
    pub fn last(self, data: &[u8]) -> Result<Proof, ScramError> {
        let begun = self.begun.ok_or(ScramError::Malformed("the last message came first"))?;
        let last = Last::parse(data)?;
        if last.nonce != begun.nonce {
            return Err(ScramError::Nonce);
        }
        if last.binding != begun.binding {
            return Err(ScramError::Binding);
        }
        let proof = STANDARD.decode(last.proof).ok();
        let proof = proof.and_then(|proof| <[u8; KEY_BYTES]>::try_from(proof).ok());
        let proof = proof.ok_or(ScramError::Malformed("a proof of another length"))?;
        let messages = [begun.messages.as_bytes(), b",", last.without_proof.as_bytes()];
        let signature = hmac_sha256(&self.verifier.stored_key, &messages);
        let mut client_key = proof;
        client_key.iter_mut().zip(signature).for_each(|(key, byte)| *key ^= byte);
        let stored_key = digest::digest(&digest::SHA256, &client_key);
        let is_right =
            verify_slices_are_equal(stored_key.as_ref(), &self.verifier.stored_key).is_ok();
        let words = STANDARD.encode(hmac_sha256(&self.verifier.server_key, &messages));
        if is_right & self.is_known {
            Ok(Proof::Right(format!("v={words}").into_bytes()))
        } else {
            Ok(Proof::Wrong)
        }
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
    use proptest::prelude::*;

    use super::*;

    const NONCE: &str = "3rfcNHYJY1ZVvWVs7j";

    fn verifier(password: &[u8]) -> Verifier {
        Verifier::parse(&postgres_protocol::password::scram_sha_256(password)).unwrap()
    }

    /// The whole exchange with a client of another make.
    fn meet(
        mut server: Exchange,
        password: &[u8],
        mechanism: &[u8],
        binding: ChannelBinding,
    ) -> Result<Proof, ScramError> {
        let mut client = ScramSha256::new(password, binding);
        let first = server.first(mechanism, client.message(), NONCE)?;
        client.update(&first).unwrap();
        let proof = server.last(client.message())?;
        if let Proof::Right(words) = &proof {
            client.finish(words).unwrap();
        }
        Ok(proof)
    }

    #[test]
    fn the_right_password_and_no_other() {
        let n = ChannelBinding::unsupported;
        let server = || Exchange::new(verifier(b"right"), true, None);
        assert!(matches!(meet(server(), b"right", PLAIN, n()), Ok(Proof::Right(_))));
        assert_eq!(meet(server(), b"wrong", PLAIN, n()), Ok(Proof::Wrong));
        let nobody = Exchange::new(verifier(b"right"), false, None);
        assert_eq!(meet(nobody, b"right", PLAIN, n()), Ok(Proof::Wrong));
    }

    #[test]
    fn a_bound_channel_has_to_be_the_same() {
        let own = vec![1; 32];
        let server = || Exchange::new(verifier(b"x"), true, Some(own.clone()));
        let point = ChannelBinding::tls_server_end_point;
        assert!(matches!(meet(server(), b"x", PLUS, point(own.clone())), Ok(Proof::Right(_))));
        let other = meet(server(), b"x", PLUS, point(vec![2; 32]));
        assert_eq!(other, Err(ScramError::Binding));
        let downgraded = meet(server(), b"x", PLAIN, ChannelBinding::unrequested());
        assert_eq!(downgraded, Err(ScramError::Downgrade));
        let unbound = meet(server(), b"x", PLAIN, ChannelBinding::unsupported());
        assert!(matches!(unbound, Ok(Proof::Right(_))));
        let plain = Exchange::new(verifier(b"x"), true, None);
        assert_eq!(meet(plain, b"x", PLUS, point(own)), Err(ScramError::Mechanism));
        let plain = Exchange::new(verifier(b"x"), true, None);
        let unused = meet(plain, b"x", PLAIN, ChannelBinding::unrequested());
        assert!(matches!(unused, Ok(Proof::Right(_))));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for bad in
            ["", "n", "n,", "n,,", "n,,n=", "n,,n=u", "n,,n=u,r=", "n,a=x,n=u,r=x", "x,,n=,r=x"]
        {
            let mut server = Exchange::new(verifier(b"x"), true, None);
            assert!(server.first(PLAIN, bad.as_bytes(), NONCE).is_err(), "{bad}");
        }
        for (bad, error) in [
            ("c=biws,r=abcd", ScramError::Malformed("no proof")),
            ("c=biws,r=other,p=AAAA", ScramError::Nonce),
        ] {
            let mut server = Exchange::new(verifier(b"x"), true, None);
            server.first(PLAIN, b"n,,n=,r=abc", "d").unwrap();
            assert_eq!(server.last(bad.as_bytes()), Err(error));
        }
        let server = Exchange::new(verifier(b"x"), true, None);
        assert!(server.last(b"c=biws,r=abcd,p=AAAA").is_err());
    }

    proptest! {
        #[test]
        fn nobody_comes_in_by_chance(first in ".{0,60}", last in ".{0,120}") {
            let mut server = Exchange::new(verifier_once(), true, None);
            let first = format!("n,,n=,r=x{first}");
            if server.first(PLAIN, first.as_bytes(), NONCE).is_ok() {
                prop_assert!(!matches!(server.last(last.as_bytes()), Ok(Proof::Right(_))));
            }
        }
    }

    /// Without the 4,096 rounds.
    fn verifier_once() -> Verifier {
        let key = STANDARD.encode([7; KEY_BYTES]);
        Verifier::parse(&format!("SCRAM-SHA-256$1:AAAA${key}:{key}")).unwrap()
    }
}
