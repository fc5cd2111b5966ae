//! The first packet, and the questions about encryption that may come before it.
//!
//! TLS begins here, after `SSLRequest` or at once (`sslnegotiation=direct`), as it does in
//! `ProcessStartupPacket` and `ProcessSSLStartup` (backend_startup.c).

use pgnet::{Conn, Inbound, ReadError, Secured};
use pgproto::backend::Report;
use pgproto::startup::{self, Cancel, Packet, Replication, Startup, StartupError};

use crate::probe::PROBE_NAME;

use super::{Outbound, SessionError, refusal};
use crate::counters::Refusal;

/// Questions about encryption that are answered before a client is cut off: one of each
/// kind is all that libpq asks.
const QUESTIONS_MAX: u32 = 4;

/// The answer to a question about encryption: not here.
const NO: &[u8] = b"N";

/// The answer to a question about TLS: begin.
const YES: &[u8] = b"S";

/// What a client wants.
pub(super) enum Greeting {
    /// A session: replication, or plain SQL.
    Startup(Startup),
    /// To cancel what another connection does.
    Cancel(Cancel),
    /// Nothing: it left, as a health check does.
    Nothing,
}

/// A client that has not said yet what it wants.
pub(super) struct Door<'a> {
    pub(super) from_client: &'a mut Inbound,
    pub(super) to_client: &'a mut Outbound,
    /// What it is offered, when it asks for TLS.
    pub(super) tls: Option<&'a tls::Server>,
}

impl Door<'_> {
    /// Reads until the client has said what it wants, and refuses what a relay does not do.
    pub(super) async fn receive(mut self) -> Result<(Greeting, Option<Secured>), SessionError> {
        let mut secured = None;
        if self.is_direct_tls().await? {
            secured = Some(self.begin_tls(true).await?);
        }
        for _question in 0..QUESTIONS_MAX {
            let Some(raw) = self.packet().await? else { return Ok((Greeting::Nothing, secured)) };
            match Packet::parse(raw) {
                Ok(Packet::Ssl) if self.tls.is_some() && secured.is_none() => {
                    // Whatever came with the request was sent by somebody in between, or would
                    // be taken for a part of what is encrypted (CVE-2021-23214).
                    if !self.from_client.buffered().is_empty() {
                        let report = refusal::unencrypted_data();
                        return Err(self.to_client.refuse(&report).await);
                    }
                    self.to_client.send(YES).await?;
                    secured = Some(self.begin_tls(false).await?);
                }
                Ok(Packet::Ssl | Packet::Gss) => self.to_client.send(NO).await?,
                Ok(Packet::Cancel(cancel)) => return Ok((Greeting::Cancel(cancel), secured)),
                Ok(Packet::Startup(startup)) => {
                    return match startup.replication() {
                        // Who asks whether this is a relay is told, whatever it serves.
                        Replication::No
                            if startup.application_name() == Some(PROBE_NAME.as_bytes()) =>
                        {
                            // It was refused nothing.
                            self.to_client.refuse(&refusal::not_replication()).await;
                            Err(SessionError::Probed)
                        }
                        Replication::No | Replication::Physical | Replication::Database => {
                            Ok((Greeting::Startup(startup), secured))
                        }
                        Replication::Invalid => {
                            Err(self.to_client.refuse(&refusal::bad_value()).await)
                        }
                    };
                }
                Err(error) => return Err(malformed(&error, self.to_client).await),
            }
        }
        Err(SessionError::ClientSlow { what: "come to the point: it only asks for encryption" })
    }

    /// Whether the first byte is one of TLS.
    async fn is_direct_tls(&mut self) -> Result<bool, SessionError> {
        if self.from_client.buffered().is_empty() {
            let filled = self.from_client.fill().await;
            filled.map_err(|error| SessionError::Client(error.into()))?;
        }
        Ok(self.from_client.buffered().first().is_some_and(|first| startup::is_direct_tls(*first)))
    }

    /// The handshake; what was read of it already is not lost.
    async fn begin_tls(&mut self, is_direct: bool) -> Result<Secured, SessionError> {
        let Some(server) = self.tls else {
            let what = "the client begins with TLS (sslnegotiation=direct)";
            return Err(SessionError::Refused(
                Refusal::Protocol,
                format!("{what}, which is not offered"),
            ));
        };
        let (read, unread) = self.from_client.take_half();
        let conn = Conn::of_halves(read, self.to_client.take_half());
        let conn = conn.ok_or(SessionError::ClientLeft)?;
        let accepted = conn.accept_tls(unread, is_direct, server).await;
        // The peer has been told by TLS itself.
        let (conn, secured) = accepted
            .map_err(|error| SessionError::Refused(Refusal::Protocol, error.to_string()))?;
        let (read, write) = conn.into_split();
        *self.from_client = Inbound::new(read);
        *self.to_client = Outbound::new(write);
        Ok(secured)
    }

    /// The next untagged packet; `None` when the client left before it sent one.
    async fn packet(&mut self) -> Result<Option<Vec<u8>>, SessionError> {
        let client = |error: std::io::Error| SessionError::Client(error.into());
        loop {
            let have = self.from_client.buffered();
            if let Some(length) = have.first_chunk() {
                let bytes = startup::packet_bytes(*length);
                let bytes = bytes
                    .map_err(|error| SessionError::Refused(Refusal::Protocol, error.to_string()))?;
                if let Some(raw) = have.get(..bytes) {
                    let raw = raw.to_vec();
                    self.from_client.consume(bytes);
                    return Ok(Some(raw));
                }
            }
            if self.from_client.fill().await.map_err(client)? == 0 {
                let left = self.from_client.buffered().is_empty();
                return if left { Ok(None) } else { Err(SessionError::Client(ReadError::CutOff)) };
            }
        }
    }
}

async fn malformed(error: &StartupError, to_client: &mut Outbound) -> SessionError {
    if error.is_answered() {
        to_client.refuse(&Report::fatal(error.sqlstate(), error.to_string())).await
    } else {
        SessionError::Refused(Refusal::Protocol, error.to_string())
    }
}
