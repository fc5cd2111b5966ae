//! What a split would do, and what speaks against it: a look at both sides that changes nothing.
//!
//! [`source`] reads what the source is, [`findings`] and [`here`] judge it, [`journals`] what
//! other splits do.

mod findings;
mod here;
mod journals;
mod places;
mod source;
mod surroundings;

use std::fmt;

use crate::record::{Begin, Database, Record};
use crate::{Error, Options, Programs};

pub(crate) use source::{Facts, Tablespace};

/// How heavy a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// As it should be, or good to know.
    Ok,
    /// It works, and something will be different afterwards.
    Warn,
    /// It would fail.
    Stop,
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "OK",
            Self::Warn => "WARN",
            Self::Stop => "STOP",
        })
    }
}

/// One line of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How heavy it weighs.
    pub weight: Weight,
    /// What was looked at, in a word or two.
    pub about: &'static str,
    /// What was found.
    pub text: String,
}

/// What a split would do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Everything that was looked at.
    pub findings: Vec<Finding>,
    options: Options,
    facts: Facts,
    programs: Option<Programs>,
}

impl Plan {
    /// Looks at both sides.
    ///
    /// # Errors
    ///
    /// When the source cannot be asked; whatever else is wrong is a finding.
    pub async fn make(options: Options) -> Result<Self, Error> {
        let facts = Facts::read(&options).await?;
        let mut findings = Findings::default();
        findings::judge(&facts, &options, &mut findings);
        let programs = here::judge(&facts, &options, &mut findings);
        surroundings::judge(&facts, &mut findings);
        Ok(Self { findings: findings.0, options, facts, programs })
    }

    /// Whether nothing stands against it.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.findings.iter().all(|finding| finding.weight < Weight::Stop)
    }

    /// The databases that would be moved.
    #[must_use]
    pub fn databases(&self) -> Vec<&str> {
        self.facts.moved().map(|database| database.name.as_str()).collect()
    }

    pub(crate) fn record(&self, name: &str) -> Result<Record, Error> {
        let (Some(programs), true) = (&self.programs, self.is_good()) else {
            return Err(Error::unfit("the plan has findings that stop it"));
        };
        let (facts, options) = (&self.facts, &self.options);
        let moved =
            facts.moved().map(|it| Database { oid: it.oid, name: it.name.clone(), open: it.open });
        let unmapped = facts.tablespaces.iter().filter_map(|it| it.location.as_ref());
        let unmapped = unmapped.filter(|it| options.place_of(it) == **it).cloned().collect();
        let known = facts.tablespaces.iter().filter_map(|it| it.location.as_ref());
        let known: Vec<_> = known.collect();
        // A mapping of something that is not there is an error of `pg_basebackup`'s.
        let mapping = options.mapping.iter().filter(|(old, _)| known.contains(&old)).cloned();
        let empty = facts.tablespaces.iter().filter(|it| it.databases.is_empty());
        let secret =
            || scram::nonce().map_err(|_none| Error::unfit("the system has no random numbers"));
        Ok(Record::new(Begin {
            id: secret()?,
            source: options.source.clone(),
            control: facts.control.clone(),
            system_identifier: facts.system_identifier,
            major: facts.major.to_string(),
            databases: moved.collect(),
            target: options.target.clone(),
            port: options.port,
            bin_dir: programs.folder.clone(),
            owner: options.owner.clone(),
            mapping: mapping.collect(),
            unmapped,
            pace: options.pace,
            relay_password: secret()?,
            slot: slot_name(name),
            client: format!("pgherd_split_{name}"),
            empty_tablespaces: empty.map(|it| it.oid).collect(),
        }))
    }
}

/// A name for a slot: lower case letters, digits and underscores, 63 at most.
fn slot_name(name: &str) -> String {
    let plain = |char: char| match char.to_ascii_lowercase() {
        char if char.is_ascii_alphanumeric() => char,
        _ => '_',
    };
    let name: String = name.chars().map(plain).collect();
    format!("pgherd_split_{name}").chars().take(63).collect()
}

/// Findings so far.
#[derive(Debug, Default)]
pub(crate) struct Findings(Vec<Finding>);

impl Findings {
    pub(crate) fn ok(&mut self, about: &'static str, text: impl Into<String>) {
        self.add(Weight::Ok, about, text.into());
    }

    pub(crate) fn warn(&mut self, about: &'static str, text: impl Into<String>) {
        self.add(Weight::Warn, about, text.into());
    }

    pub(crate) fn stop(&mut self, about: &'static str, text: impl Into<String>) {
        self.add(Weight::Stop, about, text.into());
    }

    fn add(&mut self, weight: Weight, about: &'static str, text: String) {
        self.0.push(Finding { weight, about, text });
    }
}

/// Bytes, for people.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    let mut unit = 0;
    let mut scaled = bytes / 102;
    while scaled >= 10_240 && unit + 1 < UNITS.len() {
        scaled /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", scaled / 10, scaled % 10, UNITS.get(unit).copied().unwrap_or_default())
}

/// The first of many names, for people.
pub(crate) fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const SHOWN: usize = 8;
    let names: Vec<_> = names.collect();
    let shown = names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_lists_are_short() {
        assert_eq!(size(8192), "8.0 kB");
        assert_eq!(size(5 << 30), "5.0 GB");
        assert_eq!(list(["a", "b"].into_iter()), "a, b");
        assert_eq!(list(["a"; 10].into_iter()), "a, a, a, a, a, a, a, a and 2 more");
    }

    #[test]
    fn a_slot_has_few_characters() {
        assert_eq!(slot_name("EU-1"), "pgherd_split_eu_1");
        assert_eq!(slot_name(&"x".repeat(99)).len(), 63);
    }
}
