//! One connection, TCP or Unix socket, with TLS or without, and how its death is noticed.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{self as tokio_io, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

use crate::secure::TlsStream;

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
    /// Over one of them, inside TLS.
    Tls(Box<TlsStream>),
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
        let stream = match self {
            Self::Tcp(stream) => stream,
            Self::Unix(_) => return Ok(()),
            Self::Tls(stream) => return stream.get_ref().0.under().tune(peer_timeout),
        };
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

    /// Whether it is inside TLS.
    #[must_use]
    pub const fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// What the certificate of the server at the other end binds the channel to
    /// (`tls-server-end-point`); nothing without TLS, or of a client.
    #[must_use]
    pub fn end_point(&self) -> Option<Vec<u8>> {
        let Self::Tls(stream) = self else { return None };
        let TlsStream::Client(client) = &**stream else { return None };
        let shown = client.get_ref().1.peer_certificates().and_then(<[_]>::first)?;
        tls::Client::end_point_of(shown)
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
            Self::Tls(stream) => {
                let (read, write) = tokio_io::split(stream);
                (ReadHalf::Tls(read), WriteHalf::Tls(write))
            }
        }
    }

    /// The two directions together again; `None` when they are not of one connection.
    #[must_use]
    pub fn of_halves(read: ReadHalf, write: WriteHalf) -> Option<Self> {
        match (read, write) {
            (ReadHalf::Tcp(read), WriteHalf::Tcp(write)) => read.reunite(write).ok().map(Self::Tcp),
            (ReadHalf::Unix(read), WriteHalf::Unix(write)) => {
                read.reunite(write).ok().map(Self::Unix)
            }
            (ReadHalf::Tls(read), WriteHalf::Tls(write)) if read.is_pair_of(&write) => {
                Some(Self::Tls(read.unsplit(write)))
            }
            _ => None,
        }
    }
}

impl AsyncRead for Conn {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Tls(stream) => end_of_tls(Pin::new(stream).poll_read(cx, into)),
        }
    }
}

impl AsyncWrite for Conn {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, from),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, from),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, from),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// A peer that ends without TLS's own goodbye has ended: PostgreSQL's programs do when they are
/// killed, and where an end is too early the protocol's own messages tell.
fn end_of_tls(read: Poll<io::Result<()>>) -> Poll<io::Result<()>> {
    match read {
        Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Poll::Ready(Ok(()))
        }
        read => read,
    }
}

/// The direction from the peer to us.
#[derive(Debug)]
pub enum ReadHalf {
    /// Over TCP.
    Tcp(tcp::OwnedReadHalf),
    /// Over a Unix socket.
    Unix(unix::OwnedReadHalf),
    /// Inside TLS.
    Tls(tokio_io::ReadHalf<Box<TlsStream>>),
    /// Of a connection that broke while TLS began: at its end.
    Gone,
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
            Self::Tls(half) => end_of_tls(Pin::new(half).poll_read(cx, into)),
            Self::Gone => Poll::Ready(Ok(())),
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
    /// Inside TLS.
    Tls(tokio_io::WriteHalf<Box<TlsStream>>),
    /// Of a connection that broke while TLS began: takes nothing.
    Gone,
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
            Self::Tls(half) => Pin::new(half).poll_write(cx, from),
            Self::Gone => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_flush(cx),
            Self::Unix(half) => Pin::new(half).poll_flush(cx),
            Self::Tls(half) => Pin::new(half).poll_flush(cx),
            Self::Gone => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_shutdown(cx),
            Self::Unix(half) => Pin::new(half).poll_shutdown(cx),
            Self::Tls(half) => Pin::new(half).poll_shutdown(cx),
            Self::Gone => Poll::Ready(Ok(())),
        }
    }
}
