//! Who gets an answer.
//!
//! Reading is open to whoever can connect, but not to web pages of other sites: a name that an
//! attacker's DNS points here is not answered (`Host`), and no page may read across origins,
//! because no answer allows it. Changing needs the token, which no page knows and no browser sends
//! by itself, the Unix socket, which no browser opens, or a client's certificate; a browser does
//! show that by itself, so what pages of other sites send (`Origin`) is refused.

use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, header};
use subtle::ConstantTimeEq as _;

/// Shortest token, in characters.
const TOKEN_CHARS_MIN: usize = 16;
/// Longest token file that is read, in bytes.
const TOKEN_FILE_BYTES_MAX: u64 = 4096;

/// Why a request is not served: status, and a sentence.
pub(crate) type Refusal = (StatusCode, String);

/// How a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Tcp,
    /// TLS over TCP; whether the client showed a certificate, which the handshake verified then.
    Tls {
        certified: bool,
    },
    Unix,
}

/// Refuses names that are neither this host's nor `more`, against DNS rebinding. Over TLS a browser
/// holds the name against the certificate.
pub(crate) fn host(headers: &HeaderMap, way: Way, more: &[String]) -> Result<(), Refusal> {
    if way != Way::Tcp {
        return Ok(());
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let (host, second) = (hosts.next(), hosts.next());
    let host = host.filter(|_| second.is_none()).and_then(|host| host.to_str().ok());
    let host = host.and_then(|host| host.parse::<Authority>().ok());
    let refusal = || {
        let what = "ask by address, as localhost, by this host's own name, or by one of \
                    http_hosts";
        (StatusCode::MISDIRECTED_REQUEST, format!("the Host header names another site: {what}"))
    };
    let host = host.ok_or_else(refusal)?;
    let host = host.host();
    let listed = more.iter().any(|name| name.eq_ignore_ascii_case(host));
    if listed || is_ours(host) { Ok(()) } else { Err(refusal()) }
}

fn is_ours(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.parse::<IpAddr>().is_ok()
        || host.eq_ignore_ascii_case("localhost")
        || rustix::system::uname()
            .nodename()
            .to_str()
            .is_ok_and(|own| own.eq_ignore_ascii_case(host))
}

/// Lets a change through: it has the token or a certificate, or came over the Unix socket.
pub(crate) fn change(
    headers: &HeaderMap,
    way: Way,
    token_file: Option<&Path>,
) -> Result<(), Refusal> {
    if way == Way::Unix {
        return Ok(());
    }
    // A browser shows a certificate by itself: pages of other sites are refused before it counts.
    own_page(headers, way)?;
    if way == (Way::Tls { certified: true }) {
        return Ok(());
    }
    let Some(file) = token_file else {
        let what = match way {
            Way::Tls { .. } => {
                "this needs a certificate of an authority in client_ca of http_tls, or a token in \
                 http_token_file, which is not set"
            }
            Way::Tcp | Way::Unix => {
                "http_token_file is not set, so nothing is changed over TCP: set it, use a Unix \
                 socket for http, or send SIGHUP to the relay"
            }
        };
        return Err((StatusCode::FORBIDDEN, what.to_owned()));
    };
    let token = token(file).map_err(|what| (StatusCode::FORBIDDEN, what))?;
    let given = headers.get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, token) = value.as_bytes().split_at_checked("Bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
    });
    let Some(given) = given else {
        let what = "this needs the header `Authorization: Bearer TOKEN`";
        return Err((StatusCode::UNAUTHORIZED, what.to_owned()));
    };
    if bool::from(given.ct_eq(token.as_bytes())) {
        Ok(())
    } else {
        Err((StatusCode::UNAUTHORIZED, "the token is wrong".to_owned()))
    }
}

/// Refuses what a page of another site sends.
fn own_page(headers: &HeaderMap, way: Way) -> Result<(), Refusal> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let scheme = if matches!(way, Way::Tls { .. }) { "https://" } else { "http://" };
    let origin = origin.to_str().ok().and_then(|it| it.strip_prefix(scheme));
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    if origin.is_some() && origin == host {
        return Ok(());
    }
    Err((StatusCode::FORBIDDEN, "a page of another site asks for this".to_owned()))
}

