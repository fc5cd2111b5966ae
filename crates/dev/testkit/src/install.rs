//! Where the programs of each major version are.
//!
//! `make provision` (scripts in `dev/provision`) puts them into the cache folder; this module only
//! finds them there, and complains with that command when something is missing.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use pgtypes::Major;

use crate::user;

/// Narrows the majors that tests run on, as in `15,18`; for quick local runs only.
pub const MAJORS_VARIABLE: &str = "PGHERD_TEST_MAJORS";

/// The programs of one major version of PostgreSQL.
#[derive(Clone, Debug)]
pub struct Install {
    major: Major,
    home: PathBuf,
    debian: bool,
    /// Where all programs are, instead of the cache.
    folder: Option<PathBuf>,
}

impl Install {
    /// The server of `major`, and its client programs where they are to be had.
    ///
    /// # Errors
    ///
    /// When the server is not in the cache.
    pub fn of(major: Major) -> Result<Self> {
        let home = cache_dir()?.join("postgresql").join(major.to_string());
        let install = Self { major, home, debian: false, folder: None };
        ensure!(
            install.server("postgres").exists(),
            "no server of PostgreSQL {major} in {}: run `make provision`",
            install.home.display()
        );
        Ok(install)
    }

    /// Debian's own server of `major`, which unlike [`Install::of`] knows lz4 and zstd; only 15.
    ///
    /// # Errors
    ///
    /// When it is not installed.
    pub fn with_lz4_and_zstd(major: Major) -> Result<Self> {
        let mut install = Self::of(major)?;
        install.debian = true;
        ensure!(
            install.server("postgres").exists(),
            "no server of PostgreSQL {major} with lz4 and zstd: {} is not there",
            install.server("postgres").display()
        );
        Ok(install)
    }

