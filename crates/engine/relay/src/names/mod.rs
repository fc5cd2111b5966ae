//! The names of databases and tablespaces, as the server's catalogs have them now.
//!
//! What is not committed yet is not seen here; the WAL itself tells of that.

mod facts;
mod follow;
mod query;
mod verifier;

pub(crate) use follow::{NAMES_CHANGED_MAX, NamesChanged, follow_names};
pub use pgnet::passfile::{PassfileError, Password};
pub use query::{Catalog, NamesError};
pub(crate) use verifier::Asked;

use pgtypes::{Lsn, Oid, Timeline};

/// One database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// Its OID.
    pub oid: Oid,
    /// `datname`, in the encoding of the database that was asked.
    pub name: Vec<u8>,
    /// `dattablespace`: where its own catalogs are.
    pub tablespace: Oid,
}

/// One tablespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tablespace {
    /// Its OID.
    pub oid: Oid,
    /// `spcname`
    pub name: Vec<u8>,
}

/// What else a clone needs to know of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory {
    /// Its version.
    pub major: pgtypes::Major,
    /// Where tablespaces lie outside of the data directory.
    pub locations: std::collections::HashMap<Oid, std::path::PathBuf>,
    /// The replication slots.
    pub slots: Vec<Slot>,
}

/// A replication slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// Whether somebody streams with it now.
    pub is_active: bool,
}

/// How large a database is, in one tablespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Its OID.
    pub database: Oid,
    /// Where these files are.
    pub tablespace: Oid,
    /// Their sizes together, in bytes.
    pub bytes: u64,
}

/// What the catalogs say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Every database.
    pub databases: Vec<Database>,
    /// Every tablespace.
    pub tablespaces: Vec<Tablespace>,
    /// The file that holds the rows of `pg_database`.
    pub database_file: Oid,
    /// The file that holds the rows of `pg_tablespace`.
    pub tablespace_file: Oid,
    /// A place in the WAL behind all that is told here, when the server says where it is.
    pub read_at: Option<(Timeline, Lsn)>,
}
