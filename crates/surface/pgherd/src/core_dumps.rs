//! No core dumps: what a relay has in memory is keys and passwords, of itself and of others.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::debug;

/// Has the system write none of this process, however it ends.
pub(crate) fn forbid() {
    let maximum = getrlimit(Resource::Core).maximum;
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum }) {
        debug!(%error, "core dumps were not forbidden");
    }
}