/// The token; what is wrong with its file otherwise, without a word of its content.
fn token(path: &Path) -> Result<String, String> {
    let cannot = |error| format!("cannot read http_token_file: {error}");
    let file = File::open(path).map_err(cannot)?;
    if file.metadata().map_err(cannot)?.mode() & 0o077 != 0 {
        return Err("http_token_file can be read by others: set its mode to 0600".to_owned());
    }
    let mut text = String::new();
    file.take(TOKEN_FILE_BYTES_MAX).read_to_string(&mut text).map_err(cannot)?;
    let token = text.lines().next().unwrap_or_default().trim();
    if token.chars().count() < TOKEN_CHARS_MIN {
        return Err(format!(
            "the token in http_token_file has fewer than {TOKEN_CHARS_MIN} characters"
        ));
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn names_of_other_sites_are_not_answered() {
        for (host, ours) in [
            ("127.0.0.1:8432", true),
            ("[::1]:8432", true),
            ("10.0.0.7", true),
            ("LocalHost:8432", true),
            ("evil.example:8432", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("", false),
            ("a b", false),
        ] {
            let named = headers(&[(header::HOST, host)]);
            assert_eq!(super::host(&named, Way::Tcp, &[]).is_ok(), ours, "{host}");
            assert!(super::host(&named, Way::Tls { certified: false }, &[]).is_ok(), "{host}");
        }
        assert!(host(&HeaderMap::new(), Way::Tcp, &[]).is_err());
        assert!(host(&HeaderMap::new(), Way::Unix, &[]).is_ok());
        let twice = [(header::HOST, "localhost"), (header::HOST, "localhost")];
        assert!(host(&headers(&twice), Way::Tcp, &[]).is_err());
        let listed = ["relay1.example.com".to_owned()];
        for (name, ours) in [("Relay1.example.com:80", true), ("x.relay1.example.com", false)] {
            let named = headers(&[(header::HOST, name)]);
            assert_eq!(host(&named, Way::Tcp, &listed).is_ok(), ours, "{name}");
        }
    }

    #[test]
    fn a_change_needs_the_token() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "0123456789abcdef\nmore").unwrap();
        let mode = |mode| {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(0o600);
        let status = |pairs: &[(header::HeaderName, &str)], file: Option<&Path>| {
            change(&headers(pairs), Way::Tcp, file).err().map(|(status, _)| status.as_u16())
        };
        let bearer = (header::AUTHORIZATION, "Bearer 0123456789abcdef");
        assert_eq!(status(std::slice::from_ref(&bearer), Some(&file)), None);
        assert_eq!(status(&[], Some(&file)), Some(401));
        for wrong in ["Bearer 0123456789abcdeg", "Bearer ", "Basic 0123456789abcdef", "x"] {
            assert_eq!(
                status(&[(header::AUTHORIZATION, wrong)], Some(&file)),
                Some(401),
                "{wrong}"
            );
        }
        assert_eq!(status(std::slice::from_ref(&bearer), None), Some(403));
        let host = (header::HOST, "127.0.0.1:8432");
        let origin = |it| (header::ORIGIN, it);
        let own = [bearer.clone(), host.clone(), origin("http://127.0.0.1:8432")];
        assert_eq!(status(&own, Some(&file)), None);
        for other in ["http://evil.example", "null", "https://127.0.0.1:8432"] {
            let from = [bearer.clone(), host.clone(), origin(other)];
            assert_eq!(status(&from, Some(&file)), Some(403), "{other}");
        }
        let tls = |certified, pairs: &[(header::HeaderName, &str)]| {
            let way = Way::Tls { certified };
            change(&headers(pairs), way, Some(&file)).err().map(|(status, _)| status.as_u16())
        };
        assert_eq!(tls(true, &[]), None);
        assert_eq!(tls(false, &[]), Some(401));
        assert_eq!(tls(false, std::slice::from_ref(&bearer)), None);
        assert_eq!(tls(true, &[host.clone(), origin("https://127.0.0.1:8432")]), None);
        for other in ["https://evil.example", "null", "http://127.0.0.1:8432"] {
            assert_eq!(tls(true, &[host.clone(), origin(other)]), Some(403), "{other}");
        }
        mode(0o644);
        assert_eq!(status(std::slice::from_ref(&bearer), Some(&file)), Some(403));
        mode(0o600);
        std::fs::write(&file, "short\n").unwrap();
        assert_eq!(status(&[(header::AUTHORIZATION, "Bearer short")], Some(&file)), Some(403));
        assert_eq!(change(&HeaderMap::new(), Way::Unix, None), Ok(()));
    }
}
