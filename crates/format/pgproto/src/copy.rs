//! What `CopyData` messages carry while WAL streams.
//!
//! Layouts: "Streaming Replication Protocol" in the manual; `XLogWalRcvProcessMsg` and
//! `XLogWalRcvSendReply` (walreceiver.c), `ProcessRepliesIfAny` (walsender.c). Times are
//! microseconds since 2000-01-01 UTC. Like the server's own readers these take a message
//! only at its exact length.

use pgtypes::Lsn;
use pgtypes::read::{Reader, Truncated};

/// A message of the stream that is cut, or too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// The message ends inside a field.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// Bytes follow the last field.
    #[error("stream message {letter:#04x} has {bytes} bytes too many")]
    Trailing {
        /// First byte of the message.
        letter: u8,
        /// Bytes after the last field.
        bytes: usize,
    },
}

/// The head of a `w` message; WAL follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XLogData {
    /// Position of the first byte of WAL in this message.
    pub start: Lsn,
    /// End of WAL on the server when it sent this.
    pub end: Lsn,
    /// The server's clock.
    pub sent_at_micros: i64,
}

/// A `k` message: the server lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// End of WAL that the server has sent.
    pub end: Lsn,
    /// The server's clock.
    pub sent_at_micros: i64,
    /// Whether the server wants a status at once.
    pub reply_requested: bool,
}

/// An `r` message: how far a standby is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StandbyStatus {
    /// Written up to here.
    pub write: Lsn,
    /// On disk up to here.
    pub flush: Lsn,
    /// Replayed up to here; [`Lsn::INVALID`] from a receiver that does not replay.
    pub apply: Lsn,
    /// The standby's clock.
    pub sent_at_micros: i64,
    /// Whether the standby wants a keepalive at once.
    pub reply_requested: bool,
}

/// An `h` message: what a hot standby's queries still see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HotStandbyFeedback {
    /// The standby's clock.
    pub sent_at_micros: i64,
    /// Oldest transaction that queries need; zero for none.
    pub xmin: u32,
    /// How often transaction numbers had wrapped at `xmin`.
    pub xmin_epoch: u32,
    /// Oldest transaction whose catalog rows slots need; zero for none.
    pub catalog_xmin: u32,
    /// How often transaction numbers had wrapped at `catalog_xmin`.
    pub catalog_xmin_epoch: u32,
}

/// What a server streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerMessage<'a> {
    /// WAL.
    XLogData(XLogData, &'a [u8]),
    /// A sign of life.
    Keepalive(Keepalive),
    /// A letter that is not known here; none at all gives zero.
    Unknown(u8),
}

/// What a standby sends while it receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StandbyMessage {
    /// How far it is.
    Status(StandbyStatus),
    /// What its queries see.
    Feedback(HotStandbyFeedback),
    /// A letter that is not known here, as `p` of PostgreSQL 18; none at all gives zero.
    Unknown(u8),
}

impl XLogData {
    /// Length of the head, its letter included.
    pub const BYTES: usize = 25;

    /// The head as it goes on the wire.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let start = self.start.0.to_be_bytes();
        let end = self.end.0.to_be_bytes();
        joined(b'w', &[&start, &end, &self.sent_at_micros.to_be_bytes()])
    }
}

impl Keepalive {
    /// Length of the message.
    pub const BYTES: usize = 18;

    /// The message as it goes on the wire, inside a `CopyData`.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let end = self.end.0.to_be_bytes();
        let time = self.sent_at_micros.to_be_bytes();
        joined(b'k', &[&end, &time, &[u8::from(self.reply_requested)]])
    }
}

impl StandbyStatus {
    /// Length of the message.
    pub const BYTES: usize = 34;

    /// The message as it goes on the wire, inside a `CopyData`.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let [write, flush, apply] = [self.write, self.flush, self.apply].map(|l| l.0.to_be_bytes());
        let time = self.sent_at_micros.to_be_bytes();
        joined(b'r', &[&write, &flush, &apply, &time, &[u8::from(self.reply_requested)]])
    }
}

impl HotStandbyFeedback {
    /// Length of the message.
    pub const BYTES: usize = 25;

    /// The message as it goes on the wire, inside a `CopyData`.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let numbers = [self.xmin, self.xmin_epoch, self.catalog_xmin, self.catalog_xmin_epoch];
        let [a, b, c, d] = numbers.map(u32::to_be_bytes);
        joined(b'h', &[&self.sent_at_micros.to_be_bytes(), &a, &b, &c, &d])
    }
}

impl<'a> ServerMessage<'a> {
    /// Reads the payload of a `CopyData` from a server.
    ///
    /// # Errors
    ///
    /// [`CopyError`] when a known message does not have its length.
    pub fn parse(payload: &'a [u8]) -> Result<Self, CopyError> {
        let mut reader = Reader::new(payload);
        let letter = reader.u8("letter").unwrap_or(0);
        match letter {
            b'w' => {
                let start = Lsn(reader.u64_be("dataStart")?);
                let end = Lsn(reader.u64_be("walEnd")?);
                let sent_at_micros = reader.i64_be("sendTime")?;
                Ok(Self::XLogData(XLogData { start, end, sent_at_micros }, reader.rest()))
            }
            b'k' => {
                let end = Lsn(reader.u64_be("walEnd")?);
                let sent_at_micros = reader.i64_be("sendTime")?;
                let reply_requested = reader.u8("replyRequested")? != 0;
                ended(letter, reader)?;
                Ok(Self::Keepalive(Keepalive { end, sent_at_micros, reply_requested }))
            }
            _ => Ok(Self::Unknown(letter)),
        }
    }
}

