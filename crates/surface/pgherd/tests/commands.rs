//! Replication commands: each gives through the relay, with a filter and without, what it gives
//! directly, errors included; and no error ends the connection.

use std::path::Path;

use anyhow::{Context, Result};
use testkit::{Answer, Client, Cluster, Major, Relay, on_majors, run_failing};

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pgherd"))
}

/// `part` has a filter, everybody else has none.
const CONFIGURATIONS: &str = "
configurations:
  - part:
      match: {application_name: part}
      filter: {exclude_databases: [drop]}
  - all: {}
";

/// In this order they leave the server as it was.
const COMMANDS: [&str; 42] = [
    "SHOW wal_segment_size",
    "SHOW server_version_num",
    "SHOW nosuch",
    "IDENTIFY_SYSTEM;",
    "IDENTIFY_SYSTEM x",
    "identify_system",
    "TIMELINE_HISTORY 1",
    "TIMELINE_HISTORY 99",
    "TIMELINE_HISTORY 0",
    "TIMELINE_HISTORY",
    "CREATE_REPLICATION_SLOT one PHYSICAL",
    "CREATE_REPLICATION_SLOT one PHYSICAL",
    "CREATE_REPLICATION_SLOT \"Bad Name\" PHYSICAL",
    "CREATE_REPLICATION_SLOT two PHYSICAL RESERVE_WAL",
    "CREATE_REPLICATION_SLOT three PHYSICAL (RESERVE_WAL)",
    "CREATE_REPLICATION_SLOT four PHYSICAL (RESERVE_WAL false)",
    "CREATE_REPLICATION_SLOT five PHYSICAL (NONSUCH)",
    "CREATE_REPLICATION_SLOT six TEMPORARY PHYSICAL RESERVE_WAL",
    "READ_REPLICATION_SLOT one",
    "READ_REPLICATION_SLOT two",
    "READ_REPLICATION_SLOT nosuch",
    "ALTER_REPLICATION_SLOT one (FAILOVER)",
    "ALTER_REPLICATION_SLOT nosuch (FAILOVER false)",
    "START_REPLICATION SLOT nosuch PHYSICAL 0/1000000",
    "START_REPLICATION SLOT nosuch 0/1000000 TIMELINE 1",
    "START_REPLICATION 0/1000000 TIMELINE 77",
    "START_REPLICATION F/F000000",
    "START_REPLICATION SLOT one F/F000000 TIMELINE 1",
    "START_REPLICATION PHYSICAL nowhere",
    "START_REPLICATION",
    "DROP_REPLICATION_SLOT one",
    "DROP_REPLICATION_SLOT one",
    "DROP_REPLICATION_SLOT two WAIT",
    "DROP_REPLICATION_SLOT three",
    "DROP_REPLICATION_SLOT four",
    "DROP_REPLICATION_SLOT six",
    "BASE_BACKUP (NONSUCH)",
    "BASE_BACKUP LABEL",
    "NONSUCH",
    "",
    ";",
    "'",
];

/// What the relay answers itself.
fn is_refused_by_the_relay(command: &str) -> bool {
    ["identify_system", "NONSUCH", "", ";"].contains(&command)
}

/// What of an answer has to be the same: everything but positions and texts of syntax errors.
fn same(answer: &Answer) -> String {
    let row = |row: &Vec<Option<String>>| -> String {
        let values = row.iter().map(|value| match value.as_deref() {
            Some(lsn) if lsn.parse::<pgtypes::Lsn>().is_ok() && lsn.contains('/') => "LSN".into(),
            value => format!("{value:?}"),
        });
        values.collect::<Vec<String>>().join(" ")
    };
    let rows: Vec<_> = answer.rows.iter().map(row).collect();
    let error = answer.error.as_ref().map(|error| match error.sqlstate.as_str() {
        "42601" => "42601".to_owned(),
        // An unknown option: an internal error to servers, and to the relay one of syntax.
        "XX000" if error.message.starts_with("unrecognized option") => "42601".to_owned(),
        _ => format!("{error} {:?} {:?}", error.detail, error.hint),
    });
    format!("{} {rows:?} {error:?}", answer.tags.replace('S', ""))
}

/// The whole answer, also when a stream was begun before the server found what is wrong.
fn query(client: &mut Client, command: &str) -> Result<Answer> {
    let mut answer = client.query(command)?;
    if answer.tags.ends_with('W') {
        let rest = client.answer()?;
        answer.tags += &rest.tags;
        answer.error = rest.error;
    }
    Ok(answer)
}

on_majors! {
    [v12 V12, v14 V14, v15 V15, v17 V17, v18 V18]
    /// Scenario 33, and the server's words for everything that it does not like.
    fn give_what_they_give_directly(major) {
        let primary = Cluster::builder(major).start()?;
        let relay = Relay::start(binary(), primary.port(), CONFIGURATIONS)?;
        let mut direct = Client::replication(primary.port(), "direct")?;
        let expected: Vec<_> = COMMANDS
            .iter()
            .map(|command| Ok(same(&query(&mut direct, command)?)))
            .collect::<Result<_>>()?;
        for name in ["all", "part"] {
            let mut client = Client::replication(relay.port(), name)?;
            for (command, expected) in COMMANDS.iter().zip(&expected) {
                let answer = query(&mut client, command)?;
                assert!(answer.is_ready(), "{name}: {command:?}: {:?}", answer.tags);
                if is_refused_by_the_relay(command) {
                    let error = answer.error("0A000").context(*command)?;
                    assert!(error.message.contains("not supported"), "{error}");
                } else {
                    assert_eq!(&same(&answer), expected, "{name}: {command:?}");
                }
            }
            assert_eq!(client.query("IDENTIFY_SYSTEM")?.value(1)?, "1");
        }
        Ok(())
    }
}

