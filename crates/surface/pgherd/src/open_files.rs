//! The limit on open files: a client needs two, and the soft limit of a process is often 1024.
//!
//! It is low for the sake of programs that call `select(2)`; nothing here does.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{debug, warn};

/// Files beside those of clients: sockets that are listened on, HTTP, state, what the runtime has.
const OTHERS: u64 = 200;

/// Raises the limit as far as it may be raised, and tells when that is not enough for so many
/// clients.
pub(crate) fn suffice_for(max_connections: u32) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            debug!(%error, "the limit on open files was not raised");
        }
    }
    let needed = 2 * u64::from(max_connections) + OTHERS;
    if let Some(limit) = getrlimit(Resource::Nofile).current.filter(|limit| *limit < needed) {
        warn!(limit, needed, "too few open files are allowed for limits.max_connections");
    }
}
