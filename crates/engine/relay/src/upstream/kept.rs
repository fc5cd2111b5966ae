//! What is kept of an upstream that moves: which cluster it is, and how far it has come.
//!
//! One small file in `state_dir/relay`. Written before a client is led to a host, so that no
//! restart of the relay takes an old primary or another cluster for the upstream.

use std::fs;
use std::path::Path;

use pgproto::history::Past;
use pgtypes::{Lsn, Timeline};
use serde::{Deserialize, Serialize};
use state::Document;

use super::choose::Known;
use crate::ledger::LedgerError;

/// The form of the file that this version reads and writes.
const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    format: u32,
    system_identifier: String,
    timeline: u32,
    /// Not in files of versions that did not ask for it.
    #[serde(default)]
    fork: Option<Fork>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Fork {
    parent: u32,
    at: u64,
}

/// The file. No configuration has a folder whose name begins with a dot.
#[derive(Debug)]
pub(super) struct Kept(Document);

impl Kept {
    pub(super) fn new(state_dir: &Path) -> Self {
        Self(Document::new(state_dir.join("relay").join(".upstream")))
    }

    /// What was kept; nothing when no upstream was ever found.
    pub(super) fn load(&self) -> Result<Option<Known>, LedgerError> {
        let Some(text) = self.0.load()? else { return Ok(None) };
        let content: Content =
            serde_json::from_str(&text).map_err(|error| self.format(error.to_string()))?;
        if content.format != FORMAT {
            let found = content.format;
            return Err(self.format(format!("format {found}, this pgherd knows {FORMAT}")));
        }
        let Content { system_identifier, timeline, fork, .. } = content;
        let fork = fork.map(|it| Past { timeline: Timeline(it.parent), until: Lsn(it.at) });
        Ok(Some(Known { system_identifier, timeline: Timeline(timeline), fork }))
    }

    /// Durable when this returns.
    pub(super) fn save(&self, known: &Known) -> Result<(), LedgerError> {
        let path = self.0.path();
        let folder = path.parent().unwrap_or(path);
        fs::create_dir_all(folder)
            .map_err(|source| LedgerError::Folder { path: folder.to_owned(), source })?;
        let content = Content {
            format: FORMAT,
            system_identifier: known.system_identifier.clone(),
            timeline: known.timeline.0,
            fork: known.fork.map(|past| Fork { parent: past.timeline.0, at: past.until.0 }),
        };
        let text = serde_json::to_string(&content);
        Ok(self.0.save(&text.map_err(|error| self.format(error.to_string()))?)?)
    }

    /// Removes it; `false` when there was none.
    pub(super) fn forget(&self) -> Result<bool, LedgerError> {
        match fs::remove_file(self.0.path()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(LedgerError::Folder { path: self.0.path().to_owned(), source }),
        }
    }

    fn format(&self, reason: String) -> LedgerError {
        LedgerError::Format { path: self.0.path().to_owned(), reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_over_restarts_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::new(folder.path());
        assert_eq!(kept.load().unwrap(), None);
        let fork = Some(Past { timeline: Timeline(2), until: Lsn(u64::MAX) });
        let mut known = Known { system_identifier: "7".into(), timeline: Timeline(3), fork };
        for fork in [fork, None] {
            known.fork = fork;
            kept.save(&known).unwrap();
            assert_eq!(Kept::new(folder.path()).load().unwrap().as_ref(), Some(&known));
        }
        // As it was written before forks were asked for.
        kept.0.save(r#"{"format":1,"system_identifier":"7","timeline":3}"#).unwrap();
        assert_eq!(kept.load().unwrap(), Some(known));
        fs::write(folder.path().join("relay/.upstream"), "nonsense").unwrap();
        assert!(matches!(kept.load(), Err(LedgerError::State(state::Error::Damaged { .. }))));
        assert!(kept.forget().unwrap() && !kept.forget().unwrap());
    }
}
