//! Messages of a client: reading a command's text, and writing what a client of our own sends.

use pgtypes::read::{Reader, Truncated};

use crate::frame::{self, frontend};

/// Longest text of a command, in bytes.
///
/// Options of `BASE_BACKUP` are the longest real ones and stay below one kilobyte; a server
/// would take a gigabyte.
pub const QUERY_BYTES_MAX: usize = 65_536;

/// A payload that is not one string and its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// The string does not end.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// Something follows the string.
    #[error("{bytes} bytes follow the text of a query")]
    Trailing {
        /// How much.
        bytes: usize,
    },
    /// More than [`QUERY_BYTES_MAX`].
    #[error("a query of {bytes} bytes, {QUERY_BYTES_MAX} are allowed")]
    TooLong {
        /// Length of the text.
        bytes: usize,
    },
}

/// The text in a `Q` message, without its NUL.
///
/// # Errors
///
/// [`QueryError`]; the server's code for all of them is 08P01.
pub fn query_text(payload: &[u8]) -> Result<&[u8], QueryError> {
    let mut reader = Reader::new(payload);
    let text = reader.cstr("query")?;
    if !reader.rest().is_empty() {
        return Err(QueryError::Trailing { bytes: reader.rest().len() });
    }
    if text.len() > QUERY_BYTES_MAX {
        return Err(QueryError::TooLong { bytes: text.len() });
    }
    Ok(text)
}

/// Appends a `Q` message. What follows a NUL in `text` is not sent: it would end there anyway.
pub fn query(text: &str, out: &mut Vec<u8>) {
    let text = text.split('\0').next().unwrap_or_default();
    frame::write(frontend::QUERY, &[text.as_bytes(), b"\0"].concat(), out);
}

/// Appends an `X` message: the client goes.
pub fn terminate(out: &mut Vec<u8>) {
    frame::write(frontend::TERMINATE, b"", out);
}

/// Appends a `c` message: our half of the stream is over.
pub fn copy_done(out: &mut Vec<u8>) {
    frame::write(frontend::COPY_DONE, b"", out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let mut out = Vec::new();
        query("IDENTIFY_SYSTEM\0x", &mut out);
        assert_eq!(out, b"Q\0\0\0\x14IDENTIFY_SYSTEM\0");
        assert_eq!(query_text(&out[5..]), Ok(&b"IDENTIFY_SYSTEM"[..]));
        for cut in 5..out.len() {
            assert!(matches!(query_text(&out[5..cut]), Err(QueryError::Truncated(_))));
        }
    }

    #[test]
    fn refuses_more_than_one_string() {
        assert_eq!(query_text(b"a\0b\0"), Err(QueryError::Trailing { bytes: 2 }));
        let long = vec![b'x'; QUERY_BYTES_MAX + 1];
        let payload = [long, vec![0]].concat();
        assert_eq!(query_text(&payload), Err(QueryError::TooLong { bytes: QUERY_BYTES_MAX + 1 }));
    }
}
