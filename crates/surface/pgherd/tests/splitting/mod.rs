//! A server to split, and its split.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub(crate) mod held;
pub(crate) mod load;
pub(crate) mod planned;
pub(crate) mod whole;

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use testkit::{Cluster, Install, Major, PATIENCE, Port, Program, Session, run, wait_until};

/// A whole split takes some seconds, and much more on a busy machine.
pub(crate) const SPLIT_LIMIT: Duration = Duration::from_secs(120);

/// A source, and what a split of it is told.
pub(crate) struct Stage {
    pub(crate) source: Cluster,
    folder: TempDir,
    port: Port,
    /// `--databases`
    pub(crate) databases: String,
    /// Where the source is reached.
    pub(crate) host: String,
    /// Who connects to it.
    pub(crate) user: String,
    /// What else `--source` says.
    pub(crate) more: String,
    /// `--tablespace-mapping`
    mappings: Vec<String>,
}

impl Stage {
    /// Splits `orders` and `tenant*` off a server that also has `stays`.
    pub(crate) fn new(major: Major) -> Result<Self> {
        Self::with(major, &[])
    }

    /// The same with settings of the server.
    pub(crate) fn with(major: Major, settings: &[(&str, &str)]) -> Result<Self> {
        let source = Cluster::builder(major).set_all(settings).start()?;
        for database in ["orders", "tenant_eu_1", "stays"] {
            source.sql(&format!("create database {database}"))?;
            source.sql_in(
                database,
                "create table t as select g, md5(g::text) v from generate_series(1, 2000) g; \
                 create index on t (g); create table acks (worker int, n bigint)",
            )?;
        }
        Self::of(source, "orders,tenant_*")
    }

    pub(crate) fn of(source: Cluster, databases: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("pgherd-test-split-").tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        programs(source.install(), &folder.path().join("bin"))?;
        let port = Port::reserve()?;
        let databases = databases.to_owned();
        let host = source.socket_dir().display().to_string();
        let user = "postgres".to_owned();
        Ok(Self {
            source,
            folder,
            port,
            databases,
            host,
            user,
            more: String::new(),
            mappings: Vec::new(),
        })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path("new")
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port.number()
    }

    /// Puts the tablespace `name` elsewhere.
    pub(crate) fn map(&mut self, name: &str) {
        let old = self.source.tablespaces_dir().join(name);
        self.mappings.push(format!("{}={}", old.display(), self.path(name).display()));
    }

    fn pgherd(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgherd"));
        command.env_clear().env("HOME", self.folder.path()).env("PATH", "/usr/bin:/bin");
        command.arg("split");
        command
    }

    /// `pgherd split` as a whole, without `--yes`.
    pub(crate) fn split(&self, more: &[&str]) -> Command {
        self.split_into("new", self.port(), &self.databases, more)
    }

    /// The same of other databases into another folder.
    pub(crate) fn split_into(
        &self,
        folder: &str,
        port: u16,
        databases: &str,
        more: &[&str],
    ) -> Command {
        let mut command = self.pgherd();
        let Self { host, user, more: rest, .. } = self;
        let source = format!("host={host} port={} user={user} {rest}", self.source.port());
        command.args(["--source", &source, "--databases", databases]);
        command.arg("-D").arg(self.path(folder)).args(["--port", &port.to_string()]);
        command.arg("--bin-dir").arg(self.path("bin"));
        for mapping in &self.mappings {
            command.arg("-T").arg(mapping);
        }
        command.args(more);
        command
    }

    /// `pgherd split finish`, `undo` or `status`.
    pub(crate) fn then(&self, what: &str, more: &[&str]) -> Command {
        let mut command = self.pgherd();
        command.arg(what).args(more);
        command
    }

    /// Splits in one go; gives what it printed.
    pub(crate) fn split_now(&self) -> Result<String> {
        run(&mut self.split(&["--yes"]))
    }

    /// Splits until the target follows, and can be read.
    pub(crate) fn ready(&self) -> Result<()> {
        let printed = run(&mut self.split(&["--yes", "--until-ready"]))?;
        ensure!(printed.contains("ready: "), "{printed}");
        ensure!(self.ask("orders", "select pg_is_in_recovery()")? == "t");
        Ok(())
    }

    /// Stops a target that is ready, with everything on its disk: nothing of it is replayed again.
    pub(crate) fn stop_for_good(&self) -> Result<()> {
        self.source.sql("checkpoint")?;
        let at = self.source.lsn()?;
        wait_until("the target", PATIENCE, || {
            let sql = format!("select pg_last_wal_replay_lsn() >= '{at}'");
            Ok((self.ask("template1", &sql)? == "t").then_some(()))
        })?;
        self.ask("template1", "checkpoint")?;
        self.crash()
    }

    /// The target's first file of a relation, for damage.
    pub(crate) fn target_file(&self, database: &str, relation: &str) -> Result<File> {
        let path = format!("select pg_relation_filepath('{relation}')");
        let path = self.data().join(self.source.sql_in(database, &path)?);
        ensure!(fs::metadata(&path)?.len() > 8192, "{relation} is small");
        Ok(File::options().write(true).open(path)?)
    }

