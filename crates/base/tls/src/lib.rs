//! Certificates and keys out of files, and what TLS is made of on both sides of a relay.
//!
//! [`Server`] is what the relay shows to its clients, [`Client`] how it meets its upstream. Both
//! are read from files at once and as a whole, so that a bad file is told before anything is
//! changed; neither does any network I/O (`pgnet` does). [`http_client()`] is for those who ask a
//! relay over HTTP.
//!
//! # Where the truth comes from
//!
//! What a server does is `be-secure-openssl.c` and `backend_startup.c` of PostgreSQL 17; what
//! a client does, the chapter "SSL Support" of libpq's documentation. Channel binding is
//! RFC 5929, section 4.
//!
//! # What it does not do
//!
//! No revocation lists, no keys with a passphrase, nothing older than TLS 1.2.

mod certificate;
mod client;
mod files;
mod http_client;
mod names;
mod server;
mod verifier;

pub use certificate::Certificate;
pub use client::{Client, ClientFiles, SslMode};
pub use files::FileProblem;
pub use http_client::{Trust, http_client};
pub use server::{Server, ServerFiles};

/// The name of PostgreSQL's protocol in ALPN; `PG_ALPN_PROTOCOL` (`pqcomm.h`).
pub const ALPN: &[u8] = b"postgresql";

/// The name of the only HTTP that is spoken, in ALPN; RFC 7301, section 6.
pub const ALPN_HTTP: &[u8] = b"http/1.1";

/// The one provider of cryptography.
fn provider() -> std::sync::Arc<rustls::crypto::CryptoProvider> {
    std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The versions that are spoken.
const VERSIONS: [&rustls::SupportedProtocolVersion; 2] =
    [&rustls::version::TLS13, &rustls::version::TLS12];
