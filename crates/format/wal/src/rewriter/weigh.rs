//! The fate of one record.

use pgtypes::{Lsn, Oid};

use super::{Rewriter, Told};
use crate::block::{Walk, plain};
use crate::error::{RecordProblem, WalError};
use crate::event::Event;
use crate::judge::{Judge, Place, Verdict};
use crate::record::{Header, RMGR_INFO_MASK, XLOG_SWITCH, is_rmid, rmid, total_bytes_max};
use crate::row::Lesson;
use crate::rules::{self, HeapChange, Rule, oid_at, place_at};

/// Records that teach something are kept until they are complete, if they are not longer than
/// this: a page image and its row have less than 9 kB, a list of tablespaces less than that.
const LESSON_BYTES_MAX: u32 = 64 << 10;

/// What is known of a record's fate.
#[derive(Clone, Copy)]
pub(super) enum Weighed {
    /// Its headers are not complete.
    Short,
    /// An event is pending that may change the fate.
    Told,
    /// It goes as it is.
    Pass,
    /// It becomes a no-op.
    Replace,
    /// It goes as it is, and its content has to be learned.
    Learn(Lesson),
    /// It goes, and nothing follows in its segment.
    Switch,
}

impl Rewriter {
    /// Checks and judges the record at the position. `seen` is what is there of it, at least
    /// its header; bytes behind the record may come along.
    #[inline(always)]
    pub(super) fn consider(
        &mut self,
        header: &Header,
        seen: &[u8],
        judge: &impl Judge,
    ) -> Result<Weighed, WalError> {
        self.check(header)?;
        self.subject = None;
        let weighed = if rules::is_cluster_wide(header.rmid, header.info) {
            if header.rmid == rmid::XLOG && header.info & RMGR_INFO_MASK == XLOG_SWITCH {
                self.switch(header)?
            } else {
                Weighed::Pass
            }
        } else {
            let seen = seen.get(..header.total_bytes as usize).unwrap_or(seen);
            self.weigh(header, seen, judge)?
        };
        let verdict = match weighed {
            Weighed::Short | Weighed::Told => return Ok(weighed),
            Weighed::Replace => {
                self.stats.records_replaced += 1;
                self.stats.replaced_bytes += u64::from(header.total_bytes);
                Verdict::Replace
            }
            Weighed::Pass | Weighed::Learn(_) | Weighed::Switch => {
                self.stats.records_passed += 1;
                Verdict::Pass
            }
        };
        if let Some(place) = self.subject {
            judge.judged(place, verdict);
        }
        self.before = self.prev;
        self.prev = Some(self.at);
        Ok(weighed)
    }

    /// What `ValidXLogRecordHeader` (`xlogreader.c`) checks.
    #[inline]
    fn check(&mut self, header: &Header) -> Result<(), WalError> {
        self.check_length(header.total_bytes)?;
        let major = self.pages.layout.major;
        if !is_rmid(major, header.rmid) {
            return Err(self.bad(RecordProblem::Rmid { found: header.rmid, major }));
        }
        match self.prev {
            Some(expected) if expected == header.prev => {}
            Some(expected) => {
                return Err(self.bad(RecordProblem::Prev { found: header.prev, expected }));
            }
            None if header.prev < self.at => {
                self.first_prev.get_or_insert(header.prev);
            }
            None => return Err(self.bad(RecordProblem::PrevNotEarlier { found: header.prev })),
        }
        Ok(())
    }

    #[inline]
    pub(super) fn check_length(&self, found: u32) -> Result<(), WalError> {
        let max = total_bytes_max(self.pages.layout.major);
        if (24..=max).contains(&found) {
            Ok(())
        } else {
            Err(self.bad(RecordProblem::Length { found, max }))
        }
    }

    #[cold]
    pub(super) fn bad(&self, problem: RecordProblem) -> WalError {
        WalError::Record { at: self.at, problem }
    }

    fn switch(&self, header: &Header) -> Result<Weighed, WalError> {
        let found = header.total_bytes;
        if found == 24 {
            Ok(Weighed::Switch)
        } else {
            Err(self.bad(RecordProblem::SwitchLength { found }))
        }
    }

