//! A TCP forwarder on loopback that can be made to misbehave.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use socket2::SockRef;

use crate::wait::{PATIENCE, wait_until};

/// How often a pump looks at the switches while nothing arrives.
const TICK: Duration = Duration::from_millis(20);
const BUFFER_BYTES: usize = 128 << 10;

/// What the link does with bytes and with new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Traffic {
    /// Both go through.
    Pass,
    /// Nothing is read any more in either direction, as in a network that swallows packets; new
    /// connections are accepted and stay silent.
    Stall,
    /// Bytes of open connections go through, new connections are closed at once.
    Refuse,
}

#[derive(Debug)]
struct Switches {
    target: AtomicU16,
    traffic: AtomicU8,
    /// Most bytes in one write; 0 is no limit.
    split: AtomicUsize,
    /// Raised by each cut; a pump that sees another number than it began with ends.
    cuts: AtomicUsize,
    pairs: Mutex<Vec<Weak<Pair>>>,
    accepted: AtomicUsize,
    bytes_down: AtomicU64,
    bytes_up: AtomicU64,
    over: AtomicBool,
}

impl Switches {
    /// The open connections.
    fn pairs(&self) -> Vec<Weak<Pair>> {
        let mut pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        pairs.retain(|pair| pair.strong_count() > 0);
        pairs.clone()
    }
}

/// A link to a port of 127.0.0.1; cut when dropped.
#[derive(Debug)]
pub struct Link {
    port: u16,
    switches: Arc<Switches>,
}

impl Link {
    /// Listens on a free port and forwards to `target`.
    ///
    /// # Errors
    ///
    /// When there is no free port.
    pub fn to(target: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        let switches = Arc::new(Switches {
            target: AtomicU16::new(target),
            traffic: AtomicU8::new(Traffic::Pass as u8),
            split: AtomicUsize::new(0),
            cuts: AtomicUsize::new(0),
            pairs: Mutex::default(),
            accepted: AtomicUsize::new(0),
            bytes_down: AtomicU64::new(0),
            bytes_up: AtomicU64::new(0),
            over: AtomicBool::new(false),
        });
        let ours = Arc::clone(&switches);
        thread::spawn(move || accept(&listener, &ours));
        Ok(Self { port, switches })
    }

    /// The port to connect to.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Throws a switch.
    pub fn set(&self, traffic: Traffic) {
        self.switches.traffic.store(traffic as u8, Ordering::SeqCst);
    }

    /// Sends new connections to another port.
    pub fn retarget(&self, target: u16) {
        self.switches.target.store(target, Ordering::SeqCst);
    }

    /// Cuts every write into pieces of at most `bytes`; 0 is no limit.
    pub fn split(&self, bytes: usize) {
        self.switches.split.store(bytes, Ordering::SeqCst);
    }

    /// Resets all connections (RST to both sides) and waits until they are gone.
    ///
    /// # Errors
    ///
    /// When one of them stays.
    pub fn cut(&self) -> Result<()> {
        self.switches.cuts.fetch_add(1, Ordering::SeqCst);
        // Others may come meanwhile: a standby is back at once.
        let cut = self.switches.pairs();
        wait_until("the connections to end", PATIENCE, || {
            Ok(cut.iter().all(|pair| pair.strong_count() == 0).then_some(()))
        })
    }

    /// Connections that are open.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.switches.pairs().len()
    }

    /// Connections that ever came.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.switches.accepted.load(Ordering::SeqCst)
    }

    /// Bytes that went from the target to the clients.
    #[must_use]
    pub fn bytes_down(&self) -> u64 {
        self.switches.bytes_down.load(Ordering::SeqCst)
    }

    /// Bytes that went from the clients to the target.
    #[must_use]
    pub fn bytes_up(&self) -> u64 {
        self.switches.bytes_up.load(Ordering::SeqCst)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.switches.over.store(true, Ordering::SeqCst);
        self.switches.cuts.fetch_add(1, Ordering::SeqCst);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

fn accept(listener: &TcpListener, switches: &Arc<Switches>) {
    for client in listener.incoming() {
        if switches.over.load(Ordering::SeqCst) {
            return;
        }
        let Ok(client) = client else { continue };
        switches.accepted.fetch_add(1, Ordering::SeqCst);
        if switches.traffic.load(Ordering::SeqCst) == Traffic::Refuse as u8 {
            continue;
        }
        let target = switches.target.load(Ordering::SeqCst);
        // Without a target the client sees its connection closed.
        let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else { continue };
        drop(forward(client, server, switches));
    }
}

/// Starts the two pumps of a connection.
fn forward(client: TcpStream, server: TcpStream, switches: &Arc<Switches>) -> Result<()> {
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TICK))?;
    }
    let born = switches.cuts.load(Ordering::SeqCst);
    // Dropped by whichever pump ends last: then both sockets are closed.
    let broken = AtomicBool::new(false);
    let pair = Arc::new(Pair { client, server, broken, switches: Arc::clone(switches) });
    switches.pairs.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&pair));
    for down in [true, false] {
        let pair = Arc::clone(&pair);
        thread::spawn(move || {
            let end = pump(&pair, down, born);
            if end.is_err() || pair.switches.cuts.load(Ordering::SeqCst) != born {
                pair.reset();
            }
        });
    }
    Ok(())
}

#[derive(Debug)]
struct Pair {
    client: TcpStream,
    server: TcpStream,
    /// One side was reset: the pump of the other direction ends too.
    broken: AtomicBool,
    switches: Arc<Switches>,
}

impl Pair {
    /// Makes the close to come a reset.
    fn reset(&self) {
        self.broken.store(true, Ordering::SeqCst);
        for stream in [&self.client, &self.server] {
            drop(SockRef::from(stream).set_linger(Some(Duration::ZERO)));
        }
    }
}

/// Moves bytes one way until the end, an error, or a cut.
fn pump(pair: &Pair, down: bool, born: usize) -> std::io::Result<()> {
    let (mut from, mut to, counter) = if down {
        (&pair.server, &pair.client, &pair.switches.bytes_down)
    } else {
        (&pair.client, &pair.server, &pair.switches.bytes_up)
    };
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let cut = pair.switches.cuts.load(Ordering::SeqCst) != born;
        if cut || pair.broken.load(Ordering::SeqCst) {
            return Ok(());
        }
        if pair.switches.traffic.load(Ordering::SeqCst) == Traffic::Stall as u8 {
            thread::sleep(TICK);
            continue;
        }
        let count = match from.read(&mut buffer) {
            Ok(0) => return to.shutdown(Shutdown::Write),
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                continue;
            }
            Err(error) => return Err(error),
        };
        // Before the write, so that who has got the bytes finds them counted.
        counter.fetch_add(u64::try_from(count).unwrap_or(0), Ordering::SeqCst);
        let bytes = buffer.get(..count).unwrap_or_default();
        let piece = match pair.switches.split.load(Ordering::SeqCst) {
            0 => count,
            limit => limit,
        };
        for piece in bytes.chunks(piece) {
            to.write_all(piece)?;
        }
    }
}
