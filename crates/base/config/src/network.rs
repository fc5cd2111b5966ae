//! A network in CIDR notation.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address, or a network of addresses.
///
/// Kept with the host bits cleared. An IPv4 network that is written in its IPv6 form
/// (`::ffff:10.0.0.0/104`) is kept as the IPv4 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network {
    addr: IpAddr,
    prefix_bits: u8,
}

/// Why a text is not a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadNetwork {
    /// The part before the slash is no IPv4 or IPv6 address.
    Address(String),
    /// The part after the slash is no number from 0 to `max`.
    Prefix {
        /// What was written.
        found: String,
        /// 32 or 128.
        max: u8,
    },
}

impl fmt::Display for BadNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(found) => write!(f, "{found:?} is not an IPv4 or IPv6 address"),
            Self::Prefix { found, max } => {
                write!(f, "the prefix length {found:?} is not a number from 0 to {max}")
            }
        }
    }
}

impl std::error::Error for BadNetwork {}

impl Network {
    /// Is `addr` in this network? IPv4 in its IPv6 form (`::ffff:a.b.c.d`) counts as IPv4.
    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        let addr = addr.to_canonical();
        self.addr.is_ipv4() == addr.is_ipv4() && masked(addr, self.prefix_bits) == self.addr
    }
}

/// `addr` with everything behind the first `prefix_bits` cleared.
fn masked(addr: IpAddr, prefix_bits: u8) -> IpAddr {
    let prefix_bits = u32::from(prefix_bits);
    match addr {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - prefix_bits.min(32)).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - prefix_bits.min(128)).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}

impl FromStr for Network {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Self, BadNetwork> {
        let text = text.trim();
        let (addr, prefix) = match text.split_once('/') {
            Some((addr, prefix)) => (addr, Some(prefix)),
            None => (text, None),
        };
        let addr: IpAddr = addr.parse().map_err(|_| BadNetwork::Address(addr.to_owned()))?;
        let max = if addr.is_ipv4() { 32 } else { 128 };
        let prefix_bits = match prefix {
            None => max,
            Some(digits) => Some(digits)
                .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|digits| digits.parse().ok())
                .filter(|bits| *bits <= max)
                .ok_or_else(|| BadNetwork::Prefix { found: digits.to_owned(), max })?,
        };
        let (addr, prefix_bits) = match addr.to_canonical() {
            v4 @ IpAddr::V4(_) if max == 128 && prefix_bits >= 96 => (v4, prefix_bits - 96),
            _ => (addr, prefix_bits),
        };
        Ok(Self { addr: masked(addr, prefix_bits), prefix_bits })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix_bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(network: &str, addr: &str) -> bool {
        network.parse::<Network>().unwrap().contains(addr.parse().unwrap())
    }

    #[test]
    fn an_address_is_in_its_network() {
        for (network, addr, inside) in [
            ("192.168.0.0/16", "192.168.255.1", true),
            ("192.168.0.0/16", "192.169.0.1", false),
            ("192.168.77.1/16", "192.168.0.1", true), // host bits do not count
            ("10.0.0.7", "10.0.0.7", true),
            ("10.0.0.7", "10.0.0.8", false),
            (" 127.0.0.0/8 ", "127.9.9.9", true),
            ("0.0.0.0/0", "255.255.255.255", true),
            ("0.0.0.0/0", "::1", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("::ffff:10.0.0.0/104", "10.1.2.3", true),
            ("fd00::/8", "fd12:3456::1", true),
            ("fd00::/8", "fe80::1", false),
            ("::/0", "::1", true),
            ("::1", "::1", true),
        ] {
            assert_eq!(contains(network, addr), inside, "{addr} in {network}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for (text, says) in [
            ("", "\"\" is not an IPv4 or IPv6 address"),
            ("192.168.0.256/16", "is not an IPv4 or IPv6 address"),
            ("192.168/16", "is not an IPv4 or IPv6 address"),
            ("example.com", "is not an IPv4 or IPv6 address"),
            ("10.0.0.0/33", "\"33\" is not a number from 0 to 32"),
            ("10.0.0.0/+8", "\"+8\" is not a number from 0 to 32"),
            ("10.0.0.0/255.0.0.0", "is not a number from 0 to 32"),
            ("10.0.0.0/", "\"\" is not a number from 0 to 32"),
            ("fd00::/129", "is not a number from 0 to 128"),
        ] {
            let error = text.parse::<Network>().unwrap_err().to_string();
            assert!(error.contains(says), "{text:?}: {error}");
        }
    }

    #[test]
    fn shown_as_cidr() {
        assert_eq!("10.1.2.3/8".parse::<Network>().unwrap().to_string(), "10.0.0.0/8");
        assert_eq!("::1".parse::<Network>().unwrap().to_string(), "::1/128");
    }
}
