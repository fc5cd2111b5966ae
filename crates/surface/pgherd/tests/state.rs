//! The state folder when something is wrong with it: said clearly, and never guessed around.

mod proof;

use std::fs;
use std::time::Duration;

use pgtypes::Major;
use proof::client::{self, Client};
use proof::{FILTERED, WITHOUT_DROP, binary};
use testkit::{Cluster, Disk, PATIENCE, Relay, Standby, same_contents};

const SOON: Duration = Duration::from_secs(5);

fn primary() -> anyhow::Result<Cluster> {
    let primary = Cluster::builder(Major::V17).wal_segment_mb(1).start()?;
    for database in ["keep", "drop1"] {
        primary.sql(&format!("create database {database}"))?;
        primary.sql_in(database, "create table t as select generate_series(1, 1000) x")?;
    }
    Ok(primary)
}

/// What a client is told that wants a filtered stream.
fn refusal(relay: &Relay, primary: &Cluster) -> anyhow::Result<String> {
    let start = primary.lsn()?.round_down(1 << 20);
    match Client::connect(relay.port(), FILTERED)?.start(start, 1) {
        Ok(stream) => anyhow::bail!("should have been refused, streams from {}", stream.at()),
        Err(error) => Ok(format!("{error:#}")),
    }
}

/// One wrong bit in the decisions: refused, with the file and what to do about it.
#[test]
fn damaged_decisions_are_refused() -> anyhow::Result<()> {
    let primary = primary()?;
    let mut relay = Relay::start(binary(), primary.port(), WITHOUT_DROP)?;
    let (start, end) = (primary.lsn()?.round_down(1 << 20), primary.lsn()?);
    let before = client::read(relay.port(), FILTERED, start, end)?;
    relay.stop()?;
    let fates = relay.state_dir().join("relay").join(FILTERED).join("fates");
    let sound = fs::read(&fates)?;
    let mut damaged = sound.clone();
    let place = damaged.len() / 2;
    damaged[place] ^= 1;
    fs::write(&fates, &damaged)?;
    relay.run()?;
    let told = refusal(&relay, &primary)?;
    assert!(told.contains("XX001") && told.contains("berlin"), "{told}");
    let line = relay.wait_for_line("damaged", SOON)?;
    assert!(line.contains("ERROR") && line.contains(&fates.display().to_string()), "{line}");
    assert!(line.contains("pgherd relay forget berlin"), "it should say what to do: {line}");
    // Clients without a filter do not need it.
    client::read(relay.port(), "everybody", start, end)?;
    // A copy from a backup is all that it takes.
    fs::write(&fates, &sound)?;
    assert!(client::read(relay.port(), FILTERED, start, end)? == before);
    Ok(())
}

/// The notes about segments may be damaged or lost: they are found again in the WAL.
#[test]
fn damaged_notes_cost_nothing() -> anyhow::Result<()> {
    let primary = primary()?;
    let mut relay = Relay::start(binary(), primary.port(), WITHOUT_DROP)?;
    let start = primary.lsn()?.round_down(1 << 20);
    primary.sql_in("drop1", "insert into t select generate_series(1, 60000)")?;
    let end = primary.lsn()?;
    let before = client::read(relay.port(), FILTERED, start, end)?;
    let notes = relay.state_dir().join("relay").join(FILTERED).join("segments");
    for spoil in 0..3 {
        relay.stop()?;
        let mut bytes = fs::read(&notes)?;
        let middle = bytes.len() / 2;
        match spoil {
            0 => bytes[middle] ^= 1,
            1 => bytes.truncate(middle),
            _ => bytes.clear(),
        }
        fs::write(&notes, &bytes)?;
        relay.run()?;
        for number in 0..before.bytes.len() as u64 >> 20 {
            let from = start + (number << 20);
            let again = client::read(relay.port(), FILTERED, from, end)?;
            assert!(again.bytes == before.get(from, end)?, "from {from}");
        }
    }
    Ok(())
}

/// A folder that cannot be written: refused at the start or at the first filtered client.
#[test]
fn a_folder_that_cannot_be_made() -> anyhow::Result<()> {
    let primary = primary()?;
    let mut relay = Relay::prepare(binary(), primary.port(), WITHOUT_DROP)?;
    // Where a folder should be there is a file; root may write to every folder.
    fs::write(relay.state_dir(), "")?;
    relay.spawn()?;
    let refused = relay.wait_for_line("state", PATIENCE)?;
    assert!(refused.contains(&relay.state_dir().display().to_string()), "{refused}");
    let status = relay.program()?.wait(SOON)?;
    assert!(!status.success(), "it should not run without a place for its state");
    Ok(())
}

/// Two relays with one state folder: the second one's clients are refused while the first one has
/// some, and are served afterwards.
#[test]
fn two_relays_with_one_folder() -> anyhow::Result<()> {
    let primary = primary()?;
    let mut first = Relay::start(binary(), primary.port(), WITHOUT_DROP)?;
    let mut second = Relay::prepare(binary(), primary.port(), WITHOUT_DROP)?;
    std::os::unix::fs::symlink(first.state_dir(), second.state_dir())?;
    second.run()?;
    let start = primary.lsn()?.round_down(1 << 20);
    let end = primary.lsn()?;
    let mut stream = Client::connect(first.port(), FILTERED)?.start(start, 1)?;
    stream.take(end)?;
    let told = refusal(&second, &primary)?;
    assert!(told.contains("state"), "{told}");
    let line = second.wait_for_line("in use", SOON)?;
    assert!(line.contains("another relay"), "{line}");
    first.kill9()?;
    client::read(second.port(), FILTERED, start, end)?;
    Ok(())
}

/// A disk that is full: the stream stops with an error before a byte goes out that depends on
/// what could not be kept, and goes on when there is room.
#[test]
fn a_full_disk() -> anyhow::Result<()> {
    let Some(disk) = Disk::mount(64)? else {
        println!("not root: no small disk to fill");
        return Ok(());
    };
    let primary = primary()?;
    let mut relay = Relay::prepare(binary(), primary.port(), WITHOUT_DROP)?;
    std::os::unix::fs::symlink(disk.path(), relay.state_dir())?;
    relay.run()?;
    let standby = Standby::of(&primary)
        .without_database(primary.database_oid("drop1")?)
        .via(relay.port())
        .name(FILTERED)
        .start()?;
    standby.wait_replayed(&primary)?;
    disk.fill()?;
    primary.sql("create database drop2")?;
    primary.sql("create database keep2")?;
    for database in ["keep", "keep2", "drop2"] {
        primary.sql_in(database, "create table u as select generate_series(1, 20000) x")?;
    }
    let line = relay.wait_for_line("No space left", PATIENCE)?;
    assert!(line.contains("ERROR"), "{line}");
    disk.free()?;
    standby.wait_replayed(&primary)?;
    for database in ["keep", "keep2"] {
        same_contents(&primary, &standby, database)?;
    }
    // Nothing that was half written stays between the notes.
    let notes = fs::read_to_string(disk.path().join("relay").join(FILTERED).join("segments"))?;
    for line in notes.lines() {
        assert!(line.starts_with("crc32c=") && line.matches("crc32c=").count() == 1, "{line}");
    }
    let oid = primary.database_oid("drop2")?.to_string();
    assert!(!standby.data().join("base").join(oid).exists());
    assert!(!standby.log().contains("PANIC"));
    Ok(())
}
