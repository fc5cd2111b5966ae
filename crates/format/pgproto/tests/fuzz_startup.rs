//! First packets that are almost right: none may panic, and what is taken is kept as it came.
//! `PGHERD_FUZZ_SECS` sets how long this goes on.

#![allow(
    clippy::unwrap_used,
    reason = "a test may panic; outside of #[test] functions clippy does not see that this is one"
)]

use pgproto::startup::{self, Packet, Startup, StartupError};

mod support;

/// Half of the packets get the length that they have: the layout is tried, not only the length.
fn with_length(bytes: &[u8]) -> Vec<u8> {
    let mut packet = bytes.to_vec();
    if let (Some(length), Ok(bytes)) = (packet.get_mut(..4), u32::try_from(bytes.len())) {
        length.copy_from_slice(&bytes.to_be_bytes());
    }
    packet
}

fn check(packet: &[u8]) -> bool {
    let taken = match Packet::parse(packet.to_vec()) {
        Ok(Packet::Startup(startup)) => {
            assert_eq!(startup.raw, packet);
            assert!(!startup.user().is_empty() && !startup.database().is_empty());
            rebuilt(&startup);
            true
        }
        Ok(Packet::Cancel(cancel)) => {
            assert_eq!(cancel.raw, packet);
            true
        }
        Ok(Packet::Ssl | Packet::Gss) => packet.len() == 8,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return false;
        }
    };
    let length = startup::packet_bytes(*packet.first_chunk().unwrap());
    assert_eq!(length, Ok(packet.len()), "{packet:?}");
    taken
}

/// What can be written in text gives the very packet again.
fn rebuilt(startup: &Startup) {
    let texts = startup.params.iter().map(|(name, value)| {
        Some((std::str::from_utf8(name).ok()?, std::str::from_utf8(value).ok()?))
    });
    if let Some(params) = texts.collect::<Option<Vec<_>>>() {
        let again = Startup::build(startup.minor, &params);
        assert_eq!(again.as_ref().map_err(StartupError::to_string), Ok(startup));
    }
}

#[test]
fn mutated_packets_are_refused_or_kept() {
    let built = |minor, params: &[(&str, &str)]| Startup::build(minor, params).unwrap().raw;
    let seeds = [
        built(0, &[("user", "bob"), ("replication", "true"), ("application_name", "s1")]),
        built(2, &[("user", "bob"), ("database", "d"), ("replication", "database")]),
        built(9_999, &[("_pq_.x", "y"), ("options", "-c a=b"), ("user", "caf\u{e9}")]),
        vec![0, 0, 0, 8, 4, 210, 22, 47],
        vec![0, 0, 0, 8, 4, 210, 22, 48],
        vec![0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 1, 2, 3, 4, 5, 6],
    ];
    let pieces: [&[u8]; 8] = [
        b"\0",
        b"\0\0",
        b"user\0",
        b"replication\0on\0",
        b"\xFF",
        b"\0\x03\0\0",
        b"\x7F\xFF\xFF\xFF",
        b"\x16\x03\x01",
    ];
    let (mut taken, mut odd) = (0_u64, false);
    let rounds = support::mutate(&seeds, &pieces, |bytes| {
        odd = !odd;
        let packet = if odd { bytes.to_vec() } else { with_length(bytes) };
        taken += u64::from(check(&packet));
    });
    assert!(taken > rounds / 50, "{taken} of {rounds} were taken");
}
