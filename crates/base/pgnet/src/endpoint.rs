//! Where a server is, and how to get there.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};

use crate::{Conn, TlsError};

/// A server's place, as libpq's `host` and `port` give it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A host name or an address, and a port.
    Tcp {
        /// Name or address; every address that the name has is tried.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// The folder of a Unix socket (a `host` that begins with a slash), and its number.
    Unix {
        /// Folder of the socket.
        directory: PathBuf,
        /// The number in the socket's name.
        port: u16,
    },
}

/// No connection came about.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name has no address, or nothing answers at any.
    #[error("cannot connect to {endpoint}: {source}")]
    Refused {
        /// Where we tried to get.
        endpoint: Endpoint,
        /// The last address's error.
        source: io::Error,
    },
    /// Nothing answered in time.
    #[error("cannot connect to {endpoint}: no answer within {} s", .waited.as_secs_f32())]
    TimedOut {
        /// Where we tried to get.
        endpoint: Endpoint,
        /// How long.
        waited: Duration,
    },
    /// TLS has to be, and there is none.
    #[error("cannot connect to {endpoint} with TLS: {source}")]
    Tls {
        /// Where we got.
        endpoint: Endpoint,
        /// What went wrong.
        source: TlsError,
    },
}

impl Endpoint {
    /// The place that libpq means by this host and port.
    #[must_use]
    pub fn new(host: &str, port: u16) -> Self {
        if host.starts_with('/') {
            Self::Unix { directory: host.into(), port }
        } else {
            Self::Tcp { host: host.to_owned(), port }
        }
    }

    /// Connects, within `limit` for all addresses together. Cancel-safe.
    ///
    /// # Errors
    ///
    /// [`DialError`] names the place and the reason.
    pub async fn dial(&self, limit: Duration) -> Result<Conn, DialError> {
        match tokio::time::timeout(limit, self.connect()).await {
            Ok(Ok(conn)) => Ok(conn),
            Ok(Err(source)) => Err(DialError::Refused { endpoint: self.clone(), source }),
            Err(_elapsed) => Err(DialError::TimedOut { endpoint: self.clone(), waited: limit }),
        }
    }

    async fn connect(&self) -> io::Result<Conn> {
        match self {
            Self::Tcp { host, port } => {
                let host = host.trim_start_matches('[').trim_end_matches(']');
                Ok(Conn::Tcp(TcpStream::connect((host, *port)).await?))
            }
            Self::Unix { directory, port } => {
                Ok(Conn::Unix(UnixStream::connect(socket_file(directory, *port)).await?))
            }
        }
    }
}

/// The name that PostgreSQL gives to a socket; `UNIXSOCK_PATH` of `pqcomm.h`.
pub(crate) fn socket_file(directory: &Path, port: u16) -> PathBuf {
    directory.join(format!(".s.PGSQL.{port}"))
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') && !host.starts_with('[') => {
                write!(f, "[{host}]:{port}")
            }
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix { directory, port } => socket_file(directory, *port).display().fmt(f),
        }
    }
}
