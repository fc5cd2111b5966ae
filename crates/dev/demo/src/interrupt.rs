//! Ctrl-C, a closed terminal and SIGTERM end the demo between two steps, so that it cleans up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::signal::unix::{SignalKind, signal};

const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Whether somebody wants the demo to end.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Takes over the signals that end a program.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub fn watch() -> Result<Self> {
        let interrupt = Self::default();
        let flag = Arc::clone(&interrupt.0);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [mut interrupted, mut terminated, mut hung_up] = {
            let _inside = runtime.enter();
            let [first, second, third] = kinds.map(signal);
            [first?, second?, third?]
        };
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = interrupted.recv() => {}
                        _ = terminated.recv() => {}
                        _ = hung_up.recv() => {}
                    }
                    flag.store(true, Ordering::Relaxed);
                    // Whoever presses the keys again gets the same: it ends as soon as it can.
                    std::future::pending::<()>().await;
                });
            })
            .context("start a thread")?;
        Ok(interrupt)
    }

    /// Whether it happened.
    #[must_use]
    pub fn happened(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Ends a step when it happened.
    pub(crate) fn check(&self) -> Result<()> {
        ensure!(!self.happened(), "interrupted");
        Ok(())
    }

    /// Sleeps, but not through an interrupt.
    pub(crate) fn sleep(&self, time: Duration) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < time {
            self.check()?;
            thread::sleep(LOOK_INTERVAL.min(time.saturating_sub(begun.elapsed())));
        }
        self.check()
    }
}
