//! What a clone would hold, before it is made: databases, tablespaces and their sizes.
//!
//! An estimate for people. The names are judged by the filter and by what the state says was
//! excluded before; nothing is decided here and nothing is kept.

use std::collections::HashSet;
use std::path::PathBuf;

use config::{Client, Filter, Selection};
use pgtypes::{Major, Oid};

use crate::ledger::{Ledger, LedgerError};
use crate::names::{Database, Names, NamesError, Size, Slot};
use crate::service::Options;
use crate::upstream::catalog_once;

/// A database of the upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedDatabase {
    /// Its name.
    pub name: String,
    /// What of it the clone holds, in bytes.
    pub kept_bytes: u64,
    /// What of it is left out, in bytes.
    pub left_out_bytes: u64,
    /// Whether the clone has it.
    pub included: bool,
}

/// A tablespace of the upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedTablespace {
    /// Its name.
    pub name: String,
    /// Where it lies; nothing inside the data directory.
    pub location: Option<PathBuf>,
    /// What of it the clone holds, in bytes.
    pub kept_bytes: u64,
    /// What of it is left out, in bytes.
    pub left_out_bytes: u64,
    /// Whether the clone has it.
    pub included: bool,
}

/// What a clone would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The upstream's version.
    pub major: Major,
    /// Name of the configuration, when one matched.
    pub configuration: Option<String>,
    /// All databases, by name.
    pub databases: Vec<PlannedDatabase>,
    /// All tablespaces but `pg_global`, by name.
    pub tablespaces: Vec<PlannedTablespace>,
    /// The replication slots that there are.
    pub slots: Vec<Slot>,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The client would not be served.
    #[error("no configuration matches the application name {name:?}")]
    NoConfiguration {
        /// The name.
        name: String,
    },
    /// The upstream did not tell.
    #[error("cannot read names and sizes from the upstream: {0}")]
    Names(#[from] NamesError),
    /// The state cannot be read.
    #[error(transparent)]
    State(#[from] LedgerError),
}

impl Plan {
    /// All that the clone holds, in bytes.
    #[must_use]
    pub fn kept_bytes(&self) -> u64 {
        self.tablespaces.iter().map(|it| it.kept_bytes).sum()
    }

    /// All that is left out, in bytes.
    #[must_use]
    pub fn left_out_bytes(&self) -> u64 {
        self.tablespaces.iter().map(|it| it.left_out_bytes).sum()
    }
}

/// Asks the upstream of `options` what `client` would get.
///
/// # Errors
///
/// [`PlanError`].
pub async fn plan(options: &Options, client: &Client<'_>) -> Result<Plan, PlanError> {
    let configuration = match options.configuration_for(client) {
        Selection::Unfiltered => None,
        Selection::Configuration(configuration) => Some(configuration),
        Selection::Refused => {
            let name = String::from_utf8_lossy(client.application_name).into_owned();
            return Err(PlanError::NoConfiguration { name });
        }
    };
    let filter = configuration.and_then(|it| it.filter.as_ref());
    let excluded = match configuration {
        Some(it) if filter.is_some() => Ledger::excluded(&options.state_dir, &it.name)?,
        _ => Vec::new(),
    };
    let user = String::from_utf8_lossy(client.user);
    let catalog = catalog_once(options, &user).await?;
    let names = catalog.read().await?;
    let inventory = catalog.inventory().await?;
    let sizes = catalog.sizes().await?;
    let judge = Judge::new(filter, &excluded, &names);
    let mut plan = Plan {
        major: inventory.major,
        configuration: configuration.map(|it| it.name.clone()),
        databases: names.databases.iter().map(|it| judge.database(it, &sizes)).collect(),
        tablespaces: Vec::new(),
        slots: inventory.slots,
    };
    for it in names.tablespaces.iter().filter(|it| it.oid != Oid::PG_GLOBAL) {
        let here = sizes.iter().filter(|size| size.tablespace == it.oid);
        let (kept, left_out): (Vec<&Size>, Vec<&Size>) = here.partition(|size| judge.keeps(size));
        plan.tablespaces.push(PlannedTablespace {
            name: shown(&it.name),
            location: inventory.locations.get(&it.oid).cloned(),
            kept_bytes: kept.iter().map(|size| size.bytes).sum(),
            left_out_bytes: left_out.iter().map(|size| size.bytes).sum(),
            included: judge.tablespaces.contains(&it.oid),
        });
    }
    plan.databases.sort_by(|one, two| one.name.cmp(&two.name));
    plan.tablespaces.sort_by(|one, two| one.name.cmp(&two.name));
    Ok(plan)
}

/// What is included, by OID.
struct Judge {
    databases: HashSet<Oid>,
    templates: HashSet<Oid>,
    tablespaces: HashSet<Oid>,
}

impl Judge {
    fn new(filter: Option<&Filter>, excluded: &[String], names: &Names) -> Self {
        let was_excluded =
            |kind: &str, name: &[u8]| excluded.contains(&format!("{kind} {:?}", shown(name)));
        let tablespaces = names.tablespaces.iter().filter(|it| {
            filter.is_none_or(|filter| filter.tablespace(&it.name))
                && !was_excluded("tablespace", &it.name)
        });
        let tablespaces: HashSet<_> = tablespaces.map(|it| it.oid).collect();
        let is_template = |it: &&Database| matches!(&*it.name, b"template0" | b"template1");
        let templates = names.databases.iter().filter(is_template).map(|it| it.oid).collect();
        let databases = names.databases.iter().filter(|it| {
            filter.is_none_or(|filter| filter.database(&it.name))
                && !was_excluded("database", &it.name)
                && (tablespaces.contains(&it.tablespace) || is_template(it))
        });
        Self { databases: databases.map(|it| it.oid).collect(), templates, tablespaces }
    }

    fn keeps(&self, size: &Size) -> bool {
        self.databases.contains(&size.database)
            && (self.tablespaces.contains(&size.tablespace)
                || self.templates.contains(&size.database))
    }

    fn database(&self, database: &Database, sizes: &[Size]) -> PlannedDatabase {
        let own = sizes.iter().filter(|size| size.database == database.oid);
        let (kept, left_out): (Vec<&Size>, Vec<&Size>) = own.partition(|size| self.keeps(size));
        PlannedDatabase {
            name: shown(&database.name),
            kept_bytes: kept.iter().map(|size| size.bytes).sum(),
            left_out_bytes: left_out.iter().map(|size| size.bytes).sum(),
            included: self.databases.contains(&database.oid),
        }
    }
}

fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}
