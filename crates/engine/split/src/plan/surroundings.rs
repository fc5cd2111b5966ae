//! Settings of the source that name things of its machine, and go along: addresses, folders of
//! sockets, files of TLS. A target that does not find them here does not start, or is reached by
//! nobody.
//!
//! A server starts when it can listen on one of its addresses, and in one of its folders
//! (`PostmasterMain`, postmaster.c); with TLS it needs all files that are named.

use std::net::{TcpListener, ToSocketAddrs as _};
use std::path::Path;

use crate::plan::{Facts, Findings, list};

/// Files that a server with `ssl = on` reads at its start.
const TLS_FILES: [&str; 4] = ["ssl_cert_file", "ssl_key_file", "ssl_ca_file", "ssl_crl_file"];

pub(crate) fn judge(facts: &Facts, findings: &mut Findings) {
    let addresses: Vec<_> = items(facts.setting("listen_addresses")).collect();
    let strange: Vec<_> = addresses.iter().copied().filter(|it| !is_of_this_machine(it)).collect();
    some("listen_addresses", &addresses, &strange, "not of this machine", findings);
    let folders: Vec<_> = items(facts.setting("unix_socket_directories")).collect();
    // One that begins with @ is no folder (`parse_unix_socket_path`).
    let is_there = |folder: &&str| folder.starts_with('@') || Path::new(folder).is_dir();
    let strange: Vec<_> = folders.iter().copied().filter(|it| !is_there(it)).collect();
    some("unix_socket_directories", &folders, &strange, "not here", findings);
    if facts.setting("ssl") == "on" {
        tls_files(facts, findings);
    }
}

/// Warns of some of `all`; nothing goes on without any.
fn some(setting: &str, all: &[&str], strange: &[&str], what: &str, findings: &mut Findings) {
    if strange.is_empty() {
        return;
    }
    let names = list(strange.iter().copied());
    if strange.len() == all.len() {
        let text = format!(
            "{setting}: {names} {what}, and there is no other: the target would not start. Add one \
             that is, on the source"
        );
        findings.stop("settings", text);
    } else {
        findings.warn("settings", format!("{setting}: {names} {what}; the others are used"));
    }
}

fn tls_files(facts: &Facts, findings: &mut Findings) {
    for setting in TLS_FILES {
        let file = facts.setting(setting);
        // What is in the data directory comes along.
        let is_elsewhere =
            file.starts_with('/') && !Path::new(file).starts_with(facts.setting("data_directory"));
        if is_elsewhere && !Path::new(file).exists() {
            let text = format!(
                "{setting} is {file}, which is not here: the target would not start. Copy it"
            );
            findings.stop("settings", text);
        }
    }
}

/// The items of a list, as `SplitIdentifierString` and its like take them apart.
pub(crate) fn items(setting: &str) -> impl Iterator<Item = &str> {
    setting.split(',').map(|it| it.trim().trim_matches('"')).filter(|it| !it.is_empty())
}

fn is_of_this_machine(address: &str) -> bool {
    if address == "*" {
        return true;
    }
    let Ok(found) = (address, 0).to_socket_addrs() else { return false };
    found.into_iter().any(|address| TcpListener::bind(address).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Weight;

    #[test]
    fn addresses_of_this_machine() {
        for (address, is_own) in [
            ("*", true),
            ("127.0.0.1", true),
            ("localhost", true),
            ("0.0.0.0", true),
            // TEST-NET-1, RFC 5737.
            ("192.0.2.1", false),
            ("no.such.host.invalid", false),
        ] {
            assert_eq!(is_of_this_machine(address), is_own, "{address}");
        }
        assert_eq!(items(" a, \"/b c\" ,,d").collect::<Vec<_>>(), ["a", "/b c", "d"]);
        assert_eq!(items("").count(), 0);
    }

    #[test]
    fn one_that_is_here_suffices() {
        let weight = |all: &[&str], strange: &[&str]| {
            let mut findings = Findings::default();
            some("listen_addresses", all, strange, "not of this machine", &mut findings);
            findings.0.first().map(|finding| finding.weight)
        };
        assert_eq!(weight(&["a", "b"], &[]), None);
        assert_eq!(weight(&["a", "b"], &["b"]), Some(Weight::Warn));
        assert_eq!(weight(&["a", "b"], &["a", "b"]), Some(Weight::Stop));
    }
}
