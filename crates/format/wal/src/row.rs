//! Content of the few records that teach which databases and tablespaces there are.
//!
//! Each function gets a whole record without page headers. They run a few times a day, not
//! in the hot path.

use pgtypes::read::Reader;
use pgtypes::{Lsn, Major, Oid};

use crate::block::{BlockRef, Survey, Walk};
use crate::error::UnreadableProblem;
use crate::event::{Catalog, Event};
use crate::image;
use crate::record::{HEADER_BYTES, Header};
use crate::relmap::Relmap;

/// `NAMEDATALEN`
const NAME_BYTES: usize = 64;
/// `SizeofHeapTupleHeader`: where `t_bits` and the user data may start.
const TUPLE_HEADER_BYTES: usize = 23;
/// `SizeOfHeapHeader` of `xl_heap_header`
const XL_HEAP_HEADER_BYTES: usize = 5;
/// `SizeOfPageHeaderData`
const PAGE_HEADER_BYTES: usize = 24;

/// What a captured record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lesson {
    /// A heap insert.
    Row(Catalog),
    /// An update of the shared relation map.
    Relmap,
    /// `xl_dbase_drop_rec`
    DropDatabase,
}

impl Lesson {
    const fn what(self) -> &'static str {
        match self {
            Self::Row(Catalog::Database) => "insert into pg_database",
            Self::Row(Catalog::Tablespace) => "insert into pg_tablespace",
            Self::Relmap => "update of the shared relation map",
            Self::DropDatabase => "drop of a database",
        }
    }

    /// The record is longer than any real one of its kind.
    pub(crate) const fn too_long(self, bytes: u32) -> UnreadableProblem {
        UnreadableProblem::TooLong { what: self.what(), bytes }
    }

    /// The event that the record at `at` is.
    pub(crate) fn learn(self, major: Major, at: Lsn, record: &[u8]) -> Event {
        let Some(header) = record.first_chunk::<HEADER_BYTES>().map(Header::parse) else {
            let problem = self.cut("the record header");
            return Event::Unreadable { at, xid: pgtypes::Xid::default(), problem };
        };
        let event = match self {
            Self::Row(catalog) => self.row(major, catalog, at, &header, record),
            Self::Relmap => self.relmap(major, at, &header, record),
            Self::DropDatabase => self.drop_database(major, at, &header, record),
        };
        event.unwrap_or_else(|problem| Event::Unreadable { at, xid: header.xid, problem })
    }

    const fn cut(self, field: &'static str) -> UnreadableProblem {
        UnreadableProblem::Cut { what: self.what(), field }
    }

    fn row(
        self,
        major: Major,
        catalog: Catalog,
        at: Lsn,
        header: &Header,
        record: &[u8],
    ) -> Result<Event, UnreadableProblem> {
        let user_data = self.user_data(major, header, record)?;
        let mut reader = Reader::new(&user_data);
        let oid = Oid(reader.u32_le("oid").map_err(|_cut| self.cut("oid"))?);
        let name = reader.take("name", NAME_BYTES).map_err(|_cut| self.cut("name"))?;
        let name: Vec<u8> = name.iter().copied().take_while(|byte| *byte != 0).collect();
        let xid = header.xid;
        if catalog == Catalog::Tablespace {
            return Ok(Event::TablespaceRow { at, xid, oid, name });
        }
        // offsetof(FormData_pg_database, dattablespace)
        let offset = if major >= Major::V15 { 92 } else { 224 };
        let tablespace = user_data.get(offset..).and_then(|rest| rest.first_chunk::<4>());
        let tablespace = tablespace.ok_or(self.cut("dattablespace"))?;
        let tablespace = Oid(u32::from_le_bytes(*tablespace));
        Ok(Event::DatabaseRow { at, xid, oid, name, tablespace })
    }

    /// The columns of the inserted tuple, from the data of block 0 or out of its page image.
    fn user_data(
        self,
        major: Major,
        header: &Header,
        record: &[u8],
    ) -> Result<Vec<u8>, UnreadableProblem> {
        let (survey, main) = self.survey(major, header, record)?;
        let block = record.get(HEADER_BYTES..).and_then(|body| BlockRef::parse(major, body));
        let (block, _) = block.ok_or(self.cut("block 0"))?;
        let payload = record.get(survey.head_bytes..).unwrap_or_default();
        let image_bytes = block.image.map_or(0, |image| usize::from(image.bytes));
        let (stored, rest) = payload.split_at_checked(image_bytes).ok_or(self.cut("the image"))?;
        if usize::from(block.data_bytes) >= XL_HEAP_HEADER_BYTES {
            let data = rest.get(..usize::from(block.data_bytes)).ok_or(self.cut("block data"))?;
            let hoff = usize::from(data.get(4).copied().unwrap_or_default());
            let from = (XL_HEAP_HEADER_BYTES + hoff).saturating_sub(TUPLE_HEADER_BYTES);
            let user_data = data.get(from.max(XL_HEAP_HEADER_BYTES)..);
            return Ok(user_data.ok_or(self.cut("the tuple"))?.to_vec());
        }
        let image = block.image.ok_or(self.cut("block data"))?;
        let page = image::restore(major, image, stored)
            .map_err(|detail| UnreadableProblem::Image { what: self.what(), detail })?;
        let offset_number = main.first_chunk::<2>().ok_or(self.cut("offnum"))?;
        let tuple = tuple_at(&page, u16::from_le_bytes(*offset_number));
        Ok(tuple.ok_or(self.cut("the tuple on the page"))?.to_vec())
    }

    /// Headers and main data of a whole record.
    fn survey<'a>(
        self,
        major: Major,
        header: &Header,
        record: &'a [u8],
    ) -> Result<(Survey, &'a [u8]), UnreadableProblem> {
        let mut survey = Survey::new();
        if survey.walk(major, record, header.total_bytes) != Ok(Walk::Complete) {
            return Err(self.cut("the block headers"));
        }
        let from = record.len().checked_sub(survey.main_bytes as usize);
        let main = from.and_then(|from| record.get(from..)).ok_or(self.cut("the main data"))?;
        Ok((survey, main))
    }

    /// `xl_relmap_update`
    fn relmap(
        self,
        major: Major,
        at: Lsn,
        header: &Header,
        record: &[u8],
    ) -> Result<Event, UnreadableProblem> {
        let (_, main) = self.survey(major, header, record)?;
        let map = main.get(12..).ok_or(self.cut("the map"))?;
        let map = Relmap::parse(major, map)
            .map_err(|_no_map| UnreadableProblem::Relmap { detail: "not a relation map" })?;
        let file =
            |catalog, detail| map.file_of(catalog).ok_or(UnreadableProblem::Relmap { detail });
        Ok(Event::Relmap {
            at,
            database: file(Oid::PG_DATABASE, "pg_database is not in it")?,
            tablespace: file(Oid::PG_TABLESPACE, "pg_tablespace is not in it")?,
        })
    }

    /// `xl_dbase_drop_rec`: 12 has one tablespace, 13 a counted list.
    fn drop_database(
        self,
        major: Major,
        at: Lsn,
        header: &Header,
        record: &[u8],
    ) -> Result<Event, UnreadableProblem> {
        let (_, main) = self.survey(major, header, record)?;
        let mut reader = Reader::new(main);
        let cut = |_cut| self.cut("the list of tablespaces");
        let database = Oid(reader.u32_le("db_id").map_err(cut)?);
        let count =
            if major >= Major::V13 { reader.u32_le("ntablespaces").map_err(cut)? } else { 1 };
        let mut tablespaces = vec![];
        for _ in 0..count {
            tablespaces.push(Oid(reader.u32_le("tablespace_id").map_err(cut)?));
        }
        Ok(Event::DatabaseDrop { at, database, tablespaces })
    }
}

/// The columns of the tuple with this number on a heap page.
fn tuple_at(page: &[u8], offset_number: u16) -> Option<&[u8]> {
    let line = PAGE_HEADER_BYTES + 4 * usize::from(offset_number.checked_sub(1)?);
    let pointer = u32::from_le_bytes(*page.get(line..)?.first_chunk::<4>()?);
    let offset = (pointer & 0x7FFF) as usize;
    let bytes = (pointer >> 17) as usize;
    let tuple = page.get(offset..offset + bytes)?;
    let hoff = usize::from(*tuple.get(TUPLE_HEADER_BYTES - 1)?);
    tuple.get(hoff.max(TUPLE_HEADER_BYTES)..)
}
