//! One client, from its first byte to its last.

mod ask;
mod auto_slot;
mod binding;
mod commands;
mod error;
mod gate;
mod greeting;
mod login;
mod outbound;
mod own_login;
mod refusal;
mod reply;
mod slots;
mod sql;
mod upstream;

use std::sync::Arc;
use std::time::Duration;

use alarm::Code;
use config::{Auth, Configuration, Selection, Sql};
use pgnet::{Accepted, Inbound, Secured};
use pgproto::backend::Report;
use pgproto::replication::NAME_BYTES_MAX;
use pgproto::startup::{Cancel, Replication, Startup};
use pgtypes::Major;
use tasks::CancellationToken;
use tokio::time::Instant;
use tracing::field::Empty;
use tracing::{Instrument as _, Span, debug, error, info, info_span, warn};

use crate::clients::{Client, Ticket, Who};
use crate::counters::Refusal;
use crate::service::{Context, Current};
use crate::upstream::Place;

use gate::Gate;
use greeting::Door;

pub(crate) use error::SessionError;
pub(crate) use outbound::Outbound;
pub(crate) use reply::pass_up;

/// How long a client that is turned away may take to hang up.
const TURN_AWAY_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a server may take to act on a cancel request.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);

/// Both sides of a session, and what is known of them.
pub(crate) struct Session {
    pub(crate) context: Arc<Context>,
    /// Its entry among those who are connected.
    pub(crate) client: Arc<Client>,
    /// What the client sends.
    pub(crate) from_client: Inbound,
    /// What the client gets.
    pub(crate) to_client: Outbound,
    /// What the upstream sends.
    pub(crate) from_upstream: Inbound,
    /// What the upstream gets.
    pub(crate) to_upstream: Outbound,
    /// The configuration that matched, when there is a list of them.
    pub(crate) configuration: Option<Configuration>,
    /// The client's `application_name`, cut as the server cuts it.
    pub(crate) name: String,
    /// The client's user, for reading names.
    pub(crate) user: String,
    /// Where the upstream is.
    pub(crate) place: Place,
    /// The upstream's version.
    pub(crate) major: Major,
    /// Cancelled when the relay stops, or when the upstream moves.
    pub(crate) stop: CancellationToken,
}

/// Serves a client until it leaves, or something breaks. Never fails: it logs.
pub(crate) async fn serve(accepted: Accepted, current: &Current, ticket: Ticket) {
    // Every line of a session tells whose it is: its address, and what it is called.
    let span = info_span!("client", address = accepted.name, name = Empty);
    serve_inside(accepted, current, &ticket.client).instrument(span).await;
}

async fn serve_inside(accepted: Accepted, current: &Current, client: &Arc<Client>) {
    let started = Instant::now();
    match run(accepted, current, client).await {
        Ok(()) => {}
        Err(SessionError::Stopping) if client.is_reconfigured() => {
            info!("disconnected: its configuration changed");
        }
        Err(SessionError::Stopping) => info!("disconnected: the relay is stopping"),
        Err(SessionError::Reconfigured) => info!("disconnected: its configuration changed"),
        Err(SessionError::Moved) => info!("disconnected: the upstream moved"),
        Err(SessionError::ClientLeft) => info!("the client closed the connection"),
        Err(error @ SessionError::Probed) => debug!("{error}"),
        Err(SessionError::Refused(reason, message)) => {
            current.context().counters.refuse(reason);
            warn!("refused: {message}");
        }
        Err(error @ (SessionError::Dial(_) | SessionError::NoHost(_))) => {
            error!(code = %Code::NoUpstream, %error, "the session ended");
        }
        Err(SessionError::Verifier(error)) => {
            error!(code = %Code::NoVerifiers, %error, "the session ended");
        }
        Err(SessionError::Stream(error)) => {
            error!(code = %Code::StreamBroken, %error, "the session ended");
        }
        Err(error) => {
            let after_secs = started.elapsed().as_secs();
            warn!(%error, after_secs, "the session ended");
        }
    }
}

