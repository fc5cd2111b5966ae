//! Errors and notices that a server sends.

use std::fmt;

use pgtypes::read::Reader;

use crate::SqlState;

/// What an error or notice of a server says; a field that it did not send is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorFields {
    /// `ERROR`, `FATAL`, `PANIC` or a notice's, never translated when the server is 9.6 or newer.
    pub severity: String,
    /// The code as it was sent.
    pub sqlstate: String,
    /// What happened, in the server's language.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl ErrorFields {
    pub(super) fn parse(payload: &[u8]) -> Self {
        let mut reader = Reader::new(payload);
        let mut fields = Self::default();
        while let Ok(letter) = reader.u8("field") {
            if letter == 0 {
                break;
            }
            // A text that does not end is still the best that there is.
            let (text, cut) = match reader.cstr("text") {
                Ok(text) => (text, false),
                Err(_) => (reader.rest(), true),
            };
            let text = String::from_utf8_lossy(text).into_owned();
            match letter {
                b'S' if fields.severity.is_empty() => fields.severity = text,
                b'V' => fields.severity = text,
                b'C' => fields.sqlstate = text,
                b'M' => fields.message = text,
                b'D' => fields.detail = Some(text),
                b'H' => fields.hint = Some(text),
                _ => {}
            }
            if cut {
                break;
            }
        }
        fields
    }

    /// The code, when it is one.
    #[must_use]
    pub fn code(&self) -> Option<SqlState> {
        SqlState::parse(self.sqlstate.as_bytes()).ok()
    }

    /// Whether the server ends the connection after it.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(self.severity.as_str(), "FATAL" | "PANIC")
    }
}

impl fmt::Display for ErrorFields {
    /// As psql shows it, on one line: `FATAL 28P01: password authentication failed …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.severity, self.sqlstate, self.message)
    }
}
