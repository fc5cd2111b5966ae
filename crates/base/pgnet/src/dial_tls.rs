//! Connecting as libpq's `sslmode` says.
//!
//! Two of the modes have two tries: `allow` begins without TLS, `prefer` with it, and the other
//! way is tried when the server does not let the first one in (`pg_hba.conf`). Only who logs in
//! knows that: [`Endpoint::log_in`] is told, and whoever passes a login on asks
//! [`Endpoint::has_second_try`].

use std::time::Duration;

use tls::{Client, SslMode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{Conn, DialError, Endpoint, TlsError};

/// `SSLRequest`: its length and `NEGOTIATE_SSL_CODE` (`pqcomm.h`).
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// `invalid_authorization_specification`: there is no line in `pg_hba.conf`.
const NO_SUCH_WAY: &str = "28000";

/// Which of the tries that a mode has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Try {
    /// The first.
    First,
    /// After the server refused the login of the first.
    Second,
}

/// What a try asks of TLS.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Want {
    Nothing,
    IfOffered,
    Always,
}

impl Endpoint {
    /// Connects, TLS included, within `limit`. Nothing as `client` is sslmode `disable`; over a
    /// Unix socket there is never TLS. Cancel-safe.
    ///
    /// # Errors
    ///
    /// [`DialError`]; [`DialError::Tls`] when TLS has to be and cannot.
    pub async fn dial_as(
        &self,
        client: Option<&Client>,
        which: Try,
        limit: Duration,
    ) -> Result<Conn, DialError> {
        let want = self.want(client, which);
        let Some(client) = client.filter(|_| want != Want::Nothing) else {
            return self.dial(limit).await;
        };
        let dialed = tokio::time::timeout(limit, self.dial_tls(client, want, limit)).await;
        dialed.map_err(|_elapsed| DialError::TimedOut { endpoint: self.clone(), waited: limit })?
    }

    /// Connects and logs in with `attempt`, each way that the mode has: the second is tried when
    /// the server refused the first. `refusal` gives the SQLSTATE of an error that is one.
    ///
    /// # Errors
    ///
    /// Of two errors the one that tells more: the second says only that this way is not for us when
    /// nobody was asked for a password.
    pub async fn log_in<T, E, F>(
        &self,
        client: Option<&Client>,
        limit: Duration,
        attempt: impl Fn(Conn) -> F,
        refusal: impl Fn(&E) -> Option<String>,
    ) -> Result<T, E>
    where
        E: From<DialError>,
        F: Future<Output = Result<T, E>>,
    {
        let conn = self.dial_as(client, Try::First, limit).await?;
        let is_tls = conn.is_tls();
        let first = match attempt(conn).await {
            Err(error) if refusal(&error).is_some() => error,
            ended => return ended,
        };
        if !self.has_second_try(client, is_tls) {
            return Err(first);
        }
        let second = match self.dial_as(client, Try::Second, limit).await {
            Ok(conn) => attempt(conn).await,
            Err(_there_is_no_such_way) => return Err(first),
        };
        second.map_err(|second| match refusal(&second) {
            Some(state) if state != NO_SUCH_WAY => second,
            _ => first,
        })
    }

    /// Whether a login that the server refused is worth a second try.
    #[must_use]
    pub fn has_second_try(&self, client: Option<&Client>, conn_is_tls: bool) -> bool {
        let mode = client.map_or(SslMode::Disable, Client::mode);
        matches!(self, Self::Tcp { .. })
            && matches!((mode, conn_is_tls), (SslMode::Allow, false) | (SslMode::Prefer, true))
    }

    fn want(&self, client: Option<&Client>, which: Try) -> Want {
        let mode = client.map_or(SslMode::Disable, Client::mode);
        match (mode, which) {
            _ if matches!(self, Self::Unix { .. }) => Want::Nothing,
            (SslMode::Disable, _)
            | (SslMode::Allow, Try::First)
            | (SslMode::Prefer, Try::Second) => Want::Nothing,
            (SslMode::Prefer, Try::First) => Want::IfOffered,
            _ => Want::Always,
        }
    }

    async fn dial_tls(
        &self,
        client: &Client,
        want: Want,
        limit: Duration,
    ) -> Result<Conn, DialError> {
        let failed = |source| DialError::Tls { endpoint: self.clone(), source };
        let mut conn = self.dial(limit).await?;
        let offered = ask(&mut conn).await.map_err(failed)?;
        if !offered && want == Want::IfOffered {
            return Ok(conn);
        }
        if !offered {
            return Err(failed(TlsError::NotOffered));
        }
        let host = match self {
            Self::Tcp { host, .. } => host.trim_start_matches('[').trim_end_matches(']'),
            Self::Unix { .. } => "localhost",
        };
        match conn.connect_tls(host, client).await {
            Ok((conn, _secured)) => Ok(conn),
            // As libpq does: who only prefers TLS goes on without.
            Err(_) if want == Want::IfOffered => self.dial(limit).await,
            Err(error) => Err(failed(error)),
        }
    }
}

/// Asks for TLS. Reads one byte and no more: what comes behind it belongs to the handshake, and
/// whoever put it there shall not have it taken for the server's word (CVE-2021-23222).
async fn ask(conn: &mut Conn) -> Result<bool, TlsError> {
    conn.write_all(&SSL_REQUEST).await.map_err(TlsError::Handshake)?;
    let mut answer = [0; 1];
    conn.read_exact(&mut answer).await.map_err(TlsError::Handshake)?;
    match answer {
        [b'S'] => Ok(true),
        [b'N'] => Ok(false),
        [other] => Err(TlsError::Answer(char::from(other))),
    }
}
