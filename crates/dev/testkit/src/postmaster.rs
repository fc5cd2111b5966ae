//! A server process: started as our own child, so that it dies with the test at the latest.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::install::{Install, clean_command};
use crate::user;
use crate::wait::wait_until;

/// How a server is stopped; the modes of `pg_ctl stop`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Waits for clients to leave.
    Smart,
    /// Disconnects clients, writes a checkpoint and sends all WAL.
    Fast,
    /// As a crash: recovery follows at the next start.
    Immediate,
}

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// `LOCK_FILE_LINE_PM_STATUS` (`miscadmin.h`), counted from zero.
const STATUS_LINE: usize = 7;

/// A running `postgres`.
#[derive(Debug)]
pub(crate) struct Postmaster {
    child: Child,
}

impl Postmaster {
    /// Starts the server on `data`; `environment` is for libpq inside it (`PGPASSFILE`, ...).
    pub(crate) fn spawn(
        install: &Install,
        data: &Path,
        log: &Path,
        environment: &[(String, String)],
    ) -> Result<Self> {
        let log = OpenOptions::new().create(true).append(true).open(log)?;
        let mut command = clean_command(&install.server("postgres"));
        command.arg("-D").arg(data).envs(environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        user::run_as_server(&mut command)?;
        let child = command.spawn().with_context(|| format!("start {command:?}"))?;
        Ok(Self { child })
    }

    /// Waits until the server accepts connections; `false` when it ended instead.
    pub(crate) fn wait_ready(&mut self, data: &Path) -> Result<bool> {
        let pid = self.child.id().to_string();
        wait_until("the server to accept connections", START_LIMIT, || {
            if self.child.try_wait()?.is_some() {
                return Ok(Some(false));
            }
            // Absent or half written while the server starts.
            let text = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
            let ours = text.lines().next() == Some(pid.as_str());
            let status = text.lines().nth(STATUS_LINE).map(str::trim);
            let ready = ours && matches!(status, Some("ready" | "standby"));
            Ok(ready.then_some(true))
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The status with which the server ended, if it did.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        signal_child(&self.child, signal)
    }

    /// Stops the server and waits for its end.
    pub(crate) fn stop(mut self, how: Stop) -> Result<()> {
        self.signal(match how {
            Stop::Smart => Signal::TERM,
            Stop::Fast => Signal::INT,
            Stop::Immediate => Signal::QUIT,
        })?;
        wait_ended(&mut self.child, STOP_LIMIT).context("stop the server")?;
        Ok(())
    }

    /// Kills the process as the OOM killer would; its children notice and go.
    pub(crate) fn kill9(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Postmaster {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let asked = self.signal(Signal::QUIT);
            if asked.is_err() || wait_ended(&mut self.child, Duration::from_secs(10)).is_err() {
                drop(self.child.kill());
                drop(self.child.wait());
            }
        }
    }
}

/// Sends a signal to a child that has not been waited for.
pub(crate) fn signal_child(child: &Child, signal: Signal) -> Result<()> {
    let pid = i32::try_from(child.id())?;
    let pid = Pid::from_raw(pid).context("child without a pid")?;
    kill_process(pid, signal).with_context(|| format!("send {signal:?} to {}", child.id()))
}

/// Waits for the end of a child.
pub(crate) fn wait_ended(child: &mut Child, limit: Duration) -> Result<ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if start.elapsed() > limit {
            bail!("process {} has not ended after {limit:?}", child.id());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
