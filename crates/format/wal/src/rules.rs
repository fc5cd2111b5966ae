//! What each kind of record names, and so who decides about it.
//!
//! Records with block references are judged by these, whatever their kind. The rules here are
//! for the rest: where in the main data the database or tablespace stands. What a standby
//! does with a record that it should not have got is in `docs/` of the relay; in short, a
//! no-op is always safe, so everything that names a relation or a database is judged.

use pgtypes::{Major, Oid};

use crate::judge::Place;
use crate::record::{RMGR_INFO_MASK, XLOG_FPI, XLOG_FPI_FOR_HINT, rmid};

/// `XLOG_HEAP_OPMASK` (`heapam_xlog.h`)
const HEAP_OP_MASK: u8 = 0x70;

/// Main data that must be seen to judge a record: up to the locator of `xl_heap_new_cid`.
pub(crate) const MAIN_BYTES_MAX: usize = 24;

/// What decides about a record without block references.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Every standby needs it, or nobody can tell whom it is about.
    Pass,
    /// Tablespace and database, as in a locator, at this offset.
    Place(usize),
    /// A database alone at this offset.
    Database(usize),
    /// `xl_dbase_create_rec`, `xl_dbase_create_file_copy_rec`
    CreateDatabaseCopy,
    /// `xl_dbase_create_wal_log_rec`
    CreateDatabaseLogged,
    /// `xl_dbase_drop_rec`: passes, is told about.
    DropDatabase,
    /// `xl_tblspc_create_rec`
    CreateTablespace,
    /// `xl_tblspc_drop_rec`
    DropTablespace,
    /// `xl_relmap_update`: database, then tablespace; the shared one passes and is told about.
    Relmap,
}

/// Whether records of this kind pass unseen: they are about the cluster as a whole.
#[inline]
pub(crate) const fn is_cluster_wide(id: u8, info: u8) -> bool {
    match id {
        rmid::XACT
        | rmid::CLOG
        | rmid::MULTIXACT
        | rmid::STANDBY
        | rmid::COMMIT_TS
        | rmid::REPLORIGIN => true,
        rmid::XLOG => !matches!(info & RMGR_INFO_MASK, XLOG_FPI | XLOG_FPI_FOR_HINT),
        _ => false,
    }
}

/// Whether records of this resource manager with block references are judged by these alone,
/// in every version that has it.
#[inline]
pub(crate) const fn is_about_blocks(id: u8) -> bool {
    // from HEAP2 on, without those of `is_cluster_wide`
    matches!(id, rmid::HEAP2..=rmid::BUILTIN_MAX)
        && !matches!(id, rmid::COMMIT_TS | rmid::REPLORIGIN)
}

/// The rule for a record without block references.
pub(crate) const fn rule(major: Major, id: u8, info: u8) -> Rule {
    let op = info & RMGR_INFO_MASK;
    match (id, op) {
        // XLOG_SMGR_CREATE, XLOG_SMGR_TRUNCATE (storage_xlog.h)
        (rmid::SMGR, 0x10) => Rule::Place(0),
        (rmid::SMGR, 0x20) => Rule::Place(4),
        (rmid::DBASE, _) => database_rule(major, op),
        (rmid::TBLSPC, 0x00) => Rule::CreateTablespace,
        (rmid::TBLSPC, 0x10) => Rule::DropTablespace,
        (rmid::RELMAP, 0x00) => Rule::Relmap,
        (rmid::HEAP2, _) => match info & HEAP_OP_MASK {
            // XLOG_HEAP2_REWRITE, XLOG_HEAP2_CLEANUP_INFO (12 and 13), XLOG_HEAP2_NEW_CID
            0x00 => Rule::Database(4),
            0x30 if major.number() <= 13 => Rule::Place(0),
            0x70 => Rule::Place(16),
            _ => Rule::Pass,
        },
        // XLOG_HEAP_TRUNCATE
        (rmid::HEAP, _) if info & HEAP_OP_MASK == 0x30 => Rule::Database(0),
        // XLOG_BTREE_REUSE_PAGE, XLOG_GIST_PAGE_REUSE
        (rmid::BTREE, 0xD0) | (rmid::GIST, 0x20) => Rule::Place(0),
        (rmid::LOGICALMSG, 0x00) => Rule::Database(0),
        _ => Rule::Pass,
    }
}

