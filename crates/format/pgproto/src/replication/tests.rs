use proptest::prelude::*;

use super::*;
use crate::SqlState;

fn start(slot: Option<&str>, start: u64, timeline: Option<u32>) -> Command {
    let slot = slot.map(str::to_owned);
    let timeline = timeline.map(Timeline);
    Command::StartPhysical(StartPhysical { slot, start: Lsn(start), timeline })
}

fn physical(name: &str, temporary: bool, reserve_wal: bool) -> Command {
    let name = name.to_owned();
    Command::CreatePhysicalSlot(CreatePhysicalSlot { name, temporary, reserve_wal })
}

/// The commands that PostgreSQL's own clients send.
#[test]
fn reads_what_clients_send() {
    let history = Command::TimelineHistory { timeline: Timeline(3) };
    let drop = |name: &str, wait| Command::DropSlot { name: name.to_owned(), wait };
    let show = |name: &str| Command::Show { name: name.to_owned() };
    let cases = [
        ("IDENTIFY_SYSTEM", Command::IdentifySystem),
        (" \n\tIDENTIFY_SYSTEM ; ", Command::IdentifySystem),
        ("SHOW wal_segment_size", show("wal_segment_size")),
        ("SHOW Pg_Stat . \"Max\"", show("pg_stat.Max")),
        ("START_REPLICATION 0/3000000 TIMELINE 1", start(None, 0x300_0000, Some(1))),
        (
            "START_REPLICATION SLOT \"s1\" 0/3000000 TIMELINE 1",
            start(Some("s1"), 0x300_0000, Some(1)),
        ),
        ("START_REPLICATION PHYSICAL a/b", start(None, 0xA_0000_000B, None)),
        ("START_REPLICATION SLOT slot PHYSICAL 0000000001/00", start(Some("slot"), 1 << 32, None)),
        ("TIMELINE_HISTORY 3", history),
        ("CREATE_REPLICATION_SLOT \"S 1\" PHYSICAL", physical("S 1", false, false)),
        ("CREATE_REPLICATION_SLOT a TEMPORARY PHYSICAL RESERVE_WAL", physical("a", true, true)),
        ("CREATE_REPLICATION_SLOT A PHYSICAL (RESERVE_WAL)", physical("a", false, true)),
        ("CREATE_REPLICATION_SLOT a PHYSICAL (reserve_wal 'OFF')", physical("a", false, false)),
        ("DROP_REPLICATION_SLOT \"s1\"", drop("s1", false)),
        ("DROP_REPLICATION_SLOT s1 WAIT;", drop("s1", true)),
        ("READ_REPLICATION_SLOT s", Command::ReadReplicationSlot { slot: "s".to_owned() }),
        ("UPLOAD_MANIFEST", Command::UploadManifest),
    ];
    for (text, expected) in cases {
        assert_eq!(Command::parse(text.as_bytes()), Ok(expected), "{text}");
    }
}

#[test]
fn what_is_no_command_is_sql() {
    let texts = [
        "",
        ";",
        "SELECT 1",
        "identify_system",
        "Show x",
        "IDENTIFY_SYSTEM$",
        "-- x\nIDENTIFY_SYSTEM",
        "SLOT",
        "\"SHOW\" x",
        "'a' b",
        "99999999999999",
        "1/123456789",
        "caf\u{e9}",
        "(",
    ];
    for text in texts {
        assert_eq!(Command::parse(text.as_bytes()), Ok(Command::Sql), "{text}");
    }
    assert_eq!(Command::parse(b"\xFF\xFE"), Ok(Command::Sql));
}

#[test]
fn reads_logical_commands_to_refuse_them_by_name() {
    let text = b"START_REPLICATION SLOT \"sub\" LOGICAL 0/0 (proto_version '4', \"binary\")";
    let options = vec![GenericOption::text("proto_version", "4"), GenericOption::bare("binary")];
    let expected = Command::StartLogical { slot: "sub".to_owned(), start: Lsn(0), options };
    assert_eq!(Command::parse(text), Ok(expected));
    let text = b"CREATE_REPLICATION_SLOT s TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT TWO_PHASE";
    let options =
        vec![GenericOption::text("snapshot", "nothing"), GenericOption::bare("two_phase")];
    let (name, plugin) = ("s".to_owned(), "pgoutput".to_owned());
    let expected = Command::CreateLogicalSlot { name, temporary: true, plugin, options };
    assert_eq!(Command::parse(text), Ok(expected));
    let options = vec![GenericOption::text("failover", "true")];
    let expected = Command::AlterSlot { name: "s".to_owned(), options };
    assert_eq!(Command::parse(b"ALTER_REPLICATION_SLOT s (FAILOVER TRUE)"), Ok(expected));
}

