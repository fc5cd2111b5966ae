//! Whom a client takes for its server. Signatures are always checked: who shows a certificate has
//! its key.

use std::fmt;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

/// Who may be the server.
pub(crate) enum Trusted {
    /// Whoever is there.
    Anybody,
    /// Whoever an authority signed; for its name only if that is checked.
    Signed { by: Arc<WebPkiServerVerifier>, check_name: bool },
    /// Whoever has this certificate: neither names nor dates matter.
    Only(CertificateDer<'static>),
}

/// For a [`rustls::ClientConfig`].
pub(crate) struct Verifier {
    pub(crate) trusted: Trusted,
    pub(crate) provider: Arc<CryptoProvider>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let (by, check_name) = match &self.trusted {
            Trusted::Anybody => return Ok(ServerCertVerified::assertion()),
            Trusted::Only(certificate) if end_entity == certificate => {
                return Ok(ServerCertVerified::assertion());
            }
            Trusted::Only(_) => {
                return Err(CertificateError::ApplicationVerificationFailure.into());
            }
            Trusted::Signed { by, check_name } => (by, *check_name),
        };
        match by.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last: all else is right.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !check_name => Ok(ServerCertVerified::assertion()),
            verified => verified,
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
