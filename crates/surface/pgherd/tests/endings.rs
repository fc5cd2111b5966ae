//! What a client hears when its upstream leaves.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use pgproto::copy::{ServerMessage, StandbyStatus};
use pgproto::frame::backend;
use pgtypes::Lsn;
use testkit::{Client, Cluster, Major, PATIENCE, Relay, Standby, Stop, wait_until};

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pgherd"))
}

/// Configurations for a filtered and an unfiltered client.
const SETTINGS: &str = "
configurations:
  - part:
      match: {application_name: part}
      filter: {exclude_databases: [nonesuch]}
  - all: {}
";

/// Questions that are always under way: a server that leaves has never read them all, so its
/// kernel resets the connection.
const UNDER_WAY: usize = 500;

/// A relay in front of nothing: what the standby's administrator reads.
#[test]
fn a_standby_is_told_why_there_is_no_stream() -> Result<()> {
    let mut primary = Cluster::builder(Major::V18).start()?;
    let relay = Relay::start(binary(), primary.port(), SETTINGS)?;
    let standby = Standby::of(&primary).via(relay.port()).name("part").start()?;
    standby.wait_streaming()?;
    primary.stop(Stop::Fast)?;
    wait_until("the standby to tell why", PATIENCE, || {
        let told = format!("pgherd relay: cannot connect to 127.0.0.1:{}", primary.port());
        Ok(standby.log().contains(&told).then_some(()))
    })
    .with_context(|| standby.log())?;
    assert!(standby.log().contains("replication terminated by primary server"));
    assert!(!standby.log().contains("unexpected result"), "{}", standby.log());
    primary.start()?;
    primary.sql("create table t as select 1 as g")?;
    standby.wait_replayed(&primary)?;
    let mut client = Client::replication(relay.port(), "part")?;
    assert_eq!(client.query("IDENTIFY_SYSTEM")?.value(1)?, "1");
    Ok(())
}

#[test]
fn the_servers_last_word_comes_through_a_reset_to_a_filtered_client() -> Result<()> {
    hears_the_last_word("part")
}

#[test]
fn the_servers_last_word_comes_through_a_reset() -> Result<()> {
    hears_the_last_word("all")
}

/// A server that is shut down ends the stream in good order, behind all of its WAL: a client may
/// not be told anything else, whatever it still sends.
fn hears_the_last_word(name: &str) -> Result<()> {
    let mut primary = Cluster::builder(Major::V17).start()?;
    let relay = Relay::start(binary(), primary.port(), SETTINGS)?;
    for _ in 0..3 {
        let start: Lsn = primary.sql("select pg_current_wal_flush_lsn()")?.parse()?;
        let mut client = Client::replication(relay.port(), name)?;
        client.send_query(&format!("START_REPLICATION PHYSICAL {start}"))?;
        let started = client.message()?.context("no answer")?;
        assert_eq!(started.tag, backend::COPY_BOTH);
        for _ in 0..UNDER_WAY {
            ask(&mut client, start);
        }
        let heard = std::thread::scope(|scope| {
            let listener = scope.spawn(|| listen(&mut client, start));
            primary.stop(Stop::Fast)?;
            listener.join().map_err(|_panic| anyhow!("the listener panicked"))?
        });
        assert_eq!(heard?, [backend::COMMAND_COMPLETE]);
        primary.start()?;
    }
    Ok(())
}

/// Asks for a sign of life.
fn ask(client: &mut Client, at: Lsn) {
    let status = StandbyStatus {
        write: at,
        flush: at,
        apply: Lsn::INVALID,
        sent_at_micros: 0,
        reply_requested: true,
    };
    // The connection may be gone; what the server said before is still to be read.
    client.send_message(backend::COPY_DATA, &status.to_bytes()).ok();
}

/// What comes, but for the stream itself, until the connection is closed.
fn listen(client: &mut Client, mut at: Lsn) -> Result<Vec<u8>> {
    let mut heard = Vec::new();
    // Nothing comes behind a closed connection, however it was closed.
    while let Ok(Some(message)) = client.message() {
        if message.tag != backend::COPY_DATA {
            heard.push(message.tag);
            continue;
        }
        if let ServerMessage::XLogData(head, wal) = ServerMessage::parse(&message.payload)? {
            at = head.start + wal.len() as u64;
        }
        ask(client, at);
    }
    Ok(heard)
}
