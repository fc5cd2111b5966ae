//! Which clients a configuration is for.

use std::net::IpAddr;

use crate::Network;

/// What is known of a client once its startup packet is read.
///
/// Texts are the bytes that the client sent; empty means that it sent none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client<'a> {
    /// Startup parameter `application_name`.
    pub application_name: &'a [u8],
    /// Peer address; `None` for a Unix socket.
    pub source: Option<IpAddr>,
    /// Startup parameter `user`.
    pub user: &'a [u8],
    /// Whether it came with TLS.
    pub tls: bool,
    /// The common name of the certificate that it showed; `None` when it showed none.
    pub certificate: Option<&'a str>,
}

/// Conditions that all have to hold; none at all holds for everyone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Match {
    /// Exactly this `application_name`.
    pub application_name: Option<String>,
    /// An address in this network. A client on a Unix socket has none, so it never holds.
    pub source: Option<Network>,
    /// Exactly this user.
    pub user: Option<String>,
    /// With TLS, or without.
    pub tls: Option<bool>,
    /// A verified certificate with exactly this common name.
    pub certificate: Option<String>,
}

impl Match {
    /// Do all conditions hold for this client?
    #[must_use]
    pub fn matches(&self, client: &Client<'_>) -> bool {
        let same = |want: &Option<String>, have: &[u8]| {
            want.as_ref().is_none_or(|want| want.as_bytes() == have)
        };
        same(&self.application_name, client.application_name)
            && same(&self.user, client.user)
            && self.tls.is_none_or(|tls| tls == client.tls)
            && self.certificate.as_deref().is_none_or(|name| client.certificate == Some(name))
            && self.source.is_none_or(|net| client.source.is_some_and(|addr| net.contains(addr)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: Client<'static> = Client {
        application_name: b"berlin",
        source: Some(IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 7, 9))),
        user: b"repl",
        tls: true,
        certificate: Some("berlin.example"),
    };

    #[test]
    fn no_condition_holds_for_everyone() {
        assert!(Match::default().matches(&CLIENT));
    }

    #[test]
    fn every_condition_has_to_hold() {
        let all = Match {
            application_name: Some("berlin".into()),
            source: Some("192.168.0.0/16".parse().unwrap()),
            user: Some("repl".into()),
            tls: Some(true),
            certificate: Some("berlin.example".into()),
        };
        assert!(all.matches(&CLIENT));
        assert!(!all.matches(&Client { application_name: b"Berlin", ..CLIENT }));
        assert!(!all.matches(&Client { user: b"", ..CLIENT }));
        assert!(!all.matches(&Client { tls: false, ..CLIENT }));
        assert!(!all.matches(&Client { certificate: None, ..CLIENT }));
        assert!(!all.matches(&Client { certificate: Some("berlin"), ..CLIENT }));
        assert!(!all.matches(&Client { source: "10.0.0.1".parse().ok(), ..CLIENT }));
    }

    #[test]
    fn a_unix_socket_has_no_source() {
        let any = Match { source: Some("0.0.0.0/0".parse().unwrap()), ..Match::default() };
        assert!(!any.matches(&Client { source: None, ..CLIENT }));
        assert!(Match::default().matches(&Client { source: None, ..CLIENT }));
    }
}
