//! What was decided for one backup, folder by folder.
//!
//! A decision stays as it was first made: the same folder comes in several archives and again
//! in the manifest, and names and fates go on changing meanwhile.

use std::collections::HashMap;

use basebackup::{Selection, Undecided};
use pgtypes::Oid;
use wal::Place;

use crate::stream::{Flow, StreamError};

/// The decisions so far.
#[derive(Debug, Default)]
pub(super) struct Holdings(HashMap<(Oid, Oid), bool>);

impl Selection for Holdings {
    fn holds(&self, tablespace: Oid, database: Oid) -> Option<bool> {
        self.0.get(&(tablespace, database)).copied()
    }
}

impl Holdings {
    /// Decides about a folder; waits for its name when it is being created.
    pub(super) async fn decide(
        &mut self,
        folder: Undecided,
        flow: &mut Flow,
    ) -> Result<bool, StreamError> {
        let Undecided { tablespace, database } = folder;
        if let Some(holds) = self.holds(tablespace, database) {
            return Ok(holds);
        }
        let holds = flow.settle(Place { tablespace, database }).await?;
        self.0.insert((tablespace, database), holds);
        Ok(holds)
    }
}
