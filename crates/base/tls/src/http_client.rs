//! A client that speaks HTTP to a relay: for commands that ask a running one.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use crate::files::Named;
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
    let (verifier, named): (Arc<dyn ServerCertVerifier>, _) = match trust {
        Trust::Certificate(path) => {
            let named = Named { setting: "cert", path };
            let certificate = named.own_certificate()?;
            (Arc::new(Pinned { certificate, provider: Arc::clone(&provider) }), named)
        }
        Trust::Authorities(path) => {
            let named = Named { setting: "cacert", path };
            let authorities = named.authorities()?;
            let verifier =
                WebPkiServerVerifier::builder_with_provider(authorities, Arc::clone(&provider))
                    .build()
                    .map_err(|error| named.problem(error, "name a file with authorities"))?;
            (verifier, named)
        }
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&VERSIONS)
        .map_err(|error| named.problem(error, "this is a defect of pgherd"))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
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

/// Signatures are checked, so that it is no use to show the certificate without its key.
struct Pinned {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinned").finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *end_entity == self.certificate {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
