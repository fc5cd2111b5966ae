//! The asynchronous runtime, and the signals that stop the process.

use anyhow::Context as _;
use tasks::CancellationToken;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

/// Runs `work` until it ends by itself or a SIGTERM or SIGINT has stopped it.
///
/// # Errors
///
/// What `work` returned, or why the runtime could not start.
pub(crate) fn run<F, T>(work: impl FnOnce(CancellationToken) -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(worker_threads())
        .enable_all()
        .build();
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
        stop.cancel();
        work.await
    })
}

/// Half of the cores, but one at least.
///
/// One thread carries more than 10 Gbit/s. Another one that has nothing to do waits for the
/// sockets, and is woken for every packet that the busy one is about to read anyway: on two
/// cores that took a tenth more CPU time, from the servers too (`docs/benchmarks.md`).
fn worker_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1))
}
