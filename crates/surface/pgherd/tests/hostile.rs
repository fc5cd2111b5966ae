//! Clients that send nothing, half of something, garbage, or far too much: they are cut off by
//! time and size, memory stays bounded, and a stream that runs does not notice (scenario 25).

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use testkit::{Client, Cluster, Major, PATIENCE, Relay, Standby, wait_until};

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pgherd"))
}

/// What the issue allows a relay: 16 MB, and 512 kB a client. Half of the 16 are for the pages of the
/// program's file, which are not counted here: they are three times as many in a debug build.
const BASE_KB: u64 = 8 << 10;
const CLIENT_KB: u64 = 512;

/// A relay of impatient settings with a filtered standby behind it, which has to go on.
struct Scene {
    // Before the relay, and both before the primary.
    standby: Standby,
    relay: Relay,
    primary: Cluster,
    receiver: String,
    files: usize,
}

/// A second for the startup: longer than any honest client needs here.
const SETTINGS: &str = "
limits: {startup_timeout: 1s}
configurations:
  - berlin:
      match: {application_name: berlin}
      filter: {exclude_databases: [nonesuch]}
  - rest: {}
";
const CUT_OFF: Duration = Duration::from_secs(10);

impl Scene {
    fn new() -> Result<Self> {
        let primary = Cluster::builder(Major::V16).start()?;
        primary.sql("create table t(g int)")?;
        let mut relay = Relay::start(binary(), primary.port(), SETTINGS)?;
        let standby = Standby::of(&primary).via(relay.port()).name("berlin").start()?;
        standby.wait_streaming()?;
        let receiver = standby.sql("select pid from pg_stat_wal_receiver")?;
        let files = relay.program()?.open_files()?;
        Ok(Self { standby, relay, primary, receiver, files })
    }

    fn port(&self) -> u16 {
        self.relay.port()
    }

    /// The stream went on, on the same connection, and `clients` at once left nothing behind.
    fn goes_on(mut self, clients: u64) -> Result<()> {
        self.primary.sql("insert into t select generate_series(1, 1000)")?;
        self.standby.wait_replayed(&self.primary)?;
        let receiver = self.standby.sql("select pid from pg_stat_wal_receiver")?;
        assert_eq!(receiver, self.receiver, "the standby had to reconnect");
        let program = self.relay.program()?;
        let peak = program.peak_own_kb()?;
        let allowed = BASE_KB + CLIENT_KB * (clients + 1);
        assert!(peak < allowed, "{peak} kB at the peak, {allowed} are allowed");
        let files = self.files;
        wait_until("the relay to close what it had open", PATIENCE, || {
            Ok((program.open_files()? <= files).then_some(()))
        })
    }
}

/// Waits until the relay has closed the connection, which must be neither at once nor late.
fn cut_off(client: &mut Client) -> Result<Vec<u8>> {
    let start = Instant::now();
    let last = client.wait_closed(CUT_OFF)?;
    ensure!(start.elapsed() < CUT_OFF, "cut off only after {:?}", start.elapsed());
    Ok(last)
}

/// Numbers that look random and are the same in each run.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    next.flatten().take(bytes).collect()
}

#[test]
fn silent_and_half_startups_are_cut_off_in_time() -> Result<()> {
    let scene = Scene::new()?;
    let beginnings: [&[u8]; 6] = [
        b"",
        b"\0",
        b"\0\0\0\x08",
        b"\0\0\0\x40\0\x03\0\0user\0postgres\0",
        &[0, 0, 0, 8, 4, 210, 22, 47],
        b"\0\0\x27\x14\0\x03\0\0",
    ];
    let mut clients = Vec::new();
    for beginning in beginnings {
        let mut client = Client::connect(scene.port())?;
        client.send(beginning)?;
        clients.push(client);
    }
    for client in &mut clients {
        cut_off(client)?;
    }
    scene.goes_on(6)
}

#[test]
fn lengths_that_no_packet_has_are_cut_off_at_once() -> Result<()> {
    let scene = Scene::new()?;
    for start in [
        &[0x7f, 0xff, 0xff, 0xff][..],
        &[0x80, 0, 0, 0],
        &[0, 0, 0, 0],
        &[0, 0, 0, 7],
        &[0, 0, 0x27, 0x15],
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x80\x00\x00\x08",
    ] {
        let mut client = Client::connect(scene.port())?;
        client.send(start)?;
        // Sooner than the time for a startup: the length alone was enough.
        let begun = Instant::now();
        assert!(cut_off(&mut client)?.is_empty(), "{start:?} was answered");
        assert!(begun.elapsed() < Duration::from_millis(900), "{start:?}: {:?}", begun.elapsed());
    }
    scene.goes_on(1)
}

#[test]
fn random_bytes_are_cut_off() -> Result<()> {
    let scene = Scene::new()?;
    let mut clients = Vec::new();
    for seed in 0..20 {
        let mut client = Client::connect(scene.port())?;
        // The relay may have hung up before all is sent.
        client.send(&noise(seed, 100_000)).ok();
        clients.push(client);
    }
    // And as the body of a startup packet that says the right length.
    for seed in 20..40 {
        let mut client = Client::connect(scene.port())?;
        let body = noise(seed, 996);
        client.send(&[&1004_u32.to_be_bytes()[..], &[0, 3, 0, 0], &body].concat())?;
        clients.push(client);
    }
    for client in &mut clients {
        cut_off(client)?;
    }
    scene.goes_on(40)
}

