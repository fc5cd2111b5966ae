//! A program under test as a child process: its output, signals, end, memory and CPU time.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::postmaster::{signal_child, wait_ended};
use crate::wait::wait_until;

/// `USER_HZ`: what `/proc/PID/stat` counts CPU time in, the same on every Linux.
const TICKS_A_SECOND: f64 = 100.0;

/// How long what an ended program printed may be on its way while another one holds its pipe.
const READ_LIMIT: Duration = Duration::from_secs(5);

/// A running program; killed when dropped.
#[derive(Debug)]
pub struct Program {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Program {
    /// Starts `command` without input; what it prints on stdout and stderr is kept by lines.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
        let lines = Arc::default();
        if let Some(stdout) = child.stdout.take() {
            keep_lines(stdout, &lines);
        }
        if let Some(stderr) = child.stderr.take() {
            keep_lines(stderr, &lines);
        }
        Ok(Self { child, lines })
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The lines printed so far.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was printed so far.
    #[must_use]
    pub fn text(&self) -> String {
        self.lines().join("\n")
    }

    /// Waits for a line that contains `part`, also among those printed before.
    ///
    /// # Errors
    ///
    /// Everything printed, when no such line comes within `limit` or the program ends without it.
    pub fn wait_for_line(&mut self, part: &str, limit: Duration) -> Result<String> {
        self.wait_for_line_after(0, part, limit)
    }

    /// As [`Program::wait_for_line`], without the first `seen` lines.
    ///
    /// # Errors
    ///
    /// As [`Program::wait_for_line`].
    pub fn wait_for_line_after(
        &mut self,
        seen: usize,
        part: &str,
        limit: Duration,
    ) -> Result<String> {
        let mut ended: Option<Instant> = None;
        let found = wait_until(&format!("a line with {part:?}"), limit, || {
            // Its last lines may still be on their way.
            let is_read = self.is_read();
            let is_over = ended.is_some_and(|at| is_read || at.elapsed() > READ_LIMIT);
            let line = self.lines().into_iter().skip(seen).find(|line| line.contains(part));
            if line.is_none() && is_over {
                bail!("the program ended without a line with {part:?}");
            }
            if ended.is_none() && self.child.try_wait()?.is_some() {
                ended = Some(Instant::now());
            }
            Ok(line)
        });
        found.with_context(|| format!("it printed:\n{}", self.text()))
    }

    /// Sends a signal.
    ///
    /// # Errors
    ///
    /// When the program has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        signal_child(&self.child, signal)
    }

    /// Kills the program with SIGKILL and waits for its end.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub fn kill9(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits for the end, and for the last lines that were printed before it.
    ///
    /// # Errors
    ///
    /// When it does not come within `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let status = wait_ended(&mut self.child, limit);
        let status = status.with_context(|| format!("it printed:\n{}", self.text()))?;
        let ended = Instant::now();
        while !self.is_read() && ended.elapsed() < READ_LIMIT {
            thread::sleep(Duration::from_millis(1));
        }
        Ok(status)
    }

    /// Whether all that was printed has been read: each reader goes when it sees the end, unless
    /// somebody inherited the pipe.
    fn is_read(&self) -> bool {
        Arc::strong_count(&self.lines) == 1
    }

    /// Whether the program has not ended.
    ///
    /// # Errors
    ///
    /// When the system does not tell.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Memory in use, in kB: `VmRSS`.
    ///
    /// # Errors
    ///
    /// When the program has ended.
    pub fn rss_kb(&self) -> Result<u64> {
        self.status_kb("VmRSS:")
    }

    /// The most memory that was in use, in kB: `VmHWM`.
    ///
    /// # Errors
    ///
    /// When the program has ended.
    pub fn peak_rss_kb(&self) -> Result<u64> {
        self.status_kb("VmHWM:")
    }

    /// The most memory of its own that was in use, in kB: without the pages of the program's file,
    /// which in a debug build are most of all, and which the kernel can drop at any time.
    ///
    /// # Errors
    ///
    /// When the program has ended.
    pub fn peak_own_kb(&self) -> Result<u64> {
        // There is no high-water mark of anonymous pages; those of the file only grow.
        Ok(self.peak_rss_kb()?.saturating_sub(self.status_kb("RssFile:")?))
    }

    fn status_kb(&self, name: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next());
        Ok(number.with_context(|| format!("no {name} of an ended process"))?.parse()?)
    }

    /// CPU time used by all its threads and by children that it has waited for, user and
    /// system, in seconds.
    ///
    /// # Errors
    ///
    /// When the program has ended.
    pub fn cpu_secs(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        // The second field is the name in parentheses, which may hold anything.
        let (_, fields) = stat.rsplit_once(')').context("stat without a name")?;
        let ticks = fields.split_whitespace().skip(11).take(4);
        let ticks: Vec<f64> = ticks.map(str::parse).collect::<Result<_, _>>()?;
        Ok(ticks.iter().sum::<f64>() / TICKS_A_SECOND)
    }

    /// How many files and sockets are open.
    ///
    /// # Errors
    ///
    /// When the program has ended.
    pub fn open_files(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
        if thread::panicking() {
            eprintln!("the program printed:\n{}", self.text());
        }
    }
}

fn keep_lines(from: impl Read + Send + 'static, to: &Arc<Mutex<Vec<String>>>) {
    let to = Arc::clone(to);
    thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n') {
            let Ok(line) = line else { break };
            let line = String::from_utf8_lossy(&line).into_owned();
            to.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    });
}
