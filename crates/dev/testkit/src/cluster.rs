//! A running server with its data.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use pgtypes::Major;
use rustix::process::Signal;

use crate::builder::{Builder, Folder};
use crate::install::Install;
use crate::port::Port;
use crate::postmaster::{Postmaster, Stop};
use crate::session::Session;
use crate::user;
use crate::wait::{PATIENCE, wait_until};

/// Settings of ours, included at the end of `postgresql.conf`.
const SETTINGS_FILE: &str = "testkit.conf";
const LOG_TAIL_LINES: usize = 40;
const START_TRIES: usize = 20;

/// A PostgreSQL server of a test; stopped and removed when dropped.
///
/// Clusters of the same major have the same system identifier unless asked otherwise
/// ([`Builder::fresh_initdb`]).
#[derive(Debug)]
pub struct Cluster {
    // Before the folder: the server is stopped before its files are removed.
    server: Option<Postmaster>,
    install: Install,
    folder: Folder,
    port: Port,
    settings: BTreeMap<String, String>,
    environment: Vec<(String, String)>,
}

impl Cluster {
    /// Settings for a new cluster of `major`; [`Builder::start`] makes it.
    #[must_use]
    pub fn builder(major: Major) -> Builder {
        Builder::new(major)
    }

    /// A new cluster of `major` with settings of `postgresql.conf`.
    ///
    /// # Errors
    ///
    /// As [`Builder::start`].
    pub fn start_with(major: Major, settings: &[(&str, &str)]) -> Result<Self> {
        Self::builder(major).set_all(settings).start()
    }

    pub(crate) fn new(
        install: Install,
        folder: Folder,
        port: Port,
        settings: BTreeMap<String, String>,
    ) -> Result<Self> {
        let include = format!("\ninclude '{SETTINGS_FILE}'\n");
        let path = folder.data().join("postgresql.conf");
        let text = fs::read_to_string(&path).context("read postgresql.conf")?;
        if !text.ends_with(&include) {
            fs::write(&path, text + &include)?;
        }
        let environment = Vec::new();
        let mut cluster = Self { server: None, install, folder, port, settings, environment };
        let own = [
            ("port", cluster.port.number().to_string()),
            ("unix_socket_directories", cluster.socket_dir().display().to_string()),
        ];
        for (name, value) in own {
            cluster.settings.insert(name.to_owned(), value);
        }
        cluster.write_settings()?;
        Ok(cluster)
    }

    /// Starts the server again after a stop, on the same port.
    ///
    /// # Errors
    ///
    /// When it ends instead of accepting connections; the end of its log is in the error.
    pub fn start(&mut self) -> Result<()> {
        self.spawn()?;
        for _ in 0..START_TRIES {
            let server = self.server.as_mut().context("the server was not started")?;
            if server.wait_ready(&self.folder.data()).with_context(|| self.log_tail())? {
                return Ok(());
            }
            self.server = None;
            // Children of a killed server need a moment to notice that it is gone.
            if !self.log_tail().contains("is still in use") {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
            self.spawn()?;
        }
        bail!("PostgreSQL {} did not start:\n{}", self.major(), self.log_tail())
    }

    /// Starts the server without waiting until it accepts connections.
    ///
    /// # Errors
    ///
    /// When it runs already, or the program cannot be started.
    pub fn spawn(&mut self) -> Result<()> {
        ensure!(self.server.is_none(), "the server runs already");
        let log = self.folder.log();
        self.server =
            Some(Postmaster::spawn(&self.install, &self.data(), &log, &self.environment)?);
        Ok(())
    }

    /// Stops the server and waits for its end.
    ///
    /// # Errors
    ///
    /// When it does not run, or does not end within a minute.
    pub fn stop(&mut self, how: Stop) -> Result<()> {
        let server = self.server.take().context("the server does not run")?;
        server.stop(how).with_context(|| self.log_tail())
    }

    /// Stops (fast) and starts.
    ///
    /// # Errors
    ///
    /// Those of both.
    pub fn restart(&mut self) -> Result<()> {
        self.stop(Stop::Fast)?;
        self.start()
    }

    /// Kills the server process with SIGKILL; [`Cluster::start`] does crash recovery.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn kill9(&mut self) -> Result<()> {
        self.server.take().context("the server does not run")?.kill9()
    }

