//! A standby made by a base backup in the low-level way, which works for every major alike and can
//! leave out databases and tablespaces.

use std::fs;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use pgtypes::{Lsn, Major};

use crate::builder::{Builder, Folder};
use crate::cluster::Cluster;
use crate::port::Port;
use crate::template::copy_tree;
use crate::user;
use crate::wait::{PATIENCE, wait_until};

/// Folders of a data directory whose contents are not part of a backup; `basebackup.c`.
const NOT_COPIED: [&str; 8] = [
    "pg_wal",
    "pg_replslot",
    "pg_dynshmem",
    "pg_notify",
    "pg_serial",
    "pg_snapshots",
    "pg_stat_tmp",
    "pg_subtrans",
];
const NOT_COPIED_FILES: [&str; 5] =
    ["postmaster.pid", "postmaster.opts", "backup_label", "standby.signal", "recovery.signal"];

/// A running standby: a [`Cluster`] with a few more methods.
#[derive(Debug)]
pub struct Standby {
    cluster: Cluster,
}

/// What a standby will be; made by [`Standby::of`] and [`Standby::from_backup`].
#[derive(Debug)]
pub struct StandbyBuilder<'a> {
    source: Source<'a>,
    builder: Builder,
    upstream_port: Option<u16>,
    name: String,
    conninfo_extra: String,
    databases: Vec<u32>,
    tablespaces: Vec<u32>,
}

#[derive(Debug)]
enum Source<'a> {
    Primary(&'a Cluster),
    Backup(PathBuf),
}

impl Standby {
    /// A standby of `primary`, from a backup taken at [`StandbyBuilder::start`]. It streams from
    /// the primary itself unless told another port.
    #[must_use]
    pub fn of(primary: &Cluster) -> StandbyBuilder<'_> {
        let mut builder = Cluster::builder(primary.major());
        builder.settings = primary.settings().clone();
        builder.lz4_and_zstd = primary.install().knows_lz4_and_zstd();
        let builder = StandbyBuilder::new(Source::Primary(primary), builder);
        builder.via(primary.port())
    }

    /// A standby from a base backup that somebody made in the folder `backup`, which is moved.
    #[must_use]
    pub fn from_backup<'a>(major: Major, backup: &Path) -> StandbyBuilder<'a> {
        StandbyBuilder::new(Source::Backup(backup.to_owned()), Cluster::builder(major))
    }

    /// A stopped cluster whose files were rewound to those of `primary`, made its standby; it is
    /// left stopped. `extra` is more of the connection string.
    ///
    /// # Errors
    ///
    /// When its files cannot be written.
    pub fn rejoin(
        mut cluster: Cluster,
        primary: &Cluster,
        name: &str,
        extra: &str,
    ) -> Result<Self> {
        signal_standby(&cluster.data())?;
        cluster.set("primary_conninfo", &conninfo(primary.port(), name, extra))?;
        Ok(Self { cluster })
    }

    /// As the cluster that it is: for one that was promoted.
    #[must_use]
    pub fn into_cluster(self) -> Cluster {
        self.cluster
    }

    /// Waits until everything that `primary` has flushed by now is replayed here.
    ///
    /// # Errors
    ///
    /// Both positions and the end of the log, when it is not within [`PATIENCE`].
    pub fn wait_replayed(&self, primary: &Cluster) -> Result<Lsn> {
        let target = primary.lsn()?;
        self.wait_replayed_to(target, PATIENCE)
    }

    /// Waits until replay has reached `target`.
    ///
    /// # Errors
    ///
    /// Both positions and the end of the log, when it has not within `limit`.
    pub fn wait_replayed_to(&self, target: Lsn, limit: Duration) -> Result<Lsn> {
        let mut seen = Lsn::INVALID;
        let waited = wait_until("the standby to replay", limit, || {
            // A standby that restarts refuses for a while.
            if let Ok(replayed) = self.cluster.lsn() {
                seen = replayed;
            }
            Ok((seen >= target).then_some(seen))
        });
        waited.with_context(|| {
            let log = self.cluster.log_tail();
            format!("replayed {seen}, wanted {target}; receiver {:?}; log:\n{log}", self.receiver())
        })
    }

    /// `status` of `pg_stat_wal_receiver`, as `streaming`; `None` without a receiver.
    #[must_use]
    pub fn receiver(&self) -> Option<String> {
        let mut session = self.cluster.session("postgres").ok()?;
        let status = session.query("select status from pg_stat_wal_receiver").ok()?;
        (!status.is_empty()).then_some(status)
    }

    /// Waits until the WAL receiver streams.
    ///
    /// # Errors
    ///
    /// The end of the log, when it does not in time.
    pub fn wait_streaming(&self) -> Result<()> {
        // A receiver calls itself "streaming" as soon as it is connected; both times are the same
        // until the first message of the stream.
        let streams = "select status = 'streaming' and last_msg_send_time <> last_msg_receipt_time \
                       from pg_stat_wal_receiver";
        self.cluster.wait_for(streams, "t", PATIENCE)
    }
}

