//! A client's messages that are almost right: none may panic, and only what was proven comes in.
//! `PGHERD_FUZZ_SECS` sets how long this goes on.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic; outside of #[test] functions clippy does not see that this is one"
)]

use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use scram::{Exchange, Proof, Verifier};

#[path = "../../../format/pgproto/tests/support/mod.rs"]
mod support;

const NONCE: &str = "3rfcNHYJY1ZVvWVs7j";
const MECHANISMS: [&[u8]; 2] = [b"SCRAM-SHA-256", b"SCRAM-SHA-256-PLUS"];

fn exchange(verifier: &Verifier, is_bound: bool) -> Exchange {
    Exchange::new(verifier.clone(), true, is_bound.then(|| vec![9; 32]))
}

/// Both messages of a client that knows the password, with a line break between them.
fn sound(verifier: &Verifier, is_bound: bool) -> Vec<u8> {
    let binding = if is_bound {
        ChannelBinding::tls_server_end_point(vec![9; 32])
    } else {
        ChannelBinding::unsupported()
    };
    let mut client = ScramSha256::new(b"right", binding);
    let first = client.message().to_vec();
    let mut server = exchange(verifier, is_bound);
    let answer = server.first(MECHANISMS[usize::from(is_bound)], &first, NONCE).unwrap();
    client.update(&answer).unwrap();
    [&first, b"\n".as_slice(), client.message()].concat()
}

/// Whether the client has come in.
fn comes_in(verifier: &Verifier, is_bound: bool, messages: &[u8]) -> bool {
    let mut parts = messages.splitn(2, |byte| *byte == b'\n');
    let (first, last) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let mut server = exchange(verifier, is_bound);
    match server.first(MECHANISMS[usize::from(is_bound)], first, NONCE) {
        Ok(_answer) => matches!(server.last(last), Ok(Proof::Right(_))),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    }
}

#[test]
fn only_what_was_proven_comes_in() {
    let verifier = postgres_protocol::password::scram_sha_256(b"right");
    let verifier = Verifier::parse(&verifier).unwrap();
    let seeds = [false, true].map(|is_bound| sound(&verifier, is_bound));
    let pieces: [&[u8]; 8] =
        [b",", b"n,,", b"y,,", b"p=tls-server-end-point,,", b"\n", b"c=biws,", b",p=", b"\xFF"];
    support::mutate(&seeds, &pieces, |messages| {
        for is_bound in [false, true] {
            if comes_in(&verifier, is_bound, messages) {
                assert_eq!(messages, seeds[usize::from(is_bound)]);
            }
        }
    });
    for (is_bound, seed) in [false, true].into_iter().zip(&seeds) {
        assert!(comes_in(&verifier, is_bound, seed));
        assert!(!comes_in(&verifier, !is_bound, seed));
    }
}