    /// The programs in a folder, as a distribution installs them: server and clients side by side.
    ///
    /// # Errors
    ///
    /// When there is no server, or one of a major that is not known.
    pub fn in_folder(folder: &Path) -> Result<Self> {
        let postgres = folder.join("postgres");
        let output = clean_command(&postgres).arg("--version").output();
        let output = output.with_context(|| format!("run {}", postgres.display()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.split("(PostgreSQL) ").nth(1).unwrap_or_default().trim();
        let major = Major::from_server_version(version)
            .with_context(|| format!("{} says {text:?}", postgres.display()))?;
        let folder = Some(folder.to_owned());
        Ok(Self { major, home: cache_dir()?, debian: false, folder })
    }

    /// The majors that tests run on: all known ones, or those in [`MAJORS_VARIABLE`].
    ///
    /// Whether they are installed is not looked at: a test on a missing one must fail, not pass.
    ///
    /// # Errors
    ///
    /// When the variable names something else than 12 to 18.
    pub fn majors() -> Result<Vec<Major>> {
        let Ok(list) = env::var(MAJORS_VARIABLE) else { return Ok(Major::ALL.to_vec()) };
        let names = list.split([',', ' ']).filter(|name| !name.is_empty());
        let majors: Vec<_> = names.map(Major::from_server_version).collect::<Result<_, _>>()?;
        ensure!(!majors.is_empty(), "{MAJORS_VARIABLE} is set and names no major");
        Ok(majors)
    }

    /// The major version.
    #[must_use]
    pub const fn major(&self) -> Major {
        self.major
    }

    /// Path of a server program: `postgres`, `initdb`, `pg_ctl`.
    #[must_use]
    pub fn server(&self, program: &str) -> PathBuf {
        if let Some(folder) = &self.folder {
            folder.join(program)
        } else if self.debian {
            Path::new("/usr/lib/postgresql").join(self.major.to_string()).join("bin").join(program)
        } else {
            self.home.join("server/bin").join(program)
        }
    }

    /// Path of a client program of exactly this major: `pg_waldump`, `pg_basebackup`, ….
    ///
    /// # Errors
    ///
    /// When there is none; for 12 and 14 there is never one.
    pub fn client(&self, program: &str) -> Result<PathBuf> {
        let path = match &self.folder {
            Some(folder) => folder.join(program),
            None => self.home.join("client/bin").join(program),
        };
        ensure!(path.exists(), "no {program} of PostgreSQL {} at {}", self.major, path.display());
        Ok(path)
    }

    /// Makes a folder in `root` with server and client programs of exactly one build, as only
    /// `pg_upgrade` asks for; those of [`Install::server`] and [`Install::client`] may be of two.
    ///
    /// # Errors
    ///
    /// When there are no client programs of this major, or the folder cannot be made.
    pub fn of_one_build(&self, root: &Path) -> Result<PathBuf> {
        let programs = self.client("pg_upgrade")?;
        let programs = programs.parent().context("a program in a folder")?;
        let unpacked = self.home.join("debian/usr");
        if !fs::canonicalize(programs)?.starts_with(&self.home) || !unpacked.exists() {
            return Ok(programs.to_owned());
        }
        // Unpacked from a package and not installed: a program finds its files by the place of its
        // starter, when that has the package's own end.
        let below = format!("lib/postgresql/{}", self.major);
        let folder = root.join("usr").join(&below);
        let bin = folder.join("bin");
        fs::create_dir_all(&bin)?;
        for starter in fs::read_dir(programs)? {
            let starter = starter?;
            fs::copy(starter.path(), bin.join(starter.file_name()))?;
        }
        symlink(unpacked.join(&below).join("lib"), folder.join("lib"))?;
        symlink(unpacked.join("share"), root.join("usr/share"))?;
        Ok(bin)
    }

    /// Whether the client programs of this major are to be had: 13, 15, 16, 17, 18.
    #[must_use]
    pub fn has_clients(major: Major) -> bool {
        !matches!(major, Major::V12 | Major::V14)
    }

    /// Runs a client program of this major, or of the oldest later one that there is (clients serve
    /// older servers), with a clean environment.
    ///
    /// # Errors
    ///
    /// When there is no such program of this or a later major.
    pub fn client_command(&self, program: &str) -> Result<Command> {
        let later = Major::ALL.into_iter().filter(|major| *major >= self.major);
        for major in later.filter(|major| Self::has_clients(*major)) {
            if let Ok(path) = Self::of(major)?.client(program) {
                return Ok(clean_command(&path));
            }
        }
        bail!("no {program} for PostgreSQL {}: run `make provision`", self.major)
    }

    pub(crate) const fn knows_lz4_and_zstd(&self) -> bool {
        self.debian
    }

    /// A name for what the server is, to tell caches of different ones apart.
    pub(crate) fn label(&self) -> Result<String> {
        let path = self.server("postgres");
        let modified = fs::metadata(&path).and_then(|file| file.modified());
        let modified = modified.with_context(|| format!("look at {}", path.display()))?;
        let stamp = modified.duration_since(std::time::UNIX_EPOCH)?.as_secs();
        let flavour = match (&self.folder, self.debian) {
            (Some(_), _) => "folder",
            (None, true) => "debian",
            (None, false) => "npm",
        };
        Ok(format!("{}-{flavour}-{stamp}", self.major))
    }
}

/// The cache folder; the same rule as `dev/provision/common.sh`.
///
/// # Errors
///
/// When there is neither `PGHERD_CACHE` nor `HOME`.
pub fn cache_dir() -> Result<PathBuf> {
    if let Some(cache) = env::var_os("PGHERD_CACHE").filter(|path| !path.is_empty()) {
        return Ok(cache.into());
    }
    if user::is_root() {
        return Ok("/var/cache/pgherd".into());
    }
    let home: OsString = env::var_os("HOME").context("neither PGHERD_CACHE nor HOME is set")?;
    Ok(Path::new(&home).join(".cache/pgherd"))
}

/// A command that sees nothing of `PGHOST` and the like.
pub(crate) fn clean_command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("LC_ALL", "C").env("TZ", "UTC");
    command.env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", "/nonexistent");
    command
}
