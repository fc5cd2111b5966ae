//! Bytes that real programs exchanged: `pg_receivewal` and `pg_basebackup` of PostgreSQL
//! 15.18 with a server of the same version, caught between the two. Of the server's
//! side stream messages over 600 bytes and all but the first few of the backup were left out.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may panic; outside of #[test] functions clippy does not see that this is one"
)]

use pgproto::backend::{self, Authentication};
use pgproto::copy::{ServerMessage, StandbyMessage};
use pgproto::frame::{self, Header, limit};
use pgproto::frontend::query_text;
use pgproto::replication::{Command, CreatePhysicalSlot, StartPhysical};
use pgproto::startup::{self, Packet, Replication};
use pgtypes::{Lsn, Timeline};

const CLIENT_CREATE_SLOT: &[u8] = include_bytes!("golden/client_create_slot.bin");
const CLIENT_STREAM: &[u8] = include_bytes!("golden/client_stream.bin");
const CLIENT_BACKUP: &[u8] = include_bytes!("golden/client_backup.bin");
const SERVER_CREATE_SLOT: &[u8] = include_bytes!("golden/server_create_slot.bin");
const SERVER_STREAM: &[u8] = include_bytes!("golden/server_stream.bin");
const SERVER_BACKUP: &[u8] = include_bytes!("golden/server_backup.bin");

/// Tags and payloads up to the end; a half message at the end is a failure.
fn frames(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut frames = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<{ Header::BYTES }>() {
        let header = Header::parse(head).unwrap().check_limit(limit::STREAM).unwrap();
        assert_eq!(header.to_bytes(), *head);
        let (payload, rest) = rest.split_at(header.payload_bytes);
        frames.push((header.tag, payload));
        bytes = rest;
    }
    assert!(bytes.is_empty());
    frames
}

/// The startup packet of a client, and what it sent after it.
fn client(bytes: &[u8]) -> (startup::Startup, Vec<(u8, &[u8])>) {
    let packet_bytes = startup::packet_bytes(*bytes.first_chunk().unwrap()).unwrap();
    let (packet, rest) = bytes.split_at(packet_bytes);
    match Packet::parse(packet.to_vec()).unwrap() {
        Packet::Startup(startup) => (startup, frames(rest)),
        other => panic!("{other:?}"),
    }
}

fn commands(frames: &[(u8, &[u8])]) -> Vec<Command> {
    let queries = frames.iter().filter(|(tag, _)| *tag == frame::frontend::QUERY);
    queries.map(|(_, payload)| Command::parse(query_text(payload).unwrap()).unwrap()).collect()
}

#[test]
fn startup_packets_are_built_as_libpq_builds_them() {
    let (startup, _) = client(CLIENT_CREATE_SLOT);
    assert_eq!(startup.user(), b"postgres");
    assert_eq!(startup.database(), b"replication");
    assert_eq!(startup.application_name(), Some(&b"pg_receivewal"[..]));
    assert_eq!(startup.replication(), Replication::Physical);
    let params = [
        ("user", "postgres"),
        ("database", "replication"),
        ("replication", "true"),
        ("application_name", "pg_receivewal"),
    ];
    assert_eq!(startup::Startup::build(0, &params), Ok(startup));
}

#[test]
fn reads_a_receiver_that_makes_its_slot() {
    let (_, frames) = client(CLIENT_CREATE_SLOT);
    let name = "s1".to_owned();
    let create = CreatePhysicalSlot { name, temporary: false, reserve_wal: false };
    let show = Command::Show { name: "data_directory_mode".to_owned() };
    let expected = [show, Command::IdentifySystem, Command::CreatePhysicalSlot(create)];
    assert_eq!(commands(&frames), expected);
    assert_eq!(frames.last(), Some(&(frame::frontend::TERMINATE, &b""[..])));
}

#[test]
fn reads_a_receiver_that_streams() {
    let (_, frames) = client(CLIENT_STREAM);
    let slot = Some("s1".to_owned());
    let start = StartPhysical { slot, start: Lsn(0x100_0000), timeline: Some(Timeline(1)) };
    assert_eq!(commands(&frames).last(), Some(&Command::StartPhysical(start)));
    let copied = frames.iter().filter(|(tag, _)| *tag == frame::frontend::COPY_DATA);
    let mut last = None;
    for (_, payload) in copied {
        let StandbyMessage::Status(status) = StandbyMessage::parse(payload).unwrap() else {
            panic!("not a status");
        };
        assert_eq!(status.to_bytes(), *payload);
        assert_eq!(status.apply, Lsn::INVALID);
        last = Some(status.flush);
    }
    assert!(last >= Some(Lsn(0x100_0000)), "{last:?}");
}

#[test]
fn reads_a_backup() {
    let (_, frames) = client(CLIENT_BACKUP);
    let commands = commands(&frames);
    let Some(Command::BaseBackup(backup)) = commands.last() else {
        panic!("{commands:?}");
    };
    assert_eq!(backup.option("label").and_then(|option| option.as_text()), Some("it's"));
    assert_eq!(backup.option("checkpoint").and_then(|option| option.as_text()), Some("fast"));
    assert!(backup.to_words().is_none(), "it names a target, which 14 does not know");
}

#[test]
fn reads_all_that_a_server_says() {
    let mut streamed = 0;
    for bytes in [SERVER_CREATE_SLOT, SERVER_STREAM, SERVER_BACKUP] {
        let mut in_stream = false;
        for (tag, payload) in frames(bytes) {
            match tag {
                frame::backend::AUTHENTICATION => {
                    assert_eq!(Authentication::parse(payload), Ok(Authentication::Ok));
                }
                frame::backend::PARAMETER_STATUS => {
                    backend::parse_parameter_status(payload).unwrap();
                }
                frame::backend::DATA_ROW => {
                    backend::data_row(payload).unwrap();
                }
                frame::backend::NOTICE => {
                    let notice = backend::parse_error_response(payload);
                    assert_eq!(notice.severity, "NOTICE");
                    assert!(notice.code().is_some() && !notice.is_fatal());
                }
                frame::backend::COPY_BOTH => in_stream = true,
                frame::backend::COPY_DATA if in_stream => {
                    let known = ServerMessage::parse(payload).unwrap();
                    assert!(!matches!(known, ServerMessage::Unknown(_)));
                    streamed += 1;
                }
                other => assert!(b"KZTCHdc".contains(&other), "{}", char::from(other)),
            }
        }
    }
    assert!(streamed > 0);
}

#[test]
fn reads_the_answer_to_identify_system() {
    let frames = frames(SERVER_CREATE_SLOT);
    let rows = frames.iter().filter(|(tag, _)| *tag == frame::backend::DATA_ROW);
    let rows: Vec<_> = rows.map(|(_, payload)| backend::data_row(payload).unwrap()).collect();
    assert_eq!(rows[0], [Some(&b"0700"[..])]);
    assert_eq!(rows[1].len(), 4);
    assert_eq!((rows[1][1], rows[1][3]), (Some(&b"1"[..]), None));
}
