//! Carries a filtered stream: message by message, in place.

use std::time::{Duration, Instant};

use pgproto::copy::{ServerMessage, XLogData};
use pgproto::frame::{Header, backend, limit};
use pgtypes::Lsn;
use tracing::info;
use wal::page::PAGE_BYTES;
use wal::{Event, Outcome, Rewriter, Stats};

use super::StreamError;
use super::course::Course;
use super::window::{HEAD_BYTES, Window, head_at};
use crate::clients::Client;
use crate::ledger::Table;
use crate::session::{Outbound, SessionError};
use pgnet::Inbound;

/// Requests for an answer that an upstream sends while the end of a record is missing before
/// it is taken for waiting: a server that shuts down asks again after each answer.
const PINGS_WHILE_HELD_MAX: u32 = 5;

/// Longest message beside WAL: a keepalive has 18 bytes. Such a message is taken whole.
const OTHER_BYTES_MAX: usize = 1024;

/// Longest warning, and longest value of a setting, that a server may send beside the stream. Such a
/// message is taken whole, and has room in every window.
const ASIDE_BYTES_MAX: usize = 64 << 10;

/// Between two lines of the log that tell how far a stream is: it may last for months.
const TELL_INTERVAL: Duration = Duration::from_secs(600);

/// A stream on its way.
pub(crate) struct Flow {
    pub(crate) course: Course,
    pub(crate) rewriter: Rewriter,
    pub(crate) table: Table,
    /// What has been read and is not final: it stands before the next bytes.
    pub(super) held: Vec<u8>,
    /// The newest segment that is in the ledger's journal.
    pub(super) entered: Lsn,
    /// Payload of the current message that has not been read.
    pub(super) remaining: usize,
    /// The head of the current message.
    pub(super) head: XLogData,
    pings_while_held: u32,
    counted: Stats,
    /// What the rewriter had done before the first byte that the client asked for.
    before: Stats,
    told: Instant,
}

/// How a stretch of a stream ended.
pub(super) enum Ended {
    /// The upstream ended its half: the timeline ends here, or the client asked for it.
    CopyDone,
    /// The upstream reports an error, or that the command is complete; its message is still to be
    /// read. No WAL follows.
    Other,
    /// The beginning of the record that continues here has to be found.
    LookBack {
        /// Start of the stream.
        at: Lsn,
        /// What is left of the record.
        rem_len: u32,
    },
}

impl Flow {
    pub(crate) fn new(course: Course, rewriter: Rewriter, table: Table, entered: Lsn) -> Self {
        Self {
            course,
            rewriter,
            table,
            held: Vec::new(),
            entered,
            remaining: 0,
            head: XLogData { start: Lsn::INVALID, end: Lsn::INVALID, sent_at_micros: 0 },
            pings_while_held: 0,
            counted: Stats::default(),
            before: Stats::default(),
            told: Instant::now(),
        }
    }

    /// Carries messages until something else than WAL comes. What was read and not used is
    /// given back to `from_upstream`.
    pub(super) async fn carry(
        &mut self,
        from_upstream: &mut Inbound,
        to_client: &mut Outbound,
    ) -> Result<Ended, SessionError> {
        let mut window = Window::new();
        let mut room = self.course.context.rooms.enter();
        loop {
            let space = window.space();
            let space_bytes = space.len();
            let bytes = from_upstream.read_some(space).await;
            let bytes = bytes.map_err(|error| SessionError::Upstream(error.into()))?;
            if bytes == 0 {
                return Err(SessionError::UpstreamLeft);
            }
            window.filled(bytes);
            self.course.client.count(|tally| tally.received_bytes.add(bytes as u64));
            let ended = self.messages(&mut window, to_client).await;
            // Also after an error: what is final before it is good.
            write_ready(&mut window, to_client, &self.course.client).await?;
            self.count();
            self.course.client.sent(self.rewriter.position(), self.head.end);
            if self.told.elapsed() >= TELL_INTERVAL {
                self.tell("still streaming");
            }
            if let Some(ended) = ended? {
                from_upstream.unread(window.rest());
                return Ok(ended);
            }
            window.resize(room.after(bytes, space_bytes));
        }
    }

