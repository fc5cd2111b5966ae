//! Finds out whether a relay listens at an address.

use std::time::Duration;

use pgnet::{Endpoint, Inbound};
use pgproto::backend::parse_error_response;
use pgproto::frame::{backend, limit};
use pgproto::startup::Startup;

use crate::session::Outbound;

/// How long it may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What the one who asks is called: no configuration lets it through to a server.
pub(crate) const PROBE_NAME: &str = "pgherd (is this a relay?)";

/// Whether a relay of pgherd answers: one says so to whoever does not come for replication.
/// `false` when somebody else does, or nobody.
pub async fn is_relay(endpoint: &Endpoint) -> bool {
    tokio::time::timeout(TIMEOUT, ask(endpoint)).await.ok().flatten().unwrap_or(false)
}

async fn ask(endpoint: &Endpoint) -> Option<bool> {
    let (read, write) = endpoint.dial(TIMEOUT).await.ok()?.into_split();
    let (mut from, mut to) = (Inbound::new(read), Outbound::new(write));
    let startup = Startup::build(
        0,
        &[("user", "pgherd"), ("database", "pgherd"), ("application_name", PROBE_NAME)],
    )
    .ok()?;
    to.queue(&startup.raw);
    to.flush().await.ok()?;
    let message = from.message(limit::REPLY).await.ok()??;
    let error = parse_error_response(message.payload());
    Some(message.tag == backend::ERROR && error.message.contains("this is a pgherd relay"))
}
