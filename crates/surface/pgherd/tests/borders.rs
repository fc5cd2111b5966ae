//! Where a filtered stream is cut into messages.
//!
//! A standby reads a record to the end of its page once the header is there. Servers never end
//! a message anywhere else than at a page or behind a record, however the bytes arrived.

mod stage;

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use pgproto::copy::ServerMessage;
use stage::{fill, relay_to};
use testkit::{Client, Cluster, Link, Major, waldump};

#[test]
fn a_message_ends_with_a_page_or_a_record() -> Result<()> {
    let primary = Cluster::builder(Major::V15).start()?;
    primary.sql("create database keep; create database drop1")?;
    let start = primary.switch_wal()?.round_down(16 << 20) + (16 << 20);
    for database in ["keep", "drop1"] {
        fill(&primary, database, "t")?;
    }
    let end = primary.lsn()?;
    // Pieces that fit neither pages nor messages.
    let link = Link::to(primary.port())?;
    link.split(3001);
    let relay = relay_to(link.port(), "exclude_databases: [\"drop*\"]")?;
    let mut client = Client::replication(relay.port(), "berlin")?;
    client.send_query(&format!("START_REPLICATION {start}"))?;
    let mut ends = Vec::new();
    while ends.last() < Some(&end) {
        let Some(reply) = client.message()? else { break };
        if let Ok(ServerMessage::XLogData(head, bytes)) = ServerMessage::parse(&reply.payload) {
            ends.push(head.start + bytes.len() as u64);
        }
    }
    let records = waldump(Major::V15, &primary.wal_dir(), start, end)?;
    let records: BTreeSet<_> = records.iter().map(|record| record.lsn).collect();
    ensure!(ends.len() > 5, "{} messages prove nothing", ends.len());
    for found in &ends {
        let sound = found.0 % 8192 == 0 || *found == end || records.contains(found);
        ensure!(sound, "a message ends at {found}, within a record");
    }
    Ok(())
}
