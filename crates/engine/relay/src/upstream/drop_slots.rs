//! Drops the slots that the relay made for a configuration, on every host that can be asked.

use super::{catalog_of, hosts_of};
use crate::ledger::LedgerError;
use crate::service::Options;
use crate::slots::Slots;

/// What became of a slot on one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DroppedSlot {
    /// The slot.
    pub slot: String,
    /// Host and port.
    pub host: String,
    /// Whether there was one, or why it may still be there.
    pub outcome: Result<bool, String>,
}

/// Drops them; `user` logs in where `upstream.catalog` names nobody. Nothing is asked when the
/// relay never made a slot for the configuration.
///
/// # Errors
///
/// When the list of slots cannot be read.
pub async fn drop_slots(
    options: &Options,
    configuration: &str,
    user: &str,
) -> Result<Vec<DroppedSlot>, LedgerError> {
    let mut dropped = Vec::new();
    for (system, slot) in Slots::new(&options.state_dir).own(configuration)? {
        for endpoint in hosts_of(&options.upstream) {
            let mut catalog = catalog_of(&options.upstream, &endpoint, user);
            catalog.endpoint = endpoint.clone();
            let outcome = catalog.drop_slot(&slot, &system).await;
            dropped.push(DroppedSlot {
                slot: slot.clone(),
                host: endpoint.to_string(),
                outcome: outcome.map_err(|error| error.to_string()),
            });
        }
    }
    Ok(dropped)
}
