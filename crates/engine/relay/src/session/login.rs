//! The login: the server's own exchange, passed on untouched.
//!
//! The startup packet goes upstream byte for byte, and so does everything until the server
//! is ready. The relay reads only what it needs: which message ends the login, and the
//! server's version. Passwords pass by and are not kept. What TLS on the way makes impossible is
//! the matter of [`super::binding`].

use std::sync::Arc;

use config::Configuration;
use pgnet::{Inbound, Message};
use pgproto::backend::{self, Authentication};
use pgproto::frame::{backend as from_server, frontend, limit};
use pgproto::startup::Startup;
use pgtypes::Major;
use tokio::time::Instant;
use tracing::info;

use super::binding::Binding;
use super::own_login::{OwnLogin, OwnLoginError};
use super::{Outbound, Session, SessionError, part, refusal, shown};
use crate::clients::Client;
use crate::service::Context;
use crate::upstream::Place;

/// Class 28 of SQLSTATE, "Invalid Authorization Specification".
const AUTHORIZATION_CLASS: &str = "28";

/// A login that is under way.
pub(super) struct Login<'a> {
    pub(super) startup: &'a Startup,
    pub(super) context: &'a Context,
    pub(super) deadline: Instant,
    pub(super) client: &'a Arc<Client>,
    /// As whom the relay logs in itself; nothing when the client's login is passed on.
    pub(super) own_user: Option<String>,
}

/// Two connections that know each other; `None` when the server refused the client.
pub(super) struct LoggedIn(Option<Parts>);

struct Parts {
    from_client: Inbound,
    to_client: Outbound,
    from_upstream: Inbound,
    to_upstream: Outbound,
    place: Place,
    /// Whether the upstream's connection is inside TLS.
    is_tls: bool,
    /// What its certificate binds the channel to.
    end_point: Option<Vec<u8>>,
    /// The relay's own login, when the client's is not passed on.
    own: Option<OwnLogin>,
    binding: Binding,
    major: Major,
    /// Messages that the server waits for.
    answers_wanted: u32,
    /// Why the server refused the client, as it said it.
    refused: Option<Message>,
}

impl Login<'_> {
    /// Connects to the upstream and passes messages until it is ready for commands.
    pub(super) async fn pass(
        self,
        mut from_client: Inbound,
        mut to_client: Outbound,
    ) -> Result<LoggedIn, SessionError> {
        let user = self.own_user.clone().unwrap_or_else(|| shown(self.startup.user()));
        let began = Instant::now();
        let dialed = tokio::select! {
            dialed = self.context.connect(&user) => dialed.map_err(SessionError::from),
            () = left(&mut from_client) => return Err(SessionError::ClientLeft),
            () = self.client.stop.cancelled() => Err(SessionError::Stopping),
        };
        // Not the client's fault: it may have been held until there was an upstream.
        let deadline = self.deadline + began.elapsed();
        let (conn, place) = match dialed {
            Ok(dialed) => dialed,
            Err(error) => {
                part(&mut from_client, &mut to_client, &error).await;
                return Err(error);
            }
        };
        let own = self
            .own_user
            .as_ref()
            .map(|user| OwnLogin::new(&self.context.config.upstream, &place.endpoint, user));
        let own = match own.transpose() {
            Ok(own) => own,
            Err(error) => {
                let error = SessionError::from(error);
                part(&mut from_client, &mut to_client, &error).await;
                return Err(error);
            }
        };
        let (is_tls, end_point) = (conn.is_tls(), conn.end_point());
        let (read, write) = conn.into_split();
        let moved = place.moved.clone();
        let mut parts = Parts {
            from_client,
            to_client,
            from_upstream: Inbound::new(read),
            to_upstream: Outbound::new(write),
            place,
            is_tls,
            end_point,
            own,
            binding: Binding::default(),
            major: Major::V12,
            answers_wanted: 0,
            refused: None,
        };
        let passed = tokio::select! {
            passed = tokio::time::timeout_at(deadline, parts.exchange(self.startup, self.context)) => {
                passed.unwrap_or_else(|_elapsed| Err(parts.too_slow()))
            }
            () = moved.cancelled() => Err(SessionError::Moved),
            () = self.client.stop.cancelled() => Err(SessionError::Stopping),
        };
        match passed {
            Ok(true) => Ok(LoggedIn(Some(parts))),
            Ok(false) => {
                parts.tell_refusal(self.context, self.client).await;
                Ok(LoggedIn(None))
            }
            Err(error) => {
                part(&mut parts.from_client, &mut parts.to_client, &error).await;
                Err(error)
            }
        }
    }
}

