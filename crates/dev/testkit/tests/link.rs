//! The link misbehaves as told, and programs are watched.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use testkit::{Cluster, Link, PATIENCE, Program, Signal, Standby, Traffic};

const SHORT: Duration = Duration::from_millis(200);

fn connect(link: &Link, listener: &TcpListener) -> anyhow::Result<(TcpStream, TcpStream)> {
    let client = TcpStream::connect(("127.0.0.1", link.port()))?;
    let (server, _) = listener.accept()?;
    client.set_read_timeout(Some(PATIENCE))?;
    Ok((client, server))
}

#[test]
fn passes_stalls_splits_and_cuts() -> anyhow::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let link = Link::to(listener.local_addr()?.port())?;
    let (mut client, mut server) = connect(&link, &listener)?;
    let mut five = [0; 5];
    client.write_all(b"hello")?;
    server.read_exact(&mut five)?;
    assert_eq!((&five, link.bytes_up()), (b"hello", 5));

    link.set(Traffic::Stall);
    std::thread::sleep(SHORT);
    server.write_all(b"later")?;
    client.set_read_timeout(Some(SHORT))?;
    assert!(client.read_exact(&mut five).is_err(), "nothing comes through a stalled link");
    link.split(1);
    link.set(Traffic::Pass);
    client.set_read_timeout(Some(PATIENCE))?;
    client.read_exact(&mut five)?;
    assert_eq!(&five, b"later");

    link.cut()?;
    let error = client.read(&mut five).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!((link.open_connections(), link.accepted()), (0, 1));
    link.set(Traffic::Refuse);
    let mut refused = TcpStream::connect(("127.0.0.1", link.port()))?;
    assert!(matches!(refused.read(&mut five), Ok(0) | Err(_)));
    Ok(())
}

/// A target that resets the connection: the client hears of it at once.
#[test]
fn a_reset_goes_through() -> anyhow::Result<()> {
    let target = TcpListener::bind(("127.0.0.1", 0))?;
    let link = Link::to(target.local_addr()?.port())?;
    let mut client = TcpStream::connect(("127.0.0.1", link.port()))?;
    client.set_read_timeout(Some(PATIENCE))?;
    let (server, _) = target.accept()?;
    // Closed with something unread: that is a reset.
    client.write_all(b"unread")?;
    testkit::wait_until("the bytes to arrive", PATIENCE, || {
        Ok((server.peek(&mut [0; 6])? == 6).then_some(()))
    })?;
    drop(server);
    let began = std::time::Instant::now();
    assert!(matches!(client.read(&mut [0; 1]), Ok(0) | Err(_)));
    assert!(began.elapsed() < PATIENCE / 2, "it took {:?}", began.elapsed());
    Ok(())
}

#[test]
fn standby_survives_a_bad_link() -> anyhow::Result<()> {
    let primary = Cluster::builder(testkit::Major::V18).start()?;
    let link = Link::to(primary.port())?;
    let standby = Standby::of(&primary).via(link.port()).start()?;
    standby.wait_streaming()?;
    link.split(100);
    primary.sql("create table t as select generate_series(1, 1000) x")?;
    standby.wait_replayed(&primary)?;
    link.cut()?;
    primary.sql("insert into t values (0)")?;
    standby.wait_replayed(&primary)?;
    assert_eq!(standby.sql("select count(*) from t")?, "1001");
    assert!(link.accepted() >= 2);
    Ok(())
}

#[test]
fn programs_are_watched() -> anyhow::Result<()> {
    let script =
        "echo out; echo err >&2; trap 'echo asked; exit 3' TERM; while :; do sleep 0.05; done";
    let mut program = Program::start(Command::new("bash").args(["-c", script]))?;
    program.wait_for_line("out", PATIENCE)?;
    program.wait_for_line("err", PATIENCE)?;
    assert!(program.rss_kb()? > 100 && program.peak_rss_kb()? >= program.rss_kb()?);
    assert!(program.cpu_secs()? < 5.0 && program.open_files()? >= 3);
    program.signal(Signal::TERM)?;
    assert_eq!(program.wait(PATIENCE)?.code(), Some(3));
    program.wait_for_line("asked", PATIENCE)?;
    let error = program.wait_for_line("never", PATIENCE).unwrap_err();
    assert!(format!("{error:#}").contains("ended without"), "{error:#}");
    Ok(())
}
