//! Tasks that live and die together.
//!
//! Every task of the process is started through a [`Group`]: it has a name, an owner that
//! joins it, and a token that tells it to stop. Nothing is left running unseen.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use anyhow::Context as _;
use tokio::task::{Id, JoinError, JoinSet};
pub use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug_span, warn};

/// Tasks with one owner and one stop.
#[derive(Debug)]
pub struct Group {
    stop: CancellationToken,
    tasks: JoinSet<anyhow::Result<()>>,
    names: HashMap<Id, &'static str>,
}

impl Group {
    /// An empty group that stops when `stop` is cancelled.
    #[must_use]
    pub fn new(stop: CancellationToken) -> Self {
        Self { stop, tasks: JoinSet::new(), names: HashMap::new() }
    }

    /// Starts a task; `work` gets the token that it has to watch.
    pub fn spawn<F>(&mut self, name: &'static str, work: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let future = work(self.stop.child_token()).instrument(debug_span!("task", name));
        let handle = self.tasks.spawn(future);
        self.names.insert(handle.id(), name);
    }

    /// How many tasks have not been joined.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether there is nothing left to join.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Joins the next task that ends; never ready when there is none. Cancel-safe.
    ///
    /// # Errors
    ///
    /// What the task returned, or its panic, with its name.
    pub async fn joined(&mut self) -> anyhow::Result<()> {
        match self.tasks.join_next_with_id().await {
            Some(joined) => self.settle(joined),
            None => std::future::pending().await,
        }
    }

    /// Waits for all tasks; after a stop, or a failure, for at most `grace`.
    ///
    /// # Errors
    ///
    /// The error, or the panic, of the task that failed first.
    pub async fn finish(mut self, grace: Duration) -> anyhow::Result<()> {
        let stop = self.stop.clone();
        let mut outcome = Ok(());
        while outcome.is_ok() && !self.is_empty() {
            tokio::select! {
                joined = self.joined() => outcome = joined,
                () = stop.cancelled() => break,
            }
        }
        stop.cancel();
        let drain = async {
            while !self.is_empty() {
                let settled = self.joined().await;
                outcome = std::mem::replace(&mut outcome, Ok(())).and(settled);
            }
        };
        if tokio::time::timeout(grace, drain).await.is_err() {
            let mut late: Vec<_> = self.names.values().copied().collect();
            late.sort_unstable();
            late.dedup();
            warn!(?grace, ?late, "tasks did not stop in time and are aborted");
            self.tasks.shutdown().await;
        }
        outcome
    }

    fn settle(
        &mut self,
        joined: Result<(Id, anyhow::Result<()>), JoinError>,
    ) -> anyhow::Result<()> {
        let id = match &joined {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let name = self.names.remove(&id).unwrap_or("unnamed");
        match joined {
            Ok((_, outcome)) => outcome.with_context(|| format!("task {name}")),
            Err(error) => Err(error).with_context(|| format!("task {name} broke off")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failure_stops_the_others_and_is_reported_by_name() {
        let stop = CancellationToken::new();
        let mut group = Group::new(stop.clone());
        group.spawn("waits", |stop| async move {
            stop.cancelled().await;
            Ok(())
        });
        group.spawn("fails", |_stop| async { anyhow::bail!("no luck") });
        let error = group.finish(Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(format!("{error:#}"), "task fails: no luck");
        assert!(stop.is_cancelled());
    }

    #[tokio::test]
    async fn a_task_that_ignores_the_stop_is_aborted_after_the_grace() {
        let stop = CancellationToken::new();
        let mut group = Group::new(stop.clone());
        group.spawn("deaf", |_stop| std::future::pending());
        stop.cancel();
        group.finish(Duration::from_millis(20)).await.unwrap();
    }
}
