//! Finds the beginning of a record that continues into the place where a stream starts.
//!
//! Needed when no earlier stream left a note about that place. The upstream's stream is
//! stopped, the WAL before it is read from a segment further back and thrown away, and the
//! rewriter that has read it goes on with the stream proper. The client sees nothing of it.

use pgnet::Message;
use pgproto::backend::parse_error_response;
use pgproto::copy::{ServerMessage, StandbyStatus};
use pgproto::frame::{backend, limit, write};
use pgproto::frontend;
use pgproto::replication::{Command, StartPhysical};
use pgtypes::{Lsn, Timeline};
use tracing::{info, warn};
use wal::{Entry, Event, Layout, Outcome, Rewriter};

use super::StreamError;
use super::flow::Flow;
use crate::session::{Session, SessionError};

/// Longest record (`XLogRecordMaxSize` of 16 and later is 1020 MB); nothing begins further back.
const RECORD_BYTES_MAX: u64 = 1 << 30;

/// What one attempt to look back found.
enum Found {
    /// The rewriter has read up to the start of the stream.
    Beginning,
    /// The record begins further back still.
    Earlier,
    /// The WAL is gone.
    Gone(String),
}

impl Session {
    /// Lets `flow` know how the record began that continues at the start of its stream, and
    /// starts the upstream's stream again. `rem_len` bytes of the record are left there.
    pub(super) async fn look_back(
        &mut self,
        flow: &mut Flow,
        layout: Layout,
        start: &StartPhysical,
        at: Lsn,
        rem_len: u32,
    ) -> Result<(), SessionError> {
        self.stop_upstream(flow.remaining).await?;
        flow.remaining = 0;
        flow.held.clear();
        let segment_bytes = layout.segment_bytes.bytes();
        let mut from = at - segment_bytes;
        loop {
            match self.read_from(flow, layout, from, at).await? {
                Found::Beginning => {
                    let begins = flow.rewriter.position();
                    info!(lsn = %at, from = %from, read_to = %begins, "looked back");
                    break;
                }
                Found::Earlier if at.bytes_since(from) < RECORD_BYTES_MAX + segment_bytes => {
                    from = from - segment_bytes;
                }
                Found::Earlier => {
                    return Err(
                        StreamError::from(wal::WalError::TailUnknown { at, rem_len }).into()
                    );
                }
                Found::Gone(reason) => {
                    warn!(
                        configuration = flow.course.configuration,
                        lsn = %at,
                        remaining_bytes = rem_len,
                        reason,
                        "the upstream does not have the WAL before the start of this stream: the \
                         end of one record passes as it is; keep more WAL (a slot, wal_keep_size)",
                    );
                    flow.rewriter = Rewriter::new(layout, at, Entry::Raw);
                    break;
                }
            }
        }
        flow.forget_counts();
        let command = Command::StartPhysical(start.clone()).to_text();
        self.send_upstream(|out| frontend::query(&command, out)).await;
        match self.upstream_message().await? {
            message if message.tag == backend::COPY_BOTH => Ok(()),
            message => {
                let reason = parse_error_response(message.payload()).message;
                let command = "START_REPLICATION";
                Err(StreamError::Refused { command, message: reason }.into())
            }
        }
    }

    /// Reads `from..until` into a new rewriter.
    async fn read_from(
        &mut self,
        flow: &mut Flow,
        layout: Layout,
        from: Lsn,
        until: Lsn,
    ) -> Result<Found, SessionError> {
        if from == Lsn::INVALID {
            return Ok(Found::Gone("there is none before it".to_owned()));
        }
        // A segment is kept under the timeline on which its last byte was written.
        let last_byte = from + (layout.segment_bytes.bytes() - 1);
        let timeline = flow.course.history.timeline_at(last_byte);
        if let Some(reason) = self.start_reading(from, timeline).await? {
            return Ok(Found::Gone(reason));
        }
        flow.rewriter = Rewriter::new(layout, from, Entry::Unknown);
        flow.held.clear();
        let mut buffer: Vec<u8> = Vec::new();
        loop {
            let message = self.upstream_message().await?;
            if backend::is_aside(message.tag) {
                continue;
            }
            if message.tag != backend::COPY_DATA {
                let reason = parse_error_response(message.payload()).message;
                let command = "START_REPLICATION";
                return Err(StreamError::Refused { command, message: reason }.into());
            }
            match ServerMessage::parse(message.payload()) {
                Ok(ServerMessage::XLogData(head, bytes)) => {
                    let wanted = usize::try_from(until.bytes_since(head.start));
                    let wanted = wanted.unwrap_or(usize::MAX).min(bytes.len());
                    buffer.extend_from_slice(bytes.get(..wanted).unwrap_or_default());
                }
                Ok(ServerMessage::Keepalive(keepalive)) if keepalive.reply_requested => {
                    self.sign_of_life().await;
                }
                _ => {}
            }
            if !self.digest(flow, layout, from, &mut buffer).await? {
                self.stop_upstream(0).await?;
                return Ok(Found::Earlier);
            }
            if flow.rewriter.position() + buffer.len() as u64 >= until {
                flow.held = buffer;
                self.stop_upstream(0).await?;
                return Ok(Found::Beginning);
            }
        }
    }

