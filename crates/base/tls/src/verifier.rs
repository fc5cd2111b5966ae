//! Whom a client takes for its server. Signatures are always checked: who shows a certificate has
//! its key.

use std::fmt;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

use crate::FileProblem;
use crate::certificate::signed_itself;
use crate::files::Named;
use crate::names::Names;

/// Who may be the server.
pub(crate) enum Trusted {
    /// Whoever is there.
    Anybody,
    /// Whoever an authority signed, or has one of `also`; for its name only if that is checked.
    Signed { by: Arc<WebPkiServerVerifier>, also: Vec<CertificateDer<'static>>, check_name: bool },
    /// Whoever has this certificate: neither names nor dates matter.
    Only(CertificateDer<'static>),
}

impl Trusted {
    /// Whoever has a certificate that the ones in a file vouch for.
    pub(crate) fn signed(
        file: Named<'_>,
        provider: &Arc<CryptoProvider>,
        check_name: bool,
    ) -> Result<Self, FileProblem> {
        let by =
            WebPkiServerVerifier::builder_with_provider(file.authorities()?, Arc::clone(provider));
        let by = by.build().map_err(|error| file.problem(error, "name a file with authorities"))?;
        // webpki takes no authority for a server. OpenSSL takes one that is in the file.
        let mut also = file.certificates()?;
        also.retain(|it| signed_itself(it));
        Ok(Self::Signed { by, also, check_name })
    }
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
        let (by, also, check_name) = match &self.trusted {
            Trusted::Anybody => return Ok(ServerCertVerified::assertion()),
            Trusted::Only(certificate) if end_entity == certificate => {
                return Ok(ServerCertVerified::assertion());
            }
            Trusted::Only(_) => {
                return Err(CertificateError::ApplicationVerificationFailure.into());
            }
            Trusted::Signed { by, also, check_name } => (by, also, *check_name),
        };
        let names = Names::parse(end_entity).ok_or(CertificateError::BadEncoding)?;
        if also.iter().any(|known| known == end_entity) {
            // A certificate that signed itself: nobody else has to vouch for it.
            names.check_dates(now)?;
        } else {
            match by.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            {
                // The name is looked at last: all else is right.
                Err(Error::InvalidCertificate(
                    CertificateError::NotValidForName
                    | CertificateError::NotValidForNameContext { .. },
                )) => {}
                verified => return verified,
            }
        }
        if !check_name || names.fit(server_name) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(names.mismatch(server_name))
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
