//! Passes the answer to a command on, however long it is, until the server is ready again.
//!
//! This is also the path of an unfiltered stream: messages are counted, not read, and go on
//! as soon as their bytes arrive, out of the buffer into which they came.

use pgproto::copy::{ServerMessage, XLogData};
use pgproto::frame::{FrameError, Header, backend, frontend, limit};

use super::{Outbound, Session, SessionError};
use crate::clients::{Activity, Client};
use crate::room::{Room, SMALL_BYTES};
use crate::stream::StreamError;
use pgnet::{Inbound, ReadError};
use pgtypes::Lsn;

/// Longest message of a client beside a stream: a piece of an uploaded manifest.
const CLIENT_BYTES_MAX: usize = 1 << 20;

impl Session {
    /// Sends what is in line upstream, then passes everything on until the server is ready.
    ///
    /// A client with a filter gets no WAL and no backup here, whatever the server sends: nobody
    /// would have looked at it.
    pub(crate) async fn until_ready(&mut self) -> Result<(), SessionError> {
        let is_filtered = self.filter().is_some();
        let Self { context, client, from_client, to_client, from_upstream, to_upstream, .. } = self;
        to_upstream.flush_up().await;
        let mut is_done = false;
        let frames = Frames { is_filtered, ..Frames::default() };
        let room = context.rooms.enter();
        tokio::select! {
            down = pass_down(from_upstream, to_client, client, frames, room) => down,
            up = pass_up(from_client, to_upstream, client, &mut is_done) => up,
            () = self.stop.cancelled() => Err(SessionError::Stopping),
        }
    }
}

/// From the server to the client, until the server is ready.
async fn pass_down(
    from_upstream: &mut Inbound,
    to_client: &mut Outbound,
    client: &Client,
    mut frames: Frames,
    mut room: Room,
) -> Result<(), SessionError> {
    let mut buffer = vec![0; SMALL_BYTES];
    frames.is_stream = client.progress().activity == Activity::Streaming;
    loop {
        let bytes = match from_upstream.read_some(&mut buffer).await {
            // The last word is the server's: a standby takes anything behind it for an error.
            // A server that leaves what the standby still sends unread resets the connection.
            Ok(0) | Err(_) if frames.is_over() => return Err(SessionError::UpstreamEnded),
            Ok(0) => return Err(SessionError::UpstreamLeft),
            Ok(bytes) => bytes,
            Err(error) => return Err(SessionError::Upstream(error.into())),
        };
        let arrived = buffer.get(..bytes).unwrap_or_default();
        let ready = frames.until_ready(arrived);
        let ready = ready.map_err(|error| SessionError::Upstream(error.into()))?;
        if frames.is_filtered && frames.has_copy_data {
            let what = "data that no filter has seen".to_owned();
            return Err(StreamError::Malformed(what).into());
        }
        let (now, later) = arrived.split_at(ready.unwrap_or(bytes));
        let passed = to_client.write_through(now, frames.is_between_messages()).await;
        passed.map_err(|error| SessionError::Client(error.into()))?;
        client.count(|tally| {
            tally.received_bytes.add(now.len() as u64);
            tally.sent_bytes.add(now.len() as u64);
        });
        if frames.is_stream {
            client.sent(frames.sent, frames.end);
        }
        if ready.is_some() {
            from_upstream.unread(later);
            return Ok(());
        }
        let wanted = room.after(bytes, buffer.len());
        if wanted != buffer.len() {
            buffer = vec![0; wanted];
        }
    }
}

/// From the client to the server: what belongs to a stream. Ends only with an error of the
/// client's. Cancel-safe. `is_done` becomes true when the client has ended its half.
pub(crate) async fn pass_up(
    from_client: &mut Inbound,
    to_upstream: &mut Outbound,
    client: &Client,
    is_done: &mut bool,
) -> Result<(), SessionError> {
    loop {
        if !to_upstream.flush_up().await {
            return std::future::pending().await;
        }
        let message = from_client.message(CLIENT_BYTES_MAX).await;
        let message = message.map_err(SessionError::Client)?;
        let message = message.ok_or(SessionError::ClientLeft)?;
        match message.tag {
            backend::COPY_DATA | backend::COPY_DONE | frontend::COPY_FAIL => {
                *is_done |= message.tag == backend::COPY_DONE;
                if message.tag == backend::COPY_DATA {
                    client.heard(message.payload());
                }
                to_upstream.queue(&message.raw);
            }
            frontend::TERMINATE => return Err(SessionError::ClientLeft),
            // The next command, sent before the answer to this one: it waits for its turn.
            frontend::QUERY => {
                from_client.unread(&message.raw);
                return std::future::pending().await;
            }
            tag => {
                let place = "while the answer to a command was under way";
                return Err(SessionError::ClientMessage { tag, place });
            }
        }
    }
}

/// Counts messages in bytes that pass by in pieces of any size.
#[derive(Debug, Default)]
struct Frames {
    /// The part of a header that has been seen.
    header: [u8; Header::BYTES],
    header_bytes: usize,
    /// Bytes of the current payload that are to come.
    payload_bytes: usize,
    /// The message that is passing by, or was the last.
    tag: u8,
    /// Whether it is a stream of WAL that passes by, and no backup.
    is_stream: bool,
    /// Whether it is for a client with a filter.
    is_filtered: bool,
    /// Whether something of a stream or a backup has come.
    has_copy_data: bool,
    /// The first bytes of its payload: they tell how far a stream is.
    head: [u8; XLogData::BYTES],
    /// Bytes of its payload that have passed by.
    seen_bytes: usize,
    /// Behind the last WAL that passed by, and where the upstream was then.
    sent: Lsn,
    end: Lsn,
}

