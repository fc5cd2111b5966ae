//! A thousand clients at once, ten thousand one after the other, and too few open files.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use testkit::{
    Authority, Client, Cluster, Major, PATIENCE, Relay, Signal, Standby, give_to_servers,
    wait_until,
};

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pgherd"))
}

const REPLICATION: [(&str, &str); 2] = [("user", "postgres"), ("replication", "true")];
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
const SENDERS: &str = "select count(*) from pg_stat_activity where backend_type = 'walsender'";

/// Clients at once, and how many of them come with TLS.
const AT_ONCE: usize = 1_000;
const WITH_TLS: usize = 30;
/// Who logs in at the same time.
const THREADS: usize = 8;

/// Memory of a relay and of each client, in kB: what the relay promises is 16 MB and 512 kB.
const OWN_KB: u64 = 16 << 10;
const CLIENT_KB: u64 = 512;

fn soft_limit(current: Option<u64>) -> Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: current.or(maximum), maximum })?;
    Ok(())
}

/// One that is logged in with TLS, and waits.
fn psql(primary: &Cluster, port: u16) -> Result<Child> {
    let mut psql = primary.client("psql", port)?;
    psql.args(["-XAt", "-d", "replication=true sslmode=require"]);
    psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut psql = psql.spawn()?;
    psql.stdin.as_mut().context("no input")?.write_all(b"IDENTIFY_SYSTEM;\n")?;
    Ok(psql)
}

#[test]
fn a_thousand_clients_at_once() -> Result<()> {
    let authority = Authority::new("pgherd test authority")?;
    let own = authority.sign("relay", "relay", &["127.0.0.1"])?;
    let primary = Cluster::builder(Major::V18)
        .set("max_wal_senders", "1010")
        .set("max_connections", "1020")
        .set("shared_buffers", "16MB")
        .start()?;
    let settings = format!(
        "limits: {{max_connections: 1010}}\ntls: {{cert: {}, key: {}}}\nconfigurations:\n\
         - part: {{match: {{application_name: part}}, filter: {{exclude_databases: [nonesuch]}}}}\n\
         - all: {{}}",
        own.cert.display(),
        own.key.display()
    );
    // As a shell has it: the relay has to raise it itself.
    soft_limit(Some(256))?;
    let mut relay = Relay::start(binary(), primary.port(), &settings)?;
    soft_limit(None)?;
    let standby = Standby::of(&primary).via(relay.port()).name("part").start()?;
    standby.wait_streaming()?;
    let stream = "select pid from pg_stat_replication where application_name = 'part'";
    let before = primary.sql(stream)?;
    let port = relay.port();
    let secured = (0..WITH_TLS).map(|_| psql(&primary, port)).collect::<Result<Vec<_>>>()?;
    let plain = AT_ONCE - WITH_TLS;
    let mut clients = std::thread::scope(|scope| -> Result<Vec<Client>> {
        let share = |thread: usize| plain / THREADS + usize::from(thread < plain % THREADS);
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                scope.spawn(move || {
                    (0..share(thread)).map(|_| Client::replication(port, "idle")).collect()
                })
            })
            .collect();
        let all = threads.into_iter().map(|it| it.join().expect("no panic"));
        Ok(all.collect::<Result<Vec<Vec<_>>>>()?.into_iter().flatten().collect())
    })?;
    // With the standby's.
    let all = (AT_ONCE + 1).to_string();
    primary.wait_for(SENDERS, &all, PATIENCE)?;
    primary.sql("create table t as select generate_series(1, 10000) as g")?;
    standby.wait_replayed(&primary)?;
    for client in &mut clients {
        ensure!(client.query("IDENTIFY_SYSTEM")?.value(1)? == "1");
    }
    for psql in secured {
        let said = psql.wait_with_output()?;
        ensure!(said.status.success() && said.stdout.windows(3).any(|it| it == b"|1|"));
    }
    let peak = relay.program()?.peak_own_kb()?;
    let promised = OWN_KB + CLIENT_KB * (AT_ONCE as u64 + 1);
    ensure!(peak < promised / 4, "{peak} kB at the peak, {promised} are promised");
    drop(clients);
    primary.wait_for(SENDERS, "1", PATIENCE)?;
    ensure!(primary.sql(stream)? == before, "the stream was interrupted");
    let program = relay.program()?;
    wait_until("the relay to close what it had open", PATIENCE, || {
        Ok((program.open_files()? < 64).then_some(()))
    })
}

/// One of each kind that there is; those that log in are dear, so that there are fewer of them.
fn come_and_go(relay: &Relay, number: u32) -> Result<()> {
    let mut client = Client::connect(relay.port())?;
    match number % 50 {
        0 => client.start(&REPLICATION)?.rows().map(drop)?,
        1 => {
            client.start(&REPLICATION)?.rows()?;
            client.query("SHOW wal_segment_size")?.rows()?;
            client.send_message(b'X', b"")?;
        }
        // A cancel request for nobody.
        2 => client.send(&[0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 1, 0, 0, 0, 2])?,
        3..=9 => drop(client.start(&[("user", "postgres")])?.error("0A000")?),
        10..=15 => {
            let refused = [("user", "x"), ("replication", "true"), ("application_name", "no")];
            client.start(&refused)?.error("28000")?;
        }
        16..=20 => client.send(b"GET / HTTP/1.1\r\n\r\n")?,
        21..=25 => client.send(b"\0\0\0")?,
        // TLS given up, before and in the middle of the handshake.
        26..=30 => {
            client.send(&SSL_REQUEST)?;
            ensure!(client.byte()? == b'S');
        }
        31..=35 => {
            client.send(&SSL_REQUEST)?;
            ensure!(client.byte()? == b'S');
            client.send(&[22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3])?;
        }
        // In the middle of a stream.
        36 => {
            client.start(&REPLICATION)?.rows()?;
            client.send_query("START_REPLICATION 0/1000000 TIMELINE 1")?;
            ensure!(client.message()?.is_some_and(|it| it.tag == b'W'));
        }
        // A wrong password; nobody waits for the answer, which comes after a pause of seconds. Rare,
        // as the memory of those who are in their pause would be taken for a leak.
        37 if number % 500 == 37 => {
            ensure!(client.start(&LOCKED)?.tags == "R");
            client.send_message(b'p', b"wrong\0")?;
        }
        _ => {}
    }
    Ok(())
}

