//! What can be told of the upstream: small values for whoever shows them.

use super::choose::{Role, Seen};

/// The upstream now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamStatus {
    /// The host that clients are led to; nothing while none fits.
    pub current: Option<String>,
    /// How often it moved since the start.
    pub switches: u64,
    /// Each host, in the order of the configuration. One that stays where it is, and is not
    /// watched, has no role and no timeline.
    pub hosts: Vec<HostStatus>,
}

/// One host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostStatus {
    /// Host and port, as they are logged.
    pub host: String,
    /// Primary or standby, when it was heard of last.
    pub role: Option<Role>,
    /// Its timeline then.
    pub timeline: Option<u32>,
    /// Why it is not followed; nothing where it fits.
    pub unfit: Option<String>,
}

impl HostStatus {
    pub(super) fn new(host: String, seen: &Seen, unfit: Option<String>) -> Self {
        let facts = match seen {
            Seen::Facts(facts) | Seen::Refused { before: Some(facts), .. } => Some(facts),
            _ => None,
        };
        let timeline = facts.map(|facts| facts.timeline.0);
        Self { host, role: facts.map(|facts| facts.role), timeline, unfit }
    }
}
