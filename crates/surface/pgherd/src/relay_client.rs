//! Asks a running relay over HTTP.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use config::HttpAddress;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{self, CertificateError, ClientConfig};

/// A relay answers within milliseconds; a change of its configuration waits for clients to leave.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Longest answer: a thousand clients, or ten thousand databases, are a few megabytes.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// An answer.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

/// A running relay.
pub(crate) struct Relay {
    /// Where it answers.
    pub(crate) address: HttpAddress,
    /// How it is met over TLS; plain HTTP without.
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

impl Relay {
    /// Sends one request; `token` goes along when there is one.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
    ) -> Result<Answer> {
        let address = &self.address;
        match tokio::time::timeout(TIMEOUT, self.connect_and_ask(method, path, token)).await {
            Ok(answer) => answer,
            Err(_elapsed) => bail!("no answer from {address} within {} s", TIMEOUT.as_secs()),
        }
    }

    async fn connect_and_ask(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
    ) -> Result<Answer> {
        let cannot = || format!("no relay answers HTTP at {}", self.address);
        match &self.address {
            HttpAddress::Unix(file) => {
                let stream = UnixStream::connect(file).await.with_context(cannot)?;
                exchange(stream, "localhost".to_owned(), method, path, token).await
            }
            HttpAddress::Tcp(at) => {
                let at = reachable(*at);
                let stream = TcpStream::connect(at).await.with_context(cannot)?;
                let host = at.to_string();
                let Some(tls) = &self.tls else {
                    return exchange(stream, host, method, path, token).await;
                };
                let tls = TlsConnector::from(Arc::clone(tls));
                let shaken = tls.connect(at.ip().into(), stream).await;
                let stream = shaken.map_err(|error| no_tls(at, &error))?;
                exchange(stream, host, method, path, token).await
            }
        }
    }
}

/// Why there is no TLS, and what to do.
fn no_tls(at: SocketAddr, error: &io::Error) -> anyhow::Error {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    let hint = match cause {
        Some(rustls::Error::InvalidCertificate(
            CertificateError::ApplicationVerificationFailure,
        )) => {
            return anyhow::anyhow!(
                "what answers at {at} does not show the certificate that http_tls names\nhint: \
                 after a renewal have the relay read it with SIGHUP, or name its authority with \
                 --cacert"
            );
        }
        Some(rustls::Error::InvalidCertificate(_)) => {
            "check the file of --cacert, and that the certificate names this address"
        }
        _ => {
            "was the relay started before `http_tls` was set? SIGHUP has it read its configuration"
        }
    };
    anyhow::anyhow!("no TLS with {at}: {error}\nhint: {hint}")
}

/// A relay that listens on every address is asked on this host.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

async fn exchange<S>(
    stream: S,
    host: String,
    method: Method,
    path: &str,
    token: Option<&str>,
) -> Result<Answer>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut request = Request::builder().method(method).uri(path).header(header::HOST, host);
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let request =
        request.body(Empty::<Bytes>::new()).context("the token has strange characters")?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.context("begin to speak HTTP")?;
    let answer = async {
        let answer = sender.send_request(request).await.context("ask the relay")?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("read the relay's answer: {error}"))?;
        Ok(Answer { status, body: body.to_bytes() })
    };
    // What breaks the connection shows in the answer.
    let carry = async {
        connection.await.ok();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = answer => answer,
        () = carry => bail!("the connection to the relay broke"),
    }
}
