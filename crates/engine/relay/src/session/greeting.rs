//! The first packet, and the questions about encryption that may come before it.

use pgnet::{Inbound, ReadError};
use pgproto::backend::Report;
use pgproto::startup::{self, Cancel, Packet, Replication, Startup, StartupError};

use crate::probe::PROBE_NAME;

use super::{Outbound, SessionError, refusal};

/// Questions about encryption that are answered before a client is cut off: one of each
/// kind is all that libpq asks.
const QUESTIONS_MAX: u32 = 4;

/// The answer to a question about encryption: not here.
const NO: &[u8] = b"N";

/// What a client wants.
pub(super) enum Greeting {
    /// A session: replication, or plain SQL.
    Startup(Startup),
    /// To cancel what another connection does.
    Cancel(Cancel),
    /// Nothing: it left, as a health check does.
    Nothing,
}

/// Reads until the client has said what it wants, and refuses what a relay does not do.
pub(super) async fn receive(
    from_client: &mut Inbound,
    to_client: &mut Outbound,
) -> Result<Greeting, SessionError> {
    for _question in 0..QUESTIONS_MAX {
        let Some(raw) = packet(from_client).await? else { return Ok(Greeting::Nothing) };
        match Packet::parse(raw) {
            Ok(Packet::Ssl | Packet::Gss) => to_client.send(NO).await?,
            Ok(Packet::Cancel(cancel)) => return Ok(Greeting::Cancel(cancel)),
            Ok(Packet::Startup(startup)) => {
                return match startup.replication() {
                    // Who asks whether this is a relay is told, whatever it serves.
                    Replication::No
                        if startup.application_name() == Some(PROBE_NAME.as_bytes()) =>
                    {
                        Err(to_client.refuse(&refusal::not_replication()).await)
                    }
                    Replication::No | Replication::Physical | Replication::Database => {
                        Ok(Greeting::Startup(startup))
                    }
                    Replication::Invalid => Err(to_client.refuse(&refusal::bad_value()).await),
                };
            }
            Err(error) => return Err(malformed(&error, to_client).await),
        }
    }
    Err(SessionError::ClientSlow { what: "come to the point: it only asks for encryption" })
}

/// The next untagged packet; `None` when the client left before it sent one.
async fn packet(from_client: &mut Inbound) -> Result<Option<Vec<u8>>, SessionError> {
    let client = |error: std::io::Error| SessionError::Client(error.into());
    loop {
        let have = from_client.buffered();
        if let Some(length) = have.first_chunk() {
            let &[first, _, _, _] = length;
            if startup::is_direct_tls(first) {
                let what = "the client begins with TLS (sslnegotiation=direct)";
                return Err(SessionError::Refused(format!("{what}, which is not offered")));
            }
            let bytes = startup::packet_bytes(*length);
            let bytes = bytes.map_err(|error| SessionError::Refused(error.to_string()))?;
            if let Some(raw) = have.get(..bytes) {
                let raw = raw.to_vec();
                from_client.consume(bytes);
                return Ok(Some(raw));
            }
        }
        if from_client.fill().await.map_err(client)? == 0 {
            let left = from_client.buffered().is_empty();
            return if left { Ok(None) } else { Err(SessionError::Client(ReadError::CutOff)) };
        }
    }
}

async fn malformed(error: &StartupError, to_client: &mut Outbound) -> SessionError {
    if error.is_answered() {
        to_client.refuse(&Report::fatal(error.sqlstate(), error.to_string())).await
    } else {
        SessionError::Refused(error.to_string())
    }
}