/// Ready when a client that waits for the upstream hangs up.
pub(super) async fn left(from_client: &mut Inbound) {
    // It may have sent its first command already; more than that is not read here.
    while from_client.buffered().is_empty() {
        if !from_client.fill().await.is_ok_and(|bytes| bytes > 0) {
            return;
        }
    }
    std::future::pending::<()>().await;
}

impl Parts {
    /// Passes the login on; whether the client is in. What is cancelled is left in line.
    async fn exchange(
        &mut self,
        startup: &Startup,
        context: &Context,
    ) -> Result<bool, SessionError> {
        let upstream = |error: std::io::Error| SessionError::Upstream(error.into());
        self.greet(startup).await?;
        let mut version = String::new();
        let mut has_begun = false;
        loop {
            tokio::select! {
                message = self.from_upstream.message(limit::REPLY) => {
                    let message = message.map_err(SessionError::Upstream)?;
                    let message = message.ok_or(SessionError::UpstreamLeft)?;
                    match message.tag {
                        from_server::AUTHENTICATION => {
                            has_begun = true;
                            if self.authentication(&message).await? {
                                continue;
                            }
                        }
                        from_server::ERROR
                            if !std::mem::replace(&mut has_begun, true)
                                && self.connect_again(startup, context).await? => {
                            continue;
                        }
                        from_server::PARAMETER_STATUS => {
                            if let Ok((b"server_version", value)) =
                                backend::parse_parameter_status(message.payload())
                            {
                                version = String::from_utf8_lossy(value).into_owned();
                            }
                        }
                        from_server::READY => return self.is_in(&version, &message).await,
                        from_server::ERROR => {
                            self.is_refused(message)?;
                            return Ok(false);
                        }
                        _ => {}
                    }
                    self.to_client.send(&message.raw).await?;
                }
                // What a client sends unasked, as its first command, waits for its turn.
                message = self.from_client.message(limit::AUTH), if self.answers_wanted > 0 => {
                    let message = message.map_err(SessionError::Client)?;
                    let message = message.ok_or(SessionError::ClientLeft)?;
                    if message.tag != frontend::PASSWORD {
                        let place = "while it should log in";
                        return Err(SessionError::ClientMessage { tag: message.tag, place });
                    }
                    if let Some(report) = self.binding.answer(&message) {
                        return Err(self.to_client.refuse(&report).await);
                    }
                    self.answers_wanted -= 1;
                    self.to_upstream.queue(&message.raw);
                    self.to_upstream.flush().await.map_err(upstream)?;
                }
            }
        }
    }

