//! The sections `tls` and `http_tls`, and what `upstream` says of TLS: files that are read at once.
//!
//! They are read with the configuration, so that a bad one is a problem of the configuration
//! with its place, both at the start and when the relay is told to read it again.

use std::path::PathBuf;

use tls::{Client, ClientFiles, FileProblem, Server, ServerFiles, SslMode};

use crate::check::path;
use crate::environment::Environment;
use crate::keys;
use crate::problem::Problems;
use crate::scalar::{shown, text};
use crate::section::{Entry, section};

/// `tls` or `http_tls`, as `name` says; `Some(None)` without the section.
pub(crate) fn server(
    name: &str,
    entry: Option<Entry<'_>>,
    environment: &Environment,
    problems: &mut Problems<'_>,
) -> Option<Option<Server>> {
    let Some(entry) = entry else { return Some(None) };
    let [cert, key, client_ca] = section(entry.value, &keys::TLS, problems);
    let mut file = |key, entry: Option<Entry<'_>>| match entry {
        Some(entry) => path(entry.value, key, environment, problems).map(Some),
        None => Some(None),
    };
    let files = [file("cert", cert), file("key", key), file("client_ca", client_ca)];
    let [cert_file, key_file, client_ca_file] = files;
    let (cert_file, key_file, client_ca_file) = (cert_file?, key_file?, client_ca_file?);
    let (Some(cert_file), Some(key_file)) = (cert_file, key_file) else {
        if matches!(entry.value.value, crate::tree::Value::Map(_)) {
            let hint =
                format!("write `{name}: {{cert: /path/to/server.crt, key: /path/to/server.key}}`");
            let message = format!("`{name}` needs both `cert` and `key`");
            problems.add(&entry.key.span, message, hint);
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

/// Only the certificate that `http_tls` names, for those who meet it.
pub(crate) fn shown_certificate(
    entry: Option<Entry<'_>>,
    environment: &Environment,
    problems: &mut Problems<'_>,
) -> Option<Option<PathBuf>> {
    let Some(entry) = entry else { return Some(None) };
    let [cert, _key, _client_ca] = section(entry.value, &keys::TLS, &mut Problems::new("", ""));
    let Some(cert) = cert else {
        let hint = "write `http_tls: {cert: /path/to/server.crt, key: /path/to/server.key}`";
        problems.add(&entry.key.span, "`http_tls` has no `cert`", hint);
        return None;
    };
    path(cert.value, "cert", environment, problems).map(Some)
}

/// The keys of `upstream` that are about TLS.
#[derive(Clone, Copy)]
pub(crate) struct Ssl<'n> {
    pub(crate) sslmode: Option<Entry<'n>>,
    pub(crate) sslrootcert: Option<Entry<'n>>,
    pub(crate) sslcert: Option<Entry<'n>>,
    pub(crate) sslkey: Option<Entry<'n>>,
}

/// How the upstream is met; `Some(None)` without TLS.
pub(crate) fn client(
    ssl: Ssl<'_>,
    environment: &Environment,
    problems: &mut Problems<'_>,
) -> Option<Option<Client>> {
    let named = [
        ("sslrootcert", ssl.sslrootcert),
        ("sslcert", ssl.sslcert),
        ("sslkey", ssl.sslkey),
        ("sslmode", ssl.sslmode),
    ];
    let Some(mode_entry) = ssl.sslmode else {
        // A file that has no effect would be taken for one that has.
        for (name, entry) in named {
            let Some(entry) = entry else { continue };
            let message = format!("`{name}` without `sslmode`, which is `disable` then");
            problems.add(&entry.key.span, message, "add `sslmode: verify-full`");
        }
        return Some(None);
    };
    let mode = mode(mode_entry, problems);
    let mut file = |name, entry: Option<Entry<'_>>| match entry {
        Some(entry) => path(entry.value, name, environment, problems).map(Some),
        None => Some(None),
    };
    let root_cert = file("sslrootcert", ssl.sslrootcert);
    let own = [file("sslcert", ssl.sslcert), file("sslkey", ssl.sslkey)];
    let (mode, root_cert) = (mode?, root_cert?);
    let [cert, key] = own;
    let own = match (cert?, key?) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        _ => {
            let hint = "give both, or none of them";
            problems.add(&mode_entry.key.span, "`sslcert` and `sslkey` belong together", hint);
            return None;
        }
    };
    if mode == SslMode::Disable {
        return Some(None);
    }
    match Client::load(&ClientFiles { mode, root_cert, own }) {
        Ok(client) => Some(Some(client)),
        Err(problem) => {
            note(&problem, &named, mode_entry, problems);
            None
        }
    }
}

fn mode(entry: Entry<'_>, problems: &mut Problems<'_>) -> Option<SslMode> {
    let given = text(entry.value, "sslmode", problems)?;
    let mode = SslMode::of_word(given);
    if mode.is_none() {
        let message = format!("there is no sslmode {}", shown(given));
        let hint = format!("write one of {}", SslMode::words());
        problems.add(&entry.value.span, message, hint);
    }
    mode
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
