//! Page headers; `XLogPageHeaderData` and `XLogLongPageHeaderData` of `xlog_internal.h`.

use pgtypes::read::Reader;
use pgtypes::{Lsn, Timeline};

use crate::Layout;
use crate::error::{PageProblem, WalError};

/// `XLOG_BLCKSZ`; the only size that can be read.
pub const PAGE_BYTES: u64 = 8192;
/// [`PAGE_BYTES`] for lengths of slices.
pub(crate) const PAGE: usize = 8192;
/// `SizeOfXLogShortPHD`
pub const SHORT_HEADER_BYTES: usize = 24;
/// `SizeOfXLogLongPHD`
pub const LONG_HEADER_BYTES: usize = 40;

/// `XLP_FIRST_IS_CONTRECORD`
pub const FIRST_IS_CONTRECORD: u16 = 0x0001;
/// `XLP_LONG_HEADER`
pub const LONG_HEADER: u16 = 0x0002;
/// `XLP_BKP_REMOVABLE`
pub const BKP_REMOVABLE: u16 = 0x0004;
/// `XLP_FIRST_IS_OVERWRITE_CONTRECORD`; since 12.9, 13.5 and 14.
pub const FIRST_IS_OVERWRITE_CONTRECORD: u16 = 0x0008;
const ALL_FLAGS: u16 =
    FIRST_IS_CONTRECORD | LONG_HEADER | BKP_REMOVABLE | FIRST_IS_OVERWRITE_CONTRECORD;

/// The checked header of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHeader {
    /// `xlp_info`
    pub info: u16,
    /// `xlp_tli`
    pub timeline: Timeline,
    /// `xlp_rem_len`: bytes of a continued record from this page on.
    pub rem_len: u32,
    /// `xlp_sysid`, in the long header only.
    pub system: Option<u64>,
}

impl PageHeader {
    /// Bytes of this header.
    #[must_use]
    pub const fn size(&self) -> usize {
        if self.system.is_some() { LONG_HEADER_BYTES } else { SHORT_HEADER_BYTES }
    }

    /// A record goes on here.
    #[must_use]
    pub const fn is_continuation(&self) -> bool {
        self.info & FIRST_IS_CONTRECORD != 0
    }

    /// The record that should go on here was given up after a crash.
    #[must_use]
    pub const fn is_overwrite(&self) -> bool {
        self.info & FIRST_IS_OVERWRITE_CONTRECORD != 0
    }

    /// Reads and checks the header of the page that starts at `at`.
    ///
    /// Does what `XLogReaderValidatePageHeader` (`xlogreader.c`) does, the comparison with
    /// earlier pages apart. `None` when `page` is too short to tell.
    ///
    /// # Errors
    ///
    /// [`WalError::Page`] when this is no page of such a server at this place.
    pub fn parse(layout: Layout, at: Lsn, page: &[u8]) -> Result<Option<Self>, WalError> {
        let first = at.0.is_multiple_of(layout.segment_bytes.bytes());
        let size = if first { LONG_HEADER_BYTES } else { SHORT_HEADER_BYTES };
        let Some(mut reader) = page.get(..size).map(Reader::new) else { return Ok(None) };
        let parsed = Self::fields(layout, at, first, &mut reader);
        parsed.map(Some).map_err(|problem| WalError::Page { at, problem })
    }

    fn fields(
        layout: Layout,
        at: Lsn,
        first: bool,
        reader: &mut Reader<'_>,
    ) -> Result<Self, PageProblem> {
        // The caller has checked the length: a cut field cannot happen, and reads as zero.
        let magic = reader.u16_le("xlp_magic").unwrap_or_default();
        if magic != layout.major.page_magic() {
            return Err(PageProblem::Magic { found: magic, major: layout.major });
        }
        let info = reader.u16_le("xlp_info").unwrap_or_default();
        if info & !ALL_FLAGS != 0 {
            return Err(PageProblem::Info { found: info });
        }
        if (info & LONG_HEADER != 0) != first {
            return Err(PageProblem::LongHeader { found: info });
        }
        let timeline = Timeline(reader.u32_le("xlp_tli").unwrap_or_default());
        let address = Lsn(reader.u64_le("xlp_pageaddr").unwrap_or_default());
        if address != at {
            return Err(PageProblem::Address { found: address });
        }
        let rem_len = reader.u32_le("xlp_rem_len").unwrap_or_default();
        let system = if first { Some(long(layout, reader)?) } else { None };
        Ok(Self { info, timeline, rem_len, system })
    }
}

/// The rest of a long header; returns the system identifier.
fn long(layout: Layout, reader: &mut Reader<'_>) -> Result<u64, PageProblem> {
    let _padding = reader.u32_le("padding");
    let system = reader.u64_le("xlp_sysid").unwrap_or_default();
    let segment_bytes = reader.u32_le("xlp_seg_size").unwrap_or_default();
    if u64::from(segment_bytes) != layout.segment_bytes.bytes() {
        let expected = layout.segment_bytes.bytes();
        return Err(PageProblem::SegmentBytes { found: segment_bytes, expected });
    }
    let block_bytes = reader.u32_le("xlp_xlog_blcksz").unwrap_or_default();
    if u64::from(block_bytes) != PAGE_BYTES {
        return Err(PageProblem::BlockBytes { found: block_bytes });
    }
    Ok(system)
}

/// What the headers of one stream have said so far.
#[derive(Clone, Debug)]
pub(crate) struct Pages {
    pub(crate) layout: Layout,
    timeline: Timeline,
    system: Option<u64>,
}

impl Pages {
    pub(crate) const fn new(layout: Layout) -> Self {
        Self { layout, timeline: Timeline(0), system: None }
    }

    /// Reads and checks the header at `at`, against earlier pages too.
    pub(crate) fn check(&self, at: Lsn, page: &[u8]) -> Result<Option<PageHeader>, WalError> {
        let Some(header) = PageHeader::parse(self.layout, at, page)? else { return Ok(None) };
        if header.timeline < self.timeline {
            let problem = PageProblem::Timeline { found: header.timeline, before: self.timeline };
            return Err(WalError::Page { at, problem });
        }
        if let (Some(found), Some(expected)) = (header.system, self.system)
            && found != expected
        {
            return Err(WalError::Page { at, problem: PageProblem::System { found, expected } });
        }
        Ok(Some(header))
    }

    /// Remembers what a page said whose header is final.
    pub(crate) fn accept(&mut self, header: &PageHeader) {
        self.timeline = header.timeline;
        self.system = header.system.or(self.system);
    }
}
