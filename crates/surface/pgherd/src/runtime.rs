//! The asynchronous runtime, and the signals that stop the process.

use std::io;
use std::time::Duration;

use anyhow::Context as _;
use sd_notify::NotifyState;
use tasks::CancellationToken;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{debug, info};

/// How long what still runs in the background may take to end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs `work` until it ends by itself or a SIGTERM, a SIGINT or a terminal that hangs up
/// (SIGHUP) has stopped it.
///
/// # Errors
///
/// What `work` returned, or why the runtime could not start.
pub(crate) fn run<F, T>(work: impl FnOnce(CancellationToken) -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    run_until(work, Signals::of_command)
}

/// The same for a service, for which SIGHUP means something else.
///
/// # Errors
///
/// As [`run`].
pub(crate) fn serve<F, T>(work: impl FnOnce(CancellationToken) -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    run_until(work, Signals::of_service)
}

fn run_until<F, T>(
    work: impl FnOnce(CancellationToken) -> F,
    signals: impl FnOnce() -> io::Result<Signals>,
) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("start the runtime")?;
    let outcome = runtime.block_on(async {
        let stop = CancellationToken::new();
        let mut signals = signals().context("listen for signals")?;
        let work = work(stop.clone());
        tokio::pin!(work);
        let name = tokio::select! {
            outcome = &mut work => return outcome,
            name = signals.first() => name,
        };
        info!(signal = name, "stopping");
        tell(NotifyState::Stopping);
        stop.cancel();
        work.await
    });
    // What a disk holds up in the background is not waited for: nobody needs it any more.
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    outcome
}

/// The signals that stop a process.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Signal>,
}

impl Signals {
    /// Those of a command: a terminal that hangs up is one, unless `nohup` has it ignored, which
    /// listening would undo.
    pub(crate) fn of_command() -> io::Result<Self> {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mut signals = Self::of_service()?;
        if !ignores_hangups(&status) {
            signals.hangup = Some(signal(SignalKind::hangup())?);
        }
        Ok(signals)
    }

    fn of_service() -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt())?, hangup: None })
    }

    /// Waits for one, and gives its name.
    pub(crate) async fn first(&mut self) -> &'static str {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = hangup => "SIGHUP",
        }
    }
}

/// `SigIgn` (proc_pid_status(5)): a bit for each signal, and SIGHUP is the first.
fn ignores_hangups(status: &str) -> bool {
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|it| it & 1 == 1)
}

/// Tells systemd that the service is up, when it has been asked to (`Type=notify`).
pub(crate) fn is_up() {
    tell(NotifyState::Ready);
}

fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        debug!(%error, "systemd was not told");
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn nohup_is_seen() {
        let status =
            |mask: &str| format!("SigBlk:\t0000000000000001\nSigIgn:\t{mask}\nSigCgt:\t1\n");
        assert!(super::ignores_hangups(&status("0000000000001001")));
        assert!(!super::ignores_hangups(&status("0000000000001000")));
        assert!(!super::ignores_hangups(""));
    }
}
