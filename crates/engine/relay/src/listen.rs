//! Accepts clients, and gives each a task.

use std::sync::Arc;
use std::time::{Duration, Instant};

use alarm::Code;
use pgnet::{Accepted, Listener};
use tasks::{CancellationToken, Group};
use tracing::{error, info, warn};

use crate::counters::Refusal;
use crate::service::{Current, DRAIN_TIMEOUT};
use crate::session;

/// Pause after the system could not accept a connection (out of files, as a rule).
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Between two lines of the log about that.
const ACCEPT_TOLD_EVERY: Duration = Duration::from_secs(10);
/// Clients over the limit that are told so at the same time; more are cut off.
const TURNED_AWAY_MAX: usize = 64;

/// Serves a socket until `stop`. After `removed` nobody else is let in, and those who are there
/// stay.
pub(crate) async fn serve(
    listener: Listener,
    current: Arc<Current>,
    removed: CancellationToken,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let address = listener.local().clone();
    let mut door = Door {
        clients: Group::new(stop.clone()),
        turned_away: Group::new(stop.clone()),
        stop: stop.clone(),
        current,
    };
    let mut told = None;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => door.let_in(accepted),
                Err(error) => {
                    if told.is_none_or(|at: Instant| at.elapsed() > ACCEPT_TOLD_EVERY) {
                        warn!(%error, "cannot accept a connection");
                        told = Some(Instant::now());
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            () = door.joined() => {}
            () = removed.cancelled() => break,
            () = stop.cancelled() => break,
        }
    }
    drop(listener);
    if removed.is_cancelled() {
        info!(%address, "not listening any more");
    }
    while !door.clients.is_empty() && !stop.is_cancelled() {
        tokio::select! {
            () = door.joined() => {}
            () = stop.cancelled() => {}
        }
    }
    door.clients.finish(DRAIN_TIMEOUT).await
}

struct Door {
    clients: Group,
    turned_away: Group,
    stop: CancellationToken,
    current: Arc<Current>,
}

impl Door {
    fn let_in(&mut self, accepted: Accepted) {
        let context = self.current.context();
        context.counters.connections.add(1);
        let (clients, limit) = (&context.clients, context.config.limits.max_connections);
        let stop = self.stop.child_token();
        let Some(ticket) = clients.admit(&accepted.name, limit, stop) else {
            context.counters.refuse(Refusal::TooManyConnections);
            if self.turned_away.len() < TURNED_AWAY_MAX {
                self.turned_away.spawn("turn away", |_stop| async move {
                    session::turn_away(accepted, context).await;
                    Ok(())
                });
            }
            return;
        };
        let current = Arc::clone(&self.current);
        self.clients.spawn("client", |_stop| async move {
            session::serve(accepted, &current, ticket).await;
            Ok(())
        });
    }

    /// Waits for a client to end.
    async fn joined(&mut self) {
        let ended = tokio::select! {
            ended = self.clients.joined() => ended,
            ended = self.turned_away.joined() => ended,
        };
        if let Err(error) = ended {
            // Sessions log their own errors: this is a panic, and a defect of ours.
            error!(code = %Code::Defect, error = format!("{error:#}"), "a session broke off; please report this");
        }
    }
}
