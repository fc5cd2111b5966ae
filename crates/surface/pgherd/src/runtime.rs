//! The asynchronous runtime, and the signals that stop the process.

use anyhow::Context as _;
use sd_notify::NotifyState;
use tasks::CancellationToken;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{debug, info};

/// Runs `work` until it ends by itself or a SIGTERM or SIGINT has stopped it.
///
/// # Errors
///
/// What `work` returned, or why the runtime could not start.
pub(crate) fn run<F, T>(work: impl FnOnce(CancellationToken) -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("start the runtime")?.block_on(async {
        let stop = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
        let work = work(stop.clone());
        tokio::pin!(work);
        let name = tokio::select! {
            outcome = &mut work => return outcome,
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        info!(signal = name, "stopping");
        tell(NotifyState::Stopping);
        stop.cancel();
        work.await
    })
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
