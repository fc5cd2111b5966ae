//! Commands, one after the other: passed on, refused, or turned into a filtered stream.

use std::pin::pin;

use pgnet::Message;
use pgproto::backend::Report;
use pgproto::frame::{backend, frontend, limit};
use pgproto::frontend::{query, query_text, terminate};
use pgproto::replication::{Command, StartPhysical};
use tokio::time::Instant;

use super::{Session, SessionError, part, refusal};
use crate::clients::Activity;

/// Longest query: every command of the grammar with its longest names and a backup label
/// fits in a fraction of it.
const QUERY_BYTES_MAX: usize = 64 * 1024;

/// What happens between commands.
enum Next {
    Client(Message),
    ClientLeft,
    Upstream(Message),
    UpstreamLeft,
    Stopping,
}

impl Session {
    /// Serves commands until the client leaves.
    pub(super) async fn commands(mut self) -> Result<(), SessionError> {
        let ended = match self.commands_or_move().await {
            Err(SessionError::Stopping) if self.client.is_reconfigured() => {
                Err(SessionError::Reconfigured)
            }
            ended => ended,
        };
        if let Err(error) = &ended {
            part(&mut self.from_client, &mut self.to_client, error).await;
        }
        let mut goodbye = Vec::new();
        terminate(&mut goodbye);
        self.to_upstream.farewell(&goodbye).await;
        ended
    }

    /// When the upstream moves, everything ends as when the relay stops: between two messages.
    async fn commands_or_move(&mut self) -> Result<(), SessionError> {
        let (moved, stop) = (self.place.moved.clone(), self.stop.clone());
        let ended = {
            let mut commands = pin!(async {
                self.check_upstream().await?;
                self.commands_until_the_end().await
            });
            tokio::select! {
                ended = &mut commands => ended,
                () = moved.cancelled() => {
                    stop.cancel();
                    commands.await
                }
            }
        };
        match ended {
            Err(SessionError::Stopping) if moved.is_cancelled() => Err(SessionError::Moved),
            ended => ended,
        }
    }

    async fn commands_until_the_end(&mut self) -> Result<(), SessionError> {
        loop {
            match self.next().await? {
                Next::Client(message) if message.tag == frontend::QUERY => {
                    self.query(&message).await?;
                }
                Next::Client(message) if message.tag == frontend::TERMINATE => return Ok(()),
                Next::Client(message) => self.stray(&message).await?,
                Next::ClientLeft => return Err(SessionError::ClientLeft),
                // Notices, changed settings, or the reason for which the server hangs up.
                Next::Upstream(message) => {
                    self.to_client.send(&message.raw).await?;
                    if message.tag == backend::ERROR {
                        return Ok(());
                    }
                }
                Next::UpstreamLeft => return Err(SessionError::UpstreamLeft),
                Next::Stopping => return Err(SessionError::Stopping),
            }
        }
    }

