//! The whole file: from the tree to checked settings.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::address::{self, Bad, Written};
use crate::auth::Offered;
use crate::environment::Environment;
use crate::problem::{Place, Problems};
use crate::scalar::{boolean, duration, list, number, port, shown, text, wrong_type};
use crate::section::{Entry, section};
use crate::tree::{Node, Value};
use crate::{Ask, Host, Limits, LogFormat, Overrides, Relay};
use crate::{configurations, encryption, http, keys, upstream};

const LISTEN_PORT: u16 = 5433;
/// Most addresses to listen on.
const LISTEN_MAX: usize = 64;

/// Checks the tree of a file. `None` as the root: the file has nothing in it.
pub(crate) fn file(
    root: Option<&Node>,
    overrides: &Overrides,
    environment: &Environment,
    problems: &mut Problems<'_>,
) -> Option<Relay> {
    let [
        listen,
        listen_port,
        upstream,
        state_dir,
        strict,
        configurations,
        limits,
        log_format,
        tls,
        http,
        token_file,
        http_hosts,
        http_tls,
    ] = root.map_or([None; 13], |root| section(root, &keys::RELAY, problems));
    if root.is_some_and(|root| !matches!(root.value, Value::Map(_))) {
        return None; // noted by `section`; that nothing is in it goes without saying
    }
    let options = Options::read(overrides, problems);
    let listen = addresses(listen, listen_port, options.port, problems);
    let written = upstream;
    let upstream = upstream::read(upstream, &options, environment, problems);
    let state_dir = match state_dir {
        Some(entry) => path(entry.value, "state_dir", environment, problems),
        None => default_state_dir(environment, problems),
    };
    let strict = strict.map_or(Some(false), |entry| boolean(entry.value, problems));
    let configurations = match configurations {
        Some(entry) => {
            configurations::read(entry.value, Offered::of(tls, written), environment, problems)
                .map(Some)
        }
        None => Some(None),
    };
    let limits = limits.map_or(Some(Limits::default()), |entry| limits_of(entry.value, problems));
    let log_format = log_format.map_or(Some(LogFormat::default()), |entry| format(entry, problems));
    let http = http::Entries { http, token_file, hosts: http_hosts, tls: http_tls };
    let http = http::read(http, environment, problems);
    let tls = encryption::server("tls", tls, environment, problems);
    Some(Relay {
        listen: listen?,
        http: http?,
        tls: tls?,
        upstream: upstream?,
        state_dir: state_dir?,
        strict: strict?,
        configurations: configurations?,
        limits: limits?,
        log_format: overrides.log_format.or(log_format)?,
    })
}

/// Only what tells how a running relay is asked; problems with other keys are not noted.
pub(crate) fn ask(
    root: Option<&Node>,
    environment: &Environment,
    problems: &mut Problems<'_>,
) -> Option<Option<Ask>> {
    let mut others = Problems::new("", "");
    let entries = root.map(|root| section(root, &keys::RELAY, &mut others));
    let [.., http, token_file, hosts, tls] = entries.unwrap_or_default();
    http::ask(http::Entries { http, token_file, hosts, tls }, environment, problems)
}

/// The settings without a file.
pub(crate) fn no_file(
    overrides: &Overrides,
    environment: &Environment,
    problems: &mut Problems<'_>,
) -> Option<Relay> {
    let options = Options::read(overrides, problems);
    let upstream = upstream::section_of(None, &options, environment, problems);
    let listen = addresses(None, None, options.port, problems);
    let state_dir = default_state_dir(environment, problems);
    Some(Relay {
        listen: listen?,
        http: None,
        tls: None,
        upstream: upstream?,
        state_dir: state_dir?,
        strict: false,
        configurations: None,
        limits: Limits::default(),
        log_format: overrides.log_format.unwrap_or_default(),
    })
}

/// The options of the command line, checked; a bad one is noted and then left out.
pub(crate) struct Options {
    pub(crate) host: Option<Host>,
    pub(crate) masterport: Option<u16>,
    port: Option<u16>,
    /// Does any of them say where the upstream is?
    pub(crate) upstream: bool,
}

impl Options {
    fn read(overrides: &Overrides, problems: &mut Problems<'_>) -> Self {
        let mut port = |option, given: &Option<String>| {
            let given = given.as_ref()?;
            let port = given.trim().parse().ok().filter(|port| *port != 0);
            if port.is_none() {
                let message = format!("{} is not a port (1 to 65535)", shown(given));
                problems.add_at(Place::Option(option), message, "give a number from 1 to 65535");
            }
            port
        };
        let masterport = port("--masterport", &overrides.masterport);
        let listen_port = port("--port", &overrides.port);
        let host = overrides.host.as_ref().and_then(|text| match address::host(text) {
            Ok(host) => Some(host),
            Err(Bad { message, hint }) => {
                problems.add_at(Place::Option("--host"), message, hint);
                None
            }
        });
        let upstream = overrides.host.is_some() || overrides.masterport.is_some();
        Self { host, masterport, port: listen_port, upstream }
    }
}

