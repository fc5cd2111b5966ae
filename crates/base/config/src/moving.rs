//! An upstream that moves: `hosts`, and which of them is followed.

use std::time::Duration;

use crate::address::{self, Bad};
use crate::problem::Problems;
use crate::scalar::{duration, list, shown, text};
use crate::section::Entry;
use crate::tree::{Node, Value};
use crate::{Address, Host, Moving, Target};

/// Most hosts of one upstream.
const HOSTS_MAX: usize = 32;
const FAILOVER_WAIT: Duration = Duration::from_secs(30);
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// The keys of `upstream` that belong together.
#[derive(Clone, Copy)]
pub(crate) struct Keys<'n> {
    pub(crate) host: Option<Entry<'n>>,
    pub(crate) hosts: Option<Entry<'n>>,
    pub(crate) target: Option<Entry<'n>>,
    pub(crate) failover_wait: Option<Entry<'n>>,
    pub(crate) watch_interval: Option<Entry<'n>>,
}

/// Reads them; `Some(None)` when the upstream is one host that stays where it is.
#[expect(clippy::option_option, reason = "a bad value is not a value that is missing")]
pub(crate) fn read(
    keys: Keys<'_>,
    default_port: Option<u16>,
    problems: &mut Problems<'_>,
) -> Option<Option<Moving>> {
    let Some(entry) = keys.hosts else {
        let alone = [keys.target, keys.failover_wait, keys.watch_interval];
        let Some(entry) = alone.into_iter().flatten().next() else { return Some(None) };
        let hint = "write `hosts: [...]`, also for one host, or remove the key";
        problems.add(&entry.key.span, "this key belongs to `hosts`, which is not there", hint);
        return None;
    };
    if keys.host.is_some() {
        let hint = "keep `hosts` and remove `host`, or the other way round";
        problems.add(&entry.key.span, "`host` and `hosts` are both given", hint);
    }
    // Each is read before the first `?`, so that a bad one does not hide the next.
    let hosts = hosts_of(entry.value, default_port, problems);
    let target = keys.target.map_or(Some(Target::Primary), |it| target_of(it.value, problems));
    let failover_wait = keys.failover_wait.map_or(Some(FAILOVER_WAIT), |it| {
        let range = Duration::ZERO..=Duration::from_secs(3_600);
        duration(it.value, &range, "0 to 1h", problems)
    });
    let watch_interval = keys.watch_interval.map_or(Some(WATCH_INTERVAL), |it| {
        let range = Duration::from_millis(100)..=Duration::from_secs(60);
        duration(it.value, &range, "100ms to 1min", problems)
    });
    Some(Some(Moving {
        hosts: hosts?,
        target: target?,
        failover_wait: failover_wait?,
        watch_interval: watch_interval?,
    }))
}

fn target_of(node: &Node, problems: &mut Problems<'_>) -> Option<Target> {
    match text(node, "the target", problems)? {
        "primary" => Some(Target::Primary),
        "standby" => Some(Target::Standby),
        "prefer-standby" => Some(Target::PreferStandby),
        "any" => Some(Target::Any),
        other => {
            let message = format!("there is no target {}", shown(other));
            let hint = "write `primary`, `standby`, `prefer-standby` or `any`";
            problems.add(&node.span, message, hint);
            None
        }
    }
}

fn hosts_of(
    node: &Node,
    default_port: Option<u16>,
    problems: &mut Problems<'_>,
) -> Option<Vec<Address>> {
    let items = match &node.value {
        Value::Text { .. } => return Some(vec![address_of(node, default_port, problems)?]),
        _ => list(node, "[a, \"b:5433\", \"[::1]:5434\"]", problems)?,
    };
    if items.is_empty() || items.len() > HOSTS_MAX {
        let hint = format!("list 1 to {HOSTS_MAX} hosts");
        problems.add(&node.span, format!("{} hosts", items.len()), hint);
        return None;
    }
    let mut hosts = Vec::with_capacity(items.len());
    for item in items {
        let Some(address) = address_of(item, default_port, problems) else { continue };
        if hosts.contains(&address) {
            problems.add(&item.span, "this host is given twice", "keep one of the two");
        }
        hosts.push(address);
    }
    (hosts.len() == items.len()).then_some(hosts)
}

/// `HOST`, `HOST:PORT`, `[IPV6]:PORT`, `IPV6`, `/FOLDER` or `/FOLDER:PORT`.
fn address_of(
    node: &Node,
    default_port: Option<u16>,
    problems: &mut Problems<'_>,
) -> Option<Address> {
    let written = text(node, "the host", problems)?;
    let (host, port) = split(written);
    let port = match port {
        None => default_port?,
        Some(digits) => match digits.parse::<u16>() {
            Ok(port) if port != 0 => port,
            _ => {
                let message = format!("port {digits} is out of range (1 to 65535)");
                problems.add(&node.span, message, "write a port from 1 to 65535");
                return None;
            }
        },
    };
    match address::host(host) {
        Ok(host) => Some(Address { host, port }),
        Err(Bad { message, .. }) => {
            let hint = "write a host name or an address, with a port where it is another one: \
                        db, \"db:5433\", \"[::1]:5433\", \"/run/postgresql:5433\"";
            problems.add(&node.span, message, hint);
            None
        }
    }
}

/// Host and port, where one is written.
fn split(written: &str) -> (&str, Option<&str>) {
    if let Some((host, rest)) = written.strip_prefix('[').and_then(|it| it.split_once(']')) {
        return match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if rest.is_empty() => (host, None),
            None => (written, None),
        };
    }
    match written.rsplit_once(':') {
        // More colons are an IPv6 address that stands alone.
        Some((host, port))
            if (!host.contains(':') || host.starts_with('/'))
                && !port.is_empty()
                && port.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            (host, Some(port))
        }
        _ => (written, None),
    }
}

impl Address {
    /// The host and the port of an upstream, as one.
    #[must_use]
    pub const fn new(host: Host, port: u16) -> Self {
        Self { host, port }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports() {
        for (written, expected) in [
            ("a", ("a", None)),
            ("b:5433", ("b", Some("5433"))),
            ("[::1]:5434", ("::1", Some("5434"))),
            ("[::1]", ("::1", None)),
            ("::1", ("::1", None)),
            ("/run/postgresql", ("/run/postgresql", None)),
            ("/run/postgresql:5433", ("/run/postgresql", Some("5433"))),
            ("b:", ("b:", None)),
            ("[::1]x", ("[::1]x", None)),
        ] {
            assert_eq!(split(written), expected, "{written}");
        }
    }
}
