//! Which replication slot belongs to which configuration.
//!
//! A slot that a client with a filter made is for a standby of that configuration: streamed
//! under another one, that standby would get WAL which does not fit what it holds. So the
//! relay notes who made a slot, in one small file for all configurations, by the name of the
//! slot and the cluster that it is on. Slots that were made on the server itself are not known
//! here and free for all.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use state::{Document, Lock};

/// The form of the file that this version reads and writes.
const FORMAT: u32 = 1;
/// How long another process may have the file; it needs milliseconds.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// `NAMEDATALEN` less the NUL, less what every name begins with.
const NAME_CHARS_MAX: usize = 63 - "pgherd_".len();
/// Between two tries.
const LOCK_INTERVAL: Duration = Duration::from_millis(10);

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SlotsError {
    /// The folder cannot be made.
    #[error("cannot use the state folder {}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file failed, or is not what was written.
    #[error(transparent)]
    State(#[from] state::Error),
    /// The file is not of a form that this version knows.
    #[error("{} is not a state file of this pgherd: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
}

/// A slot and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Bound {
    system_identifier: String,
    slot: String,
    configuration: String,
    /// Made by the relay itself (`slot: auto`), which drops it when it is told to forget.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    own: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    format: u32,
    slots: Vec<Bound>,
}

/// The file; every call reads it anew, as relays of several processes may share it.
#[derive(Debug)]
pub(crate) struct Slots {
    document: Document,
}

impl Slots {
    /// The file below `state_dir`. No configuration has a folder whose name begins with a dot.
    pub(crate) fn new(state_dir: &Path) -> Self {
        Self { document: Document::new(state_dir.join("relay").join(".slots")) }
    }

    /// Whether a slot of this name is bound on any cluster: cheap when none ever was.
    pub(crate) fn knows(&self, slot: &str) -> Result<bool, SlotsError> {
        Ok(self.load()?.iter().any(|bound| bound.slot == slot))
    }

    /// The configuration that a slot is bound to.
    pub(crate) fn owner(&self, system: &str, slot: &str) -> Result<Option<String>, SlotsError> {
        let is_it = |bound: &Bound| bound.slot == slot && bound.system_identifier == system;
        Ok(self.load()?.into_iter().find(is_it).map(|bound| bound.configuration))
    }

    /// Binds a slot, or with `None` unbinds it. Durable when this returns.
    pub(crate) fn bind(
        &self,
        system: &str,
        slot: &str,
        configuration: Option<&str>,
    ) -> Result<(), SlotsError> {
        self.change(|slots| {
            slots.retain(|bound| bound.slot != slot || bound.system_identifier != system);
            slots.extend(configuration.map(|configuration| Bound {
                system_identifier: system.to_owned(),
                slot: slot.to_owned(),
                configuration: configuration.to_owned(),
                own: false,
            }));
        })
    }

    /// Binds a slot that the relay makes, unless it is bound already. Durable when this returns.
    pub(crate) fn bind_own(
        &self,
        system: &str,
        slot: &str,
        configuration: &str,
    ) -> Result<(), SlotsError> {
        let bound = Bound {
            system_identifier: system.to_owned(),
            slot: slot.to_owned(),
            configuration: configuration.to_owned(),
            own: true,
        };
        if self.load()?.contains(&bound) {
            return Ok(());
        }
        self.change(|slots| {
            slots.retain(|it| it.slot != slot || it.system_identifier != system);
            slots.push(bound);
        })
    }

    /// The slots that the relay made for a configuration, each with the cluster that it is on.
    pub(crate) fn own(&self, configuration: &str) -> Result<Vec<(String, String)>, SlotsError> {
        let slots = self.load()?.into_iter();
        let own = slots.filter(|bound| bound.own && bound.configuration == configuration);
        Ok(own.map(|bound| (bound.system_identifier, bound.slot)).collect())
    }

    /// Unbinds all slots of a configuration; `false` when it had none.
    pub(crate) fn forget(&self, configuration: &str) -> Result<bool, SlotsError> {
        if !self.load()?.iter().any(|bound| bound.configuration == configuration) {
            return Ok(false);
        }
        self.change(|slots| slots.retain(|bound| bound.configuration != configuration))?;
        Ok(true)
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Bound>)) -> Result<(), SlotsError> {
        let path = self.document.path();
        let folder = path.parent().unwrap_or(path);
        fs::create_dir_all(folder)
            .map_err(|source| SlotsError::Folder { path: folder.to_owned(), source })?;
        let _lock = self.lock()?;
        let mut slots = self.load()?;
        change(&mut slots);
        let text = serde_json::to_string(&Content { format: FORMAT, slots });
        Ok(self.document.save(&text.map_err(|error| self.format(&error.to_string()))?)?)
    }

    fn lock(&self) -> Result<Lock, SlotsError> {
        let started = Instant::now();
        loop {
            match Lock::take(self.document.path().with_extension("lock")) {
                Err(state::Error::Locked { .. }) if started.elapsed() < LOCK_TIMEOUT => {
                    thread::sleep(LOCK_INTERVAL);
                }
                taken => return Ok(taken?),
            }
        }
    }

    fn load(&self) -> Result<Vec<Bound>, SlotsError> {
        let Some(text) = self.document.load()? else { return Ok(Vec::new()) };
        let content: Content =
            serde_json::from_str(&text).map_err(|error| self.format(&error.to_string()))?;
        if content.format != FORMAT {
            let found = content.format;
            return Err(self.format(&format!("format {found}, this pgherd knows {FORMAT}")));
        }
        Ok(content.slots)
    }

    fn format(&self, reason: &str) -> SlotsError {
        SlotsError::Format { path: self.document.path().to_owned(), reason: reason.to_owned() }
    }
}