    #[inline]
    fn weigh(
        &mut self,
        header: &Header,
        seen: &[u8],
        judge: &impl Judge,
    ) -> Result<Weighed, WalError> {
        if let Some(locator) = plain(seen, header.total_bytes) {
            self.survey.note_plain(locator);
            return Ok(match self.ask(0, locator.place, header, judge)? {
                Verdict::Unknown => Weighed::Told,
                Verdict::Pass => self.catalog_row(header, judge),
                Verdict::Replace => Weighed::Replace,
            });
        }
        self.weigh_any(header, seen, judge)
    }

    fn weigh_any(
        &mut self,
        header: &Header,
        seen: &[u8],
        judge: &impl Judge,
    ) -> Result<Weighed, WalError> {
        let major = self.pages.layout.major;
        match self.survey.walk(major, seen, header.total_bytes) {
            Ok(Walk::Complete) => {}
            Ok(Walk::Short) => return Ok(Weighed::Short),
            Err(problem) => return Err(self.bad(problem)),
        }
        let verdict = if self.survey.refs == 0 {
            match self.weigh_main(header, seen, judge)? {
                Main::Verdict(verdict) => verdict,
                Main::Short => return Ok(Weighed::Short),
                Main::Learn(lesson) => return Ok(self.learn(header, lesson)),
            }
        } else {
            self.weigh_blocks(header, judge)?
        };
        match verdict {
            Verdict::Unknown => Ok(Weighed::Told),
            Verdict::Pass if self.survey.refs > 0 => Ok(self.catalog_row(header, judge)),
            Verdict::Pass => Ok(Weighed::Pass),
            Verdict::Replace => Ok(Weighed::Replace),
        }
    }

    /// All block references have to agree for a record to go.
    #[inline]
    fn weigh_blocks(&mut self, header: &Header, judge: &impl Judge) -> Result<Verdict, WalError> {
        let (mut passes, mut replaces) = (false, false);
        let mut number = 0;
        while let Some(&place) = self.survey.places().get(number) {
            match self.ask(number, place, header, judge)? {
                Verdict::Unknown => return Ok(Verdict::Unknown),
                Verdict::Pass => passes = true,
                Verdict::Replace => replaces = true,
            }
            number += 1;
        }
        if passes && replaces {
            self.pending = Some(Event::Torn { at: self.at, rmid: header.rmid, info: header.info });
        }
        Ok(if replaces && !passes { Verdict::Replace } else { Verdict::Pass })
    }

    /// A record that passes, but may hold a row of `pg_database` or `pg_tablespace`.
    #[inline]
    fn catalog_row(&mut self, header: &Header, judge: &impl Judge) -> Weighed {
        if self.survey.first.place != Place::SHARED {
            return Weighed::Pass;
        }
        let Some(change) = rules::heap_change(header.rmid, header.info) else {
            return Weighed::Pass;
        };
        match (change, judge.catalog_file(self.survey.first.relfilenumber)) {
            (_, None) => Weighed::Pass,
            (HeapChange::Insert, Some(catalog)) => self.learn(header, Lesson::Row(catalog)),
            (HeapChange::Other, Some(catalog)) => {
                self.pending = Some(Event::CatalogUpdated { at: self.at, catalog });
                Weighed::Pass
            }
        }
    }

    fn learn(&mut self, header: &Header, lesson: Lesson) -> Weighed {
        if header.total_bytes <= LESSON_BYTES_MAX {
            return Weighed::Learn(lesson);
        }
        let problem = lesson.too_long(header.total_bytes);
        self.pending = Some(Event::Unreadable { at: self.at, xid: header.xid, problem });
        Weighed::Pass
    }

    /// The fate of a place; when it has none, the question is pending.
    ///
    /// `number` orders the questions about one record: one that was put is not put again.
    #[inline]
    fn ask(
        &mut self,
        number: usize,
        place: Place,
        header: &Header,
        judge: &impl Judge,
    ) -> Result<Verdict, WalError> {
        let nobody = Place { tablespace: Oid::INVALID, database: Oid::INVALID };
        if place == Place::SHARED || place == nobody {
            return Ok(Verdict::Pass);
        }
        let verdict = judge.place(place, self.at);
        if place.database != Oid::INVALID {
            self.subject.get_or_insert(place);
        }
        if verdict == Verdict::Unknown
            && !self.tell(number, Event::Unknown { at: self.at, xid: header.xid, place })
        {
            return Err(WalError::Undecided { at: self.at, place });
        }
        Ok(verdict)
    }

