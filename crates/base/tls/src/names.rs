//! Whether a certificate is for the host that was asked for, as libpq judges it.
//!
//! webpki looks at alternative names alone. libpq looks at the common name too when there are none
//! (`pgtls_verify_peer_name_matches_certificate_guts` in `fe-secure-openssl.c`), and PostgreSQL's
//! documentation makes such certificates.

use std::net::IpAddr;

use rustls::pki_types::{ServerName, UnixTime};
use rustls::{CertificateError, Error};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// For whom a certificate is, and when.
pub(crate) struct Names {
    hosts: Vec<String>,
    addresses: Vec<IpAddr>,
    common_name: String,
    /// Seconds since 1970: from, until.
    dates: (i64, i64),
}

impl Names {
    pub(crate) fn parse(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let (mut hosts, mut addresses) = (Vec::new(), Vec::new());
        let alternatives = certificate.subject_alternative_name().ok()?;
        for name in alternatives.iter().flat_map(|it| &it.value.general_names) {
            match name {
                GeneralName::DNSName(host) => hosts.push((*host).to_owned()),
                GeneralName::IPAddress(bytes) => addresses.extend(address(bytes)),
                _ => {}
            }
        }
        let validity = certificate.validity();
        Some(Self {
            hosts,
            addresses,
            common_name: crate::Certificate::parse(der)?.common_name,
            dates: (validity.not_before.timestamp(), validity.not_after.timestamp()),
        })
    }

    pub(crate) fn check_dates(&self, now: UnixTime) -> Result<(), Error> {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if now < self.dates.0 {
            return Err(CertificateError::NotValidYet.into());
        }
        if now > self.dates.1 {
            return Err(CertificateError::Expired.into());
        }
        Ok(())
    }

    /// Whether it is the host's. Alternative names of either kind rule the common name out.
    pub(crate) fn fit(&self, host: &ServerName<'_>) -> bool {
        let has_alternatives = !self.hosts.is_empty() || !self.addresses.is_empty();
        match host {
            ServerName::DnsName(host) if has_alternatives => {
                self.hosts.iter().any(|pattern| matches(pattern, host.as_ref()))
            }
            ServerName::DnsName(host) => matches(&self.common_name, host.as_ref()),
            ServerName::IpAddress(host) => {
                let host = IpAddr::from(*host);
                self.addresses.contains(&host)
                    || !has_alternatives && self.common_name.parse() == Ok(host)
            }
            _ => false,
        }
    }

    /// What is said when it is not.
    pub(crate) fn mismatch(&self, host: &ServerName<'_>) -> Error {
        let addresses = self.addresses.iter().map(ToString::to_string);
        let mut presented: Vec<_> = self.hosts.iter().cloned().chain(addresses).collect();
        if presented.is_empty() {
            presented.push(self.common_name.clone());
        }
        let expected = host.to_owned();
        CertificateError::NotValidForNameContext { expected, presented }.into()
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// As `wildcard_certificate_match`: a star stands for the first label as a whole, and for no more.
fn matches(pattern: &str, host: &str) -> bool {
    if pattern.is_empty() {
        return false;
    }
    let Some(domain) = pattern.strip_prefix("*.") else {
        return pattern.eq_ignore_ascii_case(host);
    };
    host.split_once('.').is_some_and(|(label, rest)| {
        !label.is_empty() && domain.contains('.') && domain.eq_ignore_ascii_case(rest)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn names(common_name: &str, alternatives: Vec<SanType>) -> Names {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names = alternatives;
        let key = KeyPair::generate().unwrap();
        Names::parse(params.self_signed(&key).unwrap().der()).unwrap()
    }

    fn fit(names: &Names, host: &'static str) -> bool {
        names.fit(&ServerName::try_from(host).unwrap())
    }

    #[test]
    fn the_common_name_counts_where_nothing_else_does() {
        let old = names("db.example.com", Vec::new());
        assert!(fit(&old, "db.example.com") && fit(&old, "DB.Example.COM"));
        assert!(!fit(&old, "db2.example.com") && !fit(&old, "127.0.0.1"));
        assert!(fit(&names("127.0.0.1", Vec::new()), "127.0.0.1"));
        let new = names("db.example.com", vec![SanType::DnsName("other".try_into().unwrap())]);
        assert!(fit(&new, "other") && !fit(&new, "db.example.com"));
        let address = names("db.example.com", vec![SanType::IpAddress([127, 0, 0, 1].into())]);
        assert!(fit(&address, "127.0.0.1") && !fit(&address, "db.example.com"));
        assert!(!fit(&names("", Vec::new()), "db"));
        let text = new.mismatch(&ServerName::try_from("db").unwrap()).to_string();
        assert!(text.contains("other"), "{text}");
    }

    #[test]
    fn a_star_is_one_label() {
        for (pattern, host, is_good) in [
            ("*.example.com", "db.example.com", true),
            ("*.example.com", "a.db.example.com", false),
            ("*.example.com", "example.com", false),
            ("*.example.com", ".example.com", false),
            ("*.com", "example.com", false),
            ("d*.example.com", "db.example.com", false),
            ("*", "db", false),
        ] {
            assert_eq!(matches(pattern, host), is_good, "{pattern} {host}");
        }
    }

    #[test]
    fn dates_count() {
        let names = names("db", Vec::new());
        let at = |secs: i64| {
            names.check_dates(UnixTime::since_unix_epoch(Duration::from_secs(secs.unsigned_abs())))
        };
        assert!(at(names.dates.0).is_ok() && at(names.dates.1).is_ok());
        assert!(at(names.dates.0 - 1).is_err() && at(names.dates.1 + 1).is_err());
    }
}
