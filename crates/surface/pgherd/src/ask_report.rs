//! A relay's answers as tables, for people.

use std::fmt::Write as _;
use std::time::Duration;

use comfy_table::{Cell, CellAlignment, Table, presets};
use indicatif::{HumanBytes, HumanCount, HumanDuration};
use relay::Reloaded;
use relay::status::{ClientStatus, RelayStatus, Stage, Thing};

/// The relay, and who is connected.
pub(crate) fn status(status: &RelayStatus, all: &[ClientStatus]) -> String {
    let mut text = String::new();
    let upstream = &status.upstream;
    let address = upstream.address.as_deref().unwrap_or("none of its hosts");
    let reachable = match &upstream.problem {
        None => "reachable".to_owned(),
        Some(problem) => format!("NOT reachable: {problem}"),
    };
    let up = HumanDuration(Duration::from_secs(status.uptime_secs));
    // Writing to a string cannot fail.
    writeln!(text, "pgherd relay {}, up for {up}", status.version).ok();
    writeln!(text, "upstream   {address}, {reachable}").ok();
    for host in upstream.hosts.iter().filter(|_| upstream.hosts.len() > 1) {
        let role = host.role.as_deref().unwrap_or("");
        let unfit = host.unfit.as_deref().unwrap_or("");
        writeln!(text, "           {} {role} {unfit}", host.host).ok();
    }
    writeln!(text, "listening  {}", status.listen.join(", ")).ok();
    let refused: u64 = status.refusals.values().sum();
    let (done, bad) = (status.reloads.done, status.reloads.refused);
    writeln!(
        text,
        "so far     {} connections, {} failed logins, {refused} refusals, {} alarms, {done} reloads, \
         {bad} refused",
        status.connections, status.failed_logins, status.alarms
    )
    .ok();
    let mut table = table(&["configuration", "clients", "sent", "passed", "replaced", "in bytes"]);
    for it in &status.configurations {
        let name = it.name.as_deref().unwrap_or("(none)");
        let of = |count| if it.filtered { HumanCount(count).to_string() } else { "-".to_owned() };
        let replaced = HumanBytes(it.sums.replaced_bytes).to_string();
        table.add_row([
            Cell::new(shown(name)),
            right(it.clients.to_string()),
            right(HumanBytes(it.sums.sent_bytes).to_string()),
            right(of(it.sums.records_passed)),
            right(of(it.sums.records_replaced)),
            right(if it.filtered { replaced } else { "-".to_owned() }),
        ]);
    }
    writeln!(text, "\n{table}").ok();
    if !all.is_empty() {
        write!(text, "\n{}", clients(all)).ok();
    }
    text
}

/// Who is connected, and how far each one is.
pub(crate) fn clients(all: &[ClientStatus]) -> String {
    let mut table = table(&[
        "client",
        "configuration",
        "doing",
        "replayed",
        "behind",
        "for",
        "flush",
        "write",
        "sent",
        "user",
        "address",
        "connected",
    ]);
    for it in all {
        let behind = |stage: &Stage| {
            stage.lag_bytes.map_or_else(|| "-".to_owned(), |bytes| HumanBytes(bytes).to_string())
        };
        let last = if it.replay.lsn.is_some() { &it.replay } else { &it.flush };
        let seconds = last.lag_secs.map_or_else(|| "-".to_owned(), |secs| format!("{secs:.1} s"));
        let up = HumanDuration(Duration::from_secs(it.connected_secs)).to_string();
        table.add_row([
            Cell::new(shown(&it.name)),
            Cell::new(shown(it.configuration.as_deref().unwrap_or("-"))),
            Cell::new(&it.activity),
            right(it.replay.lsn.clone().unwrap_or_else(|| "-".to_owned())),
            right(behind(last)),
            right(seconds),
            right(behind(&it.flush)),
            right(behind(&it.write)),
            right(behind(&it.sent)),
            Cell::new(shown(&it.user)),
            Cell::new(&it.address),
            right(up),
        ]);
    }
    format!("{table}\n")
}

/// What was decided.
pub(crate) fn databases(all: &[Thing]) -> String {
    let mut table = table(&[
        "kind",
        "OID",
        "name",
        "configuration",
        "decision",
        "passed",
        "replaced",
        "since",
        "why",
    ]);
    for thing in all {
        for it in &thing.decisions {
            let records = |count: Option<u64>| {
                right(count.map_or_else(|| "-".to_owned(), |it| HumanCount(it).to_string()))
            };
            let since = it.since.as_ref().map_or_else(
                || "always".to_owned(),
                |since| format!("{} on timeline {}", since.lsn, since.timeline),
            );
            table.add_row([
                Cell::new(&thing.kind),
                right(thing.oid.to_string()),
                Cell::new(shown(&thing.name)),
                Cell::new(shown(&it.configuration)),
                Cell::new(&it.decision),
                records(it.records_passed),
                records(it.records_replaced),
                Cell::new(since),
                Cell::new(&it.why),
            ]);
        }
    }
    format!("{table}\n")
}

/// What a change of the configuration did.
pub(crate) fn reloaded(did: &Reloaded) -> String {
    let mut text = "the new configuration holds\n".to_owned();
    writeln!(text, "{} clients go on, {} have to connect again", did.kept, did.reconnected).ok();
    for address in &did.opened {
        writeln!(text, "listening on {address}").ok();
    }
    for address in &did.closed {
        writeln!(text, "not listening on {address} any more").ok();
    }
    text
}

fn table(heads: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(heads.iter().copied());
    table
}

fn right(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

/// A name that a client or a server chose: nothing in it may move the terminal's cursor.
fn shown(name: &str) -> String {
    name.chars().map(|it| if it.is_control() { '\u{fffd}' } else { it }).collect()
}
