//! Reads the configuration again while the relay runs.

use std::path::PathBuf;

use alarm::Code;
use config::Overrides;
use relay::Handle;
use tracing::error;

use crate::open_files;

/// What a new configuration is read from, and the relay that takes it.
pub(crate) struct Reloader {
    pub(crate) config: Option<PathBuf>,
    /// The command line wins over the file, as at the start.
    pub(crate) overrides: Overrides,
    pub(crate) relay: Handle,
}

impl Reloader {
    /// Reads the file and has the relay take it over; a bad one changes nothing, and its problems
    /// are in the log and in the answer.
    pub(crate) async fn reload(&self, asked_by: &str) -> api::Reloaded {
        let outcome = self.read_and_take().await;
        let counters = self.relay.counters();
        match &outcome {
            Ok(_) => counters.reloads_done.add(1),
            Err(problems) => {
                counters.reloads_refused.add(1);
                for problem in problems {
                    error!(
                        code = %Code::OldConfigurationStays,
                        asked_by,
                        problem, "the old configuration stays: the new one is refused"
                    );
                }
            }
        }
        outcome
    }

    async fn read_and_take(&self) -> api::Reloaded {
        let loaded = match &self.config {
            Some(path) => config::load(path, &self.overrides),
            None => config::defaults(&self.overrides),
        };
        // One line for each, with its place; the lines of the file stay out of the log.
        let options = loaded
            .map_err(|bad| bad.to_string().lines().map(ToOwned::to_owned).collect::<Vec<_>>())?;
        let max_connections = options.limits.max_connections;
        let reloaded = self.relay.reload(options).await;
        let reloaded = reloaded.map_err(|error| vec![error.to_string()])?;
        open_files::suffice_for(max_connections);
        Ok(reloaded)
    }
}