/// The slot that the relay makes for a client: named after its configuration, and after the client
/// where that is called otherwise, because a slot serves one stream at a time.
///
/// A slot's name has lower-case letters, digits and underscores. Where something else had to be
/// left out, or where two names are put together, a checksum keeps it unique.
pub(crate) fn own_slot(configuration: &str, client: &str) -> String {
    let plain = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '_';
    let is_plain = configuration.chars().all(plain);
    if client == configuration && is_plain && configuration.len() <= NAME_CHARS_MAX {
        return format!("pgherd_{configuration}");
    }
    let sum = crc32c::crc32c(format!("{configuration}\0{client}").as_bytes());
    let letters = format!("{configuration}_{client}").to_ascii_lowercase();
    let letters = letters.chars().map(|char| if plain(char) { char } else { '_' });
    let letters: String = letters.take(NAME_CHARS_MAX - "_12345678".len()).collect();
    format!("pgherd_{letters}_{sum:08x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_until_it_is_bound_anew_or_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let slots = Slots::new(folder.path());
        assert!(!slots.knows("a").unwrap());
        slots.forget("berlin").unwrap();
        slots.bind("7", "a", Some("berlin")).unwrap();
        slots.bind("8", "a", Some("paris")).unwrap();
        slots.bind("7", "b", Some("berlin")).unwrap();
        let slots = Slots::new(folder.path());
        assert_eq!(slots.owner("7", "a").unwrap().as_deref(), Some("berlin"));
        assert_eq!(slots.owner("8", "a").unwrap().as_deref(), Some("paris"));
        assert_eq!(slots.owner("9", "a").unwrap(), None);
        assert!(slots.knows("a").unwrap() && !slots.knows("c").unwrap());
        slots.bind("7", "b", Some("paris")).unwrap();
        slots.forget("berlin").unwrap();
        assert_eq!(slots.owner("7", "a").unwrap(), None);
        assert_eq!(slots.owner("7", "b").unwrap().as_deref(), Some("paris"));
        slots.bind("7", "b", None).unwrap();
        assert!(!slots.knows("b").unwrap());
    }

    #[test]
    fn slots_of_the_relay_have_names_that_a_server_takes_and_nobody_else_has() {
        assert_eq!(own_slot("berlin", "berlin"), "pgherd_berlin");
        let long = "x".repeat(63);
        let pairs = [("a", "b_c"), ("a_b", "c"), ("A", "A"), ("a", "A"), ("ä", "ü"), ("a", "")];
        let mut names: Vec<_> = pairs.iter().map(|(one, two)| own_slot(one, two)).collect();
        names.extend([own_slot(&long, &long), own_slot(&long, "y"), own_slot("a_b_c", "a_b_c")]);
        for name in &names {
            assert!(name.len() <= 63, "{name}");
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            assert!(name.bytes().all(|byte| plain(byte) || byte == b'_'), "{name}");
        }
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 9, "{names:?}");
    }

    #[test]
    fn own_slots_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let slots = Slots::new(folder.path());
        slots.bind("7", "a", Some("berlin")).unwrap();
        slots.bind_own("7", "b", "berlin").unwrap();
        slots.bind_own("7", "b", "berlin").unwrap();
        assert_eq!(slots.own("berlin").unwrap(), [("7".to_owned(), "b".to_owned())]);
        assert_eq!(slots.owner("7", "b").unwrap().as_deref(), Some("berlin"));
        assert!(slots.forget("berlin").unwrap() && !slots.forget("berlin").unwrap());
        assert_eq!(slots.own("berlin").unwrap(), []);
    }

    #[test]
    fn several_at_once_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        thread::scope(|scope| {
            for number in 0..8 {
                let folder = folder.path();
                scope.spawn(move || {
                    Slots::new(folder).bind("7", &format!("s{number}"), Some("x")).unwrap();
                });
            }
        });
        assert_eq!(Slots::new(folder.path()).load().unwrap().len(), 8);
    }
}