    /// Whether the server process is there.
    ///
    /// # Errors
    ///
    /// When the system does not tell.
    pub fn is_running(&mut self) -> Result<bool> {
        match &mut self.server {
            Some(server) => Ok(server.ended()?.is_none()),
            None => Ok(false),
        }
    }

    /// Process id of the server.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Postmaster::pid)
    }

    /// Makes the standby a primary and waits for it.
    ///
    /// # Errors
    ///
    /// When the promotion does not end in time.
    pub fn promote(&self) -> Result<()> {
        self.sql("select pg_promote(true, 60)")?;
        self.wait_for("select pg_is_in_recovery()", "f", PATIENCE)
    }

    /// Changes a setting and makes the server read it.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        self.settings.insert(name.to_owned(), value.to_owned());
        self.write_settings()?;
        match &self.server {
            Some(server) => server.signal(Signal::HUP),
            None => Ok(()),
        }
    }

    /// A variable for the environment of the server from its next start on, as `PGPASSWORD`.
    pub fn set_environment(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    fn write_settings(&self) -> Result<()> {
        let mut text = String::new();
        for (name, value) in &self.settings {
            // guc-file.l knows backslash escapes.
            let quoted = value.replace('\\', r"\\").replace('\'', "''");
            writeln!(text, "{name} = '{quoted}'")?;
        }
        let path = self.data().join(SETTINGS_FILE);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        user::give(&path)
    }

    /// A connection to database `database` that stays open.
    ///
    /// # Errors
    ///
    /// When the server refuses.
    pub fn session(&self, database: &str) -> Result<Session> {
        self.session_with(database, &[])
    }

    /// A connection with more startup parameters, as `replication`.
    ///
    /// # Errors
    ///
    /// When the server refuses.
    pub fn session_with(&self, database: &str, extra: &[(&str, &str)]) -> Result<Session> {
        Session::connect(&self.socket(), database, extra)
    }

    /// Asks `sql` in database `postgres` until it gives `expected`.
    ///
    /// # Errors
    ///
    /// The last answer and the end of the log, when it does not within `limit`.
    pub fn wait_for(&self, sql: &str, expected: &str, limit: Duration) -> Result<()> {
        let mut last = String::new();
        let waited = wait_until(&format!("{sql:?} to give {expected:?}"), limit, || {
            last = match self.session("postgres").and_then(|mut session| session.query(sql)) {
                Ok(answer) => answer,
                Err(error) => format!("error: {error:#}"),
            };
            Ok((last == expected).then_some(()))
        });
        waited.with_context(|| format!("last answer {last:?}; log:\n{}", self.log_tail()))
    }

    pub(crate) const fn settings(&self) -> &BTreeMap<String, String> {
        &self.settings
    }

    /// The programs.
    #[must_use]
    pub const fn install(&self) -> &Install {
        &self.install
    }

    /// The major version.
    #[must_use]
    pub const fn major(&self) -> Major {
        self.install.major()
    }

    /// TCP port on 127.0.0.1, and the number in the name of the socket.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port.number()
    }

    /// The data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.data()
    }

    /// `pg_wal`.
    #[must_use]
    pub fn wal_dir(&self) -> PathBuf {
        self.data().join("pg_wal")
    }

    /// Folder for tablespaces outside of the data directory.
    #[must_use]
    pub fn tablespaces_dir(&self) -> PathBuf {
        self.folder.tablespaces()
    }

    /// Folder of the Unix socket, for clients.
    #[must_use]
    pub fn socket_dir(&self) -> PathBuf {
        self.folder.socket_dir()
    }

    /// Path of the Unix socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.socket_dir().join(format!(".s.PGSQL.{}", self.port()))
    }

    /// What the server has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = fs::read(self.folder.log()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The last lines of the log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        let from = lines.len().saturating_sub(LOG_TAIL_LINES);
        lines.get(from..).unwrap_or_default().join("\n")
    }

    /// The environment and arguments that make a client program connect here through TCP.
    pub fn point_client(&self, command: &mut Command) {
        command.env("PGHOST", "127.0.0.1").env("PGPORT", self.port().to_string());
        command.env("PGUSER", "postgres").env("PGDATABASE", "postgres");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("log of PostgreSQL {} on port {}:", self.major(), self.port());
            eprintln!("{}", self.log_tail());
        }
    }
}