    /// Looks at a step of the exchange; whether the client has got it already.
    async fn authentication(&mut self, message: &Message) -> Result<bool, SessionError> {
        if let Some(own) = &mut self.own {
            let end_point = self.end_point.clone();
            let answer = own.answer(message.payload(), end_point, self.is_tls)?;
            if let Some(answer) = answer {
                self.to_upstream.queue(&answer);
                let sent = self.to_upstream.flush().await;
                sent.map_err(|error| SessionError::Upstream(error.into()))?;
            }
            // The last step is the client's as well: it is in.
            return Ok(Authentication::parse(message.payload()) != Ok(Authentication::Ok));
        }
        let Ok(kind) = Authentication::parse(message.payload()) else { return Ok(false) };
        if kind.wants_answer() {
            self.answers_wanted += 1;
        }
        if kind == Authentication::Sasl
            && let Some(offer) = self.binding.offer(message)
        {
            self.to_client.send(&offer).await?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Whether there is another way for the login, with TLS or without; begins it.
    async fn connect_again(
        &mut self,
        startup: &Startup,
        context: &Context,
    ) -> Result<bool, SessionError> {
        let conn = context.dial_again(&self.place, self.is_tls).await;
        // The server's own refusal tells more than a second way that is closed.
        let Ok(Some(conn)) = conn else { return Ok(false) };
        (self.is_tls, self.end_point) = (conn.is_tls(), conn.end_point());
        let (read, write) = conn.into_split();
        self.from_upstream = Inbound::new(read);
        self.to_upstream = Outbound::new(write);
        self.greet(startup).await?;
        Ok(true)
    }

    /// Sends the startup packet: the client's own, or one in the relay's name.
    async fn greet(&mut self, startup: &Startup) -> Result<(), SessionError> {
        match &self.own {
            None => self.to_upstream.queue(&startup.raw),
            Some(own) => self.to_upstream.queue(&startup.raw_as(own.user.as_bytes())),
        }
        self.to_upstream.flush().await.map_err(|error| SessionError::Upstream(error.into()))
    }

    async fn is_in(&mut self, version: &str, ready: &Message) -> Result<bool, SessionError> {
        match Major::from_server_version(version) {
            Ok(major) => {
                self.major = major;
                self.to_client.send(&ready.raw).await?;
                Ok(true)
            }
            Err(error) => {
                let report = refusal::unknown_version(&error);
                Err(self.to_client.refuse(&report).await)
            }
        }
    }

    fn is_refused(&mut self, message: Message) -> Result<(), SessionError> {
        let reason = backend::parse_error_response(message.payload());
        if self.own.is_some() {
            let (sqlstate, reason) = (reason.sqlstate, reason.message);
            return Err(OwnLoginError::Refused { reason, sqlstate }.into());
        }
        info!(sqlstate = reason.sqlstate, reason = reason.message, "the server refused the login",);
        self.refused = Some(message);
        Ok(())
    }

    /// Passes the server's refusal on: when it was about a password or the like, after a pause
    /// that grows with their number.
    async fn tell_refusal(&mut self, context: &Context, client: &Client) {
        let Some(message) = &self.refused else { return };
        let reason = backend::parse_error_response(message.payload());
        if reason.sqlstate.starts_with(AUTHORIZATION_CLASS) {
            let address = client.who().and_then(|who| who.source);
            let pause = context.counters.failed_logins.note(address);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = client.stop.cancelled() => {}
            }
        }
        self.to_client.farewell(&message.raw).await;
    }

    /// Whose fault it is that the time is up.
    const fn too_slow(&self) -> SessionError {
        if self.answers_wanted > 0 {
            SessionError::ClientSlow { what: "log in" }
        } else {
            SessionError::UpstreamSilent
        }
    }
}

impl LoggedIn {
    /// The session, when the server let the client in.
    pub(super) fn into_session(
        self,
        context: &Arc<Context>,
        startup: &Startup,
        configuration: Option<Configuration>,
        client: &Arc<Client>,
    ) -> Option<Session> {
        let Parts { from_client, to_client, from_upstream, to_upstream, place, major, own, .. } =
            self.0?;
        Some(Session {
            context: Arc::clone(context),
            client: Arc::clone(client),
            from_client,
            to_client,
            from_upstream,
            to_upstream,
            configuration,
            name: shown(startup.application_name().unwrap_or_default()),
            user: own.map_or_else(|| shown(startup.user()), |own| own.user),
            place,
            major,
            stop: client.stop.child_token(),
        })
    }
}
