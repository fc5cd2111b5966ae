//! The settings that make a data directory a standby.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use crate::{Error, Options, io};

/// What is written here, and must not come twice.
const OWN: [&str; 2] = ["primary_conninfo", "primary_slot_name"];

/// Writes `primary_conninfo` and `primary_slot_name`, and makes `standby.signal`.
///
/// They go where `ALTER SYSTEM` and `pg_basebackup -R` write, which every server reads last.
pub(crate) fn configure(options: &Options, data: &Path) -> Result<(), Error> {
    let path = data.join("postgresql.auto.conf");
    let before = match fs::read_to_string(&path) {
        // A server does without.
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        before => before.map_err(io("read", &path))?,
    };
    let is_own = |line: &&str| {
        let name = line.trim_start().split([' ', '=']).next().unwrap_or_default();
        OWN.contains(&name) || options.settings.iter().any(|(own, _)| own == name)
    };
    let mut text = String::new();
    for line in before.lines().filter(|line| !is_own(line)) {
        text.push_str(line);
        text.push('\n');
    }
    text.push_str(&format!("primary_conninfo = {}\n", quoted(&conninfo(options))));
    if let Some(slot) = &options.slot {
        text.push_str(&format!("primary_slot_name = {}\n", quoted(slot)));
    }
    for (name, value) in &options.settings {
        text.push_str(&format!("{name} = {}\n", quoted(value)));
    }
    state::replace(&path, text.as_bytes(), None)?;
    Ok(state::replace(&data.join("standby.signal"), b"", None)?)
}

fn conninfo(options: &Options) -> String {
    let mut pairs = options.upstream.pairs();
    pairs.extend(options.user.clone().map(|user| ("user", user)));
    let passfile = options.passfile.as_ref().map(|path| path.to_string_lossy().into_owned());
    pairs.extend(passfile.map(|path| ("passfile", path)));
    pairs.push(("application_name", options.name.clone()));
    connection_string(&pairs)
}

/// A connection string for libpq.
pub(crate) fn connection_string(pairs: &[(&str, String)]) -> String {
    let pair = |(name, value): &(&str, String)| {
        let plain = |char: char| char.is_ascii_alphanumeric() || "_-./:".contains(char);
        if !value.is_empty() && value.chars().all(plain) {
            return format!("{name}={value}");
        }
        format!("{name}='{}'", value.replace('\\', r"\\").replace('\'', r"\'"))
    };
    pairs.iter().map(pair).collect::<Vec<_>>().join(" ")
}

/// A value for a file of settings (`guc-file.l`).
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', r"\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_inside_quotes() {
        let name = r"o'b\x".to_owned();
        let text = connection_string(&[("host", "/run/x".into()), ("application_name", name)]);
        assert_eq!(text, r"host=/run/x application_name='o\'b\\x'");
        assert_eq!(quoted(&text), r"'host=/run/x application_name=''o\\''b\\\\x'''");
    }
}
