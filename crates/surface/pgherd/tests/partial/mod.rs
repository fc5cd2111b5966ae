//! A primary with things to keep and things to leave out, and backups of it through a relay.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use testkit::{Cluster, Install, Major, Relay, Standby};

/// Rows that no partial standby may hold.
pub(crate) const SECRET: &str = "SECRET_";

/// Leaves out every database whose name begins with `drop`, and the tablespace `archive`.
pub(crate) const FILTER: &str = "
configurations:
  - berlin:
      match: {application_name: berlin}
      filter: {exclude_databases: [\"drop*\"], exclude_tablespaces: [archive]}
  - paris:
      match: {application_name: paris}
      filter: {exclude_databases: [\"drop*\"]}
  - whole:
      match: {application_name: whole}
";

pub(crate) fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pgherd"))
}

/// A primary behind a relay.
pub(crate) struct Stage {
    pub(crate) primary: Cluster,
    pub(crate) relay: Relay,
}

impl Stage {
    pub(crate) fn new(major: Major) -> Result<Self> {
        Self::with(major, &[])
    }

    pub(crate) fn with(major: Major, settings: &[(&str, &str)]) -> Result<Self> {
        let primary = Cluster::builder(major).set_all(settings).start()?;
        fill(&primary)?;
        let relay = Relay::start(binary(), primary.port(), FILTER)?;
        Ok(Self { primary, relay })
    }

    /// `pg_basebackup` as `berlin`, in its plain format.
    pub(crate) fn backup(&self, folder: &Folder, more: &[&str]) -> Result<PathBuf> {
        folder.plain(&self.primary, self.relay.port(), more)
    }

    /// The standby of a backup, as `berlin`.
    pub(crate) fn standby(&self, data: &Path) -> Result<Standby> {
        self.standby_as(data, "berlin", "")
    }

    /// As somebody else, with more in its conninfo.
    pub(crate) fn standby_as(&self, data: &Path, name: &str, conninfo: &str) -> Result<Standby> {
        let major = self.primary.major();
        point_map_to(data, data.parent().context("a folder around the data")?)?;
        let standby = Standby::from_backup(major, data).via(self.relay.port()).name(name);
        standby.conninfo(conninfo).start()
    }

    /// What a backup and its standby have to be, whatever made them.
    pub(crate) fn check(&self, data: &Path) -> Result<Standby> {
        self.check_files(data)?;
        let standby = self.standby(data)?;
        self.check_standby(&standby)?;
        Ok(standby)
    }

    pub(crate) fn check_files(&self, data: &Path) -> Result<()> {
        let dropped = self.primary.database_oid("drop1")?;
        ensure!(!data.join(format!("base/{dropped}")).exists());
        let archive = self.primary.tablespace_oid("archive")?;
        ensure!(fs::symlink_metadata(data.join(format!("pg_tblspc/{archive}"))).is_err());
        let leaks = files_with(data, SECRET)?;
        ensure!(leaks.is_empty(), "excluded rows in {leaks:?}");
        Ok(())
    }

    /// It follows the stream, has what is included, and says in PostgreSQL's own words that it
    /// does not have the rest.
    pub(crate) fn check_standby(&self, standby: &Standby) -> Result<()> {
        for database in ["keep", "drop1"] {
            self.primary.sql_in(database, "create table if not exists later as select 1 n")?;
        }
        standby.wait_replayed(&self.primary)?;
        for table in ["t", "f", "later"] {
            let count = format!("select count(*) from {table}");
            let (here, there) =
                (standby.sql_in("keep", &count)?, self.primary.sql_in("keep", &count)?);
            ensure!(here == there, "{table}: {here} and {there} rows");
        }
        let Err(error) = standby.sql_in("drop1", "select 1") else { bail!("drop1 is there") };
        let error = format!("{error:#}");
        ensure!(error.contains("does not exist") && error.contains("is missing"), "{error}");
        Ok(())
    }
}

pub(crate) fn fill(primary: &Cluster) -> Result<()> {
    primary.create_tablespace("fast")?;
    primary.create_tablespace("archive")?;
    for (database, word) in [("keep", "PUBLIC_"), ("drop1", SECRET)] {
        primary.sql(&format!("create database {database}"))?;
        primary.sql_in(
            database,
            &format!(
                "create table t as select g, '{word}' || g || repeat('x', 100) v \
                 from generate_series(1, 5000) g; \
                 create table f tablespace fast as select * from t; \
                 create table a tablespace archive as select g, '{SECRET}' || g from t;"
            ),
        )?;
    }
    Ok(())
}

/// A folder for one backup, which servers may enter.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("pgherd-test-backup-").tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        Ok(Self(folder))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// `pg_basebackup` of `primary` over `port` as `berlin`, with tablespaces beside the data.
    pub(crate) fn plain(&self, primary: &Cluster, port: u16, more: &[&str]) -> Result<PathBuf> {
        let data = self.path().join("data");
        let mut command = pg_basebackup(primary, port, &data)?;
        let places = "select spcname || '=' || pg_tablespace_location(oid) from pg_tablespace \
                      where pg_tablespace_location(oid) like '/%'";
        for line in primary.sql(places)?.lines() {
            let (name, place) = line.split_once('=').context("a tablespace's place")?;
            command.arg("-T").arg(format!("{place}={}", self.path().join(name).display()));
        }
        run(command.args(more))?;
        testkit::give_to_servers(self.path())?;
        Ok(data)
    }

    /// As [`Self::plain`] in tar format, unpacked; tablespaces stay packed.
    pub(crate) fn tar(&self, primary: &Cluster, port: u16, more: &[&str]) -> Result<PathBuf> {
        let packed = self.path().join("packed");
        run(pg_basebackup(primary, port, &packed)?.arg("-Ft").args(more))?;
        let data = self.path().join("data");
        fs::create_dir(&data)?;
        for entry in fs::read_dir(&packed)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let into = match name.split('.').next().unwrap_or_default() {
                "base" => data.clone(),
                "pg_wal" => data.join("pg_wal"),
                "backup_manifest" => {
                    fs::copy(&path, data.join("backup_manifest"))?;
                    continue;
                }
                oid => self.path().join(oid),
            };
            fs::create_dir_all(&into)?;
            run(Command::new("tar").arg("-xaf").arg(&path).arg("-C").arg(&into))?;
            fs::set_permissions(&into, fs::Permissions::from_mode(0o700))?;
            if into.parent() == Some(self.path()) && into != data {
                let link = data.join("pg_tblspc").join(into.file_name().unwrap_or_default());
                fs::create_dir_all(data.join("pg_tblspc"))?;
                std::os::unix::fs::symlink(&into, link)?;
            }
        }
        testkit::give_to_servers(self.path())?;
        Ok(data)
    }
}

/// A server makes the links that `tablespace_map` lists: to where they were unpacked.
fn point_map_to(data: &Path, folder: &Path) -> Result<()> {
    let path = data.join("tablespace_map");
    let Ok(map) = fs::read_to_string(&path) else { return Ok(()) };
    let lines = map.lines().filter_map(|line| line.split_once(' '));
    let here = lines.map(|(oid, _)| format!("{oid} {}\n", folder.join(oid).display()));
    Ok(fs::write(path, here.collect::<String>())?)
}

/// The program as `berlin`, in a hurry.
pub(crate) fn pg_basebackup(primary: &Cluster, port: u16, data: &Path) -> Result<Command> {
    let install = Install::of(primary.major())?;
    let mut command = install.client_command("pg_basebackup")?;
    let conninfo = format!("host=127.0.0.1 port={port} user=postgres application_name=berlin");
    command.arg("-d").arg(conninfo).arg("-D").arg(data).args(["-c", "fast", "-N"]);
    Ok(command)
}

/// `pg_verifybackup`, its check of the WAL included unless `more` says otherwise.
pub(crate) fn verify(primary: &Cluster, data: &Path, more: &[&str]) -> Result<()> {
    if primary.major() == Major::V12 {
        return Ok(());
    }
    let install = Install::of(primary.major())?;
    let mut command = install.client_command("pg_verifybackup")?;
    if !Install::has_clients(primary.major()) {
        // One of a later major, which cannot read this WAL.
        command.arg("-n");
    }
    run(command.args(more).arg(data))?;
    Ok(())
}

/// Runs a program to its end, and gives all that it printed.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    ensure!(output.status.success(), "{command:?}: {}\n{text}", output.status);
    Ok(text)
}

/// Files below `folder` that contain `text`; links to tablespaces are followed.
pub(crate) fn files_with(folder: &Path, text: &str) -> Result<Vec<PathBuf>> {
    let output = Command::new("grep").arg("-RlF").arg("--").arg(text).arg(folder).output()?;
    ensure!(output.status.code() != Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().map(PathBuf::from).collect())
}
