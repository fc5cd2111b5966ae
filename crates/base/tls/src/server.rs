//! What the relay shows to its clients.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;

use crate::certificate::end_point;
use crate::files::{Fingerprint, Named, fingerprint};
use crate::{ALPN, ALPN_HTTP, FileProblem, VERSIONS, provider};

/// The files of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFiles {
    /// Its certificate, and those between it and the authority.
    pub cert: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
    /// Authorities whose clients' certificates count; without them none is asked for.
    pub client_ca: Option<PathBuf>,
}

/// A certificate and its key, ready for handshakes.
#[derive(Clone)]
pub struct Server {
    config: Arc<ServerConfig>,
    end_point: Option<Arc<[u8]>>,
    fingerprint: Fingerprint,
}

impl Server {
    /// Reads and checks the files.
    ///
    /// # Errors
    ///
    /// [`FileProblem`] for the first file that is of no use, or when the key is another
    /// certificate's.
    pub fn load(files: &ServerFiles) -> Result<Self, FileProblem> {
        let cert = Named { setting: "cert", path: &files.cert };
        let key = Named { setting: "key", path: &files.key };
        let fingerprint =
            fingerprint([Some(&files.cert), Some(&files.key), files.client_ca.as_ref()]);
        let chain = cert.certificates()?;
        let own_key = key.key()?;
        let end_point = chain.first().and_then(|own| end_point(own)).map(Arc::from);
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&VERSIONS)
            .map_err(|error| cert.problem(error, "this is a defect of pgherd"))?;
        let builder = match &files.client_ca {
            Some(path) => {
                let ca = Named { setting: "client_ca", path };
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(ca.authorities()?, provider())
                        .allow_unauthenticated()
                        .build()
                        .map_err(|error| ca.problem(error, "name a file with authorities"))?;
                builder.with_client_cert_verifier(verifier)
            }
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, own_key).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                key.problem("the key is not the certificate's", "name the key of `cert`")
            }
            error => cert.problem(error, "check the certificate and its key"),
        })?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self { config: Arc::new(config), end_point, fingerprint })
    }

    /// For the handshake.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// For the handshake of a client that speaks HTTP.
    #[must_use]
    pub fn http_config(&self) -> Arc<ServerConfig> {
        let mut config = ServerConfig::clone(&self.config);
        config.alpn_protocols = vec![ALPN_HTTP.to_vec()];
        Arc::new(config)
    }

    /// What clients that bind the channel (`tls-server-end-point`) have to send; nothing when
    /// the certificate allows no binding.
    #[must_use]
    pub fn end_point(&self) -> Option<Arc<[u8]>> {
        self.end_point.clone()
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

/// The same when the files hold the same.
impl PartialEq for Server {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Eq for Server {}
