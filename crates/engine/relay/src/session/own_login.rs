//! The relay's own login upstream, for clients that it has let in itself.

use config::Upstream;
use pgnet::Endpoint;
use pgnet::passfile::{self, Login, PassfileError, Password};
use pgproto::backend::Authentication;
use pgproto::frame::{self, frontend};
use pgproto::sasl::{self, SCRAM_SHA_256, SCRAM_SHA_256_PLUS};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

/// Why the relay cannot log in. Says nothing of the password.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OwnLoginError {
    /// The password file is of no use.
    #[error(transparent)]
    Passfile(#[from] PassfileError),
    /// The server asks for a password and there is none.
    #[error("the upstream asks for a password of user {user:?}, and upstream.passfile has none")]
    NoPassword {
        /// Whose.
        user: String,
    },
    /// A method that the relay does not know.
    #[error("the upstream asks for a login in a way that is not known here")]
    Method,
    /// SCRAM went wrong: as a rule the server does not know the password either.
    #[error("the upstream's part of SCRAM: {0}")]
    Scram(std::io::Error),
    /// The server said no.
    #[error("the upstream refused the relay's own login: {reason} (SQLSTATE {sqlstate})")]
    Refused {
        /// Its words.
        reason: String,
        /// Its code.
        sqlstate: String,
    },
}

/// A login that is under way.
pub(super) struct OwnLogin {
    pub(super) user: String,
    password: Option<Password>,
    scram: Option<ScramSha256>,
}

impl OwnLogin {
    /// As `user` at a server; looks for the password.
    pub(super) fn new(
        upstream: &Upstream,
        endpoint: &Endpoint,
        user: &str,
    ) -> Result<Self, OwnLoginError> {
        let (host, port) = match endpoint {
            Endpoint::Tcp { host, port } => (host.as_str(), *port),
            Endpoint::Unix { port, .. } => ("localhost", *port),
        };
        // What libpq looks for with a replication connection.
        let login = Login { host, port, database: "replication", user };
        let password = passfile::find(upstream.passfile.as_deref(), login)?;
        Ok(Self { user: user.to_owned(), password, scram: None })
    }

    /// The answer to what the server asks; nothing where it asks nothing. `end_point` is what its
    /// certificate binds the channel to, when there is TLS.
    pub(super) fn answer(
        &mut self,
        payload: &[u8],
        end_point: Option<Vec<u8>>,
        is_tls: bool,
    ) -> Result<Option<Vec<u8>>, OwnLoginError> {
        let kind = Authentication::parse(payload).map_err(|_short| OwnLoginError::Method)?;
        let data = payload.get(4..).unwrap_or_default();
        let mut message = Vec::new();
        match kind {
            Authentication::Ok => return Ok(None),
            Authentication::Cleartext => {
                let text = [self.password()?.0.as_bytes(), b"\0"].concat();
                frame::write(frontend::PASSWORD, &text, &mut message);
            }
            Authentication::Md5(salt) => {
                let hash = md5_hash(self.user.as_bytes(), self.password()?.0.as_bytes(), salt);
                let text = [hash.as_bytes(), b"\0"].concat();
                frame::write(frontend::PASSWORD, &text, &mut message);
            }
            Authentication::Sasl => {
                let offered = sasl::mechanisms(payload).map_err(|_cut| OwnLoginError::Method)?;
                let has = |mechanism: &str| offered.contains(&mechanism.as_bytes());
                let (mechanism, binding) = match end_point {
                    Some(hash) if has(SCRAM_SHA_256_PLUS) => {
                        (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(hash))
                    }
                    // Tells the server that it was not offered, should it have been.
                    Some(_) if is_tls => (SCRAM_SHA_256, ChannelBinding::unrequested()),
                    _ => (SCRAM_SHA_256, ChannelBinding::unsupported()),
                };
                if !has(mechanism) {
                    return Err(OwnLoginError::Method);
                }
                let scram = ScramSha256::new(self.password()?.0.as_bytes(), binding);
                let first = scram.message();
                let length = u32::try_from(first.len()).unwrap_or_default().to_be_bytes();
                let payload = [mechanism.as_bytes(), b"\0", &length, first].concat();
                frame::write(frontend::PASSWORD, &payload, &mut message);
                self.scram = Some(scram);
            }
            Authentication::SaslContinue => {
                let scram = self.scram.as_mut().ok_or(OwnLoginError::Method)?;
                scram.update(data).map_err(OwnLoginError::Scram)?;
                frame::write(frontend::PASSWORD, scram.message(), &mut message);
            }
            Authentication::SaslFinal => {
                let mut scram = self.scram.take().ok_or(OwnLoginError::Method)?;
                scram.finish(data).map_err(OwnLoginError::Scram)?;
                return Ok(None);
            }
            Authentication::Other(_) => return Err(OwnLoginError::Method),
        }
        Ok(Some(message))
    }

    fn password(&self) -> Result<&Password, OwnLoginError> {
        self.password.as_ref().ok_or_else(|| OwnLoginError::NoPassword { user: self.user.clone() })
    }
}
