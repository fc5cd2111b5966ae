//! Clients that the relay itself lets in, instead of passing the server's questions on.
//!
//! Nothing is asked of the upstream before somebody is in. Whoever is not known goes through the
//! same steps, takes the same time and is told the same as whoever has a wrong password.

use std::net::IpAddr;

use config::{Auth, Configuration, Verifiers};
use pgnet::{Inbound, Secured};
use pgproto::SqlState;
use pgproto::backend::Report;
use pgproto::frame::{self, backend, frontend, limit};
use pgproto::sasl::{self, Initial};
use pgproto::startup::{self, Startup};
use scram::{Exchange, Proof, Verifier};
use tasks::CancellationToken;
use tokio::time::Instant;

use super::login::left;
use super::{Outbound, SessionError, part, shown};
use crate::service::Context;
use crate::verifiers;

/// `AUTH_REQ_SASL_CONT` and `AUTH_REQ_SASL_FIN` (`protocol.h`).
const SASL_CONTINUE: u32 = 11;
const SASL_FINAL: u32 = 12;

/// A client that is to prove who it is.
pub(super) struct Gate<'a> {
    pub(super) from_client: &'a mut Inbound,
    pub(super) to_client: &'a mut Outbound,
    pub(super) startup: &'a Startup,
    pub(super) secured: Option<&'a Secured>,
    pub(super) address: Option<IpAddr>,
    pub(super) configuration: &'a Configuration,
    pub(super) context: &'a Context,
}

