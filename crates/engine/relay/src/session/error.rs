//! Why sessions end.

use pgnet::{DialError, Endpoint, ReadError};

use super::own_login::OwnLoginError;
use crate::counters::Refusal;
use crate::stream::StreamError;
use crate::upstream::{NoHost, Unfit, UpstreamError};
use crate::verifiers::VerifierError;

/// Why a session ended before the client said goodbye.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SessionError {
    /// The client broke the protocol, or its connection broke.
    #[error("client: {0}")]
    Client(#[source] ReadError),
    /// The client closed the connection without a word.
    #[error("the client closed the connection")]
    ClientLeft,
    /// The client did not say who it is, or did not finish a message, in time.
    #[error("the client took too long to {what}")]
    ClientSlow {
        /// What it should have done.
        what: &'static str,
    },
    /// The client sent a message that does not belong here.
    #[error("the client sent message {tag:?} {place}", tag = char::from(*tag))]
    ClientMessage {
        /// Its letter.
        tag: u8,
        /// Where.
        place: &'static str,
    },
    /// The upstream cannot be reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// None of the upstream's hosts fits.
    #[error(transparent)]
    NoHost(NoHost),
    /// The server that was dialed is not the one that the watch had seen there.
    #[error("refused to use {host}, which {unfit}")]
    Unfit {
        /// Where it is.
        host: Endpoint,
        /// Why not.
        unfit: Unfit,
    },
    /// The upstream is somewhere else now.
    #[error("the upstream moved")]
    Moved,
    /// The upstream's connection broke.
    #[error("upstream: {0}")]
    Upstream(#[source] ReadError),
    /// The relay cannot log in for a client that it has let in.
    #[error(transparent)]
    OwnLogin(#[from] OwnLoginError),
    /// Nobody can be let in: what passwords are checked by cannot be had.
    #[error(transparent)]
    Verifier(#[from] VerifierError),
    /// The upstream closed the connection.
    #[error("the upstream closed the connection")]
    UpstreamLeft,
    /// The upstream closed the connection after its last word on the command.
    #[error("the upstream ended the session")]
    UpstreamEnded,
    /// The upstream has the connection and does not answer a login.
    #[error("the upstream does not answer the login")]
    UpstreamSilent,
    /// The client was told why it is not served.
    #[error("refused: {1}")]
    Refused(Refusal, String),
    /// Somebody asked whether this is a relay, and was told.
    #[error("asked whether this is a relay")]
    Probed,
    /// A stream could not go on.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The relay is stopping.
    #[error("the relay is stopping")]
    Stopping,
    /// The configuration of this client changed.
    #[error("the configuration changed")]
    Reconfigured,
}

impl From<UpstreamError> for SessionError {
    fn from(error: UpstreamError) -> Self {
        match error {
            UpstreamError::Dial(error) => Self::Dial(error),
            UpstreamError::NoHost(error) => Self::NoHost(error),
        }
    }
}

impl SessionError {
    /// Whether the client did something wrong: then it may still be sending.
    pub(super) const fn is_of_client(&self) -> bool {
        matches!(self, Self::Client(_) | Self::ClientSlow { .. } | Self::ClientMessage { .. })
    }
}
