//! The fates of one history, laid out for judging millions of records a second.
//!
//! A snapshot of [`super::fates::Fates`] for one stream; taken anew whenever something was
//! learned.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use pgproto::history::History;
use pgtypes::{Lsn, Oid};
use wal::{Catalog, Judge, Place, Verdict};

use super::fates::{Fate, Fates, Kind};

type Epochs = Vec<(Lsn, Fate)>;

/// Who passes, by OID.
#[derive(Clone, Debug, Default)]
pub struct Table {
    databases: HashMap<Oid, Epochs>,
    tablespaces: HashMap<Oid, Epochs>,
    /// The template databases, which no filter touches even where `pg_default` is excluded.
    templates: Vec<Oid>,
    database_files: Vec<u32>,
    tablespace_files: Vec<u32>,
    /// Answers that do not depend on the position, the last one for each [`Table::slot`]:
    /// sessions in several databases write their records in turn.
    last: [Slot; SLOTS],
    /// Records that were judged since they were last taken, beside those in the slots: by
    /// database, and whether they were replaced.
    judged: RefCell<HashMap<(Oid, bool), u64>>,
}

/// An answer, and how many records got it.
#[derive(Clone, Debug, Default)]
struct Slot {
    answer: Cell<Option<(Place, Verdict)>>,
    records: Cell<u64>,
}

/// Answers that are remembered.
const SLOTS: usize = 16;

impl Table {
    /// Lays out what `fates` says for this history.
    #[must_use]
    pub fn new(fates: &Fates, history: &History) -> Self {
        let is_template = |name: &str| matches!(name, "template0" | "template1");
        Self {
            databases: fates.epochs(Kind::Database, history).collect(),
            tablespaces: fates.epochs(Kind::Tablespace, history).collect(),
            templates: fates
                .newest(Kind::Database, history)
                .filter(|(_, epoch)| is_template(&epoch.name))
                .map(|(oid, _)| oid)
                .collect(),
            database_files: fates.database_files.clone(),
            tablespace_files: fates.tablespace_files.clone(),
            last: Default::default(),
            judged: RefCell::default(),
        }
    }

    /// Gives the records that were judged since the last time: their database, whether they were
    /// replaced, and how many.
    pub(crate) fn take_judged(&self, mut take: impl FnMut(Oid, bool, u64)) {
        for slot in &self.last {
            self.settle(slot);
        }
        for ((database, replaced), records) in self.judged.borrow_mut().drain() {
            take(database, replaced, records);
        }
    }

    /// Goes on counting where another table stopped.
    pub(crate) fn count_on(&self, from: &Self) {
        from.take_judged(|database, replaced, records| self.add(database, replaced, records));
    }

    /// Takes what was counted in a slot out of it.
    fn settle(&self, slot: &Slot) {
        let records = slot.records.take();
        if let Some((place, verdict)) = slot.answer.get().filter(|_| records > 0) {
            self.add(place.database, verdict == Verdict::Replace, records);
        }
    }

    fn add(&self, database: Oid, replaced: bool, records: u64) {
        *self.judged.borrow_mut().entry((database, replaced)).or_default() += records;
    }

    /// Where the answer for a place is remembered; databases that were made one after the other
    /// do not share a slot.
    #[inline]
    fn slot(&self, place: Place) -> Option<&Slot> {
        self.last.get((place.database.0 ^ place.tablespace.0) as usize % SLOTS)
    }

    fn judge(&self, place: Place, at: Lsn) -> (Verdict, bool) {
        // No database: shared catalogs and tablespace records. No tablespace: any of them.
        let (database, fixed_database) = match place.database {
            Oid::INVALID => (Some(Fate::Included), true),
            oid => fate_at(&self.databases, oid, at),
        };
        let (tablespace, fixed_tablespace) = match place.tablespace {
            Oid::INVALID | Oid::PG_GLOBAL => (Some(Fate::Included), true),
            Oid::PG_DEFAULT if self.templates.contains(&place.database) => {
                (Some(Fate::Included), true)
            }
            oid => fate_at(&self.tablespaces, oid, at),
        };
        let verdict = match (database, tablespace) {
            // One exclusion decides, whatever the other is.
            (Some(Fate::Excluded), _) | (_, Some(Fate::Excluded)) => Verdict::Replace,
            (Some(Fate::Included), Some(Fate::Included)) => Verdict::Pass,
            (None, _) | (_, None) => Verdict::Unknown,
        };
        (verdict, fixed_database && fixed_tablespace)
    }
}