impl Deref for Standby {
    type Target = Cluster;
    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl DerefMut for Standby {
    fn deref_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }
}

impl<'a> StandbyBuilder<'a> {
    fn new(source: Source<'a>, builder: Builder) -> Self {
        Self {
            source,
            builder,
            upstream_port: None,
            name: "standby".to_owned(),
            conninfo_extra: String::new(),
            databases: Vec::new(),
            tablespaces: Vec::new(),
        }
    }

    /// Streams from this port of 127.0.0.1: a relay's or a link's.
    #[must_use]
    pub const fn via(mut self, port: u16) -> Self {
        self.upstream_port = Some(port);
        self
    }

    /// `application_name` of the WAL receiver; `standby` by default.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// More of the connection string, as `password='...'`.
    #[must_use]
    pub fn conninfo(mut self, extra: &str) -> Self {
        extra.clone_into(&mut self.conninfo_extra);
        self
    }

    /// Uses a replication slot, which must exist.
    #[must_use]
    pub fn slot(self, name: &str) -> Self {
        self.set("primary_slot_name", name)
    }

    /// A setting of `postgresql.conf`.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.builder = self.builder.set(name, value);
        self
    }

    /// Leaves the files of a database out of the copy.
    #[must_use]
    pub fn without_database(mut self, oid: u32) -> Self {
        self.databases.push(oid);
        self
    }

    /// Leaves a tablespace out of the copy.
    #[must_use]
    pub fn without_tablespace(mut self, oid: u32) -> Self {
        self.tablespaces.push(oid);
        self
    }

    /// Takes the backup and starts the standby; waits until it accepts connections.
    ///
    /// # Errors
    ///
    /// When one of these fails; the end of the log is in the error.
    pub fn start(self) -> Result<Standby> {
        let mut standby = self.prepare()?;
        standby.cluster.start()?;
        Ok(standby)
    }

    /// Takes the backup and leaves the standby stopped.
    ///
    /// # Errors
    ///
    /// When the backup fails.
    pub fn prepare(self) -> Result<Standby> {
        let folder = Folder::new()?;
        let install = match &self.source {
            Source::Primary(primary) => {
                self.copy(primary, &folder)?;
                primary.install().clone()
            }
            Source::Backup(backup) => {
                if fs::rename(backup, folder.data()).is_err() {
                    copy_tree(backup, &folder.data())?;
                    fs::remove_dir_all(backup)?;
                }
                user::give_all(&folder.data())?;
                self.builder.install()?
            }
        };
        signal_standby(&folder.data())?;
        let mut settings = self.builder.settings;
        if let Some(port) = self.upstream_port {
            let conninfo = conninfo(port, &self.name, &self.conninfo_extra);
            settings.insert("primary_conninfo".into(), conninfo);
        }
        settings.entry("hot_standby".into()).or_insert_with(|| "on".into());
        let cluster = Cluster::new(install, folder, Port::reserve()?, settings)?;
        Ok(Standby { cluster })
    }

    fn copy(&self, primary: &Cluster, folder: &Folder) -> Result<()> {
        let (begin, end) = if primary.major() >= Major::V15 {
            (
                "select pg_backup_start('testkit', true)",
                "select labelfile from pg_backup_stop(false)",
            )
        } else {
            (
                "select pg_start_backup('testkit', true, false)",
                "select labelfile from pg_stop_backup(false, false)",
            )
        };
        let mut session = primary.session("postgres")?;
        session.query(begin)?;
        self.copy_data(&primary.data(), folder).context("copy the data directory")?;
        let label = session.query(end)?;
        fs::write(folder.data().join("backup_label"), label.trim_end().to_owned() + "\n")?;
        user::give_all(&folder.data())?;
        user::give_all(&folder.tablespaces())
    }

    fn copy_data(&self, from: &Path, folder: &Folder) -> Result<()> {
        let data = folder.data();
        fs::create_dir(&data)?;
        let mode = fs::metadata(from)?.permissions();
        fs::set_permissions(&data, mode)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let to = data.join(&name);
            match name.as_str() {
                name if NOT_COPIED_FILES.contains(&name) => {}
                "base" => self.copy_databases(&entry.path(), &to)?,
                "pg_tblspc" => self.copy_tablespaces(&entry.path(), &to, folder)?,
                name if NOT_COPIED.contains(&name) => copy_folders(&entry.path(), &to)?,
                _ => copy_any(&entry.path(), &to)?,
            }
        }
        Ok(())
    }

    /// Copies a folder with one folder per database.
    fn copy_databases(&self, from: &Path, to: &Path) -> Result<()> {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let oid = entry.file_name().to_string_lossy().parse::<u32>().ok();
            if !oid.is_some_and(|oid| self.databases.contains(&oid)) {
                copy_any(&entry.path(), &to.join(entry.file_name()))?;
            }
        }
        Ok(())
    }

    /// Copies `pg_tblspc`: linked folders into the standby's own, in-place ones as they are.
    fn copy_tablespaces(&self, from: &Path, to: &Path, folder: &Folder) -> Result<()> {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let name = entry.file_name();
            let oid = name.to_string_lossy().parse::<u32>().ok();
            if oid.is_some_and(|oid| self.tablespaces.contains(&oid)) {
                continue;
            }
            let mut place = to.join(&name);
            if entry.file_type()?.is_symlink() {
                place = folder.tablespaces().join(&name);
                symlink(&place, to.join(&name))?;
            }
            fs::create_dir_all(&place)?;
            // One folder per catalog version, with the databases in it.
            for version in fs::read_dir(entry.path())? {
                let version = version?;
                self.copy_databases(&version.path(), &place.join(version.file_name()))?;
            }
        }
        Ok(())
    }
}

