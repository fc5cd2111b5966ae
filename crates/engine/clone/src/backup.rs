//! `pg_basebackup` as a child process.

use std::collections::VecDeque;
use std::io::Result as IoResult;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use pgnet::libpq_variables;
use tasks::CancellationToken;
use tokio::io::{AsyncReadExt as _, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tracing::debug;

use crate::standby::connection_string;
use crate::work::Work;
use crate::writing::sync_what_grows;
use crate::{Error, Options, io};

/// How long the program may take to end once it was told to.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long what it printed last may take to come.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);
/// Lines of its output that are kept for the reason of a failure.
const LINES_KEPT: usize = 12;
/// The last words before the server makes its checkpoint.
const WAITING: &str = "waiting for checkpoint to complete";
/// Longest line that is looked at.
const LINE_BYTES_MAX: usize = 16 * 1024;

/// How far a backup is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// What has come, in bytes.
    pub done_bytes: u64,
    /// What will come, in bytes; an estimate. Zero while the server still makes its checkpoint.
    pub total_bytes: u64,
}

/// How much a backup asks of the server at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// What the server sends at most, in kB a second; no limit when it is not given.
    pub max_rate_kb: Option<u32>,
    /// Whether the checkpoint before it is spread over time, as the server's own are.
    pub is_spread: bool,
}

/// What the program has printed.
#[derive(Debug, Default)]
struct Said {
    slot_was_made: bool,
    /// Some errors of syncing it only prints.
    has_failed: bool,
    /// The last lines, for the reason of a failure.
    last: VecDeque<String>,
}

/// Takes the backup into the folder of `work`.
pub(crate) async fn take(
    options: &Options,
    work: &mut Work,
    progress: &mut impl FnMut(Progress),
    stop: &CancellationToken,
) -> Result<(), Error> {
    let mut command = command(options, "pg_basebackup");
    command.arg("--pgdata").arg(work.data());
    command.args(["--wal-method=stream", "--progress", "--verbose"]);
    command.arg(if options.pace.is_spread { "--checkpoint=spread" } else { "--checkpoint=fast" });
    if let Some(rate) = options.pace.max_rate_kb {
        command.arg(format!("--max-rate={rate}k"));
    }
    if let Some(slot) = &options.slot {
        command.args(["--create-slot", "--slot", slot]);
    }
    for (from, to) in &options.mapping {
        let (from, to) = (escaped(from), escaped(to));
        command.arg("--tablespace-mapping").arg(format!("{from}={to}"));
    }
    command.stdin(work.input()?).stdout(Stdio::null()).stderr(Stdio::piped());
    let program = options.programs.path("pg_basebackup");
    work.slot_may_be_made()?;
    let mut child = command.spawn().map_err(io("run", &program))?;
    let mut said = Said::default();
    let done = CancellationToken::new();
    let _done_when_dropped = done.clone().drop_guard();
    let syncing = sync_what_grows(work.folders(options), options.owner.clone(), done.clone());
    let mut syncing = pin!(syncing);
    let (ended, is_synced) = tokio::select! {
        status = watch(&mut child, progress, &mut said) => (status.map_err(io("wait for", &program)), false),
        // Before it is told to it ends only with a failure.
        synced = &mut syncing => (synced.and(Err(Error::Stopped)), true),
        () = stop.cancelled() => (Err(Error::Stopped), false),
    };
    done.cancel();
    let status = match ended {
        Ok(status) => status,
        Err(error) => {
            end(&mut child).await;
            work.end_program();
            if !is_synced {
                tokio::time::timeout(STOP_TIMEOUT, syncing).await.ok();
            }
            return Err(error);
        }
    };
    // The file that is just being synced counts, too.
    tokio::select! {
        synced = syncing => synced?,
        () = stop.cancelled() => return Err(Error::Stopped),
    }
    if status.success() && !said.has_failed {
        return Ok(());
    }
    work.end_program();
    // One that was killed may have made it and said nothing.
    if !said.slot_was_made && status.code().is_some() {
        work.slot_was_not_made();
    }
    let reason = Vec::from(said.last).join("\n");
    let reason = if reason.is_empty() { status.to_string() } else { reason };
    Err(Error::Backup { program: "pg_basebackup", reason })
}

/// Drops a slot that a clone made, or may have made.
pub(crate) async fn drop_slot(options: &Options, slot: &str) -> Result<(), Error> {
    let dropped = receivewal(options, &["--drop-slot", "--slot", slot]).await;
    let Err(Error::Backup { reason, .. }) = &dropped else { return dropped };
    if reason.contains("does not exist") {
        return Ok(());
    }
    // A server may say it in any language. One that has the slot then has none to drop.
    receivewal(options, &["--create-slot", "--if-not-exists", "--slot", slot]).await?;
    receivewal(options, &["--drop-slot", "--slot", slot]).await
}

