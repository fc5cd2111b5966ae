//! A client that speaks HTTP to a relay: for commands that ask a running one.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::{ClientConfig, Error};

use crate::files::Named;
use crate::verifier::{Trusted, Verifier};
use crate::{ALPN_HTTP, FileProblem, VERSIONS, provider};

/// Who is taken for the relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Whoever has the certificate in this file and its key, whatever its names and dates: for
    /// commands that read the relay's own configuration, and so know what it shows.
    Certificate(PathBuf),
    /// Whoever has a certificate for the address, signed by an authority in this file.
    Authorities(PathBuf),
}

/// Reads and checks the files: whom to trust, and the client's own certificate and key.
///
/// # Errors
///
/// [`FileProblem`] for the first file that is of no use.
pub fn http_client(
    trust: &Trust,
    own: Option<&(PathBuf, PathBuf)>,
) -> Result<Arc<ClientConfig>, FileProblem> {
    let provider = provider();
    let (trusted, named) = match trust {
        Trust::Certificate(path) => {
            let named = Named { setting: "cert", path };
            (Trusted::Only(named.own_certificate()?), named)
        }
        Trust::Authorities(path) => {
            let named = Named { setting: "cacert", path };
            (Trusted::signed(named, &provider, true)?, named)
        }
    };
    let verifier = Verifier { trusted, provider: Arc::clone(&provider) };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&VERSIONS)
        .map_err(|error| named.problem(error, "this is a defect of pgherd"))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match own {
        Some((cert, key)) => {
            let cert = Named { setting: "cert", path: cert };
            let key = Named { setting: "key", path: key };
            let chain = cert.certificates()?;
            builder.with_client_auth_cert(chain, key.key()?).map_err(|error| match error {
                Error::InconsistentKeys(_) => {
                    key.problem("the key is not the certificate's", "name the certificate's key")
                }
                error => cert.problem(error, "check the certificate and its key"),
            })?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN_HTTP.to_vec()];
    Ok(Arc::new(config))
}