    /// Makes an event pending, unless it was told before; says whether it did.
    #[cold]
    fn tell(&mut self, number: usize, event: Event) -> bool {
        if self.told.record == self.at && self.told.next > number {
            return false;
        }
        self.told = Told { record: self.at, next: number + 1 };
        self.pending = Some(event);
        true
    }

    /// A record without block references: what its main data names decides.
    fn weigh_main(
        &mut self,
        header: &Header,
        seen: &[u8],
        judge: &impl Judge,
    ) -> Result<Main, WalError> {
        let rule = rules::rule(self.pages.layout.major, header.rmid, header.info);
        let need = rule.main_bytes();
        let have = self.survey.main_bytes;
        if (have as usize) < need {
            let (rmid, info) = (header.rmid, header.info);
            return Err(self.bad(RecordProblem::MainData { have, need, rmid, info }));
        }
        let main = seen.get(self.survey.head_bytes..).unwrap_or_default();
        if main.len() < need {
            return Ok(Main::Short);
        }
        let verdict = match rule {
            Rule::Pass => Verdict::Pass,
            Rule::Place(offset) => self.ask(0, place_at(main, offset), header, judge)?,
            Rule::Database(offset) => {
                self.ask(0, Place::database(oid_at(main, offset)), header, judge)?
            }
            Rule::CreateDatabaseCopy => {
                self.create_database(header, main, Some(swapped(main, 8)), judge)?
            }
            Rule::CreateDatabaseLogged => self.create_database(header, main, None, judge)?,
            Rule::DropDatabase => return Ok(Main::Learn(Lesson::DropDatabase)),
            Rule::CreateTablespace => self.create_tablespace(header, oid_at(main, 0), judge)?,
            Rule::DropTablespace => self.drop_tablespace(header, oid_at(main, 0), judge)?,
            Rule::Relmap => {
                let place = swapped(main, 0);
                if place.database == Oid::INVALID {
                    return Ok(Main::Learn(Lesson::Relmap));
                }
                self.ask(0, place, header, judge)?
            }
        };
        Ok(Main::Verdict(verdict))
    }

    /// Goes when the standby shall not have the database, or cannot copy it because it does
    /// not have the source.
    fn create_database(
        &mut self,
        header: &Header,
        main: &[u8],
        source: Option<Place>,
        judge: &impl Judge,
    ) -> Result<Verdict, WalError> {
        let place = swapped(main, 0);
        let Place { tablespace, database } = place;
        let (at, xid) = (self.at, header.xid);
        if self.tell(0, Event::DatabaseCreate { at, xid, database, tablespace, source }) {
            return Ok(Verdict::Unknown);
        }
        let own = self.ask(1, place, header, judge)?;
        let Some(source) = source.filter(|_| own == Verdict::Pass) else { return Ok(own) };
        self.ask(2, source, header, judge)
    }

    fn create_tablespace(
        &mut self,
        header: &Header,
        oid: Oid,
        judge: &impl Judge,
    ) -> Result<Verdict, WalError> {
        if self.tell(0, Event::TablespaceCreate { at: self.at, xid: header.xid, oid }) {
            return Ok(Verdict::Unknown);
        }
        self.ask(1, Place::tablespace(oid), header, judge)
    }

    fn drop_tablespace(
        &mut self,
        header: &Header,
        oid: Oid,
        judge: &impl Judge,
    ) -> Result<Verdict, WalError> {
        let verdict = self.ask(0, Place::tablespace(oid), header, judge)?;
        if verdict != Verdict::Unknown {
            self.pending = Some(Event::TablespaceDrop { at: self.at, oid });
        }
        Ok(verdict)
    }
}

/// What a record without block references comes to.
enum Main {
    Verdict(Verdict),
    Short,
    Learn(Lesson),
}

/// Database, then tablespace, at `offset` of `main`.
fn swapped(main: &[u8], offset: usize) -> Place {
    Place { database: oid_at(main, offset), tablespace: oid_at(main, offset + 4) }
}

/// Never the start of a record, so it serves as "none".
const _: () = assert!(Lsn::INVALID.0 == 0);
