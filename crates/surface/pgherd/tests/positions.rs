//! Where a stream starts and ends: anywhere, ahead of the server, in WAL that is gone, at the end
//! of a timeline; the same through the relay, with a filter and without, as directly.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use pgproto::copy::ServerMessage;
use pgproto::frame::{backend, frontend};
use pgtypes::Lsn;
use testkit::{Answer, Client, Cluster, Major, Relay, Standby, on_majors};

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pgherd"))
}

/// `part` has a filter for a database that there is not, everybody else has none: so both get
/// every byte as it is.
const CONFIGURATIONS: &str = "
configurations:
  - part:
      match: {application_name: part}
      filter: {exclude_databases: [nonesuch]}
  - all: {}
";

const NAMES: [&str; 2] = ["all", "part"];

/// Reads WAL from `start` to `until`, without a gap, and leaves the stream open.
fn read_wal(client: &mut Client, start: Lsn, until: Lsn) -> Result<Vec<u8>> {
    let mut wal = Vec::new();
    while start + u64::try_from(wal.len())? < until {
        let payload = client.copy_data()?;
        match ServerMessage::parse(&payload)? {
            ServerMessage::XLogData(head, bytes) => {
                let expected = start + u64::try_from(wal.len())?;
                ensure!(head.start == expected, "WAL from {}, not {expected}", head.start);
                wal.extend_from_slice(bytes);
            }
            ServerMessage::Keepalive(_) => {}
            ServerMessage::Unknown(letter) => bail!("message {letter:#x} in the stream"),
        }
    }
    Ok(wal)
}

/// Begins to stream from `start` and reads to `until`.
fn stream(port: u16, name: &str, start: Lsn, until: Lsn) -> Result<Vec<u8>> {
    let mut client = Client::replication(port, name)?;
    let begun = client.query(&format!("START_REPLICATION PHYSICAL {start}"))?;
    ensure!(begun.tags == "W", "not begun: {begun:?}");
    read_wal(&mut client, start, until).with_context(|| format!("{name} from {start}"))
}

/// An error of `START_REPLICATION`, which may come after the word that a stream begins. The
/// connection has to be usable behind it.
fn refused(port: u16, name: &str, command: &str) -> Result<String> {
    let mut client = Client::replication(port, name)?;
    let mut answer = client.query(command)?;
    if answer.tags == "W" {
        answer = client.answer()?;
    }
    ensure!(answer.is_ready(), "{name}: {command}: {answer:?}");
    ensure!(client.query("IDENTIFY_SYSTEM")?.is_ready(), "no longer usable");
    Ok(answer.error.with_context(|| format!("{name}: {command}: no error"))?.to_string())
}

on_majors! {
    [v12 V12, v15 V15, v18 V18]
    fn a_stream_starts_exactly_where_it_is_asked_to(major) {
        let primary = Cluster::builder(major).wal_segment_mb(1).start()?;
        primary.sql("create table t as select g, repeat('x', 300) from generate_series(1, 5000) g")?;
        let relay = Relay::start(binary(), primary.port(), CONFIGURATIONS)?;
        let end = primary.lsn()?;
        let segment = end.round_down(1 << 20);
        for start in [
            segment,
            segment - (1 << 20),
            segment - 8192,
            segment - 8192 + 4,
            segment - 100_001,
            segment + 1,
            end.round_down(8192),
            end - 1,
        ] {
            let direct = stream(primary.port(), "direct", start, end)?;
            for name in NAMES {
                let relayed = stream(relay.port(), name, start, end)?;
                assert!(relayed == direct, "{name} from {start}: other bytes");
            }
        }
        Ok(())
    }
}

#[test]
fn a_stream_from_the_tail_waits_for_what_comes() -> Result<()> {
    let primary = Cluster::builder(Major::V16).start()?;
    let relay = Relay::start(binary(), primary.port(), CONFIGURATIONS)?;
    for name in NAMES {
        let tail = primary.lsn()?;
        let mut client = Client::replication(relay.port(), name)?;
        assert_eq!(client.query(&format!("START_REPLICATION {tail}"))?.tags, "W");
        primary.sql("create table if not exists t(g int); insert into t select 1")?;
        let wal = read_wal(&mut client, tail, tail + 64)?;
        assert!(wal.len() >= 64);
        // The client ends the stream: both halves are closed, and the connection goes on.
        client.send_message(frontend::COPY_DONE, b"")?;
        let answer = end_of_stream(&mut client)?;
        assert!(answer.is_ready() && answer.rows()?.is_empty(), "{answer:?}");
        assert_eq!(client.query("IDENTIFY_SYSTEM")?.value(1)?, "1");
    }
    Ok(())
}

/// Reads the rest of a stream, up to where the server has ended its half, and the last words.
fn end_of_stream(client: &mut Client) -> Result<Answer> {
    loop {
        match client.message()?.context("the server hung up")?.tag {
            backend::COPY_DATA => {}
            backend::COPY_DONE => return client.answer(),
            tag => bail!("message {:?} at the end of a stream", char::from(tag)),
        }
    }
}

