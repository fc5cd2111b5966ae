//! Reads names again when a stream saw that they changed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use alarm::Code;
use tasks::CancellationToken;
use tokio::sync::mpsc;
use tracing::{error, warn};

use super::Catalog;
use crate::ledger::Ledger;

/// A transaction that changed names is given this long to commit before they are read.
const NAMES_SETTLE: Duration = Duration::from_secs(1);
/// Changes of names in line to be read; more at once are read together.
pub(crate) const NAMES_CHANGED_MAX: usize = 64;

/// A stream saw that names changed.
pub(crate) struct NamesChanged {
    pub(crate) configuration: String,
    pub(crate) ledger: Arc<Mutex<Ledger>>,
    pub(crate) catalog: Catalog,
    pub(crate) history: pgproto::history::History,
    pub(crate) segment_bytes: pgtypes::SegmentBytes,
}

/// Reads names anew when a stream saw that they changed, to tell what becomes of them.
pub(crate) async fn follow_names(
    mut changes: mpsc::Receiver<NamesChanged>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let change = tokio::select! {
            Some(change) = changes.recv() => change,
            () = stop.cancelled() => return Ok(()),
        };
        tokio::select! {
            () = tokio::time::sleep(NAMES_SETTLE) => {}
            () = stop.cancelled() => return Ok(()),
        }
        // One reading serves all that has come for a configuration by now.
        let mut waiting = HashMap::from([(change.configuration.clone(), change)]);
        while let Ok(change) = changes.try_recv() {
            waiting.insert(change.configuration.clone(), change);
        }
        for change in waiting.values() {
            change.read().await;
        }
    }
}

impl NamesChanged {
    async fn read(&self) {
        let configuration = self.configuration.as_str();
        let names = match self.catalog.read().await {
            Ok(names) => names,
            Err(error) => {
                warn!(configuration, %error, "names changed, and cannot be read now");
                return;
            }
        };
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = ledger.adopt(&names, &self.history, self.segment_bytes) {
            error!(code = %Code::NamesNotKept, configuration, %error, "names changed, and cannot be kept");
        }
    }
}
