//! The target's settings: a standby of the relay, on a port of its own, that touches nothing of
//! the source's surroundings.
//!
//! They go where `ALTER SYSTEM` writes, which every server reads last.

use std::fs;
use std::path::Path;

use pgtypes::Major;

use crate::error::io;
use crate::owned::MARK;
use crate::server::Session;
use crate::split::Split;
use crate::{Error, Helper, Owner, sql};

/// The first line of files that are made from what the source's views tell.
const WRITTEN: &str = "# Written by pgherd split, after the source's own.\n";

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
/// The same of what the source was started with: there it stands above all files.
const FROM_COMMAND_LINE: &str = "select name, current_setting(name) from pg_settings \
     where source = 'command line' and context <> 'internal' \
     and name <> all('{config_file,data_directory,hba_file,ident_file,external_pid_file,port}')";
/// Names that say where files are: on the target they are in its data directory.
const PLACES: [&str; 4] = ["config_file", "data_directory", "hba_file", "ident_file"];
/// The files that the source reads, and one that its data directory's own `postgresql.conf` leads
/// to, or that says where others are.
const FILES: &str = "select current_setting('data_directory'), current_setting('config_file'), \
     current_setting('hba_file'), current_setting('ident_file'), \
     (select min(sourcefile) from pg_file_settings where name = any($1) \
      or not starts_with(sourcefile, current_setting('data_directory') || '/'))";
/// From 15 on.
const MAPPINGS: &str = "select map_name, sys_name, pg_username from pg_ident_file_mappings where error is null \
     order by line_number";
/// The first that has the view.
const MAPPINGS_SINCE: Major = Major::V15;
/// Up to 14, a folder that Debian puts elsewhere, and two servers must not share.
const STATISTICS: (&str, &str) = ("stats_temp_directory", "pg_stat_tmp");

/// Rules as lines of `pg_hba.conf`; each word in quotes means the word itself, but for keywords.
const RULES: &str = "select type, database, user_name, address, netmask, auth_method, options \
     from pg_hba_file_rules where error is null order by line_number";

impl<H: Helper> Split<'_, H> {
    /// Makes the clone a standby of the relay.
    pub(crate) async fn configure_standby(&self) -> Result<(), Error> {
        let record = &self.journal.record;
        let target = &record.target;
        let port = record.relay_port.to_string();
        let upstream = [
            ("host", "127.0.0.1"),
            ("port", port.as_str()),
            ("user", &record.source.user),
            ("application_name", &record.client),
            // The relay is ours, and on this machine.
            ("sslmode", "prefer"),
            ("password", &record.relay_password),
        ];
        let upstream = sql::conninfo(&upstream);
        let own_port = record.port.to_string();
        let source = self.source().await?;
        let elsewhere = Elsewhere::read(&source).await?;
        self.write_files(&source, &elsewhere).await?;
        let told = source.rows("read settings", FROM_COMMAND_LINE, &[]).await?;
        let told: Vec<(String, String)> = told
            .iter()
            .map(|row| Ok((source.value(row, 0)?, source.value(row, 1)?)))
            .collect::<Result<_, Error>>()?;
        let mut settings: Vec<(&str, &str)> =
            told.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        // The last one of a name counts.
        settings.extend([
            ("primary_conninfo", upstream.as_str()),
            ("primary_slot_name", &record.slot),
            ("port", &own_port),
            (MARK, &record.id),
        ]);
        settings.extend(FIXED);
        if self.major()? < Major::V15 {
            settings.push(STATISTICS);
        }
        let path = target.join("postgresql.auto.conf");
        let owner = record.owner.as_ref();
        let before = Owner::act(owner, || fs::read_to_string(&path).map_err(io("read", &path)))?;
        write(&path, &with_settings(&before, &settings), owner)?;
        write(&target.join("standby.signal"), "", owner)
    }

    /// Writes the files of settings that the base backup does not have, or has in a form that the
    /// source does not use, as where Debian keeps them elsewhere.
    async fn write_files(&self, source: &Session, elsewhere: &Elsewhere) -> Result<(), Error> {
        let target = &self.journal.record.target;
        let owner = self.journal.record.owner.as_ref();
        if elsewhere.settings.is_some() {
            let mut text = WRITTEN.to_owned();
            for row in source.rows("read settings", FROM_ELSEWHERE, &[]).await? {
                let (name, value): (String, String) =
                    (source.value(&row, 0)?, source.value(&row, 1)?);
                text.push_str(&format!("{name} = {}\n", sql::setting(&value)));
            }
            write(&target.join("postgresql.conf"), &text, owner)?;
        }
        if elsewhere.hba.is_some() {
            write(&target.join("pg_hba.conf"), &rules(source).await?, owner)?;
        }
        if elsewhere.ident.is_some() {
            let mut text = WRITTEN.to_owned();
            if self.major()? >= MAPPINGS_SINCE {
                for row in source.rows("read pg_ident.conf", MAPPINGS, &[]).await? {
                    for column in 0..3 {
                        text.push_str(&hba_word(&source.value::<String>(&row, column)?));
                        text.push(' ');
                    }
                    text.push('\n');
                }
            }
            write(&target.join("pg_ident.conf"), &text, owner)?;
        }
        Ok(())
    }
}

