//! What a cluster is made of before it runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use pgtypes::Major;
use tempfile::TempDir;

use crate::cluster::Cluster;
use crate::install::Install;
use crate::port::Port;
use crate::template::{InitOptions, make_data};
use crate::user;

/// How clients over TCP prove who they are; the Unix socket always trusts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Auth {
    /// Everybody is believed.
    #[default]
    Trust,
    /// `password`: in clear text.
    Password,
    /// `md5`
    Md5,
    /// `scram-sha-256`
    Scram,
}

impl Auth {
    const fn hba_method(self) -> &'static str {
        match self {
            Self::Trust => "trust",
            Self::Password => "password",
            Self::Md5 => "md5",
            Self::Scram => "scram-sha-256",
        }
    }
}

/// Password of `postgres` in clusters with another [`Auth`] than trust.
pub const PASSWORD: &str = "correct horse";

/// Settings of a cluster to come; made by [`Cluster::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    pub(crate) major: Major,
    pub(crate) lz4_and_zstd: bool,
    programs: Option<Install>,
    pub(crate) settings: BTreeMap<String, String>,
    auth: Auth,
    init: InitOptions,
}

impl Builder {
    pub(crate) fn new(major: Major) -> Self {
        let keep = if major >= Major::V13 { "wal_keep_size" } else { "wal_keep_segments" };
        let kept = if major >= Major::V13 { "4GB" } else { "256" };
        let settings = [
            ("allow_in_place_tablespaces", "on"),
            ("fsync", "off"),
            ("listen_addresses", "127.0.0.1"),
            ("log_line_prefix", "%m [%p] %a "),
            ("max_connections", "60"),
            ("max_prepared_transactions", "20"),
            ("max_replication_slots", "20"),
            ("max_wal_senders", "30"),
            ("max_wal_size", "4GB"),
            ("shared_buffers", "32MB"),
            ("wal_init_zero", "off"),
            ("wal_level", "replica"),
            ("wal_retrieve_retry_interval", "100ms"),
            (keep, kept),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Self {
            major,
            lz4_and_zstd: false,
            programs: None,
            settings: settings.into(),
            auth: Auth::Trust,
            init: InitOptions::default(),
        }
    }

    /// A setting of `postgresql.conf`; the value is quoted as needed.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Several settings.
    #[must_use]
    pub fn set_all(self, settings: &[(&str, &str)]) -> Self {
        settings.iter().fold(self, |builder, (name, value)| builder.set(name, value))
    }

    /// Size of a WAL segment in MB: 1 to 1024.
    #[must_use]
    pub const fn wal_segment_mb(mut self, megabytes: u32) -> Self {
        self.init.segment_mb = Some(megabytes);
        self
    }

    /// With data checksums; without them is the default for every major.
    #[must_use]
    pub const fn data_checksums(mut self) -> Self {
        self.init.checksums = true;
        self
    }

    /// Runs `initdb` for this cluster alone: with a system identifier of its own.
    #[must_use]
    pub const fn fresh_initdb(mut self) -> Self {
        self.init.fresh = true;
        self
    }

    /// Makes TCP clients, replication included, log in with [`PASSWORD`].
    #[must_use]
    pub const fn auth(mut self, auth: Auth) -> Self {
        self.auth = auth;
        self
    }

    /// Writes safely to the disk (`fsync` on); off by default.
    #[must_use]
    pub fn durable(self) -> Self {
        self.set("fsync", "on")
    }

    /// Takes a server that knows lz4 and zstd for `wal_compression`: see
    /// [`Install::with_lz4_and_zstd`].
    #[must_use]
    pub const fn lz4_and_zstd(mut self) -> Self {
        self.lz4_and_zstd = true;
        self
    }

    /// Takes these programs, which have to be of the cluster's major, instead of those in the cache.
    #[must_use]
    pub fn programs(mut self, programs: Install) -> Self {
        self.programs = Some(programs);
        self
    }

    pub(crate) fn install(&self) -> Result<Install> {
        if let Some(programs) = &self.programs {
            Ok(programs.clone())
        } else if self.lz4_and_zstd {
            Install::with_lz4_and_zstd(self.major)
        } else {
            Install::of(self.major)
        }
    }

    /// Makes the cluster and starts it.
    ///
    /// # Errors
    ///
    /// When the server is not installed or does not start; its log is in the error.
    pub fn start(self) -> Result<Cluster> {
        let install = self.install()?;
        let folder = Folder::new()?;
        make_data(&install, &self.init, &folder.data())?;
        if self.auth != Auth::Trust {
            write_hba(&folder.data(), self.auth)?;
        }
        let mut settings = self.settings;
        if self.auth == Auth::Md5 {
            settings.insert("password_encryption".into(), "md5".into());
        } else if self.auth == Auth::Scram {
            settings.insert("password_encryption".into(), "scram-sha-256".into());
        }
        let mut cluster = Cluster::new(install, folder, Port::reserve()?, settings)?;
        cluster.start()?;
        if self.auth != Auth::Trust {
            cluster.sql(&format!("alter role postgres password '{PASSWORD}'"))?;
        }
        Ok(cluster)
    }
}

fn write_hba(data: &Path, auth: Auth) -> Result<()> {
    let method = auth.hba_method();
    let text = format!(
        "local all all trust\nlocal replication all trust\n\
         host all all all {method}\nhost replication all all {method}\n"
    );
    fs::write(data.join("pg_hba.conf"), text).context("write pg_hba.conf")
}

/// The folder of one cluster, short enough for a socket's path, removed in the end.
#[derive(Debug)]
pub(crate) struct Folder {
    root: TempDir,
}

impl Folder {
    pub(crate) fn new() -> Result<Self> {
        let root = tempfile::Builder::new().prefix("pgherd-test-").tempdir()?;
        for path in [root.path(), &root.path().join("s"), &root.path().join("tablespaces")] {
            fs::create_dir_all(path)?;
            user::give(path)?;
        }
        Ok(Self { root })
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    pub(crate) fn socket_dir(&self) -> PathBuf {
        self.root.path().join("s")
    }

    pub(crate) fn tablespaces(&self) -> PathBuf {
        self.root.path().join("tablespaces")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.root.path().join("log")
    }
}
