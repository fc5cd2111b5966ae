//! Processes that outlive the one that started them.

use std::fs;
use std::path::PathBuf;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

fn number(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// Whether process `pid` runs and has `part` in its command line: the number alone may have gone
/// to somebody else meanwhile.
pub(crate) fn is_running(pid: u32, part: &str) -> bool {
    let Some(process) = number(pid) else { return false };
    match fs::read(format!("/proc/{pid}/cmdline")) {
        Ok(line) => String::from_utf8_lossy(&line).contains(part),
        Err(_) if fs::exists("/proc/self/cmdline").unwrap_or(false) => false,
        // No such file system: the number has to do.
        Err(_) => test_kill_process(process).is_ok(),
    }
}

/// The working directory of a process, when it can be told.
pub(crate) fn folder(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/cwd")).ok()
}

/// The process that has `part` in its command line, if it can be told: one that was started by
/// somebody who was killed before he could write its number down.
pub(crate) fn find(part: &str) -> Option<u32> {
    let own = std::process::id();
    let entries = fs::read_dir("/proc").ok()?.flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| *pid != own).find(|pid| is_running(*pid, part))
}

/// Asks a process to end.
pub(crate) fn terminate(pid: u32) {
    if let Some(process) = number(pid) {
        // It may have ended already.
        kill_process(process, Signal::TERM).ok();
    }
}
