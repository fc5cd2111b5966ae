//! The frame of every message but the first: a tag, a length, a payload.
//!
//! The length on the wire counts itself and the payload but not the tag
//! (`pq_getmessage`, pqcomm.c). Names of tags follow `protocol.h` of PostgreSQL 17.

/// What stands before the payload of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The letter of the message; one of [`backend`] or [`frontend`].
    pub tag: u8,
    /// Bytes that follow the header.
    pub payload_bytes: usize,
}

/// Largest payload that a length on the wire can hold: it is signed and counts itself.
pub const PAYLOAD_BYTES_MAX: usize = 0x7FFF_FFFF - LENGTH_BYTES;

/// Limits of messages by what they are for, in bytes of payload.
pub mod limit {
    /// Passwords and SASL answers; `PG_MAX_AUTH_TOKEN_LENGTH` (`auth.h`).
    pub const AUTH: usize = 65_535;
    /// What a standby sends while it streams: status 34 bytes, feedback 25. Room for more.
    pub const STANDBY: usize = 1_024;
    /// A stream message of a server: `MAX_SEND_SIZE` (walsender.c) is 128 kB plus its header
    /// with pages of 8 kB, 512 kB with pages of 32 kB; twice that.
    pub const STREAM: usize = 1 << 20;
    /// Any other message of a server: rows, errors, parameters. A timeline's history is the
    /// longest, and [`crate::history::BYTES_MAX`] long at most.
    pub const REPLY: usize = crate::history::BYTES_MAX + 4_096;
}

const LENGTH_BYTES: usize = 4;

/// A header that no peer of ours would send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The length is smaller than the length field itself, or negative.
    #[error("message {tag:#04x} says that it is {length} bytes long")]
    Length {
        /// The letter of the message.
        tag: u8,
        /// The length as it was sent.
        length: i32,
    },
    /// More than the receiver takes at this point.
    #[error("message {tag:#04x} has {payload_bytes} bytes of payload, {limit} are allowed here")]
    TooLong {
        /// The letter of the message.
        tag: u8,
        /// Bytes of payload that it announces.
        payload_bytes: usize,
        /// Bytes that are allowed.
        limit: usize,
    },
}

impl Header {
    /// Length of a header: the tag and the length.
    pub const BYTES: usize = 1 + LENGTH_BYTES;

    /// Reads a header.
    ///
    /// The payload may still be absurdly long: see [`Header::check_limit`].
    ///
    /// # Errors
    ///
    /// [`FrameError::Length`] when the length cannot be one.
    pub fn parse(bytes: &[u8; Self::BYTES]) -> Result<Self, FrameError> {
        let [tag, length @ ..] = *bytes;
        let length = i32::from_be_bytes(length);
        let payload_bytes =
            usize::try_from(length).ok().and_then(|length| length.checked_sub(LENGTH_BYTES));
        let payload_bytes = payload_bytes.ok_or(FrameError::Length { tag, length })?;
        Ok(Self { tag, payload_bytes })
    }

    /// Refuses a payload longer than `limit` bytes, before memory is taken for it.
    ///
    /// # Errors
    ///
    /// [`FrameError::TooLong`].
    pub const fn check_limit(self, limit: usize) -> Result<Self, FrameError> {
        let Self { tag, payload_bytes } = self;
        if payload_bytes > limit {
            return Err(FrameError::TooLong { tag, payload_bytes, limit });
        }
        Ok(self)
    }

    /// The header as it goes on the wire.
    ///
    /// # Panics
    ///
    /// When the payload is longer than [`PAYLOAD_BYTES_MAX`]: the caller built it, and a cut
    /// length would make the peer read payload as messages.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let length = u32::try_from(self.payload_bytes + LENGTH_BYTES).unwrap_or(u32::MAX);
        assert!(self.payload_bytes <= PAYLOAD_BYTES_MAX, "a payload of two gigabytes");
        let [a, b, c, d] = length.to_be_bytes();
        [self.tag, a, b, c, d]
    }
}

/// Appends a whole message to `out`.
///
/// # Panics
///
/// As [`Header::to_bytes`].
pub fn write(tag: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.reserve(Header::BYTES + payload.len());
    out.extend_from_slice(&Header { tag, payload_bytes: payload.len() }.to_bytes());
    out.extend_from_slice(payload);
}

