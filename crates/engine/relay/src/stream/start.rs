//! `START_REPLICATION` of a client with a filter.

use std::sync::Arc;

use alarm::Code;
use pgproto::backend::{Report, Severity, parse_error_response, ready_for_query};
use pgproto::frame::backend;
use pgproto::history::History;
use pgproto::replication::{Command, StartPhysical};
use pgtypes::{Lsn, SegmentBytes, Timeline};
use tracing::{error, info, warn};
use wal::{Entry, Layout, Rewriter};

use super::StreamError;
use super::course::{Course, lock};
use super::flow::{Ended, Flow};
use crate::counters::Refusal;
use crate::ledger::{Ledger, LedgerError};
use crate::names::Names;
use crate::session::{Session, SessionError, pass_up};

impl Session {
    /// Streams from where the client asked, filtered, until the stream ends.
    pub(crate) async fn start_filtered(
        &mut self,
        start: StartPhysical,
    ) -> Result<(), SessionError> {
        let course = match self.plot(Some(&start)).await {
            Ok(course) => course,
            // Nothing has been started: the connection can go on.
            Err(SessionError::Stream(error)) => {
                error!(code = %Code::NoFilteredStream, %error, "cannot stream with a filter");
                let report = Report { severity: Severity::Error, ..error.report() };
                self.context.counters.refuse(Refusal::of(report.sqlstate));
                return self.to_client.report_and_ready(&report).await;
            }
            Err(error) => return Err(error),
        };
        let segment = start.start.round_down(course.segment_bytes.bytes());
        let aligned = StartPhysical { start: segment, ..start.clone() };
        // The server judges the position that the client asked for; the stream itself
        // begins at the segment, where it is known what continues.
        if start.start != segment && !self.probe(start.clone()).await? {
            return Ok(());
        }
        let command = Command::StartPhysical(aligned.clone()).to_text();
        self.send_upstream(|out| pgproto::frontend::query(&command, out)).await;
        loop {
            let message = self.upstream_message().await?;
            self.to_client.send(&message.raw).await?;
            match message.tag {
                backend::COPY_BOTH => break,
                backend::READY => return Ok(()),
                backend::ERROR => {
                    let reason = parse_error_response(message.payload());
                    info!(sqlstate = reason.sqlstate, reason = reason.message, "not started");
                }
                _ => {}
            }
        }
        self.stream(course, aligned).await
    }

    /// Why a client without a filter cannot stream: there was one under this configuration, and
    /// its standbys do not have what it kept from them.
    pub(crate) fn filter_is_gone(&self) -> Option<Report> {
        let name = &self.configuration.as_ref()?.name;
        let error = match Ledger::excluded(&self.context.config.state_dir, name) {
            Ok(nothing) if nothing.is_empty() => return None,
            Ok(loosened) => LedgerError::Loosened { name: name.clone(), loosened },
            Err(error) => error,
        };
        let error = StreamError::from(error);
        error!(code = %Code::FilterGone, %error, "cannot stream without the filter that there was");
        Some(Report { severity: Severity::Error, ..error.report() })
    }

    async fn stream(&mut self, course: Course, start: StartPhysical) -> Result<(), SessionError> {
        let layout = Layout { major: self.major, segment_bytes: course.segment_bytes };
        let span = lock(&course.ledger).span(&course.history, start.start);
        let entry = span.clone().map_or(Entry::Unknown, Entry::Span);
        let table = lock(&course.ledger).table(&course.history);
        let rewriter = Rewriter::new(layout, start.start, entry);
        let mut flow = Flow::new(course, rewriter, table, Lsn::INVALID);
        flow.enter(start.start, span.as_ref())?;
        let ended = self.follow(&mut flow, layout, &start).await;
        flow.tell("the filtered stream ended");
        ended?;
        self.until_ready().await
    }

    /// Carries the stream to the end that the upstream gives it.
    async fn follow(
        &mut self,
        flow: &mut Flow,
        layout: Layout,
        start: &StartPhysical,
    ) -> Result<(), SessionError> {
        let mut looked_back = false;
        let mut client_is_done = false;
        loop {
            let Self { client, from_client, to_client, from_upstream, to_upstream, stop, .. } =
                self;
            let ended = tokio::select! {
                ended = flow.carry(from_upstream, to_client) => ended?,
                up = pass_up(from_client, to_upstream, client, &mut client_is_done) => return up,
                () = stop.cancelled() => return Err(SessionError::Stopping),
            };
            match ended {
                Ended::CopyDone => {
                    return flow.release(&mut self.to_client).await;
                }
                Ended::Other => return Ok(()),
                Ended::LookBack { at, rem_len } if !looked_back => {
                    looked_back = true;
                    self.look_back(flow, layout, start, at, rem_len).await?;
                    if client_is_done {
                        // The upstream took it for the end of the stream that was stopped.
                        self.send_upstream(pgproto::frontend::copy_done).await;
                    }
                }
                Ended::LookBack { at, rem_len } => {
                    return Err(
                        StreamError::from(wal::WalError::TailUnknown { at, rem_len }).into()
                    );
                }
            }
        }
    }

    /// Whether the server would stream from exactly here; if not, the client got its answer.
    async fn probe(&mut self, start: StartPhysical) -> Result<bool, SessionError> {
        let command = Command::StartPhysical(start).to_text();
        self.send_upstream(|out| pgproto::frontend::query(&command, out)).await;
        let message = self.upstream_message().await?;
        if message.tag == backend::COPY_BOTH {
            // A position ahead of the server, or WAL that is gone, is reported only now.
            let Some(error) = self.stop_upstream(0).await? else { return Ok(true) };
            let reason = parse_error_response(error.payload());
            info!(sqlstate = reason.sqlstate, reason = reason.message, "not started");
            let mut messages = error.raw;
            ready_for_query(b'I', &mut messages);
            self.to_client.send(&messages).await?;
            return Ok(false);
        }
        self.to_client.send(&message.raw).await?;
        self.until_ready().await?;
        Ok(false)
    }

