//! TLS on a connection: the handshakes of both sides.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::pki_types::ServerName;
use tls::{ALPN, Certificate};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::Conn;

/// A connection inside TLS.
pub type TlsStream = tokio_rustls::TlsStream<Replayed>;

/// Why TLS did not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The handshake failed, or the connection broke in it.
    #[error("TLS handshake: {0}")]
    Handshake(#[source] io::Error),
    /// A direct connection that does not say which protocol it wants: it may be meant for
    /// another server, led here by somebody in between.
    #[error("received direct SSL connection request without ALPN protocol negotiation extension")]
    NoAlpn,
    /// The server does not have it.
    #[error("the server does not support SSL, and sslmode asks for it")]
    NotOffered,
    /// Neither yes nor no.
    #[error("the answer to a request for TLS was {0:?}")]
    Answer(char),
    /// A name that no certificate can have.
    #[error("{0:?} is no host name")]
    Name(String),
}

/// What is known of a peer after the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secured {
    /// The version of TLS, as `TLSv1_3`.
    pub version: &'static str,
    /// The peer's certificate, when it showed one; it was verified.
    pub certificate: Option<Certificate>,
    /// What the peer's certificate binds the channel to; only of servers.
    pub end_point: Option<Vec<u8>>,
}

impl Conn {
    /// Begins TLS as a server. `unread` is what has been read of the handshake already; with
    /// `is_direct` nothing was said before it, and the client has to name the protocol.
    ///
    /// # Errors
    ///
    /// [`TlsError`]; the peer was told as far as TLS tells.
    pub async fn accept_tls(
        self,
        unread: Vec<u8>,
        is_direct: bool,
        server: &tls::Server,
    ) -> Result<(Self, Secured), TlsError> {
        let acceptor = TlsAcceptor::from(server.config());
        let replayed = Replayed { unread, used: 0, conn: self };
        let mut stream = acceptor.accept(replayed).await.map_err(TlsError::Handshake)?;
        let (_, state) = stream.get_ref();
        if is_direct && state.alpn_protocol() != Some(ALPN) {
            // Best effort: it is cut off anyway.
            stream.shutdown().await.ok();
            return Err(TlsError::NoAlpn);
        }
        let shown = state.peer_certificates().and_then(<[_]>::first);
        let secured = Secured {
            version: version(state.protocol_version()),
            certificate: shown.and_then(|der| Certificate::parse(der)),
            end_point: None,
        };
        Ok((Self::Tls(Box::new(stream.into())), secured))
    }

    /// Begins TLS as a client of `host`.
    ///
    /// # Errors
    ///
    /// [`TlsError`]; also when the server's certificate is not good enough for the mode.
    pub async fn connect_tls(
        self,
        host: &str,
        client: &tls::Client,
    ) -> Result<(Self, Secured), TlsError> {
        let name = ServerName::try_from(host.to_owned());
        let name = name.map_err(|_invalid| TlsError::Name(host.to_owned()))?;
        let connector = TlsConnector::from(client.config());
        let replayed = Replayed { unread: Vec::new(), used: 0, conn: self };
        let stream = connector.connect(name, replayed).await.map_err(TlsError::Handshake)?;
        let (_, state) = stream.get_ref();
        let shown = state.peer_certificates().and_then(<[_]>::first);
        let secured = Secured {
            version: version(state.protocol_version()),
            certificate: None,
            end_point: shown.and_then(|der| tls::Client::end_point_of(der)),
        };
        Ok((Self::Tls(Box::new(stream.into())), secured))
    }
}

const fn version(version: Option<rustls::ProtocolVersion>) -> &'static str {
    match version {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "unknown",
    }
}

/// A connection of which something was read before TLS took it over.
#[derive(Debug)]
pub struct Replayed {
    unread: Vec<u8>,
    used: usize,
    conn: Conn,
}

impl Replayed {
    /// The connection itself.
    pub(crate) const fn under(&self) -> &Conn {
        &self.conn
    }
}

impl AsyncRead for Replayed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = self.unread.get(self.used..).unwrap_or_default();
        if rest.is_empty() {
            return Pin::new(&mut self.conn).poll_read(cx, into);
        }
        let bytes = rest.len().min(into.remaining());
        into.put_slice(rest.get(..bytes).unwrap_or_default());
        self.used += bytes;
        if self.used == self.unread.len() {
            self.unread = Vec::new();
            self.used = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Replayed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.conn).poll_write(cx, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.conn).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.conn).poll_shutdown(cx)
    }
}
