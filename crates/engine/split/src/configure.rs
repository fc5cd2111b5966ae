//! The target's settings: a standby of the relay, on a port of its own, that touches nothing of
//! the source's surroundings.
//!
//! They go where `ALTER SYSTEM` writes, which every server reads last.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use crate::error::io;
use crate::split::Split;
use crate::{Error, Helper, Owner, sql};

/// Only for the standby; reset once it is a server of its own.
pub(crate) const STANDBY_SETTINGS: [&str; 5] = [
    "primary_conninfo",
    "primary_slot_name",
    "recovery_min_apply_delay",
    "max_standby_streaming_delay",
    "max_standby_archive_delay",
];

/// What a copy of the source's settings must not do: wait for the source's standbys, write into
/// its archive, replay unfiltered WAL from there, stop before the end.
const FIXED: [(&str, &str); 15] = [
    ("hot_standby", "on"),
    ("archive_mode", "off"),
    ("synchronous_standby_names", ""),
    ("restore_command", ""),
    ("archive_cleanup_command", ""),
    ("recovery_end_command", ""),
    ("recovery_min_apply_delay", "0"),
    ("recovery_target", ""),
    ("recovery_target_lsn", ""),
    ("recovery_target_name", ""),
    ("recovery_target_time", ""),
    ("recovery_target_xid", ""),
    ("recovery_target_timeline", "latest"),
    ("external_pid_file", ""),
    ("default_transaction_read_only", "off"),
];

/// Settings with their values, as files of the source that are not in its data directory have them.
const FROM_ELSEWHERE: &str = "select name, current_setting(name) from pg_settings \
     where source = 'configuration file' and context <> 'internal' \
     and name <> all('{config_file,data_directory,hba_file,ident_file,external_pid_file}')";
/// Rules as lines of `pg_hba.conf`; each word in quotes means the word itself, but for keywords.
const RULES: &str = "select type, database, user_name, address, netmask, auth_method, options \
     from pg_hba_file_rules where error is null order by line_number";

impl<H: Helper> Split<'_, H> {
    /// Makes the clone a standby of the relay.
    pub(crate) async fn configure_standby(&self) -> Result<(), Error> {
        let record = &self.journal.record;
        let target = &record.target;
        let port = record.relay_port.to_string();
        let mut upstream = vec![
            ("host", "127.0.0.1"),
            ("port", port.as_str()),
            ("user", &record.source.user),
            ("application_name", &record.client),
        ];
        let password = record.source.find_password("replication")?;
        upstream.extend(password.as_ref().map(|password| ("password", password.as_str())));
        let upstream = sql::conninfo(&upstream);
        let own_port = record.port.to_string();
        let mut settings = vec![
            ("primary_conninfo", upstream.as_str()),
            ("primary_slot_name", &record.slot),
            ("port", &own_port),
        ];
        settings.extend(FIXED);
        let hba = target.join("pg_hba.conf").to_string_lossy().into_owned();
        let ident = target.join("pg_ident.conf").to_string_lossy().into_owned();
        if self.write_missing_files().await? {
            settings.extend([("hba_file", hba.as_str()), ("ident_file", ident.as_str())]);
        }
        let path = target.join("postgresql.auto.conf");
        let before = fs::read_to_string(&path).map_err(io("read", &path))?;
        let text = with_settings(&before, &settings);
        write(&path, &text, record.owner.as_ref())?;
        write(&target.join("standby.signal"), "", record.owner.as_ref())
    }

    /// Writes the files of settings that a base backup does not have when the source keeps them
    /// elsewhere, as Debian does; gives whether there was any.
    async fn write_missing_files(&self) -> Result<bool, Error> {
        let record = &self.journal.record;
        let missing = |name: &str| Some(record.target.join(name)).filter(|path| !path.exists());
        let owner = record.owner.as_ref();
        let mut any = false;
        if let Some(path) = missing("postgresql.conf") {
            let source = self.source().await?;
            let mut text = "# Written by pgherd split, after the source's own.\n".to_owned();
            for row in source.rows("read settings", FROM_ELSEWHERE, &[]).await? {
                let (name, value): (String, String) =
                    (source.value(&row, 0)?, source.value(&row, 1)?);
                text.push_str(&format!("{name} = {}\n", sql::setting(&value)));
            }
            write(&path, &text, owner)?;
        }
        if let Some(path) = missing("pg_hba.conf") {
            let text = self.rules().await?;
            write(&path, &text, owner)?;
            any = true;
        }
        if let Some(path) = missing("pg_ident.conf") {
            write(&path, "", owner)?;
            any = true;
        }
        Ok(any)
    }

    async fn rules(&self) -> Result<String, Error> {
        let source = self.source().await?;
        let mut text = "# Written by pgherd split, after the source's own.\n".to_owned();
        for row in source.rows("read pg_hba.conf", RULES, &[]).await? {
            let list = |names: Vec<String>| {
                names.iter().map(|it| hba_word(it)).collect::<Vec<_>>().join(",")
            };
            let one = |column| source.value::<Option<String>>(&row, column);
            let mut words = vec![
                source.value::<String>(&row, 0)?,
                list(source.value(&row, 1)?),
                list(source.value(&row, 2)?),
            ];
            words.extend(one(3)?);
            words.extend(one(4)?);
            words.push(source.value(&row, 5)?);
            let options: Option<Vec<String>> = source.value(&row, 6)?;
            words.extend(options.unwrap_or_default().iter().map(|it| format!("\"{it}\"")));
            text.push_str(&words.join(" "));
            text.push('\n');
        }
        Ok(text)
    }
}

/// The view does not tell a keyword from a name in quotes; the keyword is what is meant.
fn hba_word(word: &str) -> String {
    let plain = |char: char| char.is_ascii_alphanumeric() || "_+/.-".contains(char);
    if word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("\"{}\"", word.replace('"', "\"\""))
    }
}

/// `before` with these settings instead of its own of the same names.
fn with_settings(before: &str, settings: &[(&str, &str)]) -> String {
    let is_other = |line: &&str| {
        let name = line.trim_start().split([' ', '=', '\t']).next().unwrap_or_default();
        !settings.iter().any(|(own, _)| own.eq_ignore_ascii_case(name))
    };
    let mut text = String::new();
    for line in before.lines().filter(is_other) {
        text.push_str(line);
        text.push('\n');
    }
    for (name, value) in settings {
        text.push_str(&format!("{name} = {}\n", sql::setting(value)));
    }
    text
}

/// Writes a file that only the target's owner can read.
pub(crate) fn write(path: &Path, text: &str, owner: Option<&Owner>) -> Result<(), Error> {
    use std::os::unix::fs::{OpenOptionsExt as _, chown};

    let write = || {
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        if let Some(owner) = owner {
            chown(path, Some(owner.uid), Some(owner.gid))?;
        }
        file.sync_all()
    };
    write().map_err(io("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_stands_once() {
        let before = "# Do not edit\nPort = 5432\nwork_mem = '1MB'\nprimary_conninfo='x'\n";
        let once = with_settings(before, &[("port", "1"), ("primary_conninfo", "it's")]);
        assert_eq!(
            once,
            "# Do not edit\nwork_mem = '1MB'\nport = '1'\nprimary_conninfo = 'it''s'\n"
        );
        assert_eq!(with_settings(&once, &[("port", "1"), ("primary_conninfo", "it's")]), once);
    }

    #[test]
    fn words_of_rules() {
        assert_eq!(hba_word("all"), "all");
        assert_eq!(hba_word("a b"), "\"a b\"");
    }
}
