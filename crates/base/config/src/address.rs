//! Reads the text of addresses: where to listen, and where the upstream is.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::scalar::shown;
use crate::{Host, Listen};

/// Bytes in `sun_path` of `sockaddr_un` on Linux, less the NUL at its end.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Longest host name that DNS has, in bytes.
const HOST_BYTES_MAX: usize = 253;

/// What is wrong with an address, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bad {
    pub(crate) message: String,
    pub(crate) hint: String,
}

impl Bad {
    fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into() }
    }
}

/// An address to listen on, before it is known which port a Unix socket follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Written {
    Tcp(SocketAddr),
    Unix { dir: PathBuf, port: Option<u16> },
}

/// Reads `ADDRESS:PORT`, `[IPV6]:PORT`, `unix:/DIR` or `unix:/DIR:PORT`.
pub(crate) fn listen(text: &str) -> Result<Written, Bad> {
    if let Some(dir) = text.strip_prefix("unix:") {
        return unix(dir);
    }
    match text.parse::<SocketAddr>() {
        Ok(addr) if addr.port() != 0 => return Ok(Written::Tcp(addr)),
        Ok(_) => return Err(port_range("0")),
        Err(_) => {}
    }
    if let Ok(addr) = text.parse::<IpAddr>() {
        let hint = format!("write \"{}\"", SocketAddr::new(addr, 5433));
        return Err(Bad::new(format!("{} has no port", shown(text)), hint));
    }
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if bare.parse::<IpAddr>().is_ok() {
            return Err(port_range(port));
        }
        if matches!(host, "" | "*") {
            let hint = format!("write \"0.0.0.0:{port}\" or \"[::]:{port}\" for all addresses");
            return Err(Bad::new(format!("{} has no address", shown(text)), hint));
        }
    }
    let hint = if text.starts_with('/') {
        format!("write \"unix:{text}\" for a Unix socket")
    } else {
        "write an address as in \"127.0.0.1:5433\" or \"[::1]:5433\", or \"unix:/DIR\"; names \
         are not looked up"
            .to_owned()
    };
    Err(Bad::new(format!("{} is not an address and a port", shown(text)), hint))
}

fn port_range(port: &str) -> Bad {
    Bad::new(format!("port {port} is out of range (1 to 65535)"), "write a port from 1 to 65535")
}

fn unix(text: &str) -> Result<Written, Bad> {
    let (dir, port) = match text.rsplit_once(':') {
        Some((dir, digits))
            if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            let port = digits.parse().ok().filter(|port| *port != 0);
            (dir, Some(port.ok_or_else(|| port_range(digits))?))
        }
        _ => (text, None),
    };
    let dir = socket_dir(dir)?;
    Ok(Written::Unix { dir, port })
}

fn socket_dir(dir: &str) -> Result<PathBuf, Bad> {
    if !Path::new(dir).is_absolute() {
        let hint = "write the whole path of a folder, as in /run/postgresql";
        return Err(Bad::new(format!("{} is not an absolute path", shown(dir)), hint));
    }
    if dir.len() + "/.s.PGSQL.65535".len() > SOCKET_PATH_BYTES_MAX {
        let hint = format!("the name of a socket has at most {SOCKET_PATH_BYTES_MAX} bytes");
        return Err(Bad::new("the path is too long for a Unix socket", hint));
    }
    Ok(PathBuf::from(dir))
}

/// The addresses to listen on: `port` replaces that of every TCP address, and a Unix
/// socket without one follows the first TCP address. An address is kept only once.
pub(crate) fn resolve(written: &[Written], port: Option<u16>, default_port: u16) -> Vec<Listen> {
    let first_port = written.iter().find_map(|address| match address {
        Written::Tcp(addr) => Some(addr.port()),
        Written::Unix { .. } => None,
    });
    let follow = port.or(first_port).unwrap_or(default_port);
    let mut resolved = Vec::with_capacity(written.len());
    for address in written {
        let address = match address {
            Written::Tcp(addr) => {
                Listen::Tcp(SocketAddr::new(addr.ip(), port.unwrap_or(addr.port())))
            }
            Written::Unix { dir, port } => {
                Listen::Unix { dir: dir.clone(), port: port.unwrap_or(follow) }
            }
        };
        if !resolved.contains(&address) {
            resolved.push(address);
        }
    }
    resolved
}