/// The fate at a position, and whether it is the same at every position.
fn fate_at(book: &HashMap<Oid, Epochs>, oid: Oid, at: Lsn) -> (Option<Fate>, bool) {
    match book.get(&oid).map(Vec::as_slice) {
        None | Some([]) => (None, true),
        Some([(_, fate)]) => (Some(*fate), true),
        Some(epochs @ [(_, first), ..]) => {
            let begun = epochs.iter().take_while(|(since, _)| *since <= at).last();
            (Some(begun.map_or(*first, |(_, fate)| *fate)), false)
        }
    }
}

impl Judge for Table {
    #[inline]
    fn place(&self, place: Place, at: Lsn) -> Verdict {
        let slot = self.slot(place);
        if let Some((known, verdict)) = slot.and_then(|slot| slot.answer.get())
            && known == place
        {
            return verdict;
        }
        let (verdict, fixed) = self.judge(place, at);
        if let Some(slot) = slot.filter(|_| fixed) {
            self.settle(slot);
            slot.answer.set(Some((place, verdict)));
        }
        verdict
    }

    #[inline]
    fn judged(&self, place: Place, verdict: Verdict) {
        match self.slot(place) {
            Some(slot) if slot.answer.get() == Some((place, verdict)) => {
                slot.records.set(slot.records.get() + 1);
            }
            _ => self.add(place.database, verdict == Verdict::Replace, 1),
        }
    }

    fn catalog_file(&self, relfilenumber: Oid) -> Option<Catalog> {
        if self.database_files.contains(&relfilenumber.0) {
            Some(Catalog::Database)
        } else if self.tablespace_files.contains(&relfilenumber.0) {
            Some(Catalog::Tablespace)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use pgtypes::Timeline;

    use super::super::fates::{Epoch, Point, Reason};
    use super::*;

    fn table(databases: &[(u32, u64, Fate, &str)], tablespaces: &[(u32, Fate)]) -> Table {
        let mut fates = Fates::default();
        let mut begin = |kind, oid, lsn, fate, name: &str| {
            let since = Point::new(Timeline(1), Lsn(lsn));
            let reason = Reason::Name;
            let name = name.into();
            fates.begin(kind, Oid(oid), Epoch::new(since, fate, reason, name));
        };
        for (oid, lsn, fate, name) in databases {
            begin(Kind::Database, *oid, *lsn, *fate, name);
        }
        for (oid, fate) in tablespaces {
            begin(Kind::Tablespace, *oid, 0, *fate, "");
        }
        Table::new(&fates, &History::without_past(Timeline(1)))
    }

    fn place(tablespace: u32, database: u32) -> Place {
        Place { tablespace: Oid(tablespace), database: Oid(database) }
    }

    #[test]
    fn one_exclusion_is_enough_even_beside_an_unknown() {
        let table = table(
            &[(5, 0, Fate::Included, "in"), (6, 0, Fate::Excluded, "out")],
            &[(1663, Fate::Included), (70, Fate::Excluded)],
        );
        for (tablespace, database, verdict) in [
            (1663, 5, Verdict::Pass),
            (1663, 6, Verdict::Replace),
            (70, 5, Verdict::Replace),
            (1664, 0, Verdict::Pass),
            (0, 6, Verdict::Replace),
            (0, 5, Verdict::Pass),
            (70, 0, Verdict::Replace),
            (71, 6, Verdict::Replace),
            (71, 5, Verdict::Unknown),
            (1663, 99, Verdict::Unknown),
            (70, 99, Verdict::Replace),
        ] {
            assert_eq!(table.place(place(tablespace, database), Lsn(1)), verdict);
        }
    }

    #[test]
    fn an_answer_that_depends_on_the_position_is_not_remembered() {
        let table = table(
            &[(5, 0, Fate::Included, "d"), (5, 500, Fate::Excluded, "d")],
            &[(1663, Fate::Included)],
        );
        for (at, verdict) in [(10, Verdict::Pass), (500, Verdict::Replace), (499, Verdict::Pass)] {
            assert_eq!(table.place(place(1663, 5), Lsn(at)), verdict, "at {at}");
        }
    }

    #[test]
    fn templates_pass_where_the_default_tablespace_is_excluded() {
        let table = table(
            &[(1, 0, Fate::Included, "template1"), (5, 0, Fate::Included, "postgres")],
            &[(1663, Fate::Excluded)],
        );
        assert_eq!(table.place(place(1663, 1), Lsn(1)), Verdict::Pass);
        assert_eq!(table.place(place(1663, 5), Lsn(1)), Verdict::Replace);
    }
}
