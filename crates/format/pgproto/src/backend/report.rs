//! Errors that a relay tells its client.

use crate::SqlState;
use crate::frame::{self, backend};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The command failed; the connection goes on.
    Error,
    /// The connection ends.
    Fatal,
}

/// An error for a client: nothing here may hold a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// How bad it is.
    pub severity: Severity,
    /// Its code.
    pub sqlstate: SqlState,
    /// What happened, in the style of the server: lower case, no full stop.
    pub message: String,
    /// More about it, in sentences.
    pub detail: Option<String>,
    /// What to do about it, in sentences.
    pub hint: Option<String>,
}

impl Severity {
    /// The word as it is sent.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
        }
    }
}

impl Report {
    /// An error after which the connection goes on.
    #[must_use]
    pub fn error(sqlstate: SqlState, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { severity: Severity::Error, sqlstate, message, detail: None, hint: None }
    }

    /// An error that ends the connection.
    #[must_use]
    pub fn fatal(sqlstate: SqlState, message: impl Into<String>) -> Self {
        Self { severity: Severity::Fatal, ..Self::error(sqlstate, message) }
    }

    /// The same with a detail.
    #[must_use]
    pub fn with_detail(self, detail: impl Into<String>) -> Self {
        Self { detail: Some(detail.into()), ..self }
    }

    /// The same with a hint.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// Appends an `E` message with the fields S, V, C, M and, when given, D and H.
///
/// A NUL inside a text, which would end it early, becomes a space.
pub fn error_response(report: &Report, out: &mut Vec<u8>) {
    let severity = report.severity.as_str().as_bytes();
    let mut payload = Vec::new();
    let mut field = |letter: u8, text: &[u8]| {
        payload.push(letter);
        payload.extend(text.iter().map(|byte| if *byte == 0 { b' ' } else { *byte }));
        payload.push(0);
    };
    field(b'S', severity);
    field(b'V', severity);
    field(b'C', report.sqlstate.as_bytes());
    field(b'M', report.message.as_bytes());
    if let Some(detail) = &report.detail {
        field(b'D', detail.as_bytes());
    }
    if let Some(hint) = &report.hint {
        field(b'H', hint.as_bytes());
    }
    payload.push(0);
    frame::write(backend::ERROR, &payload, out);
}
