//! Takes over another configuration while the relay runs.
//!
//! New sockets are opened first: when one cannot be, nothing has changed. Then the new
//! configuration holds for whoever comes, and those for whom it means something else are told to
//! leave; they come back by themselves. All others notice nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use config::Listen;
use pgnet::{Listener, Local};
use tasks::CancellationToken;
use tokio::sync::oneshot;
use tracing::info;

use crate::clients::Clients;
use crate::service::{self, Current, DRAIN_TIMEOUT, Error, Options};
use crate::upstream::Upstream;
use crate::verifiers::Secret;

/// Between two looks at who is still there.
const LEAVE_INTERVAL: Duration = Duration::from_millis(20);

/// Other settings, and who wants to know what became of them.
pub(crate) struct Reload {
    pub(crate) options: Options,
    pub(crate) answer: oneshot::Sender<Result<Reloaded, ReloadError>>,
}

/// What a change of the configuration did.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Reloaded {
    /// Clients that go on.
    pub kept: usize,
    /// Clients that have to connect again, because the change is about them.
    pub reconnected: usize,
    /// Addresses that are new.
    pub opened: Vec<String>,
    /// Addresses that are no longer listened on.
    pub closed: Vec<String>,
}

/// Why the old configuration stays.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// Settings that hold for the life of the process were changed.
    #[error("{} cannot change while the relay runs: restart it", .0.join(", "))]
    Fixed(Vec<&'static str>),
    /// A new address, or the folder for state, cannot be used.
    #[error(transparent)]
    World(#[from] Error),
    /// The relay is stopping.
    #[error("the relay is stopping, and takes no new configuration")]
    Stopping,
}

/// The sockets that are open, by what the configuration calls them.
#[derive(Debug, Default)]
pub(crate) struct Sockets(HashMap<Listen, (Local, CancellationToken)>);

impl Sockets {
    /// Notes an open socket; gives the token that closes it.
    pub(crate) fn open(&mut self, listen: Listen, local: Local) -> CancellationToken {
        let removed = CancellationToken::new();
        self.0.insert(listen, (local, removed.clone()));
        removed
    }

    fn has(&self, listen: &Listen) -> bool {
        self.0.contains_key(listen)
    }

    /// Closes what is not in `wanted`; gives the addresses.
    fn keep_only(&mut self, wanted: &[Listen]) -> Vec<String> {
        let mut closed = Vec::new();
        self.0.retain(|listen, (local, removed)| {
            let stays = wanted.contains(listen);
            if !stays {
                removed.cancel();
                closed.push(local.to_string());
            }
            stays
        });
        closed
    }
}

/// The settings that differ and cannot change at run time.
fn fixed(old: &Options, new: &Options) -> Vec<&'static str> {
    let differs = [
        ("state_dir", old.state_dir != new.state_dir),
        ("log_format", old.log_format != new.log_format),
        (
            "http",
            old.http.as_ref().map(|it| &it.address) != new.http.as_ref().map(|it| &it.address),
        ),
    ];
    differs.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}

/// What a change leaves to the caller to do.
pub(crate) struct Opened {
    pub(crate) reloaded: Reloaded,
    /// New sockets, to be served.
    pub(crate) listeners: Vec<(Listen, Listener)>,
    /// Another upstream, to be watched.
    pub(crate) upstream: Option<Arc<Upstream>>,
    /// Clients that have been told to leave.
    pub(crate) leaving: Vec<u64>,
}

/// Makes `options` hold for whoever comes from now on, and tells those to leave for whom they
/// mean something else.
pub(crate) async fn apply(
    options: Options,
    current: &Arc<Current>,
    sockets: &mut Sockets,
) -> Result<Opened, ReloadError> {
    let old = current.context();
    let fixed = fixed(&old.config, &options);
    if !fixed.is_empty() {
        return Err(ReloadError::Fixed(fixed));
    }
    service::check_state(&options).map_err(Error::from)?;
    let secret = Secret::of(&options).map_err(Error::from)?;
    let moved = old.config.upstream != options.upstream;
    let upstream = if moved { Some(open_upstream(&options)?) } else { None };
    let mut listeners = Vec::new();
    for listen in options.listen.iter().filter(|it| !sockets.has(it)) {
        listeners.push((listen.clone(), service::bind(listen).await?));
    }
    if moved {
        // The new one counts from zero.
        old.counters.switches_before.add(old.upstream.status().switches);
    }
    let closed = sockets.keep_only(&options.listen);
    let holds = upstream.clone().unwrap_or_else(|| Arc::clone(&old.upstream));
    current.replace(old.under(options.clone(), holds, secret));
    // From here on whoever comes gets the new configuration: nobody is overlooked.
    let leaving = old.clients.leave_for(&options);
    let reloaded = Reloaded {
        kept: old.clients.all().len().saturating_sub(leaving.len()),
        reconnected: leaving.len(),
        opened: listeners.iter().map(|(_, it)| it.local().to_string()).collect(),
        closed,
    };
    info!(
        kept = reloaded.kept,
        reconnected = reloaded.reconnected,
        opened = ?reloaded.opened,
        closed = ?reloaded.closed,
        "the configuration was read again",
    );
    Ok(Opened { reloaded, listeners, upstream, leaving })
}

fn open_upstream(options: &Options) -> Result<Arc<Upstream>, Error> {
    Ok(Arc::new(Upstream::open(options)?))
}

/// Waits until they are gone, as long as that can take.
pub(crate) async fn left(clients: &Clients, leaving: &[u64], stop: &CancellationToken) {
    let started = Instant::now();
    while clients.remaining(leaving) > 0 && started.elapsed() < DRAIN_TIMEOUT {
        tokio::select! {
            () = tokio::time::sleep(LEAVE_INTERVAL) => {}
            () = stop.cancelled() => return,
        }
    }
}