/// Files that the source reads instead of those that a base backup has under the usual names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Elsewhere {
    pub(crate) settings: Option<String>,
    pub(crate) hba: Option<String>,
    pub(crate) ident: Option<String>,
}

impl Elsewhere {
    /// Asks the source; it takes a superuser.
    pub(crate) async fn read(source: &Session) -> Result<Self, Error> {
        let rows = source.rows("look for files of settings", FILES, &[&PLACES.as_slice()]).await?;
        let row = rows.first().ok_or_else(|| Error::unfit("the source does not know its files"))?;
        let data: String = source.value(row, 0)?;
        let unless = |column, usual: &str| -> Result<Option<String>, Error> {
            let path: String = source.value(row, column)?;
            Ok(Some(path).filter(|path| *path != format!("{data}/{usual}")))
        };
        let leads_away: Option<String> = source.value(row, 4)?;
        Ok(Self {
            settings: unless(1, "postgresql.conf")?.or(leads_away),
            hba: unless(2, "pg_hba.conf")?,
            ident: unless(3, "pg_ident.conf")?,
        })
    }

    /// Their paths.
    pub(crate) fn paths(self) -> Vec<String> {
        [self.settings, self.hba, self.ident].into_iter().flatten().collect()
    }
}

async fn rules(source: &Session) -> Result<String, Error> {
    let mut text = WRITTEN.to_owned();
    for row in source.rows("read pg_hba.conf", RULES, &[]).await? {
        let list =
            |names: Vec<String>| names.iter().map(|it| hba_word(it)).collect::<Vec<_>>().join(",");
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

/// The view does not tell a keyword from a name in quotes; the keyword is what is meant.
fn hba_word(word: &str) -> String {
    let plain = |char: char| char.is_ascii_alphanumeric() || "_+/.-".contains(char);
    if word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("\"{}\"", word.replace('"', "\"\""))
    }
}

/// `before` with these settings instead of its own of the same names, and without those that say
/// where files are.
fn with_settings(before: &str, settings: &[(&str, &str)]) -> String {
    let is_other = |line: &&str| {
        let name = line.trim_start().split([' ', '=', '\t']).next().unwrap_or_default();
        let mut replaced = settings.iter().map(|(own, _)| own).chain(&PLACES);
        !replaced.any(|own| own.eq_ignore_ascii_case(name))
    };
    let mut text = String::new();
    for line in before.lines().filter(is_other) {
        text.push_str(line);
        text.push('\n');
    }
    for (place, (name, value)) in settings.iter().enumerate() {
        if !settings.iter().skip(place + 1).any(|(later, _)| later == name) {
            text.push_str(&format!("{name} = {}\n", sql::setting(value)));
        }
    }
    text
}

/// Writes a file of the target's, which only its owner can read.
fn write(path: &Path, text: &str, owner: Option<&Owner>) -> Result<(), Error> {
    Owner::act(owner, || Ok(state::replace(path, text.as_bytes(), None)?))
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
        // The last one of a name counts, and files are where they always are.
        let twice = with_settings("hba_file = '/x'\n", &[("port", "1"), ("port", "2")]);
        assert_eq!(twice, "port = '2'\n");
    }

    #[test]
    fn words_of_rules() {
        assert_eq!(hba_word("all"), "all");
        assert_eq!(hba_word("a b"), "\"a b\"");
    }
}