    /// Waits for whatever comes next. A message that has begun must be finished in time.
    async fn next(&mut self) -> Result<Next, SessionError> {
        let patience = self.context.config.limits.startup_timeout;
        let mut begun: Option<Instant> = None;
        loop {
            let message = self.from_client.take(QUERY_BYTES_MAX);
            if let Some(message) = message.map_err(|error| SessionError::Client(error.into()))? {
                return Ok(Next::Client(message));
            }
            if self.from_client.buffered().is_empty() {
                begun = None;
            } else if begun.is_none() {
                begun = Some(Instant::now());
            }
            let too_late = async {
                match begun {
                    Some(begun) => tokio::time::sleep_until(begun + patience).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                filled = self.from_client.fill() => {
                    if filled.map_err(|error| SessionError::Client(error.into()))? == 0 {
                        return Ok(Next::ClientLeft);
                    }
                }
                message = self.from_upstream.message(limit::REPLY) => {
                    let message = message.map_err(SessionError::Upstream)?;
                    return Ok(message.map_or(Next::UpstreamLeft, Next::Upstream));
                }
                () = too_late => {
                    return Err(SessionError::ClientSlow { what: "finish a message" });
                }
                () = self.stop.cancelled() => return Ok(Next::Stopping),
            }
        }
    }

    async fn query(&mut self, message: &Message) -> Result<(), SessionError> {
        let text = match query_text(message.payload()) {
            Ok(text) => text,
            Err(error) => {
                let report =
                    Report::error(pgproto::SqlState::PROTOCOL_VIOLATION, error.to_string());
                return self.answer(&report).await;
            }
        };
        let command = match Command::parse(text) {
            Ok(command) => command,
            Err(error) => {
                let report = Report::error(error.sqlstate(), error.client_message());
                return self.answer(&report).await;
            }
        };
        tracing::debug!(command = command.keyword(), "command");
        // Its history alone makes a standby follow a timeline.
        if let Command::StartPhysical(StartPhysical { timeline: Some(timeline), .. })
        | Command::TimelineHistory { timeline } = &command
            && !self.context.upstream.knows(*timeline)
        {
            self.check_upstream().await?;
        }
        self.client.does(match &command {
            Command::BaseBackup(_) => Activity::Backup,
            _ => Activity::Command,
        });
        if let Command::StartPhysical(start) = &command {
            self.client.progress().begin_stream(start.start);
        }
        let done = self.execute(command, message).await;
        self.client.does(Activity::Idle);
        done
    }

    async fn execute(&mut self, command: Command, message: &Message) -> Result<(), SessionError> {
        let filtered = self.filter().is_some();
        match command {
            Command::Sql | Command::StartLogical { .. } | Command::CreateLogicalSlot { .. } => {
                self.answer(&refusal::unsupported(&command)).await
            }
            Command::BaseBackup(backup) if filtered => {
                self.backup_filtered(&backup, &message.raw).await
            }
            Command::StartPhysical(start)
                if let Some(report) = self.foreign_slot(&start).await? =>
            {
                self.answer(&report).await
            }
            Command::CreatePhysicalSlot(create) if !create.temporary => {
                self.change_slot(&create.name, true, &message.raw).await
            }
            Command::DropSlot { name, .. } => self.change_slot(&name, false, &message.raw).await,
            Command::StartPhysical(_) if !filtered && let Some(report) = self.filter_is_gone() => {
                self.answer(&report).await
            }
            Command::StartPhysical(start) if self.has_auto_slot() => {
                match self.with_slot(start).await? {
                    Err(report) => self.answer(&report).await,
                    Ok(start) if filtered => self.start_filtered(start).await,
                    Ok(start) => {
                        let command = Command::StartPhysical(start).to_text();
                        self.send_upstream(|out| query(&command, out)).await;
                        self.until_ready().await
                    }
                }
            }
            Command::StartPhysical(start) if filtered => self.start_filtered(start).await,
            // The text as it came: the server has the last word on what it means.
            _ => {
                self.to_upstream.queue(&message.raw);
                self.until_ready().await
            }
        }
    }

    /// Messages other than queries: ignored where a server ignores them, else refused.
    async fn stray(&mut self, message: &Message) -> Result<(), SessionError> {
        match message.tag {
            // Behind a stream that ended early; `PostgresMain` ignores them as well.
            backend::COPY_DATA | backend::COPY_DONE | frontend::COPY_FAIL => Ok(()),
            // The end of a group of extended messages, each of which was answered below.
            frontend::SYNC => {
                let mut ready = Vec::new();
                pgproto::backend::ready_for_query(b'I', &mut ready);
                self.to_client.send(&ready).await
            }
            frontend::PARSE => {
                let mut refusal = Vec::new();
                pgproto::backend::error_response(&refusal::extended_query(), &mut refusal);
                self.to_client.send(&refusal).await
            }
            frontend::BIND
            | frontend::EXECUTE
            | frontend::DESCRIBE
            | frontend::CLOSE
            | frontend::FLUSH => Ok(()),
            frontend::FUNCTION_CALL => self.answer(&refusal::function_call()).await,
            tag => {
                let place = "where a command belongs";
                Err(SessionError::ClientMessage { tag, place })
            }
        }
    }
}
