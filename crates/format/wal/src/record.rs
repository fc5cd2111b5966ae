//! Record headers; `XLogRecord` of `xlogrecord.h`.

use pgtypes::{Lsn, Major, Xid};

/// `SizeOfXLogRecord`
pub const HEADER_BYTES: usize = 24;
/// `offsetof(XLogRecord, xl_crc)`
pub const CRC_OFFSET: usize = 20;
/// Rmgr part of `xl_info`; the complement of `XLR_INFO_MASK`.
pub const RMGR_INFO_MASK: u8 = 0xF0;
/// `XLOG_NOOP` (`pg_control.h`)
pub const XLOG_NOOP: u8 = 0x20;
/// `XLOG_SWITCH`
pub const XLOG_SWITCH: u8 = 0x40;
/// `XLOG_FPI_FOR_HINT`
pub const XLOG_FPI_FOR_HINT: u8 = 0xA0;
/// `XLOG_FPI`
pub const XLOG_FPI: u8 = 0xB0;

/// Resource managers; `rmgrlist.h`. The numbers are the same from 12 to 18.
#[allow(missing_docs, reason = "the names are PostgreSQL's own")]
pub mod rmid {
    pub const XLOG: u8 = 0;
    pub const XACT: u8 = 1;
    pub const SMGR: u8 = 2;
    pub const CLOG: u8 = 3;
    pub const DBASE: u8 = 4;
    pub const TBLSPC: u8 = 5;
    pub const MULTIXACT: u8 = 6;
    pub const RELMAP: u8 = 7;
    pub const STANDBY: u8 = 8;
    pub const HEAP2: u8 = 9;
    pub const HEAP: u8 = 10;
    pub const BTREE: u8 = 11;
    pub const GIST: u8 = 14;
    pub const COMMIT_TS: u8 = 18;
    pub const REPLORIGIN: u8 = 19;
    pub const LOGICALMSG: u8 = 21;
    /// `RM_MAX_BUILTIN_ID`
    pub const BUILTIN_MAX: u8 = 21;
    /// `RM_MIN_CUSTOM_ID`, since 15
    pub const CUSTOM_MIN: u8 = 128;
}

/// The header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// `xl_tot_len`: header and body, without page headers and alignment.
    pub total_bytes: u32,
    /// `xl_xid`
    pub xid: Xid,
    /// `xl_prev`: start of the record before.
    pub prev: Lsn,
    /// `xl_info`
    pub info: u8,
    /// `xl_rmid`
    pub rmid: u8,
    /// `xl_crc`
    pub crc: u32,
}

impl Header {
    /// Reads the fields; nothing is checked.
    #[inline]
    #[must_use]
    pub const fn parse(bytes: &[u8; HEADER_BYTES]) -> Self {
        let [t0, t1, t2, t3, x0, x1, x2, x3, p0, p1, p2, p3, p4, p5, p6, p7, ..] = *bytes;
        let [.., info, rmid, _, _, c0, c1, c2, c3] = *bytes;
        Self {
            total_bytes: u32::from_le_bytes([t0, t1, t2, t3]),
            xid: Xid(u32::from_le_bytes([x0, x1, x2, x3])),
            prev: Lsn(u64::from_le_bytes([p0, p1, p2, p3, p4, p5, p6, p7])),
            info,
            rmid,
            crc: u32::from_le_bytes([c0, c1, c2, c3]),
        }
    }
}

/// The longest record that can be in the WAL of a version, in bytes.
///
/// `XLogRecordMaxSize` (`xlogrecord.h`) since 16; before that the reader's `MaxAllocSize`.
#[must_use]
pub const fn total_bytes_max(major: Major) -> u32 {
    match major {
        Major::V12 | Major::V13 | Major::V14 | Major::V15 => 0x3FFF_FFFF,
        Major::V16 | Major::V17 | Major::V18 => 1020 * 1024 * 1024,
    }
}

/// Whether a version knows the resource manager; `RmgrIdIsValid` (`rmgr.h`).
#[must_use]
pub const fn is_rmid(major: Major, id: u8) -> bool {
    id <= rmid::BUILTIN_MAX || (id >= rmid::CUSTOM_MIN && major.number() >= 15)
}
