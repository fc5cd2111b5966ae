//! Replication commands: their grammar, and their canonical text.
//!
//! The grammar is the union of `repl_gram.y` of PostgreSQL 12 to 18, and the words are cut
//! as `repl_scanner.l` cuts them: keywords in capitals only (`identify_system` is SQL to a
//! server), no comments, no doubled `"` inside a quoted name.
//!
//! # Where this is stricter than a server
//!
//! A number over 32 bits and a half of a position over eight digits are refused; servers
//! cut them silently, and would start elsewhere than they were asked to. Text that is not
//! UTF-8 is refused.

use std::fmt;

use pgtypes::{Lsn, Timeline};

mod backup;
mod error;
mod grammar;
mod lexer;
mod option;
#[cfg(test)]
mod tests;

pub use backup::BaseBackup;
pub use error::GrammarError;
pub use option::{GenericOption, OptionValue};

use option::{List, Name};

/// Longest name in bytes: `NAMEDATALEN` (`pg_config_manual.h`) without the NUL. Longer ones
/// are cut, as a server does.
pub const NAME_BYTES_MAX: usize = 63;

/// A command on a replication connection.
///
/// [`fmt::Display`] gives text that every server takes that knows the command, and that
/// reads back as the same value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `IDENTIFY_SYSTEM`
    IdentifySystem,
    /// `SHOW name`
    Show {
        /// The setting, parts joined by dots.
        name: String,
    },
    /// `READ_REPLICATION_SLOT slot`, 15 and newer
    ReadReplicationSlot {
        /// The slot.
        slot: String,
    },
    /// `BASE_BACKUP …`
    BaseBackup(BaseBackup),
    /// `START_REPLICATION … [PHYSICAL] …`
    StartPhysical(StartPhysical),
    /// `START_REPLICATION SLOT … LOGICAL …`
    StartLogical {
        /// The slot.
        slot: String,
        /// Where to start.
        start: Lsn,
        /// Options of the output plugin.
        options: Vec<GenericOption>,
    },
    /// `CREATE_REPLICATION_SLOT … PHYSICAL …`
    CreatePhysicalSlot(CreatePhysicalSlot),
    /// `CREATE_REPLICATION_SLOT … LOGICAL …`
    CreateLogicalSlot {
        /// Its name.
        name: String,
        /// Whether it ends with the connection.
        temporary: bool,
        /// The output plugin.
        plugin: String,
        /// Options in the form of 15 and newer.
        options: Vec<GenericOption>,
    },
    /// `ALTER_REPLICATION_SLOT …`, 17 and newer
    AlterSlot {
        /// The slot.
        name: String,
        /// What to change.
        options: Vec<GenericOption>,
    },
    /// `DROP_REPLICATION_SLOT …`
    DropSlot {
        /// The slot.
        name: String,
        /// Whether to wait until nobody uses it.
        wait: bool,
    },
    /// `TIMELINE_HISTORY n`
    TimelineHistory {
        /// The timeline, not zero.
        timeline: Timeline,
    },
    /// `UPLOAD_MANIFEST`, 17 and newer
    UploadManifest,
    /// Anything whose first word is not a replication command. Its text is not kept: who
    /// sends it on sends the message as it came. It is shown as an empty query.
    Sql,
}

/// `START_REPLICATION [SLOT slot] [PHYSICAL] position [TIMELINE timeline]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartPhysical {
    /// The slot that keeps WAL for the standby.
    pub slot: Option<String>,
    /// Where to start.
    pub start: Lsn,
    /// The timeline to stream, not zero; the server's newest when it is not given.
    pub timeline: Option<Timeline>,
}

/// `CREATE_REPLICATION_SLOT name [TEMPORARY] PHYSICAL [RESERVE_WAL]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatePhysicalSlot {
    /// Its name.
    pub name: String,
    /// Whether it ends with the connection.
    pub temporary: bool,
    /// Whether it keeps WAL from now on, not only once a standby has connected.
    pub reserve_wal: bool,
}

