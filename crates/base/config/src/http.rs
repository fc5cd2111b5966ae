//! `http`, `http_token_file` and `http_tls`: where the relay tells about itself, and who may change it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::check::path;
use crate::encryption;
use crate::environment::Environment;
use crate::problem::Problems;
use crate::scalar::{shown, text};
use crate::section::Entry;

/// The port that examples use.
const PORT: u16 = 8432;
/// Bytes in `sun_path` of `sockaddr_un` on Linux, less the NUL at its end.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The HTTP side of the relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// Where it listens.
    pub address: HttpAddress,
    /// The file with the token that changes need over TCP; an absolute path. It is read for each
    /// change and never kept.
    pub token_file: Option<PathBuf>,
    /// The certificate it shows, and whose clients may change without a token; plain HTTP without.
    pub tls: Option<tls::Server>,
}

/// An address for HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HttpAddress {
    /// An IPv4 or IPv6 address and a port.
    Tcp(SocketAddr),
    /// The file of a Unix socket, an absolute path.
    Unix(PathBuf),
}

impl fmt::Display for HttpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(file) => write!(f, "unix:{}", file.display()),
        }
    }
}

/// Reads the three keys; `Some(None)` when there is to be no HTTP.
pub(crate) fn read(
    http: Option<Entry<'_>>,
    token_file: Option<Entry<'_>>,
    http_tls: Option<Entry<'_>>,
    environment: &Environment,
    problems: &mut Problems<'_>,
) -> Option<Option<Http>> {
    let token = token_file
        .map(|entry| path(entry.value, "http_token_file", environment, problems))
        .map_or(Some(None), |path| path.map(Some));
    let tls = encryption::server("http_tls", http_tls, environment, problems);
    let Some(http) = http else {
        if let Some(entry) = token_file {
            let hint = format!("add `http: 127.0.0.1:{PORT}`, or remove `http_token_file`");
            problems.add(&entry.key.span, "a token without `http`", hint);
            return None;
        }
        if let Some(entry) = http_tls {
            let hint = format!("add `http: 127.0.0.1:{PORT}`, or remove `http_tls`");
            problems.add(&entry.key.span, "`http_tls` without `http`", hint);
            return None;
        }
        return Some(None);
    };
    let written = text(http.value, "http", problems)?;
    match written.parse() {
        Ok(address) => {
            if let (HttpAddress::Unix(_), Some(entry)) = (&address, http_tls) {
                let hint = "remove `http_tls`, or give `http` an address and a port";
                problems.add(&entry.key.span, "a Unix socket has no TLS", hint);
                return None;
            }
            Some(Some(Http { address, token_file: token?, tls: tls? }))
        }
        Err(BadHttpAddress(message)) => {
            problems.add(&http.value.span, message, hint());
            None
        }
    }
}

/// What is not an address for HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadHttpAddress(String);

impl fmt::Display for BadHttpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.0, hint())
    }
}

impl std::error::Error for BadHttpAddress {}

impl FromStr for HttpAddress {
    type Err = BadHttpAddress;

    fn from_str(text: &str) -> Result<Self, BadHttpAddress> {
        let bad = || BadHttpAddress(format!("{} is not an address for HTTP", shown(text)));
        address(text).ok_or_else(bad)
    }
}

fn hint() -> String {
    format!(
        "write \"127.0.0.1:{PORT}\", \"[::1]:{PORT}\" or \"unix:/run/pgherd/http.sock\"; names \
         are not looked up"
    )
}

fn address(text: &str) -> Option<HttpAddress> {
    if let Some(file) = text.strip_prefix("unix:") {
        let fits = file.len() <= SOCKET_PATH_BYTES_MAX && !file.ends_with('/');
        let file = Some(Path::new(file)).filter(|file| fits && file.is_absolute());
        return file.map(|file| HttpAddress::Unix(file.to_owned()));
    }
    let address = text.parse::<SocketAddr>().ok()?;
    Some(HttpAddress::Tcp(address)).filter(|_| address.port() != 0)
}

impl HttpAddress {
    /// Whether only this host can reach it.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp(address) => match address.ip().to_canonical() {
                IpAddr::V4(ip) => ip.is_loopback(),
                IpAddr::V6(ip) => ip.is_loopback(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, shown, local) in [
            ("127.0.0.1:8432", "127.0.0.1:8432", true),
            ("[::1]:8432", "[::1]:8432", true),
            ("0.0.0.0:80", "0.0.0.0:80", false),
            ("unix:/run/a.sock", "unix:/run/a.sock", true),
        ] {
            let address = address(text).unwrap();
            assert_eq!((address.to_string().as_str(), address.is_local()), (shown, local));
        }
        for text in ["", "8432", "localhost:8432", "127.0.0.1", "127.0.0.1:0", "unix:a", "unix:/a/"]
        {
            assert_eq!(address(text), None, "{text}");
        }
    }
}
