//! The sockets, and what a client may take: connections, time, bytes.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use config::HttpAddress;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tasks::{CancellationToken, Group};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{info, warn};

use crate::Options;
use crate::guard::Way;
use crate::routes::Answers;

/// Connections at the same time; one more has to wait for the kernel.
const CONNECTIONS_MAX: usize = 64;
/// Time for the head of a request, and between two of them.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for the handshake of TLS.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most headers of a request.
const HEADERS_MAX: usize = 64;
/// How long a connection may last: whoever wants more comes again.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(300);
/// How long the last answer of a connection may take.
const LAST_ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// Pause after the system could not accept a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Why there is no HTTP.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address cannot be listened on.
    #[error("cannot listen for HTTP on {address}: {source}")]
    Listen {
        /// The address.
        address: HttpAddress,
        /// What the system said.
        source: io::Error,
    },
}

/// A server that listens already and does not answer yet.
pub struct Service {
    socket: Socket,
    options: Options,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Service {
    /// Listens.
    ///
    /// # Errors
    ///
    /// [`Error::Listen`].
    pub async fn bind(options: Options) -> Result<Self, Error> {
        let bound = match &options.address {
            HttpAddress::Tcp(address) => TcpListener::bind(address).await.map(Socket::Tcp),
            HttpAddress::Unix(file) => bind_unix(file.clone()).await,
        };
        let address = options.address.clone();
        let socket = bound.map_err(|source| Error::Listen { address, source })?;
        Ok(Self { socket, options })
    }

    /// Answers until `stop` is cancelled.
    ///
    /// # Errors
    ///
    /// When a task broke off.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let Self { socket, options } = self;
        info!(address = %options.address, "answering HTTP");
        if !options.address.is_local() && options.tls().is_none() {
            info!("other hosts can read metrics and status over HTTP, without TLS or a login");
        }
        let answers = Answers::new(options);
        let mut clients = Group::new(stop.clone());
        loop {
            tokio::select! {
                accepted = socket.accept(), if clients.len() < CONNECTIONS_MAX => match accepted {
                    Ok(stream) => {
                        let answers = answers.clone();
                        clients.spawn("http", |stop| stream.serve(answers, stop));
                    }
                    Err(error) => {
                        warn!(%error, "cannot accept an HTTP connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                ended = clients.joined() => {
                    if let Err(error) = ended {
                        warn!(error = format!("{error:#}"), "an HTTP connection broke off; please report this");
                    }
                }
                () = stop.cancelled() => break,
            }
        }
        drop(socket);
        clients.finish(Duration::from_secs(2)).await
    }
}

/// A socket file that a dead process left behind is replaced, a live one is not.
async fn bind_unix(file: PathBuf) -> io::Result<Socket> {
    let is_socket = fs::symlink_metadata(&file).is_ok_and(|it| it.file_type().is_socket());
    if is_socket && UnixStream::connect(&file).await.is_err() {
        fs::remove_file(&file)?;
    }
    let listener = UnixListener::bind(&file)?;
    // Whoever may connect may change: the owner and the group.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o660))?;
    Ok(Socket::Unix(listener, file))
}

enum Accepted {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => Ok(Accepted::Tcp(listener.accept().await?.0)),
            Self::Unix(listener, _) => Ok(Accepted::Unix(listener.accept().await?.0)),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Self::Unix(_, file) = self {
            // Best effort: a file that stays behind is replaced by the next bind.
            fs::remove_file(file).ok();
        }
    }
}

impl Accepted {
    async fn serve(self, answers: Answers, stop: CancellationToken) -> anyhow::Result<()> {
        match self {
            Self::Tcp(stream) => match answers.tls() {
                Some(tls) => encrypt(stream, &tls, answers, stop).await,
                None => serve(stream, Way::Tcp, answers, stop).await,
            },
            Self::Unix(stream) => serve(stream, Way::Unix, answers, stop).await,
        }
        Ok(())
    }
}

/// What plain HTTP gets from a port that speaks TLS.
const PLAIN_REFUSED: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\n\
    connection: close\r\ncontent-length: 23\r\n\r\nthis port speaks HTTPS\n";
/// The first byte of TLS: a record with a handshake; RFC 8446, section 5.1.
const TLS_HANDSHAKE: u8 = 0x16;

/// Answers over TLS. Plain HTTP, a certificate of another authority and a handshake that takes too
/// long end the connection, which counts from its first byte.
async fn encrypt(stream: TcpStream, tls: &tls::Server, answers: Answers, stop: CancellationToken) {
    let peer = stream.peer_addr().map(|peer| peer.to_string()).unwrap_or_default();
    let shaken = tokio::select! {
        shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake(stream, tls)) => shaken,
        () = stop.cancelled() => return,
    };
    match shaken {
        Ok(Ok(stream)) => {
            let certified = stream.get_ref().1.peer_certificates().is_some();
            serve(stream, Way::Tls { certified }, answers, stop).await;
        }
        // Who only looks whether the port is open.
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {}
        Ok(Err(error)) => info!(peer, %error, "an HTTP client did not get through TLS"),
        Err(_elapsed) => info!(peer, "an HTTP client took too long for TLS"),
    }
}

async fn handshake(mut stream: TcpStream, tls: &tls::Server) -> io::Result<TlsStream<TcpStream>> {
    let mut first = [0];
    if stream.peek(&mut first).await? > 0 && first != [TLS_HANDSHAKE] {
        stream.write_all(PLAIN_REFUSED).await?;
        stream.shutdown().await?;
        // What is not read would make the system reset the connection, and the answer be lost.
        tokio::io::copy(&mut stream.take(HEAD_BYTES_MAX as u64), &mut tokio::io::sink()).await?;
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it does not speak TLS"));
    }
    TlsAcceptor::from(tls.http_config()).accept(stream).await
}

/// Answers the requests of one connection. What goes wrong is the client's matter.
async fn serve<S>(stream: S, way: Way, answers: Answers, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let answers = answers.clone();
        async move { Ok::<_, Infallible>(answers.answer(request.map(Body::new), way).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        _ended = &mut connection => return,
        () = tokio::time::sleep(CONNECTION_TIME_MAX) => {}
        () = stop.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    let ended = tokio::time::timeout(LAST_ANSWER_TIMEOUT, connection).await;
    if let Ok(Err(error)) = ended {
        tracing::debug!(%error, "an HTTP connection ended");
    }
}
