//! What a certificate says, as far as PostgreSQL looks.

use aws_lc_rs::digest::{self, Algorithm, SHA224, SHA256, SHA384, SHA512};
use x509_parser::prelude::{FromDer, X509Certificate};

/// A certificate that was verified before, by whom it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The subject's common name; empty when it has none, or one that cannot be compared.
    pub common_name: String,
}

impl Certificate {
    /// Reads the subject. As with a server, a name with a NUL in it counts for nothing: who
    /// signed it may have seen another one.
    #[must_use]
    pub fn parse(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let name = certificate.subject().iter_common_name().next();
        let name = name.and_then(|name| name.as_str().ok()).unwrap_or_default();
        let common_name = if name.contains('\0') { String::new() } else { name.to_owned() };
        Some(Self { common_name })
    }
}

/// Whether a certificate names itself as its authority.
pub(crate) fn signed_itself(der: &[u8]) -> bool {
    let parsed = X509Certificate::from_der(der);
    parsed.is_ok_and(|(_, certificate)| certificate.subject() == certificate.issuer())
}

/// The hash that channel binding `tls-server-end-point` is made of: that of the certificate's
/// signature, SHA-256 instead of MD5 and SHA-1. Nothing for signatures that have no hash
/// of their own, as Ed25519: there is no binding then, with PostgreSQL as well.
pub(crate) fn end_point(der: &[u8]) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let algorithm = signature_hash(&certificate.signature_algorithm.algorithm.to_id_string())?;
    Some(digest::digest(algorithm, der).as_ref().to_vec())
}

/// By the object identifiers of RFC 3279, RFC 4055 and RFC 5758.
fn signature_hash(signature: &str) -> Option<&'static Algorithm> {
    Some(match signature {
        // RSA with MD5, SHA-1, SHA-256; ECDSA with SHA-1, SHA-256
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2" => &SHA256,
        "1.2.840.113549.1.1.14" | "1.2.840.10045.4.3.1" => &SHA224,
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => &SHA384,
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => &SHA512,
        _ => return None,
    })
}
