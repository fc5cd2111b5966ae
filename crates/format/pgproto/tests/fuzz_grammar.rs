//! Replication commands that are almost right: none may panic, and what is taken has to read
//! back from its own canonical text. `PGHERD_FUZZ_SECS` sets how long this goes on.

use pgproto::replication::Command;

mod support;

#[test]
fn mutated_commands_are_refused_or_read_back() {
    let seeds = [
        "IDENTIFY_SYSTEM;",
        "SHOW a.\"B c\".d",
        "READ_REPLICATION_SLOT s1",
        "START_REPLICATION SLOT \"s1\" PHYSICAL 0/3000000 TIMELINE 1",
        "START_REPLICATION SLOT s LOGICAL 16/B374D848 (proto_version '4', \"x\")",
        "CREATE_REPLICATION_SLOT \"a b\" TEMPORARY PHYSICAL RESERVE_WAL",
        "CREATE_REPLICATION_SLOT s PHYSICAL (RESERVE_WAL off)",
        "CREATE_REPLICATION_SLOT s LOGICAL p (SNAPSHOT 'export', TWO_PHASE, failover 1)",
        "ALTER_REPLICATION_SLOT s (FAILOVER false)",
        "DROP_REPLICATION_SLOT s WAIT",
        "TIMELINE_HISTORY 3",
        "UPLOAD_MANIFEST",
        "BASE_BACKUP LABEL 'it''s' PROGRESS FAST NOWAIT MAX_RATE 32 MANIFEST 'yes'",
        "BASE_BACKUP (LABEL 'x', WAIT 0, CHECKPOINT fast, TARGET 'client', INCREMENTAL)",
    ]
    .map(|text| text.as_bytes().to_vec());
    let pieces: [&[u8]; 20] = [
        b"'",
        b"\"",
        b"''",
        b"\"\"",
        b"(",
        b")",
        b",",
        b".",
        b";",
        b" ",
        b"\x0B",
        b"0/0",
        b"FFFFFFFF/FFFFFFFF",
        b"4294967296",
        b"SLOT",
        b"PHYSICAL",
        b"WAIT",
        b"\xC3\xA9",
        b"\xFF",
        b"\0",
    ];
    let (mut commands, mut errors) = (0_u64, 0_u64);
    let rounds = support::mutate(&seeds, &pieces, |text| match Command::parse(text) {
        Ok(command) => {
            let again = command.to_text();
            assert_eq!(Command::parse(again.as_bytes()), Ok(command), "{text:?} gave {again}");
            commands += 1;
        }
        Err(error) => {
            assert!(!error.client_message().is_empty(), "{text:?}");
            errors += 1;
        }
    });
    assert!(commands > rounds / 20 && errors > rounds / 20, "{commands} and {errors} of {rounds}");
}
