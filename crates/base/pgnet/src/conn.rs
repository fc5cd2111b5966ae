//! One connection, TCP or Unix socket, and how its death is noticed.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

/// Keepalive probes start after this share of the peer timeout, and there are this many:
/// three probes in the second half tell a dead peer from a slow one before the time is up.
const PROBES: u32 = 3;

/// A connection to a client or to a server.
#[derive(Debug)]
pub enum Conn {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

impl Conn {
    /// Sets what a replication connection needs: no delay of small messages, and a peer
    /// that is gone (cut cable, crashed host) is noticed within `peer_timeout` whether
    /// bytes are waiting to be acknowledged (`TCP_USER_TIMEOUT`) or not (keepalive).
    ///
    /// A zero timeout leaves the system's settings. Unix sockets need nothing of it.
    ///
    /// # Errors
    ///
    /// When the system refuses an option.
    pub fn tune(&self, peer_timeout: Duration) -> io::Result<()> {
        let Self::Tcp(stream) = self else { return Ok(()) };
        stream.set_nodelay(true)?;
        if peer_timeout.is_zero() {
            return Ok(());
        }
        let half = (peer_timeout / 2).max(Duration::from_secs(1));
        let between = (half / PROBES).max(Duration::from_secs(1));
        let keepalive =
            TcpKeepalive::new().with_time(half).with_interval(between).with_retries(PROBES);
        let socket = SockRef::from(stream);
        socket.set_tcp_keepalive(&keepalive)?;
        socket.set_tcp_user_timeout(Some(peer_timeout))
    }

    /// The two directions, to be used independently.
    #[must_use]
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Self::Tcp(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Tcp(read), WriteHalf::Tcp(write))
            }
            Self::Unix(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Unix(read), WriteHalf::Unix(write))
            }
        }
    }
}

/// The direction from the peer to us.
#[derive(Debug)]
pub enum ReadHalf {
    /// Over TCP.
    Tcp(tcp::OwnedReadHalf),
    /// Over a Unix socket.
    Unix(unix::OwnedReadHalf),
}

impl ReadHalf {
    /// Reads what is there, or waits for something. Cancel-safe. Zero means end of stream.
    ///
    /// # Errors
    ///
    /// What the socket reports.
    pub async fn read_some(&mut self, into: &mut [u8]) -> io::Result<usize> {
        tokio::io::AsyncReadExt::read(self, into).await
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_read(cx, into),
            Self::Unix(half) => Pin::new(half).poll_read(cx, into),
        }
    }
}

/// The direction from us to the peer.
#[derive(Debug)]
pub enum WriteHalf {
    /// Over TCP.
    Tcp(tcp::OwnedWriteHalf),
    /// Over a Unix socket.
    Unix(unix::OwnedWriteHalf),
}

impl AsyncWrite for WriteHalf {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_write(cx, from),
            Self::Unix(half) => Pin::new(half).poll_write(cx, from),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_flush(cx),
            Self::Unix(half) => Pin::new(half).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_shutdown(cx),
            Self::Unix(half) => Pin::new(half).poll_shutdown(cx),
        }
    }
}
