//! Who decides what a standby gets.

use pgtypes::{Lsn, Oid};

use crate::event::Catalog;

/// Where a relation's file lies: the first two parts of `RelFileLocator` (`relfilelocator.h`).
///
/// Some records name only one of the two. Then the other is [`Oid::INVALID`] and means
/// "any": `{ tablespace: INVALID, database: 5 }` asks about the database as a whole,
/// `{ tablespace: 7, database: INVALID }` about the tablespace as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// `spcOid`
    pub tablespace: Oid,
    /// `dbOid`
    pub database: Oid,
}

impl Place {
    /// The home of the shared catalogs, which every standby needs: never asked about.
    pub const SHARED: Self = Self { tablespace: Oid::PG_GLOBAL, database: Oid::INVALID };

    /// A database, whatever the tablespace.
    #[must_use]
    pub const fn database(database: Oid) -> Self {
        Self { tablespace: Oid::INVALID, database }
    }

    /// A tablespace, whatever the database.
    #[must_use]
    pub const fn tablespace(tablespace: Oid) -> Self {
        Self { tablespace, database: Oid::INVALID }
    }
}

/// What shall become of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The standby gets it as it is.
    Pass,
    /// The standby gets a no-op of the same length.
    Replace,
    /// There is no fate for one of the OIDs yet; see [`Event::Unknown`](crate::Event::Unknown).
    Unknown,
}

/// Decides about places.
///
/// The same position asked again must give the same answer, now and after a restart: the
/// standby may ask for the same WAL any number of times, and keeps some of the copies.
pub trait Judge {
    /// The fate of records about `place`; `at` is the start of the record.
    ///
    /// Hot: called for each record with block references, once for each run of equal
    /// places in it. The rewriter keeps no answers, since they may depend on `at`.
    fn place(&self, place: Place, at: Lsn) -> Verdict;

    /// A record about `place` got this verdict, and nothing can change that: for whoever counts.
    ///
    /// Hot, as [`Self::place`]; once for each record about a database. For records about several
    /// places it is the first.
    #[inline]
    fn judged(&self, _place: Place, _verdict: Verdict) {}

    /// The catalog whose rows the file `relfilenumber` of `global/` holds at the moment.
    ///
    /// Called for heap inserts and updates of shared catalogs, which are rare.
    fn catalog_file(&self, relfilenumber: Oid) -> Option<Catalog>;
}