/// The two ways in which pg_basebackup asks, before 15 and since.
#[test]
fn both_styles_of_a_backup_mean_the_same() {
    let words = "BASE_BACKUP LABEL 'it''s' PROGRESS FAST WAL NOWAIT MAX_RATE 32 TABLESPACE_MAP \
        NOVERIFY_CHECKSUMS MANIFEST 'yes' MANIFEST_CHECKSUMS 'CRC32C'";
    let list = "BASE_BACKUP ( LABEL 'it''s',  PROGRESS,  CHECKPOINT fast,  WAL,  WAIT 0, MAX_RATE 32, \
        TABLESPACE_MAP, VERIFY_CHECKSUMS 0, MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C')";
    let Ok(Command::BaseBackup(backup)) = Command::parse(words.as_bytes()) else {
        panic!("not a backup");
    };
    assert_eq!(Command::parse(list.as_bytes()), Ok(Command::BaseBackup(backup.clone())));
    assert_eq!(backup.to_words().as_deref(), Some(words));
    assert_eq!(backup.option("label").and_then(GenericOption::as_text), Some("it's"));
    assert_eq!(backup.option("wait").and_then(GenericOption::as_bool), Some(false));

    let Ok(Command::BaseBackup(newer)) = Command::parse(b"BASE_BACKUP (TARGET 'server')") else {
        panic!("not a backup");
    };
    assert_eq!(newer.to_words(), None);
    let plain = Command::parse(b"BASE_BACKUP");
    assert_eq!(plain, Ok(Command::BaseBackup(BaseBackup::default())));
}

#[test]
fn refuses_with_the_words_of_the_server() {
    let cases = [
        ("IDENTIFY_SYSTEM x", "syntax error"),
        ("IDENTIFY_SYSTEM;;", "syntax error"),
        ("IDENTIFY_SYSTEM'", "unterminated quoted string"),
        ("'abc", "unterminated quoted string"),
        ("\"abc", "unterminated quoted string"),
        ("SHOW SHOW", "syntax error"),
        ("SHOW 'work_mem'", "syntax error"),
        ("SHOW work_mem -- x", "syntax error"),
        ("SHOW \"a\"\"b\"", "syntax error"),
        ("CREATE_REPLICATION_SLOT \"a\"\"b\" PHYSICAL", "syntax error"),
        ("CREATE_REPLICATION_SLOT s PHYSICAL ()", "syntax error"),
        (
            "CREATE_REPLICATION_SLOT s PHYSICAL (RESERVE_WAL 2)",
            "reserve_wal requires a Boolean value",
        ),
        (
            "CREATE_REPLICATION_SLOT s PHYSICAL (RESERVE_WAL t)",
            "reserve_wal requires a Boolean value",
        ),
        ("CREATE_REPLICATION_SLOT s PHYSICAL (foo)", "unrecognized option: foo"),
        ("CREATE_REPLICATION_SLOT s PHYSICAL (foo) x", "syntax error"),
        ("CREATE_REPLICATION_SLOT s PHYSICAL (foo);", "unrecognized option: foo"),
        ("CREATE_REPLICATION_SLOT s PHYSICAL TWO_PHASE", "conflicting or redundant options"),
        (
            "CREATE_REPLICATION_SLOT s PHYSICAL RESERVE_WAL RESERVE_WAL",
            "conflicting or redundant options",
        ),
        ("START_REPLICATION 0/0 TIMELINE 0", "invalid timeline 0"),
        ("TIMELINE_HISTORY 0", "invalid timeline 0"),
        ("TIMELINE_HISTORY", "syntax error"),
        ("START_REPLICATION 1g/2", "syntax error"),
        ("START_REPLICATION SLOT SLOT 0/0", "syntax error"),
        ("START_REPLICATION LOGICAL 0/0", "syntax error"),
        ("START_REPLICATION 123456789/0", "invalid streaming start location"),
        ("BASE_BACKUP FAST (WAL)", "syntax error"),
        ("BASE_BACKUP (WAL) FAST", "syntax error"),
        ("BASE_BACKUP LABEL x", "syntax error"),
        ("BASE_BACKUP (READ_REPLICATION_SLOT)", "syntax error"),
        ("ALTER_REPLICATION_SLOT s", "syntax error"),
    ];
    for (text, message) in cases {
        let error = Command::parse(text.as_bytes()).unwrap_err();
        assert_eq!(error.client_message(), message, "{text}");
        assert_eq!(error.sqlstate(), SqlState::SYNTAX_ERROR, "{text}");
    }
}