on_majors! {
    [v13 V13, v17 V17]
    fn a_position_ahead_of_the_server_gets_the_servers_error(major) {
        let primary = Cluster::builder(major).start()?;
        let relay = Relay::start(binary(), primary.port(), CONFIGURATIONS)?;
        let end = primary.lsn()?;
        // In the same page, in the same segment, in another one.
        for ahead in [end + 8, end + 100_000, end + (64 << 20)] {
            let command = format!("START_REPLICATION {ahead} TIMELINE 1");
            let direct = refused(primary.port(), "direct", &command)?;
            assert!(direct.contains("is ahead of the WAL flush position"), "{direct}");
            for name in NAMES {
                assert_eq!(refused(relay.port(), name, &command)?, direct, "{name}");
            }
        }
        Ok(())
    }
}

on_majors! {
    [v12 V12, v18 V18]
    fn wal_that_is_gone_gets_the_servers_error(major) {
        let keep = if major >= Major::V13 { "wal_keep_size" } else { "wal_keep_segments" };
        let primary = Cluster::builder(major).set(keep, "0").set("min_wal_size", "32MB").start()?;
        let relay = Relay::start(binary(), primary.port(), CONFIGURATIONS)?;
        let old = primary.lsn()?;
        for _ in 0..4 {
            primary.sql("create table if not exists t(); insert into t default values")?;
            primary.switch_wal()?;
        }
        primary.checkpoint()?;
        // In the middle of the segment, and at its start.
        for gone in [old, old.round_down(16 << 20)] {
            let command = format!("START_REPLICATION {gone} TIMELINE 1");
            let direct = refused(primary.port(), "direct", &command)?;
            assert!(direct.contains("has already been removed"), "{direct}");
            for name in NAMES {
                assert_eq!(refused(relay.port(), name, &command)?, direct, "{name}");
            }
        }
        Ok(())
    }
}

on_majors! {
    [v12 V12, v18 V18]
    /// Scenario 20, the part about the end of a historic timeline.
    fn the_end_of_a_timeline_is_told_as_the_server_tells_it(major) {
        let mut primary = Cluster::builder(major).start()?;
        let standby = Standby::of(&primary).start()?;
        standby.wait_replayed(&primary)?;
        let before = primary.lsn()?;
        primary.sql("create table t as select generate_series(1, 1000)")?;
        standby.wait_replayed(&primary)?;
        primary.stop(testkit::Stop::Fast)?;
        standby.promote()?;
        standby.sql("insert into t select 1")?;
        let relay = Relay::start(binary(), standby.port(), CONFIGURATIONS)?;
        let history = Client::replication(standby.port(), "direct")?.query("TIMELINE_HISTORY 2")?;
        let switch: Lsn = history.value(1)?.split_whitespace().nth(1).context("no LSN")?.parse()?;

        let mut ends = Vec::new();
        for (port, name) in
            [(standby.port(), "direct"), (relay.port(), "all"), (relay.port(), "part")]
        {
            // Exactly at the end there is nothing to stream, only the word about what follows.
            let mut client = Client::replication(port, name)?;
            let at_end = client.query(&format!("START_REPLICATION {switch} TIMELINE 1"))?;
            assert_eq!(at_end.value(0)?, "2", "{name}");
            assert_eq!(at_end.value(1)?.parse::<Lsn>()?, switch, "{name}");
            assert!(at_end.is_ready(), "{name}");

            // Over the end: the rest of the timeline, and the same word.
            let start = format!("START_REPLICATION {before} TIMELINE 1");
            assert_eq!(client.query(&start)?.tags, "W", "{name}");
            let wal = read_wal(&mut client, before, switch)?;
            assert_eq!(before + u64::try_from(wal.len())?, switch, "{name}");
            loop {
                let message = client.message()?.context("hung up")?;
                if message.tag == backend::COPY_DONE {
                    break;
                }
                // No byte of WAL behind the switch.
                assert_eq!(message.payload.first(), Some(&b'k'), "{name}");
            }
            client.send_message(frontend::COPY_DONE, b"")?;
            let followed = client.answer()?;
            assert_eq!(followed.value(0)?, "2", "{name}");
            assert_eq!(followed.value(1)?.parse::<Lsn>()?, switch, "{name}");

            // Past the end the server refuses, in its own words.
            let past = refused(port, name, &format!("START_REPLICATION {} TIMELINE 1", switch + 8))?;
            let next = client.query(&format!("START_REPLICATION {switch} TIMELINE 2"))?;
            assert_eq!(next.tags, "W", "{name}");
            let more = read_wal(&mut client, switch, standby.lsn()?)?;
            ends.push((wal, followed.rows, past, more));
        }
        let (direct, relayed) = ends.split_first().context("none")?;
        for end in relayed {
            assert!(end == direct, "{:?} and {:?}", (&end.1, &end.2), (&direct.1, &direct.2));
        }
        Ok(())
    }
}
