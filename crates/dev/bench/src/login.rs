//! Whether the time of a login tells who exists: a wrong password of a user, and a user that
//! there is not, in turn, with verifiers in a file and by a query upstream.
//!
//! Each attempt comes from another address of the loopback, so that none waits for what was
//! failed before it.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context as _, Result, ensure};
use pgproto::frame::{self, Header, backend, frontend};
use pgproto::startup::Startup;
use pgtypes::Major;
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use testkit::{Cluster, Relay};

use crate::Bench;
use crate::report::{Bar, Report, Samples};

/// Attempts of each kind, up to the salt.
const ATTEMPTS: u32 = 300;
/// Attempts of each kind, up to the refusal.
const REFUSALS: u32 = 40;
/// What the relay waits before it refuses the first attempt from an address.
const PAUSE: Duration = Duration::from_millis(250);
const USERS: [&str; 2] = ["berlin", "nobody"];

pub(crate) fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    let primary = Cluster::builder(Major::V18).start()?;
    primary.sql("create role berlin login replication password 'right'")?;
    let folder = tempfile::tempdir()?;
    let line = "select rolname || ':' || rolpassword from pg_authid where rolname = 'berlin'";
    let file = folder.path().join("users");
    fs::write(&file, primary.sql(line)? + "\n")?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    let query = "users_query: \"select rolpassword from pg_authid where rolname = $1\"".to_owned();
    for (name, users) in [("a file", format!("users_file: {}", file.display())), ("a query", query)]
    {
        let settings = format!("configurations: [{{all: {{auth: scram, {users}}}}}]");
        let upstream = format!("host: 127.0.0.1, port: {}, user: postgres", primary.port());
        let mut relay = Relay::prepare_upstream(&bench.pgherd, &upstream, &settings)?;
        relay.run()?;
        let mut address = 0;
        for (what, attempts, until) in
            [("salt", ATTEMPTS, Until::Salt), ("refusal", REFUSALS, Until::Refusal)]
        {
            let attempts = if bench.quick { attempts / 10 } else { attempts };
            let mut times = [Vec::new(), Vec::new()];
            // The first ones find nothing in caches.
            for round in 0..attempts + 3 {
                for (user, times) in USERS.iter().zip(&mut times) {
                    address += 1;
                    let took = attempt(relay.port(), user, address, until)?;
                    if round >= 3 {
                        times.push(took.as_secs_f64() * 1000.0);
                    }
                }
            }
            let [known, unknown] = times.map(Samples::new);
            let value = format!("{:.3} and {:.3} ms", known.median(), unknown.median());
            let difference = Samples::new([unknown.median() - known.median()]);
            let row = format!("login, verifiers by {name}, to the {what}: unknown - known, ms");
            report.add(&row, &value, &difference, Bar::None);
            let spread = known.quantile(0.75) - known.quantile(0.25);
            println!("  half of the known ones lie within {spread:.3} ms");
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    Salt,
    Refusal,
}

/// One attempt with a proof that is wrong; how long the answer took.
fn attempt(port: u16, user: &str, address: u32, until: Until) -> Result<Duration> {
    let from = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 1)) + address);
    let stream = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&stream, &SocketAddrV4::new(from, 0))?;
    connect(&stream, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    let mut stream = TcpStream::from(stream);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let began = Instant::now();
    stream.write_all(&Startup::build(0, &[("user", user), ("replication", "true")])?.raw)?;
    message(&mut stream, backend::AUTHENTICATION)?;
    let data = b"n,,n=,r=abcdefabcdefabcdef";
    let length = u32::try_from(data.len())?.to_be_bytes();
    say(&mut stream, &[&b"SCRAM-SHA-256\0"[..], &length, data].concat())?;
    let first = message(&mut stream, backend::AUTHENTICATION)?;
    if until == Until::Salt {
        return Ok(began.elapsed());
    }
    let first = String::from_utf8_lossy(first.get(4..).unwrap_or_default()).into_owned();
    let nonce = first.split(',').find(|it| it.starts_with("r=")).context("no nonce")?;
    // So that the scheduler has forgotten us.
    thread::sleep(Duration::from_millis(1));
    let began = Instant::now();
    say(&mut stream, format!("c=biws,{nonce},p={}=", "A".repeat(43)).as_bytes())?;
    message(&mut stream, backend::ERROR)?;
    Ok(began.elapsed().saturating_sub(PAUSE))
}

fn say(stream: &mut TcpStream, data: &[u8]) -> Result<()> {
    let mut message = Vec::new();
    frame::write(frontend::PASSWORD, data, &mut message);
    Ok(stream.write_all(&message)?)
}

/// The payload of the next message, which has to be this one.
fn message(stream: &mut TcpStream, tag: u8) -> Result<Vec<u8>> {
    let mut header = [0; Header::BYTES];
    stream.read_exact(&mut header)?;
    let header = Header::parse(&header)?;
    let mut payload = vec![0; header.payload_bytes.min(10_000)];
    stream.read_exact(&mut payload)?;
    let said = String::from_utf8_lossy(&payload);
    ensure!(header.tag == tag, "{:?} came: {said}", char::from(header.tag));
    Ok(payload)
}