#[test]
fn says_where_it_went_wrong() {
    let error = Command::parse(b"START_REPLICATION SLOT 5").unwrap_err();
    assert_eq!(error, GrammarError::Syntax { at: 23, expected: "a name" });
    let error = Command::parse(b"START_REPLICATION SLOT \"caf\xE9\" 0/0").unwrap_err();
    assert_eq!(error, GrammarError::Encoding { at: 23 });
    assert_eq!(error.sqlstate().to_string(), "22021");
    let error = Command::parse(b"TIMELINE_HISTORY 4294967296").unwrap_err();
    assert_eq!(error, GrammarError::Number { at: 17 });
}

#[test]
fn cuts_long_names_between_characters() {
    let text = format!("DROP_REPLICATION_SLOT {}", "\u{e9}".repeat(40));
    let expected = Command::DropSlot { name: "\u{e9}".repeat(31), wait: false };
    assert_eq!(Command::parse(text.as_bytes()), Ok(expected));
    let long = "x".repeat(70);
    let shown = Command::parse(format!("SHOW {long}.{long}").as_bytes()).unwrap();
    assert_eq!(Command::parse(shown.to_text().as_bytes()), Ok(shown));
}

#[test]
fn every_cut_is_a_command_or_an_error() {
    let text = b"BASE_BACKUP ( LABEL 'it''s',  PROGRESS,  CHECKPOINT \"fast\",  WAIT 0 );";
    for cut in 0..text.len() {
        let is_backup = matches!(Command::parse(&text[..cut]), Ok(Command::BaseBackup(_)));
        let is_sql = Command::parse(&text[..cut]) == Ok(Command::Sql);
        assert_eq!(is_sql, cut < 11, "cut at {cut}");
        assert_eq!(is_backup, cut == 11 || cut == 12 || cut >= text.len() - 1, "cut at {cut}");
    }
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z_]{1,20}", "[^\"\0]{0,15}", Just("SLOT".to_owned())]
}

fn options() -> impl Strategy<Value = Vec<GenericOption>> {
    let value = prop_oneof![
        Just(None),
        "[^\0]{0,12}".prop_map(|text| Some(OptionValue::Text(text))),
        any::<u32>().prop_map(|number| Some(OptionValue::Number(number))),
    ];
    let option = (name(), value).prop_map(|(name, value)| GenericOption { name, value });
    proptest::collection::vec(option, 1..5)
}

fn command() -> impl Strategy<Value = Command> {
    let lsn = || any::<u64>().prop_map(Lsn);
    let timeline = || (1..=u32::MAX).prop_map(Timeline);
    let plugin = proptest::collection::vec(
        (name(), proptest::option::of("[^\0]{0,12}"))
            .prop_map(|(name, value)| GenericOption { name, value: value.map(OptionValue::Text) }),
        0..4,
    );
    prop_oneof![
        Just(Command::IdentifySystem),
        Just(Command::UploadManifest),
        Just(Command::Sql),
        name().prop_map(|name| Command::Show { name }),
        name().prop_map(|slot| Command::ReadReplicationSlot { slot }),
        options().prop_map(|options| Command::BaseBackup(BaseBackup { options })),
        (proptest::option::of(name()), lsn(), proptest::option::of(timeline())).prop_map(
            |(slot, start, timeline)| {
                Command::StartPhysical(StartPhysical { slot, start, timeline })
            }
        ),
        (name(), lsn(), plugin).prop_map(|(slot, start, options)| Command::StartLogical {
            slot,
            start,
            options
        }),
        (name(), any::<bool>(), any::<bool>())
            .prop_map(|(name, temporary, reserve)| physical(&name, temporary, reserve)),
        (name(), any::<bool>(), name(), options()).prop_map(
            |(name, temporary, plugin, options)| Command::CreateLogicalSlot {
                name,
                temporary,
                plugin,
                options
            }
        ),
        (name(), options()).prop_map(|(name, options)| Command::AlterSlot { name, options }),
        (name(), any::<bool>()).prop_map(|(name, wait)| Command::DropSlot { name, wait }),
        timeline().prop_map(|timeline| Command::TimelineHistory { timeline }),
    ]
}

proptest! {
    #[test]
    fn what_is_shown_reads_back(command in command()) {
        prop_assert_eq!(Command::parse(command.to_text().as_bytes()), Ok(command));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        for head in [&b""[..], b"BASE_BACKUP (", b"SHOW ", b"START_REPLICATION "] {
            if let Ok(command) = Command::parse(&[head, &bytes[..]].concat()) {
                prop_assert_eq!(Command::parse(command.to_text().as_bytes()), Ok(command));
            }
        }
    }
}
