//! `pgherd relay` between a primary and its standbys.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::port::Port;
use crate::program::Program;
use crate::wait::PATIENCE;

/// Part of the log line that says that clients may come.
const LISTENING: &str = "listening";

/// A relay with its configuration file, port and state; it keeps these over restarts.
#[derive(Debug)]
pub struct Relay {
    program: Option<Program>,
    binary: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    folder: TempDir,
    port: Port,
    /// Keys and values of `upstream`.
    upstream: String,
    more: String,
}

impl Relay {
    /// Starts the `pgherd` at `binary` as a relay in front of `upstream_port`, and waits until it
    /// listens. `more` is YAML that follows `listen`, `upstream` and `state_dir` in its
    /// configuration: `configurations: ...`.
    ///
    /// # Errors
    ///
    /// When it ends, or does not listen in time; what it printed is in the error.
    pub fn start(binary: &Path, upstream_port: u16, more: &str) -> Result<Self> {
        let mut relay = Self::prepare(binary, upstream_port, more)?;
        relay.run()?;
        Ok(relay)
    }

    /// As [`Relay::start`], but leaves it stopped: for more arguments and variables.
    ///
    /// # Errors
    ///
    /// When the configuration cannot be written.
    pub fn prepare(binary: &Path, upstream_port: u16, more: &str) -> Result<Self> {
        Self::prepare_upstream(binary, &one(upstream_port), more)
    }

    /// As [`Relay::prepare`], with the keys and values of `upstream`: `hosts: [...], ...`.
    ///
    /// # Errors
    ///
    /// When the configuration cannot be written.
    pub fn prepare_upstream(binary: &Path, upstream: &str, more: &str) -> Result<Self> {
        let relay = Self {
            program: None,
            binary: binary.to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            folder: tempfile::Builder::new().prefix("pgherd-test-relay-").tempdir()?,
            port: Port::reserve()?,
            upstream: upstream.to_owned(),
            more: more.to_owned(),
        };
        relay.write_config()?;
        Ok(relay)
    }

    /// One more argument of the command line from the next start on.
    pub fn argument(&mut self, argument: &str) {
        self.arguments.push(argument.to_owned());
    }

    /// A variable of the environment from the next start on.
    pub fn set_environment(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Puts other YAML after `state_dir` in the configuration, for the next start.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn reconfigure(&mut self, more: &str) -> Result<()> {
        more.clone_into(&mut self.more);
        self.write_config()
    }

    /// Another upstream, for the next start.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn set_upstream(&mut self, port: u16) -> Result<()> {
        self.upstream = one(port);
        self.write_config()
    }

    fn write_config(&self) -> Result<()> {
        let text = format!(
            "listen: [\"127.0.0.1:{}\"]\nupstream: {{{}}}\nstate_dir: {}\n{}\n",
            self.port(),
            self.upstream,
            self.state_dir().display(),
            self.more
        );
        fs::write(self.config(), text).context("write the relay's configuration")
    }

    /// Starts the program and waits until it listens.
    ///
    /// # Errors
    ///
    /// As [`Relay::start`].
    pub fn run(&mut self) -> Result<()> {
        self.spawn()?;
        self.program()?.wait_for_line(LISTENING, PATIENCE)?;
        Ok(())
    }

    /// Starts the program without waiting.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn spawn(&mut self) -> Result<()> {
        let mut command = Command::new(&self.binary);
        // Nothing from outside, as PGPASSWORD, may decide a test; the log level may be asked for.
        command.env_clear().envs(std::env::var_os("RUST_LOG").map(|level| ("RUST_LOG", level)));
        command.env("HOME", self.folder.path()).env("PATH", "/usr/bin:/bin");
        command.envs(self.environment.iter().cloned());
        command.args(["relay", "-c"]).arg(self.config()).args(&self.arguments);
        self.program = Some(Program::start(&mut command)?);
        Ok(())
    }

    /// Ends it with SIGTERM and waits.
    ///
    /// # Errors
    ///
    /// When it does not end in time.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        let mut program = self.program.take().context("the relay does not run")?;
        program.signal(Signal::TERM)?;
        program.wait(PATIENCE)
    }

    /// Kills it with SIGKILL.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn kill9(&mut self) -> Result<()> {
        self.program.take().context("the relay does not run")?.kill9()
    }

    /// The running program.
    ///
    /// # Errors
    ///
    /// When it was stopped.
    pub fn program(&mut self) -> Result<&mut Program> {
        self.program.as_mut().context("the relay does not run")
    }

    /// Waits for a line of the log that contains `part`.
    ///
    /// # Errors
    ///
    /// As [`Program::wait_for_line`].
    pub fn wait_for_line(&mut self, part: &str, limit: Duration) -> Result<String> {
        self.program()?.wait_for_line(part, limit)
    }

    /// Lines of the log, since the last start, that report a warning or an error.
    #[must_use]
    pub fn alarms(&self) -> Vec<String> {
        let lines = self.program.as_ref().map(Program::lines).unwrap_or_default();
        let alarm = |line: &String| line.contains("WARN") || line.contains("ERROR");
        lines.into_iter().filter(alarm).collect()
    }

    /// The port that standbys connect to.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port.number()
    }

    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("relay.yaml")
    }

    /// The folder of its state.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }
}

/// An upstream that stays where it is.
fn one(port: u16) -> String {
    format!("host: 127.0.0.1, port: {port}")
}