fn signal_standby(data: &Path) -> Result<()> {
    let signal = data.join("standby.signal");
    fs::write(&signal, "")?;
    user::give(&signal)
}

fn conninfo(port: u16, name: &str, extra: &str) -> String {
    let quoted = name.replace('\\', r"\\").replace('\'', r"\'");
    format!("host=127.0.0.1 port={port} user=postgres application_name='{quoted}' {extra}")
}

/// Copies a file or folder; what the server removes meanwhile is left out.
fn copy_any(from: &Path, to: &Path) -> Result<()> {
    let Ok(metadata) = fs::symlink_metadata(from) else { return Ok(()) };
    let name = from.file_name().unwrap_or_default().to_string_lossy();
    if name.starts_with("pgsql_tmp") || name.starts_with("pg_internal.init") {
        return Ok(());
    }
    if !metadata.is_dir() {
        return match fs::copy(from, to) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("copy {}", from.display()))
            }
            _ => Ok(()),
        };
    }
    fs::create_dir_all(to)?;
    let Ok(entries) = fs::read_dir(from) else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        copy_any(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

/// Makes the folders below `from` anew, without their files.
fn copy_folders(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let slot = from.ends_with("pg_replslot");
        if entry.file_type()?.is_dir() && !slot {
            copy_folders(&entry.path(), &to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
