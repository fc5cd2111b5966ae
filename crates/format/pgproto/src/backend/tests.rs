use proptest::prelude::*;

use super::*;
use crate::SqlState;

#[test]
fn writes_an_error_as_a_server_does() {
    let report = Report::fatal(SqlState::TOO_MANY_CONNECTIONS, "too many\0clients").with_hint("go");
    let mut out = Vec::new();
    error_response(&report, &mut out);
    let payload = b"SFATAL\0VFATAL\0C53300\0Mtoo many clients\0Hgo\0\0";
    assert_eq!(out[..5], [b'E', 0, 0, 0, 48]);
    assert_eq!(out[5..], payload[..]);
    let fields = parse_error_response(&out[5..]);
    assert_eq!(fields.code(), Some(SqlState::TOO_MANY_CONNECTIONS));
    assert!(fields.is_fatal());
    assert_eq!(fields.hint.as_deref(), Some("go"));
    assert_eq!(fields.to_string(), "FATAL 53300: too many clients");
}

#[test]
fn reads_a_translated_error_of_a_server_and_its_cuts() {
    let payload = "SFEHLER\0VERROR\0C42601\0MSyntaxfehler bei »x«\0Fscan.l\0L1176\0\0".as_bytes();
    let fields = parse_error_response(payload);
    assert_eq!((fields.severity.as_str(), fields.sqlstate.as_str()), ("ERROR", "42601"));
    assert_eq!(fields.message, "Syntaxfehler bei »x«");
    for cut in 0..payload.len() {
        let message = parse_error_response(&payload[..cut]).message;
        assert!("Syntaxfehler bei »x«".starts_with(message.trim_end_matches('\u{FFFD}')), "{cut}");
    }
    assert_eq!(parse_error_response(b"Mhalf of it").message, "half of it");
}

#[test]
fn reads_rows_and_refuses_cuts() {
    let row = b"\0\x03\0\0\0\x02ab\xff\xff\xff\xff\0\0\0\0";
    assert_eq!(data_row(row), Ok(vec![Some(&b"ab"[..]), None, Some(b"")]));
    for cut in 0..row.len() {
        assert!(matches!(data_row(&row[..cut]), Err(BodyError::Truncated(_))), "cut at {cut}");
    }
    let error = BodyError::ValueLength { column: 0, length: -2 };
    assert_eq!(data_row(b"\0\x01\xff\xff\xff\xfe"), Err(error));
    assert_eq!(data_row(b"\xff\xff"), Err(BodyError::Columns { columns: u16::MAX }));
    assert_eq!(data_row(b"\0\0x"), Err(BodyError::Trailing { message: "DataRow", bytes: 1 }));
}

#[test]
fn tells_kinds_of_authentication_apart() {
    assert_eq!(Authentication::parse(&[0, 0, 0, 0]), Ok(Authentication::Ok));
    assert_eq!(Authentication::parse(b"\0\0\0\x05salt"), Ok(Authentication::Md5(*b"salt")));
    assert_eq!(Authentication::parse(b"\0\0\0\x0aSCRAM-SHA-256\0\0"), Ok(Authentication::Sasl));
    assert!(!Authentication::SaslFinal.wants_answer());
    assert!(Authentication::parse(b"\0\0\0\x05sal").is_err());
}

#[test]
fn reads_parameters() {
    let status = parse_parameter_status(b"server_version\x0015.14\0");
    assert_eq!(status, Ok((&b"server_version"[..], &b"15.14"[..])));
    assert!(parse_parameter_status(b"server_version\x0015.14").is_err());
}

#[test]
fn writes_small_messages() {
    let mut out = Vec::new();
    ready_for_query(b'I', &mut out);
    command_complete("START_STREAMING", &mut out);
    copy_done(&mut out);
    assert_eq!(out, b"Z\0\0\0\x05IC\0\0\0\x14START_STREAMING\0c\0\0\0\x04");
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let fields = parse_error_response(&bytes);
        prop_assert!(fields.message.chars().count() <= bytes.len());
        let values = data_row(&bytes).unwrap_or_default();
        prop_assert!(values.iter().flatten().map(|value| value.len()).sum::<usize>() <= bytes.len());
        if let Ok((name, value)) = parse_parameter_status(&bytes) {
            prop_assert_eq!([name, b"\0", value, b"\0"].concat(), bytes.clone());
        }
        prop_assert_eq!(Authentication::parse(&bytes).is_err(), bytes.len() < 4 || (bytes.starts_with(&[0, 0, 0, 5]) && bytes.len() < 8));
    }
}