impl StandbyMessage {
    /// Reads the payload of a `CopyData` from a standby.
    ///
    /// # Errors
    ///
    /// [`CopyError`] when a known message does not have its length.
    pub fn parse(payload: &[u8]) -> Result<Self, CopyError> {
        let mut reader = Reader::new(payload);
        let letter = reader.u8("letter").unwrap_or(0);
        let message = match letter {
            b'r' => Self::Status(StandbyStatus {
                write: Lsn(reader.u64_be("writePtr")?),
                flush: Lsn(reader.u64_be("flushPtr")?),
                apply: Lsn(reader.u64_be("applyPtr")?),
                sent_at_micros: reader.i64_be("sendTime")?,
                reply_requested: reader.u8("replyRequested")? != 0,
            }),
            b'h' => Self::Feedback(HotStandbyFeedback {
                sent_at_micros: reader.i64_be("sendTime")?,
                xmin: reader.u32_be("xmin")?,
                xmin_epoch: reader.u32_be("xmin_epoch")?,
                catalog_xmin: reader.u32_be("catalog_xmin")?,
                catalog_xmin_epoch: reader.u32_be("catalog_xmin_epoch")?,
            }),
            _ => return Ok(Self::Unknown(letter)),
        };
        ended(letter, reader)?;
        Ok(message)
    }
}

fn ended(letter: u8, reader: Reader<'_>) -> Result<(), CopyError> {
    match reader.rest().len() {
        0 => Ok(()),
        bytes => Err(CopyError::Trailing { letter, bytes }),
    }
}

/// `letter` and `fields` one after the other; together they are `N` bytes long.
fn joined<const N: usize>(letter: u8, fields: &[&[u8]]) -> [u8; N] {
    let mut bytes = [letter; N];
    let source = fields.iter().copied().flatten();
    bytes.iter_mut().skip(1).zip(source).for_each(|(to, from)| *to = *from);
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WAL: XLogData =
        XLogData { start: Lsn(0x0102_0000_0003), end: Lsn(0x0102_0000_0004), sent_at_micros: -2 };

    #[test]
    fn reads_wal_and_gives_the_rest() {
        let payload = [&WAL.to_bytes()[..], b"wal"].concat();
        assert_eq!(payload[..10], [b'w', 0, 0, 1, 2, 0, 0, 0, 3, 0]);
        assert_eq!(ServerMessage::parse(&payload), Ok(ServerMessage::XLogData(WAL, b"wal")));
    }

    #[test]
    fn every_cut_and_every_excess_is_refused() {
        let keepalive = Keepalive { end: Lsn(1), sent_at_micros: 2, reply_requested: true };
        let status = StandbyStatus {
            write: Lsn(3),
            flush: Lsn(2),
            apply: Lsn(1),
            sent_at_micros: 4,
            reply_requested: false,
        };
        for bytes in [&keepalive.to_bytes()[..], &WAL.to_bytes()] {
            for cut in 1..bytes.len() {
                assert!(ServerMessage::parse(&bytes[..cut]).is_err());
            }
        }
        let bytes = status.to_bytes();
        assert_eq!(StandbyMessage::parse(&bytes), Ok(StandbyMessage::Status(status)));
        for cut in 1..bytes.len() {
            assert!(StandbyMessage::parse(&bytes[..cut]).is_err());
        }
        let long = [&bytes[..], b"x"].concat();
        let error = StandbyMessage::parse(&long);
        assert_eq!(error, Err(CopyError::Trailing { letter: b'r', bytes: 1 }));
    }

    #[test]
    fn keeps_letters_that_it_does_not_know() {
        assert_eq!(StandbyMessage::parse(b"p12345678"), Ok(StandbyMessage::Unknown(b'p')));
        assert_eq!(ServerMessage::parse(b""), Ok(ServerMessage::Unknown(0)));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(a: u64, b: u64, c: u64, at: i64, n: [u32; 4], flag: bool) {
            let wal = XLogData { start: Lsn(a), end: Lsn(b), sent_at_micros: at };
            let read = ServerMessage::XLogData(wal, b"");
            let bytes = wal.to_bytes();
            prop_assert_eq!(ServerMessage::parse(&bytes), Ok(read));
            let alive = Keepalive { end: Lsn(a), sent_at_micros: at, reply_requested: flag };
            let read = ServerMessage::Keepalive(alive);
            let bytes = alive.to_bytes();
            prop_assert_eq!(ServerMessage::parse(&bytes), Ok(read));
            let status = StandbyStatus {
                write: Lsn(a),
                flush: Lsn(b),
                apply: Lsn(c),
                sent_at_micros: at,
                reply_requested: flag,
            };
            let read = StandbyMessage::Status(status);
            prop_assert_eq!(StandbyMessage::parse(&status.to_bytes()), Ok(read));
            let [xmin, xmin_epoch, catalog_xmin, catalog_xmin_epoch] = n;
            let feedback = HotStandbyFeedback {
                sent_at_micros: at,
                xmin,
                xmin_epoch,
                catalog_xmin,
                catalog_xmin_epoch,
            };
            let read = StandbyMessage::Feedback(feedback);
            prop_assert_eq!(StandbyMessage::parse(&feedback.to_bytes()), Ok(read));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(ServerMessage::XLogData(head, wal)) = ServerMessage::parse(&bytes) {
                prop_assert_eq!([&head.to_bytes()[..], wal].concat(), bytes.clone());
            }
            if let Ok(StandbyMessage::Feedback(feedback)) = StandbyMessage::parse(&bytes) {
                prop_assert_eq!(feedback.to_bytes().to_vec(), bytes);
            }
        }
    }
}
