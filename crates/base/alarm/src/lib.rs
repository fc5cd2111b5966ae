//! Codes of what a person has to act on: `PGH0xxx`, each with a page in `docs/errors`.
//!
//! A code stands in every line of the log at level ERROR, as its field `code`, and in the last
//! words of a command that failed. It says what happened in a way that scripts and searches can
//! hold on to: messages are reworded, codes are not. A code that is not used any more is not
//! given again.
//!
//! This is the only list. A test of the binary, `tests/errors.rs`, holds it against the sources
//! (each `error!` has a code) and against the pages. The crate has no dependencies, so that
//! whatever has something to report can name a code.

use std::fmt;

macro_rules! codes {
    ($($(#[doc = $what:literal])+ $name:ident = $number:literal,)+) => {
        /// What happened; shown as `PGH0101`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Code {
            $($(#[doc = $what])+ $name = $number,)+
        }

        impl Code {
            /// Every code, with the name that it has in the sources.
            pub const ALL: &[(Self, &str)] = &[$((Self::$name, stringify!($name)),)+];
        }
    };
}

codes! {
    // Commands that end.
    /// The configuration is wrong.
    BadConfiguration = 1,
    /// The command line is wrong.
    BadCommandLine = 2,
    /// The relay could not start, or cannot go on.
    RelayEnds = 3,
    /// What was decided for a configuration was not forgotten.
    NotForgotten = 4,
    /// No clone was made.
    NoClone = 5,
    /// A split did not go on.
    SplitStopped = 6,
    /// A running relay could not be asked.
    NotAsked = 7,

    // Decisions of the relay.
    /// A record about included and excluded relations at once passed.
    MixedRecord = 101,
    /// A database came back from an excluded tablespace.
    MovedBack = 102,
    /// A database was copied from an excluded template.
    ExcludedTemplate = 103,
    /// What the filter includes was replaced before its name was known.
    LateName = 104,
    /// A name in the WAL cannot be read.
    UnreadableName = 105,
    /// Decisions after a change of names cannot be kept.
    NamesNotKept = 106,

    // What a client is refused.
    /// A filtered stream was not started.
    NoFilteredStream = 201,
    /// A stream without the filter that there was is refused.
    FilterGone = 202,
    /// A filtered base backup was not taken.
    NoFilteredBackup = 203,
    /// The list of replication slots cannot be used.
    SlotsUnknown = 204,

    // Sessions that end.
    /// The upstream cannot be reached.
    NoUpstream = 301,
    /// A stream cannot go on.
    StreamBroken = 302,
    /// A defect of the relay ended a session.
    Defect = 303,
    /// Passwords cannot be checked.
    NoVerifiers = 304,

    // An upstream that moves.
    /// A host is of another cluster.
    OtherCluster = 401,
    /// How far the upstream has come cannot be kept.
    UpstreamNotKept = 402,
    /// A host was promoted beside the one that clients were led to.
    OtherFork = 403,

    // Changes while the relay runs.
    /// A new configuration was refused; the old one stays.
    OldConfigurationStays = 501,
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PGH{:04}", *self as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_shown_in_order_and_once() {
        assert_eq!(Code::MixedRecord.to_string(), "PGH0101");
        assert!(Code::ALL.windows(2).all(|pair| pair[0].0 < pair[1].0), "{:?}", Code::ALL);
    }
}