/// Tells a client that there is no place for it, as far as it listens.
pub(crate) async fn turn_away(accepted: Accepted, context: Arc<Context>) {
    let limit = context.config.limits.max_connections;
    warn!(client = accepted.name, limit, "too many connections");
    let (read, write) = accepted.conn.into_split();
    let (mut from_client, mut to_client) = (Inbound::new(read), Outbound::new(write));
    // libpq shows an error only in answer to its startup packet.
    let tls = context.config.tls.as_ref();
    let door = Door { from_client: &mut from_client, to_client: &mut to_client, tls };
    if let Ok(Ok((greeting::Greeting::Cancel(cancel), _))) =
        tokio::time::timeout(TURN_AWAY_TIMEOUT, door.receive()).await
    {
        // Takes no place for long, and may be what makes room.
        if let Err(error) = pass_cancel(&cancel, &context).await {
            warn!(client = accepted.name, %error, "a cancel request was not passed on");
        }
        return;
    }
    to_client.refuse(&refusal::too_many_connections(limit)).await;
    read_out(&mut from_client).await;
}

/// Tells a client why its session ends, if there is something to tell.
async fn part(from_client: &mut Inbound, to_client: &mut Outbound, error: &SessionError) {
    if let Some(report) = refusal::last_words(error) {
        to_client.refuse(&report).await;
        if error.is_of_client() {
            read_out(from_client).await;
        }
    }
}

/// Drops what a client still sends, for a moment: closing a connection with bytes unread
/// resets it, and the client would not see what it was told.
async fn read_out(from_client: &mut Inbound) {
    let rest = async {
        while from_client.fill().await.is_ok_and(|bytes| bytes > 0) {
            from_client.consume(usize::MAX);
        }
    };
    // A client that stays is cut off.
    tokio::time::timeout(TURN_AWAY_TIMEOUT, rest).await.ok();
}

async fn run(
    accepted: Accepted,
    current: &Current,
    client: &Arc<Client>,
) -> Result<(), SessionError> {
    let Accepted { conn, address, .. } = accepted;
    let context = current.context();
    let limits = context.config.limits.clone();
    let tuned = conn.tune(limits.peer_timeout.unwrap_or_default());
    tuned.map_err(|error| SessionError::Client(error.into()))?;
    let deadline = Instant::now() + limits.startup_timeout;
    let (read, write) = conn.into_split();
    let (mut from_client, mut to_client) = (Inbound::new(read), Outbound::new(write));

    let tls = context.config.tls.as_ref();
    let door = Door { from_client: &mut from_client, to_client: &mut to_client, tls };
    let greeting = tokio::select! {
        greeting = tokio::time::timeout_at(deadline, door.receive()) => greeting,
        () = client.stop.cancelled() => return Err(SessionError::Stopping),
    };
    let slow = |_elapsed| SessionError::ClientSlow { what: "send its startup packet" };
    let (greeting, secured) = greeting.map_err(slow)??;
    let startup = match greeting {
        greeting::Greeting::Startup(startup) => startup,
        greeting::Greeting::Cancel(cancel) => {
            return pass_cancel(&cancel, &current.context()).await;
        }
        greeting::Greeting::Nothing => return Ok(()),
    };
    let name = shown(startup.application_name().unwrap_or_default());
    Span::current().record("name", name);
    let asks = config::Client {
        application_name: startup.application_name().unwrap_or_default(),
        source: address,
        user: startup.user(),
        tls: secured.is_some(),
        certificate: secured.as_ref().and_then(common_name),
    };
    let is_sql = startup.replication() == Replication::No;
    let introduced = introduce(client, current, &asks, &startup);
    let (context, configuration) = match introduced {
        Ok(introduced) => introduced,
        Err(report) => return Err(to_client.refuse(&report).await),
    };
    let mut own_user = None;
    if let Some(configuration) = configuration.as_ref().filter(|it| it.auth != Auth::Passthrough) {
        let gate = Gate {
            from_client: &mut from_client,
            to_client: &mut to_client,
            startup: &startup,
            secured: secured.as_ref(),
            address,
            configuration,
            context: &context,
        };
        own_user = Some(gate.pass_until(deadline, &client.stop).await?);
    }
    let login = login::Login { startup: &startup, context: &context, deadline, own_user, client };
    let login = login.pass(from_client, to_client);
    let logged_in = login.await?;
    let session = logged_in.into_session(&context, &startup, configuration, client);
    let Some(session) = session else { return Ok(()) };
    announce(&session, secured.as_ref());
    if is_sql {
        session.sql().await?;
    } else {
        session.commands().await?;
    }
    info!("disconnected");
    Ok(())
}

