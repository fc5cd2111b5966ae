//! Small value types that PostgreSQL's formats share.
//!
//! Newtypes, so that an LSN is never taken for a length and a database's OID never
//! for a transaction's number. Raw integers stay inside this crate and the parsers.
//!
//! # What it does not do
//!
//! No parsing of records or messages (`wal`, `pgproto`), no I/O.

mod lsn;
pub mod read;
mod version;

pub use lsn::{BadLsn, Lsn};
pub use version::{BadSegmentBytes, Major, SegmentBytes, UnknownMajor};

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u32);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// An object identifier; `Oid` of `postgres_ext.h`.
    Oid
}
number! {
    /// A 32-bit transaction number; `TransactionId` of `c.h`.
    Xid
}
number! {
    /// A timeline; `TimeLineID` of `xlogdefs.h`. The first one is 1.
    Timeline
}

impl Oid {
    /// `InvalidOid`: no object, and the database of shared catalogs.
    pub const INVALID: Self = Self(0);
    /// `DEFAULTTABLESPACE_OID` (`pg_tablespace.dat`): `pg_default`.
    pub const PG_DEFAULT: Self = Self(1663);
    /// `GLOBALTABLESPACE_OID` (`pg_tablespace.dat`): `pg_global`, home of the shared catalogs.
    pub const PG_GLOBAL: Self = Self(1664);
    /// `DatabaseRelationId` (`pg_database.h`).
    pub const PG_DATABASE: Self = Self(1262);
    /// `TableSpaceRelationId` (`pg_tablespace.h`).
    pub const PG_TABLESPACE: Self = Self(1213);
}