    /// Works through what has been read.
    async fn messages(
        &mut self,
        window: &mut Window,
        to_client: &mut Outbound,
    ) -> Result<Option<Ended>, SessionError> {
        loop {
            if self.remaining > 0 {
                let bytes = self.sendable(window.rest().len());
                if bytes == 0 {
                    return Ok(None);
                }
                self.remaining -= bytes;
                if let Some(ended) = self.payload(window, bytes, to_client).await? {
                    return Ok(Some(ended));
                }
                continue;
            }
            let Some(header) = window.rest().first_chunk() else { return Ok(None) };
            let header = Header::parse(header)?.check_limit(limit::STREAM)?;
            match header.tag {
                backend::COPY_DATA => {}
                backend::COPY_DONE => return Ok(Some(Ended::CopyDone)),
                // A server that shuts down says that the command is complete, and no more.
                backend::ERROR | backend::COMMAND_COMPLETE => return Ok(Some(Ended::Other)),
                tag if backend::is_aside(tag) => {
                    if !self.aside(header, window, to_client).await? {
                        return Ok(None);
                    }
                    continue;
                }
                tag => {
                    let what = format!("a message of the type {:?}", char::from(tag));
                    return Err(StreamError::Malformed(what).into());
                }
            }
            let Some(head) = window.rest().get(Header::BYTES..) else { return Ok(None) };
            let Some(letter) = head.first() else { return Ok(None) };
            if *letter == b'w' && header.payload_bytes >= XLogData::BYTES {
                let Some(head) = head.get(..XLogData::BYTES) else { return Ok(None) };
                let malformed =
                    |error: pgproto::copy::CopyError| StreamError::Malformed(error.to_string());
                let ServerMessage::XLogData(head, _) =
                    ServerMessage::parse(head).map_err(malformed)?
                else {
                    return Err(StreamError::Malformed("not WAL".to_owned()).into());
                };
                self.begin_message(header, head)?;
                window.skip(HEAD_BYTES);
            } else {
                let header = header.check_limit(OTHER_BYTES_MAX)?;
                let whole = Header::BYTES + header.payload_bytes;
                let Some(message) = window.rest().get(..whole) else { return Ok(None) };
                self.watch(message.get(Header::BYTES..).unwrap_or_default())?;
                self.pass_whole(whole, window, to_client).await?;
            }
        }
    }

    /// Passes a message on that is not part of the stream, and does not end it: before 14 a server
    /// tells the value of each setting again that its files have when they are read anew. `false`
    /// when it is not here as a whole.
    async fn aside(
        &mut self,
        header: Header,
        window: &mut Window,
        to_client: &mut Outbound,
    ) -> Result<bool, SessionError> {
        let header = header.check_limit(ASIDE_BYTES_MAX)?;
        let whole = Header::BYTES + header.payload_bytes;
        if window.rest().len() < whole {
            return Ok(false);
        }
        self.pass_whole(whole, window, to_client).await?;
        Ok(true)
    }

    async fn pass_whole(
        &mut self,
        bytes: usize,
        window: &mut Window,
        to_client: &mut Outbound,
    ) -> Result<(), SessionError> {
        if !window.pass_whole(bytes) {
            write_ready(window, to_client, &self.course.client).await?;
            window.pass_whole(bytes);
        }
        Ok(())
    }

    /// How many of the `here` bytes of the current message may go on before the rest comes: all
    /// of its end, else whole pages. A standby reads a record as far as its page goes once the
    /// header is there: `XLogSendPhysical` (`walsender.c`) never cuts elsewhere, "Walreceiver
    /// relies on the fact that we never split a WAL record across two messages".
    fn sendable(&self, here: usize) -> usize {
        if here >= self.remaining {
            return self.remaining;
        }
        let at = self.rewriter.position() + self.held.len() as u64;
        let whole_pages = (at + here as u64).round_down(PAGE_BYTES).bytes_since(at);
        usize::try_from(whole_pages).unwrap_or(usize::MAX).min(here)
    }

    fn begin_message(&mut self, header: Header, head: XLogData) -> Result<(), StreamError> {
        let expected = self.rewriter.position() + self.held.len() as u64;
        if head.start != expected {
            return Err(StreamError::Gap { expected, found: head.start });
        }
        self.remaining = header.payload_bytes - XLogData::BYTES;
        self.head = head;
        Ok(())
    }

    /// Rewrites the next `bytes` of WAL together with what is held back.
    async fn payload(
        &mut self,
        window: &mut Window,
        bytes: usize,
        to_client: &mut Outbound,
    ) -> Result<Option<Ended>, SessionError> {
        let held = std::mem::take(&mut self.held);
        let start = self.rewriter.position();
        let mut done = 0;
        let mut ended = None;
        window.put_back(&held);
        loop {
            let piece = window.payload(held.len(), bytes, done);
            let fed = self.rewriter.feed(piece, &self.table);
            let fed = match fed {
                Ok(fed) => fed,
                Err(error) => {
                    self.forward(window, to_client, &held, bytes, start, done).await?;
                    return Err(StreamError::from(error).into());
                }
            };
            done += fed.done;
            match fed.outcome {
                Outcome::Drained => break,
                Outcome::Event(Event::NeedsLookBack { at, rem_len }) => {
                    ended = Some(Ended::LookBack { at, rem_len });
                    break;
                }
                Outcome::Event(event) => {
                    self.enter_segments()?;
                    self.handle(&event).await?;
                }
            }
        }
        self.enter_segments()?;
        if ended.is_none() {
            let rest = window.payload(held.len(), bytes, done);
            self.held.extend_from_slice(rest);
            if self.held.is_empty() {
                self.pings_while_held = 0;
            }
        }
        self.forward(window, to_client, &held, bytes, start, done).await?;
        Ok(ended)
    }

