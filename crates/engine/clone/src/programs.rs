//! Finds `pg_basebackup`.
//!
//! One of the server's own major is taken where there is one: its standby will need a server
//! of that major anyway. A later one does too, as `pg_basebackup` serves older servers; an
//! older one does not.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pgtypes::Major;

/// Where distributions put the programs of a major.
const HOMES: [(&str, &str); 3] = [
    ("/usr/lib/postgresql/", "/bin"),
    ("/usr/pgsql-", "/bin"),
    ("/opt/homebrew/opt/postgresql@", "/bin"),
];

/// The programs that a clone needs, all in one folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    folder: PathBuf,
}

/// There is no program that fits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no pg_basebackup {major} or later in {}: install the programs of PostgreSQL {major}, or \
     tell where they are with --bin-dir",
    list(looked)
)]
pub struct Missing {
    /// The version that is needed.
    pub major: Major,
    /// Where it was looked for.
    pub looked: Vec<PathBuf>,
}

fn list(folders: &[PathBuf]) -> String {
    let folders: Vec<_> = folders.iter().map(|it| it.display().to_string()).collect();
    folders.join(", ")
}

impl Programs {
    /// Looks in `folder` when one is given; else in `PATH` and where distributions put them.
    ///
    /// # Errors
    ///
    /// [`Missing`].
    pub fn find(major: Major, folder: Option<&Path>) -> Result<Self, Missing> {
        let mut looked = Vec::new();
        match folder {
            Some(folder) => looked.push(folder.to_owned()),
            None => {
                // The right one by its place, before whatever comes first in PATH.
                let homes = Major::ALL.into_iter().filter(|it| *it >= major);
                looked.extend(homes.flat_map(homes_of));
                let path = env::var_os("PATH").unwrap_or_default();
                looked.extend(env::split_paths(&path));
            }
        }
        let found = looked.iter().filter_map(|folder| Some((major_of(folder)?, folder)));
        let best = found.filter(|(found, _)| *found >= major).min_by_key(|(found, _)| *found);
        match best {
            Some((_, folder)) => Ok(Self { folder: folder.clone() }),
            None => {
                looked.dedup();
                Err(Missing { major, looked: looked.into_iter().take(12).collect() })
            }
        }
    }

    /// Path of a program.
    #[must_use]
    pub fn path(&self, program: &str) -> PathBuf {
        self.folder.join(program)
    }
}

fn homes_of(major: Major) -> impl Iterator<Item = PathBuf> {
    HOMES.into_iter().map(move |(before, behind)| format!("{before}{major}{behind}").into())
}

/// The version of the `pg_basebackup` in a folder.
fn major_of(folder: &Path) -> Option<Major> {
    let program = folder.join("pg_basebackup");
    if !program.is_file() {
        return None;
    }
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Major::from_server_version(text.split("(PostgreSQL) ").nth(1)?.trim()).ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn an_older_program_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let missing = Programs::find(Major::V16, Some(folder.path())).unwrap_err();
        assert!(missing.to_string().contains("no pg_basebackup 16"), "{missing}");
        let program = folder.path().join("pg_basebackup");
        fs::write(&program, "#!/bin/sh\necho 'pg_basebackup (PostgreSQL) 16.4 (Debian)'\n")
            .unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Programs::find(Major::V16, Some(folder.path())).unwrap();
        Programs::find(Major::V12, Some(folder.path())).unwrap();
        assert!(Programs::find(Major::V17, Some(folder.path())).is_err());
    }
}
