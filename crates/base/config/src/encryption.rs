//! The section `tls`, and what `upstream` says of TLS: files that are read at once.
//!
//! They are read with the configuration, so that a bad one is a problem of the configuration
//! with its place, both at the start and when the relay is told to read it again.

use tls::{FileProblem, Server, ServerFiles};

use crate::check::path;
use crate::environment::Environment;
use crate::keys;
use crate::problem::Problems;
use crate::section::{Entry, section};

/// `tls`; `Some(None)` without the section.
pub(crate) fn server(
    entry: Option<Entry<'_>>,
    environment: &Environment,
    problems: &mut Problems<'_>,
) -> Option<Option<Server>> {
    let Some(entry) = entry else { return Some(None) };
    let [cert, key, client_ca] = section(entry.value, &keys::TLS, problems);
    let mut file = |name, entry: Option<Entry<'_>>| match entry {
        Some(entry) => path(entry.value, name, environment, problems).map(Some),
        None => Some(None),
    };
    let files = [file("cert", cert), file("key", key), file("client_ca", client_ca)];
    let [cert_file, key_file, client_ca_file] = files;
    let (cert_file, key_file, client_ca_file) = (cert_file?, key_file?, client_ca_file?);
    let (Some(cert_file), Some(key_file)) = (cert_file, key_file) else {
        if matches!(entry.value.value, crate::tree::Value::Map(_)) {
            let hint = "write `tls: {cert: /path/to/server.crt, key: /path/to/server.key}`";
            problems.add(&entry.key.span, "`tls` needs both `cert` and `key`", hint);
        }
        return None;
    };
    let files = ServerFiles { cert: cert_file, key: key_file, client_ca: client_ca_file };
    match Server::load(&files) {
        Ok(server) => Some(Some(server)),
        Err(problem) => {
            let found = [("cert", cert), ("key", key), ("client_ca", client_ca)];
            note(&problem, &found, entry, problems);
            None
        }
    }
}

/// Puts the problem of a file where the file is named.
fn note(
    problem: &FileProblem,
    named: &[(&str, Option<Entry<'_>>)],
    section: Entry<'_>,
    problems: &mut Problems<'_>,
) {
    let place = named.iter().find(|(setting, _)| *setting == problem.setting);
    let place = place.and_then(|(_, entry)| *entry).map_or(section.key, |entry| entry.value);
    problems.add(&place.span, problem.message.as_str(), problem.hint);
}