    /// Finds out all that a filtered stream, or a backup (without `start`), needs to know.
    pub(crate) async fn plot(
        &mut self,
        start: Option<&StartPhysical>,
    ) -> Result<Course, SessionError> {
        let (Some(configuration), Some(filter)) =
            (self.configuration.clone(), self.filter().cloned())
        else {
            return Err(StreamError::Answer { command: "START_REPLICATION" }.into());
        };
        let (system_identifier, current) = self.identify().await?;
        let segment_bytes = self.segment_bytes().await?;
        let timeline = start.and_then(|start| start.timeline).unwrap_or(current);
        let history = self.history(timeline).await?;
        let ledger = self.context.ledger(&configuration.name, &filter, &system_identifier).await;
        let ledger = ledger.map_err(StreamError::from)?;
        let catalog = self.context.upstream.catalog(&self.user, &self.place);
        match catalog.read().await {
            Ok(names) => {
                let mut ledger = lock(&ledger);
                let adopted = ledger.adopt(&names, &history, segment_bytes);
                adopted.map_err(StreamError::from)?;
                check_names(&ledger, &names, &configuration.name, self.context.config.strict)?;
                tell_withheld(&ledger, &names, &history, &configuration.name);
            }
            Err(error) if lock(&ledger).has_names() => {
                let configuration = configuration.name.as_str();
                warn!(configuration, %error, "going on with the names that are known already");
            }
            Err(error) => return Err(StreamError::from(error).into()),
        }
        let wanted = start.map_or(Lsn::INVALID, |start| start.start);
        if let Some(start) = start {
            info!(
                configuration = configuration.name,
                lsn = %wanted,
                %timeline,
                slot = start.slot,
                "streaming with a filter",
            );
        }
        Ok(Course {
            context: Arc::clone(&self.context),
            client: Arc::clone(&self.client),
            configuration: configuration.name,
            ledger,
            catalog,
            history,
            segment_bytes,
            wanted,
        })
    }

    /// The upstream's system identifier and its newest timeline.
    pub(crate) async fn identify(&mut self) -> Result<(String, Timeline), SessionError> {
        const COMMAND: &str = "IDENTIFY_SYSTEM";
        let row = self.ask_for_row(COMMAND).await?;
        let text = |column: usize| {
            let value = row.get(column)?.as_deref()?;
            str::from_utf8(value).ok()
        };
        let identity = text(0).zip(text(1).and_then(|timeline| timeline.parse().ok()));
        let (system, timeline) = identity.ok_or(StreamError::Answer { command: COMMAND })?;
        Ok((system.to_owned(), Timeline(timeline)))
    }

    async fn segment_bytes(&mut self) -> Result<SegmentBytes, SessionError> {
        const COMMAND: &str = "SHOW wal_segment_size";
        let row = self.ask_for_row(COMMAND).await?;
        let value = row.first().and_then(Option::as_deref).and_then(|it| str::from_utf8(it).ok());
        let value = value.ok_or(StreamError::Answer { command: COMMAND })?;
        Ok(SegmentBytes::from_show(value).map_err(StreamError::from)?)
    }

    /// The ancestry of a timeline, as the upstream tells it; none when it does not.
    pub(crate) async fn history(&mut self, timeline: Timeline) -> Result<History, SessionError> {
        const COMMAND: &str = "TIMELINE_HISTORY";
        let without_past = History::without_past(timeline);
        if timeline <= Timeline(1) {
            return Ok(without_past);
        }
        let command = Command::TimelineHistory { timeline }.to_text();
        let Ok(rows) = self.ask(&command).await? else {
            // No such timeline: START_REPLICATION will get the server's own words for it.
            return Ok(without_past);
        };
        let content = rows.first().and_then(|row| row.get(1)).and_then(Option::as_deref);
        let content = content.ok_or(StreamError::Answer { command: COMMAND })?;
        let history = History::parse(timeline, content);
        Ok(history.map_err(|_malformed| StreamError::Answer { command: COMMAND })?)
    }

    pub(crate) async fn ask_for_row(
        &mut self,
        command: &'static str,
    ) -> Result<Vec<Option<Vec<u8>>>, SessionError> {
        let rows = self
            .ask(command)
            .await?
            .map_err(|error| StreamError::Refused { command, message: error.message })?;
        Ok(rows.into_iter().next().ok_or(StreamError::Answer { command })?)
    }
}

/// Tells, each time a standby comes, what it does not get although the filter includes it.
fn tell_withheld(ledger: &Ledger, names: &Names, history: &History, configuration: &str) {
    for (what, reason) in ledger.withheld(names, history) {
        warn!(
            configuration,
            reason,
            "the standbys do not have {what}, which the filter includes: to change that, run \
             `pgherd relay forget {configuration}` and make them anew",
        );
    }
}

/// Tells of names in the filter that the server does not have.
fn check_names(
    ledger: &Ledger,
    names: &Names,
    configuration: &str,
    strict: bool,
) -> Result<(), StreamError> {
    for unmatched in ledger.unmatched(names) {
        let missing = format!("{} {:?}", unmatched.kind.word(), unmatched.pattern);
        if strict {
            return Err(StreamError::Strict { configuration: configuration.to_owned(), missing });
        }
        warn!(configuration, "the filter names {missing}, which the server does not have (yet)");
    }
    Ok(())
}