async fn receivewal(options: &Options, arguments: &[&str]) -> Result<(), Error> {
    let mut command = command(options, "pg_receivewal");
    command.args(arguments).stdin(Stdio::null());
    let program = options.programs.path("pg_receivewal");
    let output = tokio::time::timeout(STOP_TIMEOUT, command.output()).await;
    let failed = |reason: String| Error::Backup { program: "pg_receivewal", reason };
    let output = output.map_err(|_elapsed| failed("it does not end".into()))?;
    let output = output.map_err(io("run", &program))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).trim_end().to_owned()))
}

/// A program that connects to the source; messages are read, and so in English.
fn command(options: &Options, program: &str) -> Command {
    let mut pairs = options.source.pairs();
    pairs.push(("application_name", options.name.clone()));
    pairs.extend(options.user.clone().map(|user| ("user", user)));
    let mut command = Command::new(options.programs.path(program));
    command.env("LC_ALL", "C").env_remove("PGOPTIONS").env_remove("PGAPPNAME");
    if options.source.is_own {
        for name in libpq_variables() {
            command.env_remove(name);
        }
    }
    if let Some(passfile) = &options.passfile {
        // The variable would win over the file.
        command.env("PGPASSFILE", passfile).env_remove("PGPASSWORD");
    }
    command.arg("--dbname").arg(connection_string(&pairs)).arg("--no-password");
    if let Some(owner) = &options.owner {
        command.uid(owner.uid).gid(owner.gid).env("HOME", &owner.home).current_dir("/");
    }
    // Ctrl-C is for us: we end the program and clean up behind it.
    command.process_group(0).kill_on_drop(true);
    command
}

/// Waits for the end of the program, and reads what it prints.
async fn watch(
    child: &mut Child,
    progress: &mut impl FnMut(Progress),
    said: &mut Said,
) -> IoResult<ExitStatus> {
    let output = child.stderr.take();
    let mut reading = pin!(follow(output, progress, said));
    let status = tokio::select! {
        () = &mut reading => return child.wait().await,
        status = child.wait() => status?,
    };
    // The process that receives WAL has the same output, and lives on when only the program itself
    // was killed.
    tokio::time::timeout(LAST_WORDS_TIMEOUT, reading).await.ok();
    Ok(status)
}

/// Reads what the program prints until it closes its output.
async fn follow(output: Option<ChildStderr>, progress: &mut impl FnMut(Progress), said: &mut Said) {
    let Some(output) = output else { return };
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    // Progress comes in lines of its own, which end with a carriage return on some versions.
    while let Ok(byte) = output.read_u8().await {
        if !matches!(byte, b'\n' | b'\r') {
            if line.len() < LINE_BYTES_MAX {
                line.push(byte);
            }
            continue;
        }
        let text = String::from_utf8_lossy(&line).trim().to_owned();
        line.clear();
        if let Some(now) = progress_of(&text) {
            progress(now);
        } else if !text.is_empty() {
            debug!(line = text, "pg_basebackup");
            if text.ends_with(WAITING) {
                progress(Progress::default());
            }
            // Only with the option to make one, and only when the server has made it.
            said.slot_was_made |= text.contains("created replication slot");
            said.has_failed |= text.contains(": error: ");
            said.last.push_back(text);
            if said.last.len() > LINES_KEPT {
                said.last.pop_front();
            }
        }
    }
}

/// `12345/67890 kB (18%), 0/2 tablespaces`
fn progress_of(line: &str) -> Option<Progress> {
    let (numbers, rest) = line.split_once(" kB (")?;
    let (done, total) = numbers.split_once('/')?;
    if !rest.contains("tablespace") {
        return None;
    }
    let bytes = |number: &str| number.trim().parse::<u64>().ok()?.checked_mul(1024);
    Some(Progress { done_bytes: bytes(done)?, total_bytes: bytes(total)? })
}

async fn end(child: &mut Child) {
    let pid =
        child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // What it made is ours to remove.
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
    }
    if tokio::time::timeout(STOP_TIMEOUT, child.wait()).await.is_err() {
        // One that the disk holds may not even take this.
        child.start_kill().ok();
        tokio::time::timeout(STOP_TIMEOUT, child.wait()).await.ok();
    }
}

/// A path for `--tablespace-mapping`, where `=` separates.
fn escaped(path: &std::path::Path) -> String {
    path.to_string_lossy().replace('=', r"\=")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_progress_and_nothing_else() {
        let progress = Progress { done_bytes: 12_641_280, total_bytes: 69_519_360 };
        assert_eq!(progress_of("12345/67890 kB (18%), 0/2 tablespaces"), Some(progress));
        let with_name = "  12345/67890 kB (18%), 0/1 tablespace (/srv/x/base/5/1259)";
        assert_eq!(progress_of(with_name), Some(progress));
        assert_eq!(progress_of("pg_basebackup: checkpoint completed"), None);
        assert_eq!(progress_of("1/x kB (3%), 0/1 tablespace"), None);
    }
}
