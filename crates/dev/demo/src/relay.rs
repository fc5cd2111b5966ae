//! `pgherd relay` as a process of its own, with a file for its log: it may outlive the demo.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use testkit::{PATIENCE, Port, wait_until};

/// How long it may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// A running relay; stopped when dropped.
#[derive(Debug)]
pub(crate) struct Relay {
    child: Child,
    folder: PathBuf,
    port: Port,
}

impl Relay {
    /// Starts it between `upstream_port` and a port of its own; its files go into `folder`.
    pub(crate) fn start(
        pgherd: &Path,
        folder: &Path,
        upstream_port: u16,
        configurations: &str,
    ) -> Result<Self> {
        let port = Port::reserve()?;
        let config = folder.join("relay.yaml");
        let text = format!(
            "listen: [\"127.0.0.1:{}\"]\nupstream: {{host: 127.0.0.1, port: {upstream_port}}}\n\
             state_dir: {}\n{configurations}",
            port.number(),
            folder.join("state").display(),
        );
        fs::write(&config, text).context("write the relay's configuration")?;
        let log = File::create(folder.join("relay.log")).context("make the relay's log")?;
        let mut command = Command::new(pgherd);
        command.arg("relay").arg("-c").arg(&config).env_clear().env("HOME", folder);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // A closed terminal or Ctrl-C is for the demo, which then stops the relay itself.
        command.process_group(0);
        let child = command.spawn().with_context(|| format!("start {}", pgherd.display()))?;
        let mut relay = Self { child, folder: folder.to_owned(), port };
        relay.wait_for_line("listening")?;
        Ok(relay)
    }

    /// Waits for a line of the log that contains `part`; gives the newest.
    pub(crate) fn wait_for_line(&mut self, part: &str) -> Result<String> {
        let log = self.log();
        wait_until(&format!("{part:?} in the relay's log"), PATIENCE, || {
            let text = fs::read_to_string(&log)?;
            if let Some(status) = self.child.try_wait()? {
                bail!("the relay ended with {status}:\n{text}");
            }
            Ok(text.lines().rfind(|line| line.contains(part)).map(str::to_owned))
        })
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port.number()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.folder.join("relay.yaml")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join("relay.log")
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let (Ok(None), Some(pid)) = (self.child.try_wait(), pid) {
            kill_process(pid, Signal::TERM).ok();
        }
        let begun = Instant::now();
        while let Ok(None) = self.child.try_wait() {
            if begun.elapsed() > STOP_LIMIT {
                self.child.kill().ok();
                self.child.wait().ok();
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}
