//! How a server is met: libpq's `sslmode`.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::{ClientConfig, Error};

use crate::certificate::end_point;
use crate::files::{Fingerprint, Named, fingerprint};
use crate::verifier::{Trusted, Verifier};
use crate::{ALPN, FileProblem, VERSIONS, provider};

/// How much TLS there has to be, as libpq means it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// None.
    #[default]
    Disable,
    /// Only when the server does not let us in without.
    Allow,
    /// When the server has it.
    Prefer,
    /// Always; whose certificate it is does not matter, unless there is a file of authorities.
    Require,
    /// Always, with a certificate that an authority signed.
    VerifyCa,
    /// Always, and the certificate has to name the host.
    VerifyFull,
}

impl SslMode {
    /// Every mode.
    pub const ALL: [Self; 6] =
        [Self::Disable, Self::Allow, Self::Prefer, Self::Require, Self::VerifyCa, Self::VerifyFull];

    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    /// The mode of a word.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.word() == word)
    }

    /// All words, for messages.
    #[must_use]
    pub fn words() -> String {
        Self::ALL.map(Self::word).join(", ")
    }
}

/// The settings of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFiles {
    /// How much TLS.
    pub mode: SslMode,
    /// Authorities whose servers are trusted.
    pub root_cert: Option<PathBuf>,
    /// The client's own certificate and its key, for servers that ask for one.
    pub own: Option<(PathBuf, PathBuf)>,
}

/// What a client needs for handshakes.
#[derive(Clone)]
pub struct Client {
    mode: SslMode,
    config: Arc<ClientConfig>,
    fingerprint: Fingerprint,
}

impl Client {
    /// Reads and checks the files.
    ///
    /// # Errors
    ///
    /// [`FileProblem`] for the first file that is of no use, or when a mode needs a file that
    /// is not named.
    pub fn load(files: &ClientFiles) -> Result<Self, FileProblem> {
        let own = files.own.as_ref();
        let paths = [files.root_cert.as_ref(), own.map(|it| &it.0), own.map(|it| &it.1)];
        let fingerprint = fingerprint(paths);
        let provider = provider();
        let check_name = files.mode == SslMode::VerifyFull;
        let trusted = match &files.root_cert {
            Some(path) => {
                let named = Named { setting: "sslrootcert", path };
                Trusted::signed(named, &provider, check_name)?
            }
            None if files.mode >= SslMode::VerifyCa => {
                let message = format!("sslmode {} needs sslrootcert", files.mode.word());
                let hint = "name the file with the certificate of the server's authority";
                return Err(FileProblem { setting: "sslmode", message, hint });
            }
            None => Trusted::Anybody,
        };
        let verifier = Verifier { trusted, provider: Arc::clone(&provider) };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&VERSIONS)
            .map_err(|error| FileProblem {
                setting: "sslmode",
                message: error.to_string(),
                hint: "this is a defect of pgherd",
            })?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &files.own {
            Some((cert, key)) => {
                let cert = Named { setting: "sslcert", path: cert };
                let key = Named { setting: "sslkey", path: key };
                let chain = cert.certificates()?;
                builder.with_client_auth_cert(chain, key.key()?).map_err(|error| match error {
                    Error::InconsistentKeys(_) => {
                        key.problem("the key is not the certificate's", "name the key of sslcert")
                    }
                    error => cert.problem(error, "check the certificate and its key"),
                })?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self { mode: files.mode, config: Arc::new(config), fingerprint })
    }

    /// How much TLS there has to be.
    #[must_use]
    pub const fn mode(&self) -> SslMode {
        self.mode
    }

    /// For the handshake.
    #[must_use]
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// What a server's certificate binds the channel to (`tls-server-end-point`).
    #[must_use]
    pub fn end_point_of(certificate: &[u8]) -> Option<Vec<u8>> {
        end_point(certificate)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// The same when the mode is, and the files hold the same.
impl PartialEq for Client {
    fn eq(&self, other: &Self) -> bool {
        (self.mode, &self.fingerprint) == (other.mode, &other.fingerprint)
    }
}

impl Eq for Client {}