/// Tags of messages that a server sends; the copy messages go both ways.
pub mod backend {
    /// Authentication request, and the word that none is needed any more.
    pub const AUTHENTICATION: u8 = b'R';
    /// What a cancel request needs to know.
    pub const BACKEND_KEY: u8 = b'K';
    /// A statement is done.
    pub const COMMAND_COMPLETE: u8 = b'C';
    /// Streaming in both directions begins.
    pub const COPY_BOTH: u8 = b'W';
    /// A piece of a stream.
    pub const COPY_DATA: u8 = b'd';
    /// The sender's half of the stream is over.
    pub const COPY_DONE: u8 = b'c';
    /// The server waits for a stream.
    pub const COPY_IN: u8 = b'G';
    /// The server begins a stream.
    pub const COPY_OUT: u8 = b'H';
    /// One row.
    pub const DATA_ROW: u8 = b'D';
    /// The answer to an empty query.
    pub const EMPTY_QUERY: u8 = b'I';
    /// An error; `FATAL` ones end the connection.
    pub const ERROR: u8 = b'E';
    /// The server speaks an older minor version, or knows not each `_pq_.` option.
    pub const NEGOTIATE: u8 = b'v';
    /// A warning, or less.
    pub const NOTICE: u8 = b'N';
    /// A NOTIFY.
    pub const NOTIFICATION: u8 = b'A';
    /// The value of a setting that the client should know.
    pub const PARAMETER_STATUS: u8 = b'S';
    /// The server waits for the next command.
    pub const READY: u8 = b'Z';
    /// The columns of the rows that follow.
    pub const ROW_DESCRIPTION: u8 = b'T';

    /// Whether a message of this type may come at any time, in the middle of a stream as well, and
    /// ends nothing (`getCopyDataMessage`, fe-protocol3.c).
    #[must_use]
    pub const fn is_aside(tag: u8) -> bool {
        matches!(tag, NOTICE | NOTIFICATION | PARAMETER_STATUS)
    }
}

/// Tags of messages that a client sends; the copy messages go both ways.
pub mod frontend {
    /// Extended protocol: bind.
    pub const BIND: u8 = b'B';
    /// Extended protocol: close.
    pub const CLOSE: u8 = b'C';
    /// A piece of a stream.
    pub const COPY_DATA: u8 = b'd';
    /// The sender's half of the stream is over.
    pub const COPY_DONE: u8 = b'c';
    /// The sender gives its half of the stream up.
    pub const COPY_FAIL: u8 = b'f';
    /// Extended protocol: describe.
    pub const DESCRIBE: u8 = b'D';
    /// Extended protocol: execute.
    pub const EXECUTE: u8 = b'E';
    /// Extended protocol: send what is there.
    pub const FLUSH: u8 = b'H';
    /// A call of a function by its OID.
    pub const FUNCTION_CALL: u8 = b'F';
    /// Extended protocol: parse.
    pub const PARSE: u8 = b'P';
    /// A password, or a SASL or GSSAPI answer.
    pub const PASSWORD: u8 = b'p';
    /// A command in text.
    pub const QUERY: u8 = b'Q';
    /// Extended protocol: end of a batch.
    pub const SYNC: u8 = b'S';
    /// The client goes.
    pub const TERMINATE: u8 = b'X';
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_lengths_that_cannot_be() {
        for length in [0, 3, -1, i32::MIN] {
            let [a, b, c, d] = length.to_be_bytes();
            let error = Header::parse(&[b'Q', a, b, c, d]);
            assert_eq!(error, Err(FrameError::Length { tag: b'Q', length }));
        }
    }

    #[test]
    fn refuses_more_than_the_limit() {
        let header = Header::parse(&[b'p', 0x7F, 0xFF, 0xFF, 0xFF]).unwrap();
        assert_eq!(header.payload_bytes, PAYLOAD_BYTES_MAX);
        assert!(header.check_limit(PAYLOAD_BYTES_MAX).is_ok());
        let error = header.check_limit(limit::AUTH).unwrap_err();
        assert_eq!(
            error.to_string(),
            "message 0x70 has 2147483643 bytes of payload, 65535 are allowed here"
        );
    }

    #[test]
    fn writes_a_terminate() {
        let mut out = Vec::new();
        write(frontend::TERMINATE, b"", &mut out);
        assert_eq!(out, [b'X', 0, 0, 0, 4]);
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(tag: u8, payload_bytes in 0..=PAYLOAD_BYTES_MAX) {
            let header = Header { tag, payload_bytes };
            prop_assert_eq!(Header::parse(&header.to_bytes()), Ok(header));
        }
    }
}
