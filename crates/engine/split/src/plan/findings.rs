//! What the source's own state says about a split.

use crate::Options;
use crate::plan::{Facts, Findings, list, size};

/// A backup takes one walsender, its WAL another, and so does the standby later.
const WALSENDERS_NEEDED: i64 = 2;

pub(crate) fn judge(facts: &Facts, options: &Options, findings: &mut Findings) {
    databases(facts, options, findings);
    server(facts, findings);
    connection(facts, options, findings);
    room(facts, findings);
    contents(facts, findings);
    settings(facts, findings);
}

fn databases(facts: &Facts, options: &Options, findings: &mut Findings) {
    for pattern in &options.databases {
        if !facts.databases.iter().any(|it| pattern.matches(it.name.as_bytes())) {
            // As it was typed.
            let typed = pattern.to_string().replace(',', r"\,");
            findings.stop("databases", format!("no database matches \"{typed}\""));
        }
    }
    for database in facts.moved() {
        let name = &database.name;
        if database.is_built_in() {
            findings.stop("databases", format!("{name} is on every server and cannot be moved"));
        } else if database.invalid {
            let text = format!("{name} is invalid: a DROP DATABASE of it broke off; drop it first");
            findings.stop("databases", text);
        } else if !database.open {
            let text = format!(
                "{name} takes no connections on the source, and will take none on the target"
            );
            findings.warn("databases", text);
        }
    }
    let goes = || facts.moved().filter(|it| !it.is_built_in());
    if goes().next().is_none() {
        findings.stop("databases", "there is nothing to move");
        return;
    }
    let bytes = goes().map(|it| it.bytes).sum();
    let names = list(goes().map(|it| it.name.as_str()));
    findings.ok("goes", format!("{names} ({})", size(bytes)));
    let stays = || facts.databases.iter().filter(|it| !it.moved && !it.is_built_in());
    let bytes = stays().map(|it| it.bytes).sum();
    let names = list(stays().map(|it| it.name.as_str()));
    findings.ok(
        "stays",
        if names.is_empty() { "nothing".into() } else { format!("{names} ({})", size(bytes)) },
    );
}

fn server(facts: &Facts, findings: &mut Findings) {
    findings.ok("version", format!("PostgreSQL {}", facts.version));
    if facts.is_standby {
        findings.stop("server", "it is a standby: split the primary");
    }
    if facts.is_superuser {
        findings
            .ok("role", format!("superuser; {} roles go along, all that there are", facts.roles));
    } else {
        findings.stop("role", "a superuser is needed, on both sides");
    }
    match facts.setting("wal_level") {
        "minimal" => {
            findings.stop("wal_level", "minimal: set it to replica and restart the server");
        }
        level => findings.ok("wal_level", level),
    }
    if facts.has_replication_rule == Some(false) {
        findings.stop("pg_hba.conf", "no rule for the database \"replication\"");
    }
    let template1 = facts.databases.iter().find(|it| it.name == "template1");
    if !template1.is_some_and(|it| it.open) {
        findings.stop(
            "template1",
            "it takes no connections; on the target it is the only one that always could",
        );
    }
}

/// The login of a superuser and everything that moves go over it.
fn connection(facts: &Facts, options: &Options, findings: &mut Findings) {
    let source = &options.source;
    let text = match (facts.has_tls, source.ssl.checks_the_server()) {
        _ if source.is_here() => return findings.ok("connection", "on this machine"),
        (true, true) => {
            return findings.ok("connection", "TLS, with a certificate that was checked");
        }
        (true, false) => "TLS with anybody's certificate: sslmode=verify-full knows the server",
        (false, _) => {
            "not encrypted: across a network that others can reach use sslmode=verify-full"
        }
    };
    findings.warn("connection", text);
}

fn room(facts: &Facts, findings: &mut Findings) {
    let free = facts.free_walsenders;
    if free < WALSENDERS_NEEDED {
        findings.stop(
            "walsenders",
            format!("{free} free, {WALSENDERS_NEEDED} needed: raise max_wal_senders"),
        );
    } else {
        findings.ok("walsenders", format!("{free} free"));
    }
    match facts.free_slots {
        free @ 1.. => findings.ok("slots", format!("{free} free")),
        _ => findings.stop("slots", "none free: raise max_replication_slots"),
    }
    let kept = facts.setting("max_slot_wal_keep_size");
    if !["", "-1"].contains(&kept) {
        let text = format!(
            "max_slot_wal_keep_size is {kept} MB: a target that is further behind has to be made anew"
        );
        findings.warn("slots", text);
    }
}

fn contents(facts: &Facts, findings: &mut Findings) {
    if facts.unlogged > 0 {
        let text = format!(
            "{} in the moved databases will be empty on the target, as after a crash",
            facts.unlogged
        );
        findings.warn("unlogged tables", text);
    }
    let (moved, others) = facts.prepared;
    if moved > 0 {
        let text = format!("{moved} of moved databases go along: finish them on the target");
        findings.warn("prepared transactions", text);
    }
    if others > 0 {
        let text =
            format!("{others} of other databases stay; their copies on the target are rolled back");
        findings.ok("prepared transactions", text);
    }
    if moved + others == 0 {
        findings.ok("prepared transactions", "none");
    }
    if !facts.logical_slots.is_empty() {
        let names = list(facts.logical_slots.iter().map(String::as_str));
        let text = format!(
            "{names} of moved databases do not go along: make them anew, and their subscribers too"
        );
        findings.warn("logical slots", text);
    }
    if !facts.subscriptions.is_empty() {
        let names = list(facts.subscriptions.iter().map(String::as_str));
        let text = format!(
            "{names} of moved databases go on from the target, which has to reach the publishers"
        );
        findings.warn("subscriptions", text);
    }
    let standbys = list(facts.standbys.iter().map(String::as_str));
    if standbys.is_empty() {
        findings.ok("standbys", "none");
    } else {
        findings
            .ok("standbys", format!("{standbys} stay with the source; the target will have none"));
    }
    if facts.sessions > 0 {
        findings.warn(
            "sessions",
            format!("{} in the moved databases will be ended at the cut", facts.sessions),
        );
    }
}

fn settings(facts: &Facts, findings: &mut Findings) {
    if facts.setting("archive_mode") != "off" {
        let text = "archiving is on; it will be off on the target, whose WAL must not go into the same archive";
        findings.warn("settings", text);
    }
    if !facts.setting("synchronous_standby_names").is_empty() {
        findings.warn(
            "settings",
            "synchronous_standby_names will be empty on the target, which has no standby",
        );
    }
    let logs = facts.setting("log_directory");
    if facts.setting("logging_collector") == "on" && logs.starts_with('/') {
        let text = format!(
            "log_directory is {logs} for the target too: on the same machine both write there"
        );
        findings.warn("settings", text);
    }
    if facts.files_elsewhere.is_empty() {
        findings.ok("settings", "postgresql.conf, pg_hba.conf and what ALTER SYSTEM set go along");
    } else {
        let names = list(facts.files_elsewhere.iter().map(String::as_str));
        let text = format!(
            "{names} outside of the data directory, or not under the usual name: files with the same \
             content are written into the target's"
        );
        findings.warn("settings", text);
    }
}
