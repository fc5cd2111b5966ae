//! Finds the programs of the server's own major: the target runs under them.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pgtypes::Major;

use crate::Error;

/// Where distributions put the programs of a major.
const HOMES: [(&str, &str); 3] = [
    ("/usr/lib/postgresql/", "/bin"),
    ("/usr/pgsql-", "/bin"),
    ("/opt/homebrew/opt/postgresql@", "/bin"),
];
/// What a split runs.
const NEEDED: [&str; 4] = ["postgres", "pg_ctl", "pg_basebackup", "pg_receivewal"];

/// A folder with all programs that are needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    /// The folder.
    pub folder: PathBuf,
    /// What its server calls itself, as `15.18`.
    pub version: String,
}

impl Programs {
    /// Looks in `folder` when one is given; else where distributions put them, and in `PATH`.
    ///
    /// # Errors
    ///
    /// [`Error::Programs`].
    pub fn find(major: Major, folder: Option<&Path>) -> Result<Self, Error> {
        let folders: Vec<PathBuf> = match folder {
            Some(folder) => vec![folder.to_owned()],
            None => {
                let homes = HOMES.iter().map(|(before, behind)| format!("{before}{major}{behind}"));
                let path = env::var_os("PATH").unwrap_or_default();
                homes.map(PathBuf::from).chain(env::split_paths(&path)).collect()
            }
        };
        let mut reasons = Vec::new();
        for folder in folders {
            match look(major, &folder) {
                Ok(version) => return Ok(Self { folder, version }),
                Err(reason) => reasons.push(reason),
            }
        }
        let reason = if let [reason] = reasons.as_slice() {
            reason.clone()
        } else {
            format!(
                "no programs of PostgreSQL {major}: install them, or tell where they are with --bin-dir"
            )
        };
        Err(Error::Programs(reason))
    }

    /// Path of a program.
    #[must_use]
    pub fn path(&self, program: &str) -> PathBuf {
        self.folder.join(program)
    }

    /// Where the libraries of extensions are, when it can be told.
    pub(crate) fn libraries(&self) -> Option<PathBuf> {
        let output =
            Command::new(self.path("pg_config")).arg("--pkglibdir").stdin(Stdio::null()).output();
        let told = output.ok().filter(|output| output.status.success()).map(|output| {
            PathBuf::from(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
        });
        // `make_relative_path` (path.c): beside the program, wherever its links lead to.
        let real = self.path("postgres").canonicalize().ok();
        let home =
            real.as_deref().and_then(|postgres| postgres.parent()?.parent()).map(Path::to_owned);
        let beside =
            ["lib/postgresql", "lib"].into_iter().filter_map(|it| Some(home.as_ref()?.join(it)));
        // Every server has this one.
        let has = |folder: &PathBuf| {
            folder.join("plpgsql.so").exists() || folder.join("plpgsql.dylib").exists()
        };
        beside.chain(told).find(has)
    }
}

/// The version of the server in a folder, or why it is of no use.
fn look(major: Major, folder: &Path) -> Result<String, String> {
    for program in NEEDED {
        if !folder.join(program).is_file() {
            return Err(format!("no {program} in {}", folder.display()));
        }
    }
    let postgres = folder.join("postgres");
    let output = Command::new(&postgres).arg("--version").stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("cannot run {}: {error}", postgres.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split("(PostgreSQL) ").nth(1).unwrap_or_default();
    let version = version.split_whitespace().next().unwrap_or_default();
    match Major::from_server_version(version) {
        Ok(found) if found == major => Ok(version.to_owned()),
        _ => Err(format!(
            "{} is of version {version:?}, and the source is PostgreSQL {major}",
            postgres.display()
        )),
    }
}