/// A user whom the server asks for a password.
const LOCKED: [(&str, &str); 2] = [("user", "locked"), ("replication", "true")];

fn ask_for_a_password(primary: &Cluster) -> Result<()> {
    primary.sql("create role locked replication login password 'right'")?;
    let file = primary.data().join("pg_hba.conf");
    let text = fs::read_to_string(&file)?;
    fs::write(&file, format!("host replication locked all password\n{text}"))?;
    give_to_servers(&file)?;
    primary.sql("select pg_reload_conf()")?;
    wait_until("the server to ask for a password", PATIENCE, || {
        let mut client = Client::connect(primary.port())?;
        Ok((!client.start(&LOCKED)?.is_ready()).then_some(()))
    })
}

#[test]
fn ten_thousand_connects_leak_neither_memory_nor_files() -> Result<()> {
    let authority = Authority::new("pgherd test authority")?;
    let own = authority.sign("relay", "relay", &["127.0.0.1"])?;
    let primary = Cluster::builder(Major::V15).start()?;
    let settings = format!(
        "tls: {{cert: {}, key: {}}}\nconfigurations:\n\
         - no: {{match: {{application_name: no}}, auth: reject}}\n- all: {{}}",
        own.cert.display(),
        own.key.display()
    );
    ask_for_a_password(&primary)?;
    let mut relay = Relay::start(binary(), primary.port(), &settings)?;
    let files = relay.program()?.open_files()?;
    let (warm_up, count) = (2_000, 10_000);
    for number in 0..warm_up {
        come_and_go(&relay, number)?;
    }
    let program = relay.program()?;
    let before = (program.rss_kb()?, program.peak_own_kb()?);
    for number in 0..count {
        come_and_go(&relay, number)?;
    }
    let program = relay.program()?;
    wait_until("the relay to close what it had open", PATIENCE, || {
        Ok((program.open_files()? <= files).then_some(()))
    })?;
    let after = (program.rss_kb()?, program.peak_own_kb()?);
    eprintln!("kB in use and at the peak: {before:?} before, {after:?} after");
    ensure!(after.0 < before.0 + 2_000, "from {} to {} kB", before.0, after.0);
    ensure!(after.1 < before.1 + 2_000, "at the peak from {} to {} kB", before.1, after.1);
    primary.wait_for(SENDERS, "0", PATIENCE)?;
    // No task is left to wait for.
    program.signal(Signal::TERM)?;
    ensure!(program.wait(PATIENCE)?.success());
    let text = program.text();
    ensure!(!text.contains("did not stop in time"), "{text}");
    ensure!(text.contains(&format!("connections={}", warm_up + count)), "{text}");
    ensure!(text.contains("password authentication failed"), "no wrong password was tried");
    Ok(())
}

/// Out of files the relay says so, goes on with those who are there, waits without turning in
/// circles, and lets in the others when there are files again.
#[test]
fn without_files_it_waits() -> Result<()> {
    let primary = Cluster::builder(Major::V17).start()?;
    let mut relay = Relay::start(binary(), primary.port(), "limits: {max_connections: 500}")?;
    let mut inside = Client::replication(relay.port(), "inside")?;
    let pid = Pid::from_raw(i32::try_from(relay.program()?.pid())?).context("no process")?;
    let open = relay.program()?.open_files()? as u64;
    let limit = Rlimit { current: Some(open + 5), maximum: Some(open + 5) };
    prlimit(Some(pid), Resource::Nofile, limit)?;
    let crowd: Vec<_> = (0..30).map(|_| Client::connect(relay.port())).collect::<Result<_>>()?;
    let line = relay.wait_for_line("cannot accept a connection", PATIENCE)?;
    ensure!(line.contains("Too many open files"), "{line}");
    let before = relay.program()?.cpu_secs()?;
    std::thread::sleep(Duration::from_secs(2));
    let used = relay.program()?.cpu_secs()? - before;
    ensure!(used < 0.5, "{used} s of CPU time to wait for two");
    ensure!(inside.query("IDENTIFY_SYSTEM")?.value(1)? == "1");
    let told = relay.program()?.text().matches("cannot accept a connection").count();
    ensure!(told == 1, "told {told} times within two seconds");
    drop(crowd);
    wait_until("to be let in", PATIENCE, || {
        let come = Client::connect(relay.port())?.start(&REPLICATION);
        Ok(come.ok().filter(testkit::Answer::is_ready).map(drop))
    })?;
    // At the next start it tells beforehand. Nobody can raise the hard limit of this one again.
    relay.stop()?;
    let own = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(300), maximum: own.maximum })?;
    relay.run()?;
    ensure!(!relay.program()?.text().contains("too few open files"), "it did not raise the limit");
    relay.stop()?;
    setrlimit(Resource::Nofile, Rlimit { current: Some(300), maximum: Some(300) })?;
    relay.run()?;
    let line = relay.wait_for_line("too few open files are allowed", PATIENCE)?;
    ensure!(line.contains("limit=300") && line.contains("needed=1200"), "{line}");
    Ok(())
}