    /// Lets `done` of the bytes go out, but for those that the client did not ask for.
    async fn forward(
        &mut self,
        window: &mut Window,
        to_client: &mut Outbound,
        held: &[u8],
        bytes: usize,
        start: Lsn,
        done: usize,
    ) -> Result<(), SessionError> {
        let unwanted = self.course.wanted.bytes_since(start);
        let unwanted = usize::try_from(unwanted).unwrap_or(usize::MAX).min(done);
        let head = head_at(start + unwanted as u64, self.head);
        if !window.pass(held.len(), bytes, unwanted..done, head) {
            write_ready(window, to_client, &self.course.client).await?;
            window.pass(held.len(), bytes, unwanted..done, head);
        }
        Ok(())
    }

    /// Notices an upstream that waits for bytes that are held back.
    fn watch(&mut self, payload: &[u8]) -> Result<(), StreamError> {
        let Ok(ServerMessage::Keepalive(alive)) = ServerMessage::parse(payload) else {
            return Ok(());
        };
        self.course.client.told(alive.end);
        if !alive.reply_requested || self.held.is_empty() {
            return Ok(());
        }
        self.pings_while_held += 1;
        if self.pings_while_held < PINGS_WHILE_HELD_MAX {
            return Ok(());
        }
        Err(StreamError::Stuck { at: self.rewriter.position(), held_bytes: self.held.len() })
    }

    /// What the rewriter did so far was not for the client: it is not counted.
    pub(super) fn forget_counts(&mut self) {
        self.counted = self.rewriter.stats();
        self.before = self.counted;
        self.table.take_judged(|_database, _replaced, _records| {});
    }

    fn count(&mut self) {
        let now = self.rewriter.stats();
        let before = self.counted;
        self.course.client.count(|tally| {
            tally.records_passed.add(now.records_passed - before.records_passed);
            tally.records_replaced.add(now.records_replaced - before.records_replaced);
            tally.replaced_bytes.add(now.replaced_bytes - before.replaced_bytes);
        });
        self.counted = now;
        let client = &self.course.client;
        self.table.take_judged(|database, replaced, records| {
            client.count_for_all(|tally| tally.databases.add(database, replaced, records));
        });
    }

    /// Tells how far the stream is and what was done to it.
    pub(super) fn tell(&mut self, what: &str) {
        let (from, to) = (self.course.wanted, self.rewriter.position());
        let (before, now) = (self.before, self.rewriter.stats());
        info!(
            configuration = self.course.configuration,
            from = %from,
            to = %to.max(from),
            wal_bytes = to.bytes_since(from),
            records_passed = now.records_passed - before.records_passed,
            records_replaced = now.records_replaced - before.records_replaced,
            replaced_bytes = now.replaced_bytes - before.replaced_bytes,
            "{what}",
        );
        self.told = Instant::now();
    }

    /// What is held back goes out raw: the upstream ended its half, so it can only be padding
    /// or a record that nobody will replay.
    pub(super) async fn release(&mut self, to_client: &mut Outbound) -> Result<(), SessionError> {
        let start = self.rewriter.position();
        let unwanted = usize::try_from(self.course.wanted.bytes_since(start));
        let unwanted = unwanted.unwrap_or(usize::MAX).min(self.held.len());
        let held = std::mem::take(&mut self.held);
        let bytes = held.get(unwanted..).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(());
        }
        let head = head_at(start + unwanted as u64, self.head);
        let mut message = Vec::new();
        let payload = [&head.to_bytes(), bytes].concat();
        pgproto::frame::write(backend::COPY_DATA, &payload, &mut message);
        to_client.send(&message).await
    }
}

async fn write_ready(
    window: &mut Window,
    to_client: &mut Outbound,
    client: &Client,
) -> Result<(), SessionError> {
    if window.ready().is_empty() {
        return Ok(());
    }
    let written = to_client.write_through(window.ready(), true).await;
    written.map_err(|error| SessionError::Client(error.into()))?;
    let bytes = window.ready().len() as u64;
    client.count(|tally| tally.sent_bytes.add(bytes));
    window.written();
    Ok(())
}
