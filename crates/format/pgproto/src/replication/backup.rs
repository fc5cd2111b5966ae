//! `BASE_BACKUP` and its options.

use std::fmt;

use super::option::{GenericOption, List, Literal, OptionValue};

/// A request for a base backup, in the form of 15 and newer.
///
/// The words of older servers become options when they are read: `FAST` is `checkpoint
/// 'fast'`, `NOWAIT` is `wait 0`, `NOVERIFY_CHECKSUMS` is `verify_checksums 0`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BaseBackup {
    /// Options in the order in which they came; a server refuses one that it is given twice.
    pub options: Vec<GenericOption>,
}

impl BaseBackup {
    /// The option of this name.
    #[must_use]
    pub fn option(&self, name: &str) -> Option<&GenericOption> {
        self.options.iter().find(|option| option.name == name)
    }

    /// The text for servers up to 14; `None` when they cannot do what is asked.
    #[must_use]
    pub fn to_words(&self) -> Option<String> {
        let words: Option<Vec<String>> = self.options.iter().map(words_of).collect();
        let mut text = "BASE_BACKUP".to_owned();
        for word in words?.iter().filter(|word| !word.is_empty()) {
            text.push(' ');
            text.push_str(word);
        }
        Some(text)
    }
}

impl fmt::Display for BaseBackup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BASE_BACKUP{}", List(&self.options))
    }
}

/// The old words of one option, empty when it asks for what is done anyway.
fn words_of(option: &GenericOption) -> Option<String> {
    let when = |wanted: bool, word: &str| {
        let asked = option.as_bool()? == wanted;
        Some(if asked { word.to_owned() } else { String::new() })
    };
    let text = |word: &str| Some(format!("{word} {}", Literal(option.as_text()?)));
    match (option.name.as_str(), &option.value) {
        ("label", _) => text("LABEL"),
        ("progress", _) => when(true, "PROGRESS"),
        ("checkpoint", _) => match option.as_text()? {
            fast if fast.eq_ignore_ascii_case("fast") => Some("FAST".to_owned()),
            spread if spread.eq_ignore_ascii_case("spread") => Some(String::new()),
            _ => None,
        },
        ("wal", _) => when(true, "WAL"),
        ("wait", _) => when(false, "NOWAIT"),
        ("max_rate", Some(OptionValue::Number(rate))) => Some(format!("MAX_RATE {rate}")),
        ("tablespace_map", _) => when(true, "TABLESPACE_MAP"),
        ("verify_checksums", _) => when(false, "NOVERIFY_CHECKSUMS"),
        ("manifest", _) => text("MANIFEST"),
        ("manifest_checksums", _) => text("MANIFEST_CHECKSUMS"),
        _ => None,
    }
}
