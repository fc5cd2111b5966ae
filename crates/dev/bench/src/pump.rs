//! The floor for any proxy in user space: bytes from one socket to another, and nothing else.
//!
//! It is a process of its own so that its CPU time can be told from everybody else's.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use anyhow::Result;

/// The best size, found with `bench pump PORT BYTES`: 64 and 128 kB take a quarter more CPU
/// time, 512 kB takes as much.
pub(crate) const BUFFER_BYTES: usize = 256 * 1024;

/// Forwards connections to `upstream`, until it is killed. Says where it listens.
pub(crate) fn serve(upstream: u16, buffer_bytes: usize) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    println!("listening on port {}", listener.local_addr()?.port());
    for client in listener.incoming() {
        let client = client?;
        let server = TcpStream::connect(("127.0.0.1", upstream))?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (from_client, to_server) = (client.try_clone()?, server.try_clone()?);
        // A broken connection ends its threads; the pump has nobody to tell.
        thread::spawn(move || carry(from_client, to_server, buffer_bytes).ok());
        thread::spawn(move || carry(server, client, buffer_bytes).ok());
    }
    Ok(())
}

fn carry(mut from: TcpStream, mut to: TcpStream, buffer_bytes: usize) -> io::Result<()> {
    let mut buffer = vec![0; buffer_bytes];
    loop {
        let bytes = from.read(&mut buffer)?;
        if bytes == 0 {
            return to.shutdown(Shutdown::Write);
        }
        to.write_all(buffer.get(..bytes).unwrap_or_default())?;
    }
}