/// Reads a host as libpq does: a name, an address, or the folder of a Unix socket.
///
/// The text itself stays out of the message: it may be a URL with a password.
pub(crate) fn host(text: &str) -> Result<Host, Bad> {
    if text.starts_with('/') {
        return socket_dir(text).map(Host::Unix);
    }
    let is_address = |text: &str| {
        let (addr, scope) = text.split_once('%').unwrap_or((text, "0"));
        addr.parse::<IpAddr>().is_ok() && !scope.is_empty()
    };
    if is_address(text) {
        return Ok(Host::Name(text.to_owned()));
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let hint = if bare.is_some_and(is_address) {
        "write the address without brackets"
    } else if text.contains(',') {
        "name one host here; several go into `hosts`"
    } else if text.contains("://") || text.contains('=') {
        "write only the host; port, user and database have keys of their own, and a password \
         goes into a password file"
    } else if text.contains(':') {
        "write only the host; the port has its own key `port`"
    } else {
        "write a host name, an address, or the absolute path of a socket's folder"
    };
    let name = |char: char| !matches!(char, ':' | ',' | '=' | '/' | '@' | '[' | ']' | '%' | '\\');
    let plain = |char: char| name(char) && !char.is_whitespace() && !char.is_control();
    if !text.is_empty() && text.len() <= HOST_BYTES_MAX && text.chars().all(plain) {
        return Ok(Host::Name(text.to_owned()));
    }
    Err(Bad::new("this is not a host", hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_to_listen_on() {
        let tcp = |text: &str| Ok(Written::Tcp(text.parse().unwrap()));
        let unix = |dir: &str, port| Ok(Written::Unix { dir: dir.into(), port });
        assert_eq!(listen("127.0.0.1:5433"), tcp("127.0.0.1:5433"));
        assert_eq!(listen("[::]:1"), tcp("[::]:1"));
        assert_eq!(listen("unix:/run/x"), unix("/run/x", None));
        assert_eq!(listen("unix:/run/x:6000"), unix("/run/x", Some(6000)));
        assert_eq!(listen("unix:/run/a:b"), unix("/run/a:b", None));
    }

    #[test]
    fn what_is_no_address_says_why() {
        for (text, message, hint) in [
            ("127.0.0.1:0", "port 0 is out of range", "1 to 65535"),
            ("127.0.0.1:65536", "port 65536 is out of range", "1 to 65535"),
            ("[::1]:99999", "port 99999 is out of range", "1 to 65535"),
            ("unix:/x:70000", "port 70000 is out of range", "1 to 65535"),
            ("127.0.0.1", "has no port", "\"127.0.0.1:5433\""),
            ("::1", "has no port", "\"[::1]:5433\""),
            (":5433", "has no address", "\"0.0.0.0:5433\""),
            ("*:5433", "has no address", "\"[::]:5433\""),
            ("localhost:5433", "is not an address and a port", "not looked up"),
            ("/run/x", "is not an address and a port", "\"unix:/run/x\""),
            ("unix:run/x", "not an absolute path", "/run/postgresql"),
            ("", "is not an address and a port", "127.0.0.1"),
        ] {
            let bad = listen(text).unwrap_err();
            assert!(bad.message.contains(message), "{text}: {bad:?}");
            assert!(bad.hint.contains(hint), "{text}: {bad:?}");
        }
        assert!(listen(&format!("unix:/{}", "x".repeat(100))).is_err());
    }

    #[test]
    fn hosts() {
        for text in ["localhost", "db-1.example.com", "10.0.0.1", "::1", "fe80::1%eth0", "my_db"] {
            assert_eq!(host(text), Ok(Host::Name(text.to_owned())));
        }
        assert_eq!(host("/run/postgresql"), Ok(Host::Unix("/run/postgresql".into())));
        for (text, hint) in [
            ("", "host name"),
            ("db:5432", "`port`"),
            ("[::1]", "brackets"),
            ("a,b", "one host"),
            ("postgres://u:p@h", "password file"),
            ("host=x password=y", "password file"),
            ("a b", "host name"),
        ] {
            let bad = host(text).unwrap_err();
            assert!(bad.hint.contains(hint), "{text}: {bad:?}");
            assert!(!bad.message.contains('p') && !bad.message.contains('y'), "{bad:?}");
        }
    }

    #[test]
    fn a_port_from_the_command_line_replaces_those_of_tcp() {
        let written = [
            listen("unix:/a").unwrap(),
            listen("127.0.0.1:1").unwrap(),
            listen("127.0.0.1:2").unwrap(),
            listen("unix:/b:9").unwrap(),
        ];
        let shown = |port| {
            resolve(&written, port, 5433).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(shown(None), ["unix:/a:1", "127.0.0.1:1", "127.0.0.1:2", "unix:/b:9"]);
        assert_eq!(shown(Some(7)), ["unix:/a:7", "127.0.0.1:7", "unix:/b:9"]);
    }
}
