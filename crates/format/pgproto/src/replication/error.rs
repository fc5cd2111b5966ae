//! Why a replication command is refused.

use crate::SqlState;

/// A command that a server would refuse before it does anything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrammarError {
    /// A word that may not stand there.
    #[error("syntax error at byte {at} of the command: {expected} was expected")]
    Syntax {
        /// Offset in the text.
        at: usize,
        /// What may stand there.
        expected: &'static str,
    },
    /// A quote that does not end.
    #[error("the quote at byte {at} of the command does not end")]
    Unterminated {
        /// Offset of the quote.
        at: usize,
    },
    /// A position with a half of more than 32 bits.
    #[error("the position at byte {at} of the command is not one")]
    Location {
        /// Offset in the text.
        at: usize,
    },
    /// A number of more than 32 bits.
    #[error("the number at byte {at} of the command is over 4294967295")]
    Number {
        /// Offset in the text.
        at: usize,
    },
    /// Timeline zero.
    #[error("the timeline at byte {at} of the command is zero")]
    TimelineZero {
        /// Offset in the text.
        at: usize,
    },
    /// A name or a string that is not UTF-8.
    #[error("the text at byte {at} of the command is not UTF-8")]
    Encoding {
        /// Offset in the text.
        at: usize,
    },
    /// An option that a physical slot does not have.
    #[error("unrecognized option: {name}")]
    UnknownOption {
        /// Its name, folded.
        name: String,
    },
    /// An option twice, or one that is only for logical slots.
    #[error("option {name} is given twice, or is not for a physical slot")]
    Conflict {
        /// Its name, folded.
        name: String,
    },
    /// An option that has to be true or false.
    #[error("{name} requires a Boolean value")]
    NotBoolean {
        /// Its name, folded.
        name: String,
    },
}

impl GrammarError {
    /// The code that a server gives.
    #[must_use]
    pub const fn sqlstate(&self) -> SqlState {
        match self {
            Self::Encoding { .. } => SqlState::CHARACTER_NOT_IN_REPERTOIRE,
            // A server calls this an internal error, which no client should have to match.
            _ => SqlState::SYNTAX_ERROR,
        }
    }

    /// What a server says to the client; it gives no position.
    #[must_use]
    pub fn client_message(&self) -> String {
        match self {
            Self::Syntax { .. } => "syntax error".to_owned(),
            Self::Unterminated { .. } => "unterminated quoted string".to_owned(),
            Self::Location { .. } => "invalid streaming start location".to_owned(),
            Self::TimelineZero { .. } => "invalid timeline 0".to_owned(),
            Self::Conflict { .. } => "conflicting or redundant options".to_owned(),
            other => other.to_string(),
        }
    }
}