fn addresses(
    listen: Option<Entry<'_>>,
    listen_port: Option<Entry<'_>>,
    option: Option<u16>,
    problems: &mut Problems<'_>,
) -> Option<Vec<crate::Listen>> {
    if let (Some(_), Some(other)) = (listen, listen_port) {
        let hint = "keep `listen` and remove `listen_port`, or the other way round";
        problems.add(&other.key.span, "`listen` and `listen_port` are both given", hint);
    }
    // walbouncer binds the first address that getaddrinfo() gives for a passive socket,
    // which is that of all IPv4 interfaces.
    let all = |port| Written::Tcp(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port));
    let written = match (listen, listen_port) {
        (Some(entry), _) => listen_of(entry.value, problems)?,
        (None, Some(entry)) => vec![all(port(entry.value, problems)?)],
        (None, None) => match option {
            Some(port) => vec![all(port)],
            None => {
                vec![Written::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), LISTEN_PORT))]
            }
        },
    };
    Some(address::resolve(&written, option, LISTEN_PORT))
}

/// `listen`: one address, or a list of them.
fn listen_of(node: &Node, problems: &mut Problems<'_>) -> Option<Vec<Written>> {
    let items = match &node.value {
        Value::Text { text, plain: true } if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            let hint = format!("write \"127.0.0.1:{text}\" here, or `listen_port: {text}`");
            wrong_type(node, "an address and a port", hint, problems);
            return None;
        }
        Value::Text { .. } => return Some(vec![address_of(node, problems)?]),
        _ => list(node, "[\"127.0.0.1:5433\"]", problems)?,
    };
    if items.is_empty() || items.len() > LISTEN_MAX {
        let hint = format!("list 1 to {LISTEN_MAX} addresses, or leave the key out");
        problems.add(&node.span, format!("{} addresses to listen on", items.len()), hint);
        return None;
    }
    let mut written = Vec::with_capacity(items.len());
    for item in items {
        let Some(address) = address_of(item, problems) else { continue };
        if written.contains(&address) {
            problems.add(&item.span, "this address is given twice", "keep one of the two");
        }
        written.push(address);
    }
    (written.len() == items.len()).then_some(written)
}

fn address_of(node: &Node, problems: &mut Problems<'_>) -> Option<Written> {
    match address::listen(text(node, "the address", problems)?) {
        Ok(address) => Some(address),
        Err(Bad { message, hint }) => {
            problems.add(&node.span, message, hint);
            None
        }
    }
}

fn default_state_dir(environment: &Environment, problems: &mut Problems<'_>) -> Option<PathBuf> {
    let state_dir = environment.state_dir();
    if state_dir.is_none() {
        let hint = "set `state_dir` in the configuration file, or HOME";
        let message = "no folder for state: there is neither XDG_STATE_HOME nor a home";
        problems.add_at(Place::Environment, message, hint);
    }
    state_dir
}

/// An absolute path, or one below the home.
pub(crate) fn path(
    node: &Node,
    key: &str,
    environment: &Environment,
    problems: &mut Problems<'_>,
) -> Option<PathBuf> {
    let text = text(node, key, problems)?;
    let path = environment.path(text);
    if path.is_none() {
        let message = format!("{} is not an absolute path", shown(text));
        problems.add(&node.span, message, "write the whole path, or begin it with ~/");
    }
    path
}

fn limits_of(node: &Node, problems: &mut Problems<'_>) -> Option<Limits> {
    const MIN: Duration = Duration::from_millis(100);
    let default = Limits::default();
    if node.is_null() {
        return Some(default);
    }
    let [connections, startup, peer] = section(node, &keys::LIMITS, problems);
    let max_connections = connections.map_or(Some(default.max_connections), |entry| {
        number(entry.value, "max_connections", 1..=100_000, problems)
    });
    let startup_timeout = startup.map_or(Some(default.startup_timeout), |entry| {
        duration(entry.value, &(MIN..=Duration::from_secs(600)), "100ms to 10min", problems)
    });
    let peer_timeout = peer.map_or(Some(default.peer_timeout), |entry| {
        let day = Duration::from_secs(86_400);
        let range = Duration::ZERO..=day;
        let time = duration(entry.value, &range, "0, or 100ms to 1d", problems)?;
        if !time.is_zero() && time < MIN {
            let hint = "write a time of 100ms to 1d, or 0 for none at all";
            problems.add(&entry.value.span, "peer_timeout is out of range", hint);
        }
        Some(Some(time).filter(|time| !time.is_zero()))
    });
    Some(Limits {
        max_connections: max_connections?,
        startup_timeout: startup_timeout?,
        peer_timeout: peer_timeout?,
    })
}

fn format(entry: Entry<'_>, problems: &mut Problems<'_>) -> Option<LogFormat> {
    match text(entry.value, "log_format", problems)? {
        "text" => Some(LogFormat::Text),
        "json" => Some(LogFormat::Json),
        other => {
            let message = format!("there is no log format {}", shown(other));
            problems.add(&entry.value.span, message, "write `text` or `json`");
            None
        }
    }
}