#[test]
fn who_only_asks_for_encryption_is_cut_off() -> Result<()> {
    let scene = Scene::new()?;
    let mut client = Client::connect(scene.port())?;
    let request = [0, 0, 0, 8, 4, 210, 22, 47];
    client.send(&request.repeat(1000)).ok();
    let answers = cut_off(&mut client)?;
    assert!(answers.len() < 10, "{} answers", answers.len());
    scene.goes_on(1)
}

#[test]
fn a_message_that_is_not_finished_is_cut_off_in_time() -> Result<()> {
    let scene = Scene::new()?;
    let mut clients = Vec::new();
    for half in [&b"Q"[..], b"Q\0\0", b"Q\0\0\0\x20IDENTIFY", b"Q\0\0\0\x20"] {
        let mut client = Client::replication(scene.port(), "half")?;
        client.send(half)?;
        clients.push(client);
    }
    for client in &mut clients {
        let answer = client.answer()?;
        let error = answer.error("08P01")?;
        assert!(error.message.contains("took too long"), "{error}");
        cut_off(client)?;
    }
    // Who has sent nothing of a message may be silent as long as it likes.
    let mut idle = Client::replication(scene.port(), "idle")?;
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(idle.query("IDENTIFY_SYSTEM")?.value(1)?, "1");
    drop(idle);
    scene.goes_on(4)
}

#[test]
fn messages_that_are_too_long_are_cut_off_by_their_length() -> Result<()> {
    let scene = Scene::new()?;
    for (head, place) in [
        (&b"Q\x7f\xff\xff\xff"[..], "a query of 2 GB"),
        (b"Q\x00\x20\x00\x00", "a query of 2 MB"),
        (b"d\x7f\xff\xff\xff", "a piece of a stream of 2 GB"),
        (b"Q\x80\x00\x00\x00", "a negative length"),
        (b"Q\x00\x00\x00\x03", "a length shorter than itself"),
    ] {
        let mut client = Client::replication(scene.port(), "long")?;
        client.send(head)?;
        let answer = client.answer()?;
        let error = answer.error("08P01")?;
        assert_eq!(error.severity, "FATAL", "{place}");
        assert!(error.message.starts_with("invalid message"), "{place}: {error}");
        cut_off(&mut client)?;
    }
    scene.goes_on(1)
}

/// The same while WAL streams, where nobody reads messages as commands.
#[test]
fn garbage_inside_a_stream_ends_only_that_stream() -> Result<()> {
    let scene = Scene::new()?;
    let start = format!("START_REPLICATION {}", scene.primary.lsn()?);
    for name in ["berlin", "unfiltered"] {
        for garbage in [&b"d\x7f\xff\xff\xff"[..], b"!\0\0\0\x04", &noise(7, 200_000)] {
            let mut client = Client::replication(scene.port(), name)?;
            assert_eq!(client.query(&start)?.tags, "W");
            client.send(garbage).ok();
            cut_off(&mut client)?;
        }
        // What is no message of a standby is the server's to judge, which leaves without a word.
        let mut client = Client::replication(scene.port(), name)?;
        assert_eq!(client.query(&start)?.tags, "W");
        client.send_message(b'd', b"\xffnonsense")?;
        let answer = client.answer()?;
        assert!(answer.error("08006")?.message.contains("upstream server closed"));
        assert!(scene.primary.log().contains("unexpected message type"));
        cut_off(&mut client)?;
    }
    scene.goes_on(2)
}

#[test]
fn a_flood_of_garbage_costs_nothing() -> Result<()> {
    let mut scene = Scene::new()?;
    let before = scene.relay.program()?.cpu_secs()?;
    let garbage = noise(99, 1 << 20);
    std::thread::scope(|scope| -> Result<()> {
        let floods: Vec<_> = (0..4)
            .map(|_| {
                let mut client = Client::replication(scene.port(), "flood")?;
                let garbage = &garbage;
                Ok(scope.spawn(move || {
                    // 32 MB from each, until the relay has had enough.
                    let sent = (0..32).take_while(|_| client.send(garbage).is_ok()).count();
                    (sent, client.wait_closed(CUT_OFF).is_ok())
                }))
            })
            .collect::<Result<_>>()?;
        for flood in floods {
            let (_, closed) = flood.join().map_err(|_panic| anyhow::anyhow!("panicked"))?;
            ensure!(closed, "a flood was not cut off");
        }
        Ok(())
    })?;
    let used = scene.relay.program()?.cpu_secs()? - before;
    assert!(used < 5.0, "{used} seconds of CPU time");
    scene.goes_on(4)
}

/// Thousands of queries at once: answered one by one, as fast as the client reads.
#[test]
fn queries_without_end_are_answered_one_by_one() -> Result<()> {
    let scene = Scene::new()?;
    let mut client = Client::replication(scene.port(), "queries")?;
    let mut queries = Vec::new();
    for _ in 0..2_000 {
        pgproto::frontend::query("SELECT 1", &mut queries);
        pgproto::frontend::query("SHOW wal_segment_size", &mut queries);
    }
    client.send(&queries)?;
    for _ in 0..2_000 {
        client.answer()?.error("0A000")?;
        assert_eq!(client.answer()?.value(0)?, "16MB");
    }
    drop(client);
    scene.goes_on(1)
}
