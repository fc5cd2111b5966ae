//! Addresses that the relay listens on.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// One address for standbys to connect to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Listen {
    /// An IPv4 or IPv6 address and a port.
    Tcp(SocketAddr),
    /// A Unix socket, named as PostgreSQL names it.
    Unix {
        /// Folder of the socket, an absolute path.
        dir: PathBuf,
        /// The number in the socket's name.
        port: u16,
    },
}

impl Listen {
    /// The file of a Unix socket, `DIR/.s.PGSQL.PORT`; `None` for TCP.
    #[must_use]
    pub fn socket_path(&self) -> Option<PathBuf> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix { dir, port } => Some(dir.join(format!(".s.PGSQL.{port}"))),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix { dir, port } => write!(f, "unix:{}:{port}", dir.display()),
        }
    }
}
