//! `http` and what belongs to it: where the relay tells about itself, and who may change it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::str::FromStr;

use crate::check::path;
use crate::encryption;
use crate::environment::Environment;
use crate::problem::Problems;
use crate::scalar::{list, shown, text};
use crate::section::Entry;
use crate::tree::Node;

/// The port that examples use.
const PORT: u16 = 8432;
/// Bytes in `sun_path` of `sockaddr_un` on Linux, less the NUL at its end.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Most names.
const HOSTS_MAX: usize = 64;
/// Longest name of a host, in bytes; RFC 1035, section 2.3.4.
const HOST_BYTES_MAX: usize = 253;

/// The HTTP side of the relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// Where it listens.
    pub address: HttpAddress,
    /// The file with the token that changes need over TCP; an absolute path. It is read for each
    /// change and never kept.
    pub token_file: Option<PathBuf>,
    /// Names that it is asked by, beside those that are this host's anyway; in lower case.
    pub hosts: Vec<String>,
    /// The certificate it shows, and whose clients may change without a token; plain HTTP without.
    pub tls: Option<tls::Server>,
}

/// What a command needs to ask a running relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Where it answers.
    pub address: HttpAddress,
    /// The file with the token; an absolute path.
    pub token_file: Option<PathBuf>,
    /// The file with the certificate it shows; plain HTTP without. An absolute path.
    pub certificate: Option<PathBuf>,
}

/// The keys of the file.
#[derive(Clone, Copy)]
pub(crate) struct Entries<'n> {
    pub(crate) http: Option<Entry<'n>>,
    pub(crate) token_file: Option<Entry<'n>>,
    pub(crate) hosts: Option<Entry<'n>>,
    pub(crate) tls: Option<Entry<'n>>,
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

/// Reads all keys; `Some(None)` when there is to be no HTTP.
pub(crate) fn read(
    entries: Entries<'_>,
    environment: &Environment,
    problems: &mut Problems<'_>,
) -> Option<Option<Http>> {
    let hosts = entries.hosts.map_or(Some(Vec::new()), |entry| hosts(entry.value, problems));
    let tls = encryption::server("http_tls", entries.tls, environment, problems);
    let Some((address, token_file)) = place(entries, environment, problems)? else {
        return Some(None);
    };
    Some(Some(Http { address, token_file, hosts: hosts?, tls: tls? }))
}

/// Reads what those who ask have to know; `Some(None)` when there is no HTTP.
pub(crate) fn ask(
    entries: Entries<'_>,
    environment: &Environment,
    problems: &mut Problems<'_>,
) -> Option<Option<Ask>> {
    let certificate = encryption::shown_certificate(entries.tls, environment, problems);
    let Some((address, token_file)) = place(entries, environment, problems)? else {
        return Some(None);
    };
    Some(Some(Ask { address, token_file, certificate: certificate? }))
}

/// The address and the file of the token.
fn place(
    entries: Entries<'_>,
    environment: &Environment,
    problems: &mut Problems<'_>,
) -> Option<Option<(HttpAddress, Option<PathBuf>)>> {
    let token_file = entries
        .token_file
        .map(|entry| path(entry.value, "http_token_file", environment, problems))
        .map_or(Some(None), |path| path.map(Some));
    let Some(http) = entries.http else {
        let orphans = [
            ("http_token_file", entries.token_file),
            ("http_hosts", entries.hosts),
            ("http_tls", entries.tls),
        ];
        let orphans = orphans.iter().filter_map(|(key, entry)| Some((key, (*entry)?)));
        let mut alone = true;
        for (key, entry) in orphans {
            let hint = format!("add `http: \"127.0.0.1:{PORT}\"`, or remove `{key}`");
            problems.add(&entry.key.span, format!("`{key}` without `http`"), hint);
            alone = false;
        }
        return alone.then_some(None);
    };
    let address = match text(http.value, "http", problems)?.parse() {
        Ok(address) => address,
        Err(BadHttpAddress(message)) => {
            problems.add(&http.value.span, message, hint());
            return None;
        }
    };
    if let (HttpAddress::Unix(_), Some(entry)) = (&address, entries.tls) {
        let hint = "remove `http_tls`, or give `http` an address and a port";
        problems.add(&entry.key.span, "a Unix socket has no TLS", hint);
        return None;
    }
    Some(Some((address, token_file?)))
}

/// `http_hosts`.
fn hosts(node: &Node, problems: &mut Problems<'_>) -> Option<Vec<String>> {
    let items = list(node, "[relay1.example.com]", problems)?;
    if items.len() > HOSTS_MAX {
        let message = format!("{} names in `http_hosts`", items.len());
        problems.add(&node.span, message, format!("list at most {HOSTS_MAX}"));
        return None;
    }
    let name = |item: &Rc<Node>| {
        let written = text(item, "a name in http_hosts", problems)?;
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if written.len() <= HOST_BYTES_MAX && written.bytes().all(fits) {
            return Some(written.to_ascii_lowercase());
        }
        let message = format!("{} is not the name of a host", shown(written));
        problems.add(&item.span, message, "write the name alone, without a port or a path");
        None
    };
    // Every bad one is told of.
    let names: Vec<_> = items.iter().map(name).collect();
    names.into_iter().collect()
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
