//! What the rewriter tells its caller besides bytes.

use pgtypes::{Lsn, Oid, Xid};

use crate::error::UnreadableProblem;
use crate::judge::Place;
use crate::span::Span;

/// What one call of [`Rewriter::feed`](crate::Rewriter::feed) did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fed {
    /// Bytes from the front of the input that are final and may be forwarded.
    pub done: usize,
    /// Why it ended there.
    pub outcome: Outcome,
}

/// Why [`Rewriter::feed`](crate::Rewriter::feed) came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All that can be decided is. The rest, always less than
    /// [`HELD_BYTES_MAX`](crate::HELD_BYTES_MAX), has to be presented again in front of the
    /// bytes that come next.
    Drained,
    /// Handle it, then feed the rest of the same bytes.
    Event(Event),
}

/// A shared catalog whose rows are read from the WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Catalog {
    /// `pg_database`
    Database,
    /// `pg_tablespace`
    Tablespace,
}

/// Something that the caller has to know before the rewriter goes on.
///
/// Each is returned once. `at` is the start of the record that it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// `place` needs a fate before the record can be judged. If the judge still does not
    /// know when the rest is fed, that fails with
    /// [`WalError::Undecided`](crate::WalError::Undecided).
    Unknown {
        /// Start of the record.
        at: Lsn,
        /// Transaction of the record; zero when it has none.
        xid: Xid,
        /// What the judge did not know.
        place: Place,
    },
    /// A row of `pg_database` was inserted (not yet committed). Returned when the whole
    /// record is final, before the next one is judged.
    DatabaseRow {
        /// Start of the record.
        at: Lsn,
        /// The transaction that creates the database.
        xid: Xid,
        /// `oid`
        oid: Oid,
        /// `datname`, in the encoding of whoever created it.
        name: Vec<u8>,
        /// `dattablespace`
        tablespace: Oid,
    },
    /// A row of `pg_tablespace` was inserted; returned as [`Event::DatabaseRow`] is.
    TablespaceRow {
        /// Start of the record.
        at: Lsn,
        /// The transaction that creates the tablespace.
        xid: Xid,
        /// `oid`
        oid: Oid,
        /// `spcname`
        name: Vec<u8>,
    },
    /// Rows of a catalog changed in a way that a single record does not show (rename, set
    /// tablespace): the caller may read the names again once the transaction committed.
    CatalogUpdated {
        /// Start of the record.
        at: Lsn,
        /// Whose rows.
        catalog: Catalog,
    },
    /// A record that should have taught something cannot be read. It passed.
    Unreadable {
        /// Start of the record.
        at: Lsn,
        /// Transaction of the record.
        xid: Xid,
        /// What was tried and why it failed.
        problem: UnreadableProblem,
    },
    /// The shared relation map changed; returned when the whole record is final.
    Relmap {
        /// Start of the record.
        at: Lsn,
        /// The relfilenumber of `pg_database` from here on.
        database: Oid,
        /// The relfilenumber of `pg_tablespace` from here on.
        tablespace: Oid,
    },
    /// `XLOG_DBASE_CREATE*` is about to be judged.
    DatabaseCreate {
        /// Start of the record.
        at: Lsn,
        /// The transaction that creates the database.
        xid: Xid,
        /// The new database, or the one that is moved.
        database: Oid,
        /// The tablespace that gets files.
        tablespace: Oid,
        /// What is copied; `None` in the WAL_LOG style, where every page is logged.
        source: Option<Place>,
    },
    /// `XLOG_DBASE_DROP`, which always passes. 12 writes one for each tablespace.
    DatabaseDrop {
        /// Start of the record.
        at: Lsn,
        /// The database that goes.
        database: Oid,
        /// Where it had files.
        tablespaces: Vec<Oid>,
    },
    /// `XLOG_TBLSPC_CREATE` is about to be judged.
    TablespaceCreate {
        /// Start of the record.
        at: Lsn,
        /// The transaction that creates the tablespace.
        xid: Xid,
        /// The new tablespace.
        oid: Oid,
    },
    /// `XLOG_TBLSPC_DROP`; it has been judged, its bytes are not final yet.
    TablespaceDrop {
        /// Start of the record.
        at: Lsn,
        /// The tablespace that goes.
        oid: Oid,
    },
    /// The stream starts inside a record whose beginning was not seen. Nothing is final. Start
    /// again further back, or with [`Entry::Span`](crate::Entry::Span) or
    /// [`Entry::Raw`](crate::Entry::Raw).
    NeedsLookBack {
        /// Start of the page, and of the stream.
        at: Lsn,
        /// Bytes of the record that remain.
        rem_len: u32,
    },
    /// A record goes on in the segment that starts at `boundary`. No byte of that segment is
    /// final, so what is needed to start there can be stored first.
    Boundary(Span),
    /// The block references of one record disagree. It passes: the excluded part cannot be
    /// taken out. No server writes such records, extensions might.
    Torn {
        /// Start of the record.
        at: Lsn,
        /// Resource manager.
        rmid: u8,
        /// `xl_info`
        info: u8,
    },
}