    /// Feeds what was read to the rewriter. `false` when the record in question begins
    /// further back.
    async fn digest(
        &mut self,
        flow: &mut Flow,
        layout: Layout,
        from: Lsn,
        buffer: &mut Vec<u8>,
    ) -> Result<bool, SessionError> {
        let mut done = 0;
        loop {
            let bytes = buffer.get_mut(done..).unwrap_or_default();
            let fed = flow.rewriter.feed(bytes, &flow.table).map_err(StreamError::from)?;
            done += fed.done;
            match fed.outcome {
                Outcome::Drained => break,
                // Another record continues here. Only one that fills the whole segment can
                // be the one in question; any other may pass as it is, nobody gets it.
                Outcome::Event(Event::NeedsLookBack { rem_len, .. }) => {
                    if u64::from(rem_len) >= layout.segment_bytes.bytes() / 2 {
                        return Ok(false);
                    }
                    flow.rewriter = Rewriter::new(layout, from, Entry::Raw);
                }
                Outcome::Event(event) => flow.handle(&event).await?,
            }
        }
        buffer.drain(..done);
        Ok(true)
    }

    /// Starts a stream of the relay's own. The server's reason when it refuses.
    async fn start_reading(
        &mut self,
        start: Lsn,
        timeline: Timeline,
    ) -> Result<Option<String>, SessionError> {
        let start = StartPhysical { slot: None, start, timeline: Some(timeline) };
        let command = Command::StartPhysical(start).to_text();
        self.send_upstream(|out| frontend::query(&command, out)).await;
        let mut reason = None;
        loop {
            let message = self.upstream_message().await?;
            match message.tag {
                backend::COPY_BOTH => {
                    // A segment that is gone is reported only now.
                    return self.first_word().await;
                }
                backend::ERROR => reason = Some(parse_error_response(message.payload()).message),
                backend::READY => {
                    return Ok(Some(reason.unwrap_or_else(|| "the timeline ends there".into())));
                }
                _ => {}
            }
        }
    }

    /// Waits until a stream that was started says something, and leaves it unread.
    async fn first_word(&mut self) -> Result<Option<String>, SessionError> {
        let message = self.upstream_message().await?;
        if message.tag != backend::ERROR {
            self.from_upstream.unread(&message.raw);
            return Ok(None);
        }
        let reason = parse_error_response(message.payload()).message;
        while self.upstream_message().await?.tag != backend::READY {}
        Ok(Some(reason))
    }

    /// Ends the upstream's stream and reads it to its end, the `remaining` bytes of the
    /// current message first. The server's error when it had one beforehand.
    pub(crate) async fn stop_upstream(
        &mut self,
        remaining: usize,
    ) -> Result<Option<Message>, SessionError> {
        self.send_upstream(frontend::copy_done).await;
        let mut remaining = remaining;
        while remaining > 0 {
            let here = remaining.min(self.from_upstream.buffered().len());
            self.from_upstream.consume(here);
            remaining -= here;
            let filled = if remaining > 0 { self.from_upstream.fill().await } else { Ok(1) };
            if filled.map_err(|error| SessionError::Upstream(error.into()))? == 0 {
                return Err(SessionError::UpstreamLeft);
            }
        }
        let mut error = None;
        loop {
            let message = self.upstream_message().await?;
            match message.tag {
                backend::ERROR => error = Some(message),
                backend::READY => return Ok(error),
                _ => {}
            }
        }
    }

    /// Answers the upstream for the relay itself; confirms nothing.
    async fn sign_of_life(&mut self) {
        let nothing = Lsn::INVALID;
        let status = StandbyStatus {
            write: nothing,
            flush: nothing,
            apply: nothing,
            sent_at_micros: 0,
            reply_requested: false,
        };
        self.send_upstream(|out| write(backend::COPY_DATA, &status.to_bytes(), out)).await;
    }
}

const _: () = assert!(limit::STREAM > wal::HELD_BYTES_MAX);