    /// The journal, as text.
    pub(crate) fn journal(&self) -> String {
        let path = self.path(".local/state/pgherd/split/new/journal");
        fs::read_to_string(path).unwrap_or_default()
    }

    pub(crate) fn relay_pid(&self) -> Option<u32> {
        let journal = self.journal();
        let (_, rest) = journal.split_once("\"relay_pid\":")?;
        rest.split(',').next()?.parse().ok()
    }

    /// What a power failure of the new machine does.
    pub(crate) fn crash(&self) -> Result<()> {
        let pid = self.relay_pid().context("no relay runs")?;
        run(Command::new("kill").arg("-KILL").arg(pid.to_string()))?;
        self.crash_server()
    }

    /// The target's server ends at once.
    pub(crate) fn crash_server(&self) -> Result<()> {
        let mut stop = as_server(&self.path("bin/pg_ctl"), &self.data());
        run(stop.arg("stop").arg("-D").arg(self.data()).args(["-m", "immediate", "-s"]))?;
        Ok(())
    }

    /// A session on the target.
    pub(crate) fn target(&self, database: &str) -> Result<Session> {
        let socket = self.source.socket_dir().join(format!(".s.PGSQL.{}", self.port()));
        Session::connect(&socket, database, &[])
    }

    pub(crate) fn ask(&self, database: &str, sql: &str) -> Result<String> {
        self.target(database)?.query(sql)
    }

    /// A client program of the target's major, for the target.
    pub(crate) fn program(&self, program: &str) -> Result<Command> {
        let mut command = self.source.install().client_command(program)?;
        command.env("PGHOST", self.source.socket_dir()).env("PGPORT", self.port().to_string());
        command.env("PGUSER", "postgres").env("PGDATABASE", "postgres");
        Ok(command)
    }

    /// What every finished split has to be.
    pub(crate) fn check_moved(&self, databases: &[&str]) -> Result<()> {
        for database in databases {
            let socket = self.source.socket();
            let refused = Session::connect(&socket, database, &[]).err();
            let refused = format!("{:#}", refused.context("the source lets somebody in")?);
            ensure!(refused.contains("not currently accepting"), "{refused}");
            self.ask(database, "create table if not exists after_the_split (x int)")?;
        }
        ensure!(self.ask("template1", "select pg_is_in_recovery()")? == "f");
        let there = self.ask(
            "template1",
            "select string_agg(datname, ',' order by datname collate \"C\") from pg_database \
             where datallowconn and not datistemplate",
        )?;
        let mut expected: Vec<&str> = databases.to_vec();
        if !expected.contains(&"postgres") {
            expected.push("postgres");
        }
        expected.sort_unstable();
        ensure!(there == expected.join(","), "{there} on the target");
        let slots = "select count(*) from pg_replication_slots";
        ensure!(self.source.sql(slots)? == "0", "a slot is left");
        ensure!(self.relay_pid().is_none(), "a relay is left");
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for folder in ["new", "other"] {
            let file = self.path(folder).join("postmaster.pid");
            let text = fs::read_to_string(file).unwrap_or_default();
            let pid = text.lines().next().and_then(|pid| pid.parse::<u32>().ok());
            if let Some(pid) = pid.filter(|pid| is_ours(*pid, self.folder.path())) {
                drop(Command::new("kill").arg("-QUIT").arg(pid.to_string()).status());
            }
        }
        // Relays of splits that were not ended.
        let relay = format!("relay --own-session --config {}/", self.folder.path().display());
        drop(Command::new("pkill").args(["-KILL", "-f", &relay]).status());
        if std::thread::panicking() {
            eprintln!("journal: {}", self.journal());
            for log in ["new/pgherd-split.log", ".local/state/pgherd/split/new/relay.log"] {
                let text = fs::read_to_string(self.path(log)).unwrap_or_default();
                let lines: Vec<_> = text.lines().collect();
                let tail = lines.get(lines.len().saturating_sub(30)..).unwrap_or_default();
                eprintln!("{log}:\n{}", tail.join("\n"));
            }
        }
    }
}

fn is_ours(pid: u32, folder: &Path) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).contains(&*folder.to_string_lossy())
}

/// Server and client programs side by side, as a distribution installs them.
fn programs(install: &Install, folder: &Path) -> Result<()> {
    fs::create_dir(folder)?;
    for program in ["postgres", "pg_ctl", "initdb"] {
        symlink(install.server(program), folder.join(program))?;
    }
    for program in ["pg_basebackup", "pg_receivewal"] {
        // A later one's, where the major's own are not to be had.
        symlink(install.client_command(program)?.get_program(), folder.join(program))?;
    }
    Ok(())
}

/// Starts a split that is watched.
pub(crate) fn start(command: &mut Command) -> Result<Program> {
    Program::start(command)
}

/// A program in a folder, run by the folder's owner.
pub(crate) fn as_server(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder);
    // Servers of tests belong to somebody else when we are root.
    let owner = fs::metadata(folder).map(|it| (it.uid(), it.gid()));
    if let (true, Ok((uid, gid))) = (rustix::process::geteuid().is_root(), owner) {
        command.uid(uid).gid(gid);
    }
    command
}
