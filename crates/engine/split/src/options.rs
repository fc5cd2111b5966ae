//! What a split is asked to do, checked as far as it can be without looking at a server.

use std::path::{Path, PathBuf};

use config::Pattern;
use serde::{Deserialize, Serialize};

use user::User;

use crate::Error;
use crate::login::Login;

/// Most databases that may be asked for by name or pattern.
const PATTERNS_MAX: usize = 10_000;

/// A user of the system, whose the target's files are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Number of the user.
    pub uid: u32,
    /// Number of the user's group.
    pub gid: u32,
    /// The home, where the password file is.
    pub home: PathBuf,
}

impl Owner {
    /// Does `work` as `owner`, with no more rights than the owner has; as who runs this when there
    /// is none.
    pub(crate) fn act<T: Send>(
        owner: Option<&Self>,
        work: impl FnOnce() -> Result<T, Error> + Send,
    ) -> Result<T, Error> {
        let user = owner.map(|it| User { uid: it.uid, gid: it.gid });
        user::act(user, work).map_err(|error| {
            let uid = user.map_or(0, |it| it.uid);
            Error::unfit(format!("cannot become user {uid}, whose the target is: {error}"))
        })?
    }
}

/// How much the clone asks of the source at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// What the source sends at most, in kB a second; no limit when it is not given.
    pub max_rate_kb: Option<u32>,
    /// Whether the checkpoint before it is spread over time, as the server's own are.
    pub is_spread: bool,
}

/// A split to make.
#[derive(Clone, Debug)]
pub struct Options {
    /// How to reach the source.
    pub source: Login,
    /// The database of the connection string, when it has one.
    pub database: Option<String>,
    /// The databases to move.
    pub databases: Vec<Pattern>,
    /// The new data directory.
    pub target: PathBuf,
    /// The new port.
    pub port: u16,
    /// Where the programs are, when they are not where they usually are.
    pub bin_dir: Option<PathBuf>,
    /// Tablespaces that go elsewhere: where they were, where they go.
    pub mapping: Vec<(PathBuf, PathBuf)>,
    /// How much the clone asks of the source at once.
    pub pace: Pace,
    /// Whose the target will be; who runs this when it is not given.
    pub owner: Option<Owner>,
}

/// Why options are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadOptions {
    /// The connection string cannot be read.
    #[error("--source: {0}")]
    Source(String),
    /// There is no database to move.
    #[error("--databases: name at least one database")]
    NoDatabase,
    /// Too many.
    #[error("--databases: at most {PATTERNS_MAX} names")]
    TooManyDatabases,
    /// A path that would mean another place for another process.
    #[error("{option}: {path:?} is not an absolute path")]
    Relative {
        /// The option.
        option: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// A mapping that is none.
    #[error("--tablespace-mapping: {0:?} is not OLD=NEW with two absolute paths")]
    Mapping(String),
}

/// Names and patterns from values of `--databases`: parted by commas, where a backslash makes
/// the next character plain.
///
/// # Errors
///
/// [`BadOptions::NoDatabase`], [`BadOptions::TooManyDatabases`].
pub fn patterns<'a>(values: impl Iterator<Item = &'a str>) -> Result<Vec<Pattern>, BadOptions> {
    let mut patterns = Vec::new();
    for value in values {
        let mut pattern = String::new();
        let mut chars = value.chars();
        let mut end = |pattern: &mut String| {
            patterns.extend(Pattern::new(pattern.trim()));
            pattern.clear();
        };
        while let Some(char) = chars.next() {
            match char {
                ',' => end(&mut pattern),
                '\\' => match chars.next() {
                    Some(',') => pattern.push(','),
                    // The pattern's own backslash.
                    next => pattern.extend(std::iter::once('\\').chain(next)),
                },
                char => pattern.push(char),
            }
        }
        end(&mut pattern);
    }
    match patterns.len() {
        0 => Err(BadOptions::NoDatabase),
        count if count > PATTERNS_MAX => Err(BadOptions::TooManyDatabases),
        _ => Ok(patterns),
    }
}

/// `OLD=NEW`, where `\=` is a plain equals sign, as `pg_basebackup` reads it.
///
/// # Errors
///
/// [`BadOptions::Mapping`].
fn mapping(value: &str) -> Result<(PathBuf, PathBuf), BadOptions> {
    let bad = || BadOptions::Mapping(value.to_owned());
    let mut sides = [String::new(), String::new()];
    let mut side = 0;
    let mut chars = value.chars().peekable();
    while let Some(char) = chars.next() {
        let char = match char {
            '\\' if chars.peek() == Some(&'=') => chars.next().unwrap_or(char),
            '=' => {
                side += 1;
                continue;
            }
            char => char,
        };
        sides.get_mut(side).ok_or_else(bad)?.push(char);
    }
    let [old, new] = sides.map(PathBuf::from);
    let absolute = |path: &Path| path.is_absolute();
    if side == 1 && absolute(&old) && absolute(&new) { Ok((old, new)) } else { Err(bad()) }
}

impl Options {
    /// Puts a folder for `--tablespace-mapping` in.
    ///
    /// # Errors
    ///
    /// [`BadOptions::Mapping`].
    pub fn map(&mut self, value: &str) -> Result<(), BadOptions> {
        self.mapping.push(mapping(value)?);
        Ok(())
    }

    /// Where the tablespace at `location` goes.
    #[must_use]
    pub fn place_of(&self, location: &Path) -> PathBuf {
        let mapped = self.mapping.iter().find(|(old, _)| old == location);
        mapped.map_or_else(|| location.to_owned(), |(_, new)| new.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_are_parted_by_commas() {
        let read = |values: &[&str]| {
            let patterns = patterns(values.iter().copied()).unwrap();
            patterns.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(read(&["orders,tenant_eu_*"]), ["orders", "tenant_eu_*"]);
        assert_eq!(read(&["a, b", "c,"]), ["a", "b", "c"]);
        assert_eq!(read(&[r"a\,b,c\*d"]), ["a,b", r"c\*d"]);
        assert_eq!(patterns(["", ","].into_iter()), Err(BadOptions::NoDatabase));
    }

    #[test]
    fn a_mapping_has_two_absolute_sides() {
        assert_eq!(mapping("/a=/b"), Ok(("/a".into(), "/b".into())));
        assert_eq!(mapping(r"/a\=1=/b"), Ok(("/a=1".into(), "/b".into())));
        for bad in ["/a", "a=/b", "/a=b", "/a=/b=/c", "=", ""] {
            assert!(mapping(bad).is_err(), "{bad}");
        }
    }
}
