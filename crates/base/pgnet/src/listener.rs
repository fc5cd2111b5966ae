//! Where clients come in.

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::PathBuf;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UnixListener, UnixStream};

use crate::Conn;
use crate::endpoint::socket_file;

/// Connections that the kernel keeps until they are accepted: a herd that comes back at
/// once after a restart must not be turned away.
const BACKLOG: i32 = 1024;

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Local {
    /// A TCP address; port 0 takes a free one.
    Tcp(SocketAddr),
    /// A Unix socket in a folder, named as PostgreSQL names it.
    Unix {
        /// The folder.
        directory: PathBuf,
        /// The number in the socket's name.
        port: u16,
    },
}

impl fmt::Display for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix { directory, port } => socket_file(directory, *port).display().fmt(f),
        }
    }
}

/// A listening socket. A Unix socket's file is removed when it is dropped.
#[derive(Debug)]
pub struct Listener {
    socket: Socketed,
    local: Local,
}

#[derive(Debug)]
enum Socketed {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A client that has come in.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub conn: Conn,
    /// Its address; `None` over a Unix socket.
    pub address: Option<IpAddr>,
    /// How it is called in the log: `192.0.2.7:51712`, or `local`.
    pub name: String,
}

impl Listener {
    /// Starts to listen; must be called inside the runtime.
    ///
    /// A socket file that a dead process left behind is replaced, a live one is not.
    ///
    /// # Errors
    ///
    /// What the system says, as "address in use".
    pub async fn bind(local: &Local) -> io::Result<Self> {
        let (socket, local) = match local {
            Local::Tcp(address) => {
                let listener = listen_tcp(*address)?;
                let bound = listener.local_addr()?;
                (Socketed::Tcp(listener), Local::Tcp(bound))
            }
            Local::Unix { directory, port } => {
                let file = socket_file(directory, *port);
                let is_socket =
                    fs::symlink_metadata(&file).is_ok_and(|m| m.file_type().is_socket());
                if is_socket && UnixStream::connect(&file).await.is_err() {
                    fs::remove_file(&file)?;
                }
                let listener = UnixListener::bind(&file)?;
                // As PostgreSQL's unix_socket_permissions: who may enter is the server's matter.
                fs::set_permissions(&file, fs::Permissions::from_mode(0o777))?;
                (Socketed::Unix(listener), local.clone())
            }
        };
        Ok(Self { socket, local })
    }

    /// The address in use, with the port that port 0 became.
    #[must_use]
    pub const fn local(&self) -> &Local {
        &self.local
    }

    /// Waits for a client. Cancel-safe.
    ///
    /// # Errors
    ///
    /// What the system says; those of the kind "too many open files" pass.
    pub async fn accept(&self) -> io::Result<Accepted> {
        match &self.socket {
            Socketed::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok(Accepted {
                    conn: Conn::Tcp(stream),
                    address: Some(peer.ip().to_canonical()),
                    name: SocketAddr::new(peer.ip().to_canonical(), peer.port()).to_string(),
                })
            }
            Socketed::Unix(listener) => {
                let (stream, _unnamed) = listener.accept().await?;
                Ok(Accepted { conn: Conn::Unix(stream), address: None, name: "local".to_owned() })
            }
        }
    }
}

/// IPv6 sockets take IPv6 only, so that `0.0.0.0` and `[::]` can stand side by side.
fn listen_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Local::Unix { directory, port } = &self.local {
            // Best effort: a file that stays behind is replaced by the next bind.
            fs::remove_file(socket_file(directory, *port)).ok();
        }
    }
}