impl Command {
    /// Reads the text of a query, as [`crate::frontend::query_text`] gives it.
    ///
    /// Bytes after a NUL are not looked at. Cost is linear in the length of the text.
    ///
    /// # Errors
    ///
    /// [`GrammarError`], which knows what a server would say.
    pub fn parse(text: &[u8]) -> Result<Self, GrammarError> {
        grammar::parse(text.split(|byte| *byte == 0).next().unwrap_or_default())
    }

    /// The canonical text.
    ///
    /// Backups are given with options in parentheses, for 15 and newer:
    /// [`BaseBackup::to_words`] has the text for older servers.
    #[must_use]
    pub fn to_text(&self) -> String {
        self.to_string()
    }

    /// The command's keyword, for logs and metrics: a closed set, and no text of a client.
    #[must_use]
    pub const fn keyword(&self) -> &'static str {
        match self {
            Self::IdentifySystem => "IDENTIFY_SYSTEM",
            Self::Show { .. } => "SHOW",
            Self::ReadReplicationSlot { .. } => "READ_REPLICATION_SLOT",
            Self::BaseBackup(_) => "BASE_BACKUP",
            Self::StartPhysical(_) | Self::StartLogical { .. } => "START_REPLICATION",
            Self::CreatePhysicalSlot(_) | Self::CreateLogicalSlot { .. } => {
                "CREATE_REPLICATION_SLOT"
            }
            Self::AlterSlot { .. } => "ALTER_REPLICATION_SLOT",
            Self::DropSlot { .. } => "DROP_REPLICATION_SLOT",
            Self::TimelineHistory { .. } => "TIMELINE_HISTORY",
            Self::UploadManifest => "UPLOAD_MANIFEST",
            Self::Sql => "SQL",
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keyword = self.keyword();
        match self {
            Self::IdentifySystem | Self::UploadManifest => f.write_str(keyword),
            Self::Show { name } | Self::ReadReplicationSlot { slot: name } => {
                // Part by part: together they may be longer than a name can be.
                for (number, part) in name.split('.').enumerate() {
                    let before = if number == 0 { keyword } else { "" };
                    let between = if number == 0 { " " } else { "." };
                    write!(f, "{before}{between}{}", Name(part))?;
                }
                Ok(())
            }
            Self::BaseBackup(backup) => backup.fmt(f),
            Self::StartPhysical(start) => start.fmt(f),
            Self::StartLogical { slot, start, options } => {
                write!(f, "{keyword} SLOT {} LOGICAL {start}{}", Name(slot), List(options))
            }
            Self::CreatePhysicalSlot(create) => create.fmt(f),
            Self::CreateLogicalSlot { name, temporary, plugin, options } => {
                let temporary = if *temporary { " TEMPORARY" } else { "" };
                let (name, plugin) = (Name(name), Name(plugin));
                write!(f, "{keyword} {name}{temporary} LOGICAL {plugin}{}", List(options))
            }
            Self::AlterSlot { name, options } => {
                write!(f, "{keyword} {}{}", Name(name), List(options))
            }
            Self::DropSlot { name, wait } => {
                write!(f, "{keyword} {}{}", Name(name), if *wait { " WAIT" } else { "" })
            }
            Self::TimelineHistory { timeline } => write!(f, "{keyword} {timeline}"),
            Self::Sql => Ok(()),
        }
    }
}

impl fmt::Display for StartPhysical {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("START_REPLICATION")?;
        if let Some(slot) = &self.slot {
            write!(f, " SLOT {}", Name(slot))?;
        }
        write!(f, " PHYSICAL {}", self.start)?;
        if let Some(timeline) = self.timeline {
            write!(f, " TIMELINE {timeline}")?;
        }
        Ok(())
    }
}

impl fmt::Display for CreatePhysicalSlot {
    /// With `RESERVE_WAL` as a word, which servers from 12 to 18 take.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let temporary = if self.temporary { " TEMPORARY" } else { "" };
        let reserve = if self.reserve_wal { " RESERVE_WAL" } else { "" };
        write!(f, "CREATE_REPLICATION_SLOT {}{temporary} PHYSICAL{reserve}", Name(&self.name))
    }
}