impl Gate<'_> {
    /// Lets the client through, or tells it why not; gives the user to log in as upstream.
    pub(super) async fn pass_until(
        mut self,
        deadline: Instant,
        stop: &CancellationToken,
    ) -> Result<String, SessionError> {
        let began = Instant::now();
        let found = tokio::select! {
            found = verifier(self.context, self.configuration, self.startup, self.address) => found,
            () = left(self.from_client) => return Err(SessionError::ClientLeft),
            () = stop.cancelled() => Err(SessionError::Stopping),
        };
        // Not the client's fault: it may have been held until there was an upstream to ask.
        let deadline = deadline + began.elapsed();
        let passed = match found {
            Err(error) => Err(error),
            Ok(verifier) => tokio::select! {
                passed = tokio::time::timeout_at(deadline, self.pass(verifier)) => {
                    passed.unwrap_or(Err(SessionError::ClientSlow { what: "log in" }))
                }
                () = stop.cancelled() => Err(SessionError::Stopping),
            },
        };
        if let Err(error) = passed {
            part(self.from_client, self.to_client, &error).await;
            return Err(error);
        }
        let user = self.context.config.upstream.user.clone();
        Ok(user.unwrap_or_else(|| shown(self.startup.user())))
    }

    async fn pass(&mut self, verifier: Option<(Verifier, bool)>) -> Result<(), SessionError> {
        let name = &self.configuration.name;
        match &self.configuration.auth {
            Auth::Passthrough => Ok(()),
            Auth::Reject => {
                let message =
                    format!("configuration {name:?} of this pgherd relay rejects clients");
                let report = Report::fatal(SqlState::INVALID_AUTHORIZATION, message);
                Err(self.to_client.refuse(&report).await)
            }
            Auth::Trust { is_open } => {
                let is_local = self.address.is_none_or(|address| address.is_loopback());
                if *is_open || is_local {
                    return self.negotiate().await;
                }
                let message = format!(
                    "configuration {name:?} of this pgherd relay trusts clients of its own host only"
                );
                let report = Report::fatal(SqlState::INVALID_AUTHORIZATION, message).with_hint(
                    "Use auth: scram or cert; i_know_that_this_is_open trusts the whole network.",
                );
                Err(self.to_client.refuse(&report).await)
            }
            Auth::Cert(map) => {
                let common_name = self.secured.and_then(|it| it.certificate.as_ref());
                let common_name = common_name.map(|it| it.common_name.as_str()).unwrap_or_default();
                if map.allows(common_name, self.startup.user()) {
                    return self.negotiate().await;
                }
                let user = shown(self.startup.user());
                let message = format!("certificate authentication failed for user {user:?}");
                let report = Report::fatal(SqlState::INVALID_AUTHORIZATION, message).with_hint(
                    "Connect with TLS and a certificate (sslcert, sslkey) whose common name is \
                     the user, or stands in user_map.",
                );
                Err(self.fail(&report).await)
            }
            Auth::Scram(_) => {
                self.negotiate().await?;
                match verifier {
                    Some((verifier, is_known)) => self.scram(verifier, is_known).await,
                    None => Err(self.broken("no verifiers can be had").await),
                }
            }
        }
    }

    /// Tells a client of a newer protocol that 3.0 is spoken here, as an older server does.
    async fn negotiate(&mut self) -> Result<(), SessionError> {
        let options = self.startup.params.iter().filter(|(name, _)| name.starts_with(b"_pq_."));
        let options: Vec<_> = options.map(|(name, _)| name.as_slice()).collect();
        if self.startup.minor == 0 && options.is_empty() {
            return Ok(());
        }
        let count = u32::try_from(options.len()).unwrap_or(u32::MAX);
        let mut payload = (u32::from(startup::MAJOR) << 16).to_be_bytes().to_vec();
        payload.extend_from_slice(&count.to_be_bytes());
        for option in options {
            payload.extend_from_slice(option);
            payload.push(0);
        }
        let mut message = Vec::new();
        frame::write(backend::NEGOTIATE, &payload, &mut message);
        self.to_client.send(&message).await
    }

    async fn scram(&mut self, verifier: Verifier, is_known: bool) -> Result<(), SessionError> {
        let end_point = self.secured.and_then(|_| self.context.config.tls.as_ref()?.end_point());
        let mut exchange = Exchange::new(verifier, is_known, end_point.map(|it| it.to_vec()));
        let mut offer = Vec::new();
        sasl::offer(&exchange.mechanisms(), &mut offer);
        self.to_client.send(&offer).await?;

        let answer = self.answer().await?;
        let Ok(Initial { mechanism, data: Some(data) }) = Initial::parse(&answer) else {
            return Err(self.broken("malformed SCRAM message").await);
        };
        let Ok(nonce) = scram::nonce() else {
            return Err(self.broken("no random numbers can be had").await);
        };
        match exchange.first(mechanism, data, &nonce) {
            Ok(first) => self.say(SASL_CONTINUE, &first).await?,
            Err(error) => return Err(self.broken(&error.to_string()).await),
        }
        let answer = self.answer().await?;
        match exchange.last(&answer) {
            Ok(Proof::Right(words)) => self.say(SASL_FINAL, &words).await,
            Ok(Proof::Wrong) => {
                let user = shown(self.startup.user());
                let message = format!("password authentication failed for user {user:?}");
                let report = Report::fatal(SqlState::INVALID_PASSWORD, message);
                Err(self.fail(&report).await)
            }
            Err(error) => Err(self.broken(&error.to_string()).await),
        }
    }

    /// The client's next answer.
    async fn answer(&mut self) -> Result<Vec<u8>, SessionError> {
        let message = self.from_client.message(limit::AUTH).await;
        let message = message.map_err(SessionError::Client)?.ok_or(SessionError::ClientLeft)?;
        if message.tag != frontend::PASSWORD {
            let place = "while it should log in";
            return Err(SessionError::ClientMessage { tag: message.tag, place });
        }
        Ok(message.payload().to_vec())
    }

    async fn say(&mut self, kind: u32, data: &[u8]) -> Result<(), SessionError> {
        let mut message = Vec::new();
        let payload = [&kind.to_be_bytes()[..], data].concat();
        frame::write(backend::AUTHENTICATION, &payload, &mut message);
        self.to_client.send(&message).await
    }

    /// The client breaks the protocol of the exchange.
    async fn broken(&mut self, what: &str) -> SessionError {
        self.fail(&Report::fatal(SqlState::PROTOCOL_VIOLATION, what)).await
    }

    /// A failed attempt: counted, and told after a pause that grows with their number.
    async fn fail(&mut self, report: &Report) -> SessionError {
        let pause = self.context.counters.failed_logins.note(self.address);
        tokio::time::sleep(pause).await;
        self.to_client.refuse(report).await
    }
}

/// What the user's password is checked by, and whether there is such a user; nothing where no
/// password is asked for.
async fn verifier(
    context: &Context,
    configuration: &Configuration,
    startup: &Startup,
    address: Option<IpAddr>,
) -> Result<Option<(Verifier, bool)>, SessionError> {
    let Auth::Scram(verifiers) = &configuration.auth else { return Ok(None) };
    // Before anything is asked of the upstream.
    tokio::time::sleep(context.counters.failed_logins.pause(address)).await;
    let user = startup.user();
    Ok(match (verifiers, context.secret) {
        (Verifiers::File(users), _) => Some(users.verifier(user)),
        (Verifiers::Query(query), Some(secret)) => {
            Some(verifiers::ask(&context.upstream, query, user, secret).await?)
        }
        // There is a secret wherever there is a query; without one nobody comes in.
        (Verifiers::Query(_), None) => None,
    })
}
