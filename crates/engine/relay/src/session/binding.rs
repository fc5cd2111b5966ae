//! Channel binding of a login that is passed on.
//!
//! SCRAM-SHA-256-PLUS binds a login to the TLS connection that it goes through. Through a relay
//! there are two, so a server that offers it to the relay's own TLS means one that the client
//! does not have. The offer is taken out, and what the client then says is looked at: a client
//! that insists is not served (libpq itself says so), one that could bind and is told that
//! the server cannot is told why instead of led into the server's suspicion of an attack.
//! Nothing is ever changed in what the client says.

use pgnet::Message;
use pgproto::SqlState;
use pgproto::backend::Report;
use pgproto::sasl::{self, Initial, SCRAM_SHA_256_PLUS};

/// What is known of an exchange.
#[derive(Debug, Default)]
pub(super) struct Binding {
    /// The mechanism with binding was taken out of the server's offer.
    taken_out: bool,
    /// The client's next message answers an offer.
    is_offered: bool,
}

impl Binding {
    /// The server's offer, as the client may see it; nothing when it may be passed as it is.
    pub(super) fn offer(&mut self, message: &Message) -> Option<Vec<u8>> {
        self.is_offered = true;
        let offered = sasl::mechanisms(message.payload()).ok()?;
        let is_plus = |mechanism: &&[u8]| *mechanism == SCRAM_SHA_256_PLUS.as_bytes();
        if !offered.iter().any(is_plus) {
            return None;
        }
        self.taken_out = true;
        let left: Vec<_> = offered.into_iter().filter(|mechanism| !is_plus(mechanism)).collect();
        let mut raw = Vec::new();
        sasl::offer(&left, &mut raw);
        Some(raw)
    }

    /// Looks at what the client says; a report when it has to be refused.
    pub(super) fn answer(&mut self, message: &Message) -> Option<Report> {
        if !std::mem::take(&mut self.is_offered) || !self.taken_out {
            return None;
        }
        let initial = Initial::parse(message.payload()).ok()?;
        // The flag of RFC 5802: n - cannot, y - could and thinks that the server cannot, p - does.
        let flag = initial.data.and_then(<[u8]>::first);
        matches!(flag, Some(b'y' | b'p')).then(not_through_here)
    }
}

fn not_through_here() -> Report {
    let message = "channel binding cannot pass through a pgherd relay with TLS on both sides";
    Report::fatal(SqlState::INVALID_AUTHORIZATION, message)
        .with_detail(
            "The client's TLS ends at the relay, and the server binds SCRAM to the relay's own.",
        )
        .with_hint(
            "Set channel_binding=disable in primary_conninfo; or, in the relay's configuration, \
             auth: scram, or sslmode: disable for an upstream that can be reached safely.",
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(tag: u8, payload: &[u8]) -> Message {
        let mut raw = Vec::new();
        pgproto::frame::write(tag, payload, &mut raw);
        Message { tag, raw }
    }

    #[test]
    fn only_the_bound_mechanism_is_taken_out() {
        let mut both = Vec::new();
        sasl::offer(&[b"SCRAM-SHA-256-PLUS", b"SCRAM-SHA-256"], &mut both);
        let mut one = Vec::new();
        sasl::offer(&[b"SCRAM-SHA-256"], &mut one);
        let mut binding = Binding::default();
        assert_eq!(binding.offer(&Message { tag: b'R', raw: both }), Some(one.clone()));
        for (data, refused) in [(&b"n,,n=,r=x"[..], false), (b"y,,n=,r=x", true)] {
            binding.is_offered = true;
            let length = u32::try_from(data.len()).unwrap().to_be_bytes();
            let payload = [&b"SCRAM-SHA-256\0"[..], &length, data].concat();
            assert_eq!(binding.answer(&message(b'p', &payload)).is_some(), refused);
        }
        let mut binding = Binding::default();
        assert_eq!(binding.offer(&Message { tag: b'R', raw: one }), None);
        let payload = b"SCRAM-SHA-256\0\0\0\0\x02y,";
        assert!(binding.answer(&message(b'p', payload)).is_none());
    }
}