/// Finds the configuration of a client, and notes both; or why it is not served.
fn introduce(
    client: &Client,
    current: &Current,
    asks: &config::Client<'_>,
    startup: &Startup,
) -> Result<(Arc<Context>, Option<Configuration>), Report> {
    loop {
        let context = current.context();
        let configuration = choose(&context, asks, startup)?.cloned();
        client.is(Who {
            application_name: asks.application_name.to_vec(),
            user: asks.user.to_vec(),
            source: asks.source,
            tls: asks.tls,
            certificate: asks.certificate.map(ToOwned::to_owned),
            configuration: configuration.clone(),
            upstream: context.config.upstream.clone(),
        });
        // A change of the configuration looks for those who are noted; one that came in between
        // has not seen this one.
        if Arc::ptr_eq(&context, &current.context()) {
            return Ok((context, configuration));
        }
    }
}

/// The configuration of a client, if there is a list of them; or why it is not served.
fn choose<'a>(
    context: &'a Context,
    client: &config::Client<'_>,
    startup: &Startup,
) -> Result<Option<&'a Configuration>, Report> {
    let is_sql = startup.replication() == Replication::No;
    let configuration = match context.config.configuration_for(client) {
        Selection::Configuration(configuration)
            if is_sql && configuration.sql == Sql::Passthrough =>
        {
            configuration
        }
        _ if is_sql => return Err(refusal::not_replication()),
        Selection::Unfiltered => return Ok(None),
        Selection::Configuration(configuration) => configuration,
        Selection::Refused => return Err(refusal::no_configuration(startup)),
    };
    if configuration.require_tls && !client.tls {
        return Err(refusal::tls_required(&configuration.name));
    }
    Ok(Some(configuration))
}

/// A name of a client's own choice as the server keeps it: cut.
pub(crate) fn shown(name: &[u8]) -> String {
    let name = name.get(..NAME_BYTES_MAX).unwrap_or(name);
    String::from_utf8_lossy(name).into_owned()
}

/// Whom the client's certificate names.
fn common_name(secured: &Secured) -> Option<&str> {
    secured.certificate.as_ref().map(|it| it.common_name.as_str())
}

fn announce(session: &Session, secured: Option<&Secured>) {
    let configuration = session.configuration.as_ref().map_or("", |it| it.name.as_str());
    session.client.count_for(session.context.counters.tally(configuration));
    info!(
        user = session.user,
        configuration = session.configuration.as_ref().map(|it| it.name.as_str()),
        filtered = session.filter().is_some(),
        tls = secured.map(|it| it.version),
        certificate = secured.and_then(common_name),
        "connected",
    );
}

impl Session {
    /// The filter of this client, if it has one.
    pub(crate) fn filter(&self) -> Option<&config::Filter> {
        self.configuration.as_ref()?.filter.as_ref()
    }

    /// Tells the client, which then may go on.
    pub(crate) async fn answer(&mut self, report: &Report) -> Result<(), SessionError> {
        self.context.counters.refuse(Refusal::of(report.sqlstate));
        info!(sqlstate = %report.sqlstate, reason = report.message, "command refused");
        self.to_client.report_and_ready(report).await
    }
}

/// Sends a cancel request on; like a server, the relay gives no answer to one.
///
/// The server closes the connection when it has acted. Clients wait for that, so that what they
/// send next is not cancelled as well.
async fn pass_cancel(cancel: &Cancel, context: &Context) -> Result<(), SessionError> {
    let conn = context.dial().await?;
    let (read, write) = conn.into_split();
    let mut upstream = Outbound::new(write);
    upstream.queue(&cancel.raw);
    upstream.flush().await.map_err(|error| SessionError::Upstream(error.into()))?;
    let mut from_upstream = Inbound::new(read);
    let closed = tokio::time::timeout(CANCEL_TIMEOUT, from_upstream.fill()).await;
    // A reset is as good an end as any.
    closed.map_or(Err(SessionError::UpstreamSilent), |_ended| Ok(()))
}
