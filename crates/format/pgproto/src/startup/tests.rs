use proptest::prelude::*;

use super::*;

/// What `pg_receivewal` of PostgreSQL 15 sends to begin (user postgres).
fn plain(params: &[u8]) -> Vec<u8> {
    let mut raw = u32::try_from(8 + params.len()).unwrap().to_be_bytes().to_vec();
    raw.extend_from_slice(&[0, 3, 0, 0]);
    raw.extend_from_slice(params);
    raw
}

fn parsed(params: &[u8]) -> Result<Startup, StartupError> {
    Packet::parse(plain(params)).map(|packet| match packet {
        Packet::Startup(startup) => startup,
        other => panic!("{other:?}"),
    })
}

#[test]
fn reads_a_startup_packet() {
    let text = b"user\0bob\0replication\0true\0application_name\0s1\0_pq_.x\0y\0\0";
    let startup = parsed(text).unwrap();
    assert_eq!((startup.major, startup.minor), (3, 0));
    assert_eq!(startup.user(), b"bob");
    assert_eq!(startup.database(), b"bob");
    assert_eq!(startup.application_name(), Some(&b"s1"[..]));
    assert_eq!(startup.replication(), Replication::Physical);
    assert_eq!(startup.param("_pq_.x"), Some(&b"y"[..]));
    assert_eq!(startup.raw, plain(text));
}

#[test]
fn every_cut_is_refused() {
    let whole = plain(b"user\0bob\0replication\0true\0\0");
    for have in 0..whole.len() {
        assert!(Packet::parse(whole[..have].to_vec()).is_err(), "cut at {have}");
        // The same bytes with a length that agrees: the layout has to be wrong then.
        if have > 8 {
            let error = parsed(&whole[8..have]).unwrap_err();
            assert!(matches!(error, StartupError::Layout { .. }), "cut at {have}: {error}");
        }
    }
}

#[test]
fn refuses_what_a_server_refuses_with_its_code() {
    let cases: [(Vec<u8>, &str); 7] = [
        (plain(b"\0"), "28000"),
        (plain(b"user\0\0\0"), "28000"),
        (plain(b"user\0bob\0\0x"), "08P01"),
        (plain(b"user\0bob\0"), "08P01"),
        (vec![0, 0, 0, 8, 0, 2, 0, 0], "0A000"),
        (vec![0, 0, 0, 8, 0, 4, 0, 0], "0A000"),
        (vec![0, 0, 0, 4], "08P01"),
    ];
    for (raw, code) in cases {
        let error = Packet::parse(raw.clone()).unwrap_err();
        assert_eq!(error.sqlstate().to_string(), code, "{raw:?}: {error}");
    }
}

#[test]
fn refuses_lengths_before_reading_on() {
    assert_eq!(packet_bytes([0, 0, 0, 8]), Ok(8));
    assert_eq!(packet_bytes(10_004_u32.to_be_bytes()), Ok(10_004));
    for length in [0, 7, 10_005, u32::from_be_bytes(*b"GET "), u32::MAX] {
        let error = packet_bytes(length.to_be_bytes()).unwrap_err();
        assert_eq!(error, StartupError::Length { length });
        assert!(!error.is_answered());
    }
}

#[test]
fn reads_requests_for_encryption() {
    assert_eq!(Packet::parse(vec![0, 0, 0, 8, 4, 210, 22, 47]), Ok(Packet::Ssl));
    assert_eq!(Packet::parse(vec![0, 0, 0, 8, 4, 210, 22, 48]), Ok(Packet::Gss));
    let long = Packet::parse(vec![0, 0, 0, 9, 4, 210, 22, 47, 0]);
    assert_eq!(long, Err(StartupError::Trailing { bytes: 1 }));
}

#[test]
fn reads_cancel_requests_with_short_and_long_keys() {
    for (key_bytes, sound) in [(0_usize, false), (1, true), (4, true), (256, true), (257, false)] {
        let mut raw = u32::try_from(12 + key_bytes).unwrap().to_be_bytes().to_vec();
        raw.extend_from_slice(&[4, 210, 22, 46, 0, 0, 1, 2]);
        raw.resize(12 + key_bytes, 7);
        match Packet::parse(raw.clone()) {
            Ok(Packet::Cancel(cancel)) if sound => {
                assert_eq!((cancel.pid, cancel.key.len()), (258, key_bytes));
                assert_eq!(cancel.raw, raw);
                assert_eq!(format!("{cancel:?}"), "Cancel { pid: 258, .. }");
            }
            other => {
                assert!(!sound);
                assert_eq!(other, Err(StartupError::CancelKey { bytes: key_bytes }));
            }
        }
    }
}

#[test]
fn replication_is_judged_as_the_server_does() {
    use Replication::{Database, Invalid, No, Physical};
    let cases: [(&[&str], Replication); 20] = [
        (&[], No),
        (&["1"], Physical),
        (&["0"], No),
        (&["t"], Physical),
        (&["TRUE"], Physical),
        (&["yes"], Physical),
        (&["ye"], Physical),
        (&["n"], No),
        (&["on"], Physical),
        (&["of"], No),
        (&["o"], Invalid),
        (&["truex"], Invalid),
        (&[""], Invalid),
        (&["10"], Invalid),
        (&["database"], Database),
        (&["DATABASE"], Invalid),
        (&["data"], Invalid),
        (&["database", "off"], No),
        (&["database", "on"], Database),
        (&["on", "off"], No),
    ];
    for (values, expected) in cases {
        let mut params = vec![("user", "u")];
        params.extend(values.iter().map(|value| ("replication", *value)));
        let startup = Startup::build(0, &params).unwrap();
        assert_eq!(startup.replication(), expected, "{values:?}");
    }
}

#[test]
fn what_cannot_be_sent_is_not_built() {
    let error = Startup::build(0, &[("user", "u"), ("x", "a\0b")]);
    assert_eq!(error, Err(StartupError::Parameter { number: 1 }));
    assert_eq!(Startup::build(0, &[]), Err(StartupError::NoUser));
    let long = "x".repeat(10_000);
    assert!(matches!(Startup::build(0, &[("user", &long)]), Err(StartupError::Length { .. })));
}

proptest! {
    #[test]
    fn what_is_built_reads_back(
        minor: u16,
        params in proptest::collection::vec(("[^\0]{1,12}", "[^\0]{0,12}"), 0..12),
    ) {
        let mut params: Vec<_> = params.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        params.push(("user", "someone"));
        let built = Startup::build(minor, &params).unwrap();
        prop_assert_eq!(Packet::parse(built.raw.clone()), Ok(Packet::Startup(built)));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        if let Ok(packet) = Packet::parse(bytes.clone()) {
            prop_assert!(!matches!(packet, Packet::Startup(startup) if startup.raw != bytes));
        }
        if let Ok(startup) = parsed(&bytes) {
            prop_assert!(!startup.user().is_empty());
        }
    }
}
