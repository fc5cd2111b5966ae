//! Which programs are shown: PostgreSQL's, and ours.

use std::cmp::Reverse;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use testkit::{Install, Major};

/// Where Debian has a folder for each major.
const DEBIAN: &str = "/usr/lib/postgresql";

/// The newest server programs: in `folder` when one is given, else Debian's, else the cache's.
pub(crate) fn find(folder: Option<&Path>) -> Result<Install> {
    if let Some(folder) = folder {
        return Install::in_folder(folder);
    }
    let releases = fs::read_dir(DEBIAN).into_iter().flatten().flatten();
    let folders = releases.map(|release| release.path().join("bin"));
    let whole = folders.filter(|folder| {
        ["postgres", "initdb", "psql"].iter().all(|program| folder.join(program).exists())
    });
    // A release that pgherd does not know is not for the demo.
    let mut found: Vec<_> = whole.filter_map(|folder| Install::in_folder(&folder).ok()).collect();
    found.sort_by_key(|programs| Reverse(programs.major()));
    let cached = || Major::ALL.into_iter().rev().find_map(|major| Install::of(major).ok());
    found.into_iter().next().or_else(cached).context(
        "no server programs of PostgreSQL 12 to 18 found in /usr/lib/postgresql: \
         install them (Debian: postgresql-15), or name their folder with --bin",
    )
}

/// The binary of pgherd.
pub(crate) fn pgherd(named: Option<&Path>) -> Result<PathBuf> {
    let path = match named {
        Some(path) => path.to_owned(),
        None => env::current_exe()?.with_file_name("pgherd"),
    };
    ensure!(path.exists(), "{} is not there: run `make demo`", path.display());
    Ok(path)
}