/// `XLOG_DBASE_*` (`dbcommands_xlog.h`), renumbered in 15.
const fn database_rule(major: Major, op: u8) -> Rule {
    match (major.number() >= 15, op) {
        (_, 0x00) => Rule::CreateDatabaseCopy,
        (true, 0x10) => Rule::CreateDatabaseLogged,
        (true, 0x20) | (false, 0x10) => Rule::DropDatabase,
        _ => Rule::Pass,
    }
}

impl Rule {
    /// Bytes of main data that have to be seen before the record can be judged.
    pub(crate) const fn main_bytes(self) -> usize {
        match self {
            Self::Pass => 0,
            Self::Place(at) => at + 8,
            Self::Database(at) => at + 4,
            Self::CreateDatabaseCopy => 16,
            Self::CreateDatabaseLogged | Self::DropDatabase | Self::Relmap => 8,
            Self::CreateTablespace | Self::DropTablespace => 4,
        }
    }
}

/// What a heap record does to the rows of a shared catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeapChange {
    /// One row that can be read from the record.
    Insert,
    /// Something that a single record does not show.
    Other,
}

/// What a heap record with block references does to rows; `None`: no new row versions, or no
/// heap record.
#[inline]
pub(crate) const fn heap_change(id: u8, info: u8) -> Option<HeapChange> {
    match (id, info & HEAP_OP_MASK) {
        (rmid::HEAP, 0x00) => Some(HeapChange::Insert),
        // XLOG_HEAP_UPDATE, XLOG_HEAP_HOT_UPDATE, XLOG_HEAP2_MULTI_INSERT
        (rmid::HEAP, 0x20 | 0x40) | (rmid::HEAP2, 0x50) => Some(HeapChange::Other),
        _ => None,
    }
}

/// The OID at `offset` of `main`; the caller has checked the length.
pub(crate) fn oid_at(main: &[u8], offset: usize) -> Oid {
    let bytes = main.get(offset..).and_then(|rest| rest.first_chunk::<4>());
    Oid(bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes)))
}

/// Tablespace and database at `offset` of `main`.
pub(crate) fn place_at(main: &[u8], offset: usize) -> Place {
    Place { tablespace: oid_at(main, offset), database: oid_at(main, offset + 4) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drift_between_versions() {
        let copy = Rule::CreateDatabaseCopy;
        assert_eq!(rule(Major::V14, rmid::DBASE, 0x01), copy);
        assert_eq!(rule(Major::V14, rmid::DBASE, 0x11), Rule::DropDatabase);
        assert_eq!(rule(Major::V14, rmid::DBASE, 0x21), Rule::Pass);
        assert_eq!(rule(Major::V15, rmid::DBASE, 0x01), copy);
        assert_eq!(rule(Major::V15, rmid::DBASE, 0x11), Rule::CreateDatabaseLogged);
        assert_eq!(rule(Major::V15, rmid::DBASE, 0x21), Rule::DropDatabase);
        assert_eq!(rule(Major::V13, rmid::HEAP2, 0x30), Rule::Place(0));
        assert_eq!(rule(Major::V14, rmid::HEAP2, 0x30), Rule::Pass);
    }

    #[test]
    fn no_rule_needs_more_than_is_held() {
        for major in Major::ALL {
            for id in 0..=u8::MAX {
                for info in 0..=u8::MAX {
                    assert!(rule(major, id, info).main_bytes() <= MAIN_BYTES_MAX);
                }
            }
        }
    }

    #[test]
    fn what_keeps_a_cluster_alive_is_never_judged() {
        for info in 0..=u8::MAX {
            for id in [1, 3, 6, 8, 18, 19] {
                assert!(is_cluster_wide(id, info));
            }
            assert_eq!(is_cluster_wide(0, info), !matches!(info >> 4, 0xA | 0xB));
            for id in [2, 4, 5, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 20, 21, 128, 255] {
                assert!(!is_cluster_wide(id, info));
            }
        }
    }
}
