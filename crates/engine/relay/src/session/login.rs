//! The login: the server's own exchange, passed on untouched.
//!
//! The startup packet goes upstream byte for byte, and so does everything until the server
//! is ready. The relay reads only what it needs: which message ends the login, and the
//! server's version. Passwords pass by and are not kept.

use std::sync::Arc;

use config::Configuration;
use pgnet::{Inbound, ReadError};
use pgproto::backend::{self, Authentication};
use pgproto::frame::{backend as from_server, frontend, limit};
use pgproto::startup::Startup;
use pgtypes::Major;
use tasks::CancellationToken;
use tokio::time::Instant;

use super::{Outbound, Session, SessionError, refusal};
use crate::service::Context;

/// A login that is under way.
pub(super) struct Login<'a> {
    pub(super) startup: &'a Startup,
    pub(super) context: &'a Context,
    pub(super) deadline: Instant,
    pub(super) stop: &'a CancellationToken,
}

/// Two connections that know each other; `None` when the server refused the client.
pub(super) struct LoggedIn(Option<Parts>);

struct Parts {
    from_client: Inbound,
    to_client: Outbound,
    from_upstream: Inbound,
    to_upstream: Outbound,
    major: Major,
}

impl Login<'_> {
    /// Connects to the upstream and passes messages until it is ready for commands.
    pub(super) async fn pass(
        self,
        from_client: Inbound,
        mut to_client: Outbound,
    ) -> Result<LoggedIn, SessionError> {
        let conn = match self.context.dial().await {
            Ok(conn) => conn,
            Err(error) => {
                let report = refusal::upstream_unreachable(&error.to_string());
                // The relay's operator has to act: logged as an error by the caller.
                to_client.refuse(&report).await;
                return Err(error.into());
            }
        };
        let (read, write) = conn.into_split();
        let parts = Parts {
            from_client,
            to_client,
            from_upstream: Inbound::new(read),
            to_upstream: Outbound::new(write),
            major: Major::V12,
        };
        let (deadline, stop) = (self.deadline, self.stop);
        tokio::select! {
            passed = tokio::time::timeout_at(deadline, parts.exchange(self.startup)) => {
                passed.unwrap_or(Err(SessionError::ClientSlow { what: "log in" }))
            }
            () = stop.cancelled() => Err(SessionError::Stopping),
        }
    }
}

impl Parts {
    async fn exchange(mut self, startup: &Startup) -> Result<LoggedIn, SessionError> {
        let upstream = |error: std::io::Error| SessionError::Upstream(error.into());
        self.to_upstream.queue(&startup.raw);
        self.to_upstream.flush().await.map_err(upstream)?;
        let mut version = String::new();
        let mut answers_wanted = 0_u32;
        loop {
            tokio::select! {
                message = self.from_upstream.message(limit::REPLY) => {
                    let Some(message) = message.map_err(SessionError::Upstream)? else {
                        return Err(self.left_alone().await);
                    };
                    match message.tag {
                        from_server::AUTHENTICATION => {
                            let kind = Authentication::parse(message.payload());
                            if kind.is_ok_and(Authentication::wants_answer) {
                                answers_wanted += 1;
                            }
                        }
                        from_server::PARAMETER_STATUS => {
                            if let Ok((b"server_version", value)) =
                                backend::parse_parameter_status(message.payload())
                            {
                                version = String::from_utf8_lossy(value).into_owned();
                            }
                        }
                        from_server::READY => match Major::from_server_version(&version) {
                            Ok(major) => {
                                self.major = major;
                                self.to_client.send(&message.raw).await?;
                                return Ok(LoggedIn(Some(self)));
                            }
                            Err(error) => {
                                let report = refusal::unknown_version(&error);
                                return Err(self.to_client.refuse(&report).await);
                            }
                        },
                        from_server::ERROR => {
                            let reason = backend::parse_error_response(message.payload());
                            tracing::info!(
                                sqlstate = reason.sqlstate,
                                message = reason.message,
                                "the server refused the login",
                            );
                            self.to_client.farewell(&message.raw).await;
                            return Ok(LoggedIn(None));
                        }
                        _ => {}
                    }
                    self.to_client.send(&message.raw).await?;
                }
                message = self.from_client.message(limit::AUTH) => {
                    let message = message.map_err(SessionError::Client)?;
                    let message = message.ok_or(SessionError::ClientLeft)?;
                    if message.tag != frontend::PASSWORD || answers_wanted == 0 {
                        let place = "while it should log in";
                        return Err(SessionError::ClientMessage { tag: message.tag, place });
                    }
                    answers_wanted -= 1;
                    self.to_upstream.queue(&message.raw);
                    self.to_upstream.flush().await.map_err(upstream)?;
                }
            }
        }
    }

    async fn left_alone(&mut self) -> SessionError {
        let report = refusal::upstream_left();
        self.to_client.refuse(&report).await;
        SessionError::Upstream(ReadError::CutOff)
    }
}

impl LoggedIn {
    /// The session, when the server let the client in.
    pub(super) fn into_session(
        self,
        context: &Arc<Context>,
        startup: &Startup,
        configuration: Option<Configuration>,
        stop: &CancellationToken,
    ) -> Option<Session> {
        let Parts { from_client, to_client, from_upstream, to_upstream, major } = self.0?;
        Some(Session {
            context: Arc::clone(context),
            from_client,
            to_client,
            from_upstream,
            to_upstream,
            configuration,
            user: String::from_utf8_lossy(startup.user()).into_owned(),
            major,
            stop: stop.clone(),
        })
    }
}