#[test]
fn an_unknown_slot_is_named_as_the_server_names_it() -> Result<()> {
    let primary = Cluster::builder(Major::V16).start()?;
    let relay = Relay::start(binary(), primary.port(), CONFIGURATIONS)?;
    for name in ["all", "part"] {
        let mut client = Client::replication(relay.port(), name)?;
        let answer = client.query("START_REPLICATION SLOT \"x\" PHYSICAL 0/1000000")?;
        assert_eq!(answer.error("42704")?.message, "replication slot \"x\" does not exist");
        assert_eq!(client.query("IDENTIFY_SYSTEM")?.value(1)?, "1");
    }
    Ok(())
}

#[test]
fn a_temporary_slot_lives_as_long_as_its_connection() -> Result<()> {
    let primary = Cluster::builder(Major::V13).start()?;
    let relay = Relay::start(binary(), primary.port(), CONFIGURATIONS)?;
    let slots = "select count(*) from pg_replication_slots where temporary";
    for name in ["all", "part"] {
        let mut client = Client::replication(relay.port(), name)?;
        client.query("CREATE_REPLICATION_SLOT t TEMPORARY PHYSICAL RESERVE_WAL")?.rows()?;
        assert_eq!(primary.sql(slots)?, "1");
        drop(client);
        primary.wait_for(slots, "0", testkit::PATIENCE)?;
    }
    Ok(())
}

on_majors! {
    [v12 V12, v18 V18]
    /// Scenario 32.
    fn sql_and_logical_replication_are_refused(major) {
        let primary = Cluster::builder(major).set("wal_level", "logical").start()?;
        let relay = Relay::start(binary(), primary.port(), CONFIGURATIONS)?;
        for name in ["all", "part"] {
            for replication in ["true", "database"] {
                let mut client = Client::connect(relay.port())?;
                let login = client.start(&[
                    ("user", "postgres"),
                    ("database", "postgres"),
                    ("replication", replication),
                    ("application_name", name),
                ])?;
                login.rows()?;
                for command in [
                    "SELECT 1",
                    "create table t()",
                    "-- nothing",
                    "START_REPLICATION SLOT s LOGICAL 0/0",
                    "START_REPLICATION SLOT s LOGICAL 0/0 (proto_version '1')",
                    "CREATE_REPLICATION_SLOT s LOGICAL test_decoding",
                    "CREATE_REPLICATION_SLOT s TEMPORARY LOGICAL pgoutput USE_SNAPSHOT",
                ] {
                    let answer = client.query(command)?;
                    let error = answer.error("0A000").context(command)?;
                    assert_eq!(error.severity, "ERROR");
                    assert!(error.hint.is_some());
                    assert!(answer.is_ready());
                }
                assert_eq!(client.query("SHOW wal_level")?.value(0)?, "logical");
            }
        }
        assert_eq!(primary.sql("select count(*) from pg_replication_slots")?, "0");
        assert_eq!(primary.sql("select to_regclass('t') is null")?, "t");

        let mut logical = primary.client("pg_recvlogical", relay.port())?;
        logical.args(["-d", "postgres", "--create-slot", "-S", "s", "-P", "test_decoding"]);
        let refused = run_failing(&mut logical)?;
        assert!(refused.contains("not supported through a pgherd relay"), "{refused}");
        Ok(())
    }
}

/// What a driver sends that knows nothing of replication connections.
#[test]
fn other_messages_are_answered_as_a_server_does() -> Result<()> {
    let primary = Cluster::builder(Major::V15).start()?;
    let relay = Relay::start(binary(), primary.port(), CONFIGURATIONS)?;
    let mut answers = Vec::new();
    for (port, name) in [(primary.port(), "direct"), (relay.port(), "all"), (relay.port(), "part")]
    {
        let mut client = Client::replication(port, name)?;
        let mut heard = Vec::new();
        let mut hear = |answer: &Answer| heard.push(same(answer));
        // Parse, Bind, Describe, Execute, Sync; as libpq's PQexecParams sends them.
        client.send_message(b'P', b"\0SELECT 1\0\0\0")?;
        client.send_message(b'B', b"\0\0\0\0\0\0\0\0")?;
        client.send_message(b'D', b"P\0")?;
        client.send_message(b'E', b"\0\0\0\0\0")?;
        client.send_message(b'S', b"")?;
        hear(&client.answer()?);
        client.send_message(b'S', b"")?;
        hear(&client.answer()?);
        // A call of a function, and the rest of a stream that there is not.
        client.send_message(b'F', b"\0\0\0\x01\0\0\0\0\0\0")?;
        hear(&client.answer()?);
        client.send_message(b'd', b"x")?;
        client.send_message(b'c', b"")?;
        client.send_message(b'f', b"no\0")?;
        hear(&client.query("SHOW wal_segment_size")?);
        client.send_message(b'!', b"")?;
        let last = client.answer()?;
        assert_eq!(last.error("08P01")?.severity, "FATAL");
        answers.push(heard);
    }
    let (direct, relayed) = answers.split_first().context("no answers")?;
    for heard in relayed {
        assert_eq!(heard, direct);
    }
    Ok(())
}