impl Frames {
    /// Whether the bytes so far end with a message.
    const fn is_between_messages(&self) -> bool {
        self.header_bytes == 0 && self.payload_bytes == 0
    }

    /// Whether the server has said how the command ended, and may hang up.
    const fn is_over(&self) -> bool {
        matches!(self.tag, backend::ERROR | backend::COMMAND_COMPLETE) && self.is_between_messages()
    }

    /// Where in `bytes` the message ends that says "ready", if it does.
    fn until_ready(&mut self, bytes: &[u8]) -> Result<Option<usize>, FrameError> {
        let mut at = 0;
        loop {
            let here = self.payload_bytes.min(bytes.len() - at);
            self.note(bytes.get(at..at + here).unwrap_or_default());
            at += here;
            self.payload_bytes -= here;
            if self.is_between_messages() && self.tag == backend::READY {
                return Ok(Some(at));
            }
            let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) else {
                return Ok(None);
            };
            let missing = Header::BYTES - self.header_bytes;
            let here = missing.min(rest.len());
            let (Some(into), Some(from)) = (
                self.header.get_mut(self.header_bytes..self.header_bytes + here),
                rest.get(..here),
            ) else {
                return Ok(None);
            };
            into.copy_from_slice(from);
            self.header_bytes += here;
            at += here;
            if self.header_bytes == Header::BYTES {
                let header = Header::parse(&self.header)?.check_limit(limit::STREAM)?;
                self.header_bytes = 0;
                self.payload_bytes = header.payload_bytes;
                self.tag = header.tag;
                self.has_copy_data |= header.tag == backend::COPY_DATA;
                self.seen_bytes = 0;
            }
        }
    }

    /// Looks at what passes by of a stream: where its WAL is, and where the upstream is.
    fn note(&mut self, bytes: &[u8]) {
        if self.tag != backend::COPY_DATA || !self.is_stream {
            return;
        }
        if let Some(room) = self.head.get_mut(self.seen_bytes..) {
            room.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        }
        self.seen_bytes += bytes.len();
        match ServerMessage::parse(self.head.get(..self.seen_bytes).unwrap_or(&self.head)) {
            Ok(ServerMessage::XLogData(head, _)) => {
                let wal_bytes = self.seen_bytes.saturating_sub(XLogData::BYTES);
                self.sent = head.start + wal_bytes as u64;
                self.end = head.end;
            }
            Ok(ServerMessage::Keepalive(alive)) => self.end = alive.end,
            // The rest of it has not come, or it is something else.
            _ => {}
        }
    }
}

impl From<FrameError> for SessionError {
    fn from(error: FrameError) -> Self {
        Self::Upstream(ReadError::Frame(error))
    }
}

#[cfg(test)]
mod tests {
    use pgproto::copy::Keepalive;

    use super::*;

    #[test]
    fn finds_the_end_however_the_bytes_are_cut() {
        let mut bytes = Vec::new();
        pgproto::frame::write(backend::COPY_DATA, &[b'Z'; 300], &mut bytes);
        pgproto::frame::write(backend::COMMAND_COMPLETE, b"X\0", &mut bytes);
        pgproto::frame::write(backend::READY, b"I", &mut bytes);
        let whole = bytes.len();
        bytes.extend_from_slice(b"next");
        for step in 1..bytes.len() {
            let mut frames = Frames::default();
            let mut before = 0;
            let found = bytes.chunks(step).find_map(|chunk| {
                let found = frames.until_ready(chunk).unwrap().map(|end| before + end);
                before += chunk.len();
                found
            });
            assert_eq!(found, Some(whole), "in steps of {step}");
        }
    }

    #[test]
    fn tells_how_far_a_stream_is_however_the_bytes_are_cut() {
        let head = XLogData { start: Lsn(0x1000), end: Lsn(0x9000), sent_at_micros: 1 };
        let alive = Keepalive { end: Lsn(0xA000), sent_at_micros: 2, reply_requested: false };
        let mut bytes = Vec::new();
        let wal = [&head.to_bytes()[..], &[7; 300]].concat();
        pgproto::frame::write(backend::COPY_DATA, &wal, &mut bytes);
        let first = bytes.len();
        pgproto::frame::write(backend::COPY_DATA, &alive.to_bytes(), &mut bytes);
        for step in 1..bytes.len() {
            let mut frames = Frames { is_stream: true, ..Frames::default() };
            for (number, chunk) in bytes.chunks(step).enumerate() {
                frames.until_ready(chunk).unwrap();
                if (number + 1) * step == first {
                    assert_eq!(frames.end, Lsn(0x9000), "in steps of {step}");
                }
            }
            assert_eq!((frames.sent, frames.end), (Lsn(0x1000 + 300), Lsn(0xA000)));
        }
        let mut backup = Frames::default();
        backup.until_ready(&bytes).unwrap();
        assert_eq!(backup.sent, Lsn::INVALID);
    }

    #[test]
    fn a_length_that_no_server_sends_is_refused() {
        let refused = Frames::default().until_ready(b"d\x7f\xff\xff\xff").unwrap_err();
        assert!(matches!(refused, FrameError::TooLong { tag: b'd', .. }));
    }
}
