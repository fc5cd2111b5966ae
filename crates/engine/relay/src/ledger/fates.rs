//! What a configuration decided about each OID, and from which point of the WAL on.
//!
//! The name of a database decides when its OID is first seen; from then on the OID
//! decides, whatever happens to the name. A fate changes only by an event in the WAL (moved
//! to another tablespace, OID used again after a drop) or by a stricter filter, and then from
//! a point on: records before that point keep the old fate, so that a range of WAL which is
//! asked again gives the same bytes.
//!
//! Pure data: no clock, no disk, no log. [`super::Ledger`] has these.

use std::collections::BTreeMap;

use pgproto::history::History;
use pgtypes::{Lsn, Oid, Timeline};
use serde::{Deserialize, Serialize};

/// A place in the WAL: LSNs alone are ambiguous once a timeline has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// Timeline; 0 for what holds on every timeline.
    pub timeline: u32,
    /// Position.
    pub lsn: u64,
}

impl Point {
    /// Before all WAL, on every timeline.
    pub const ORIGIN: Self = Self { timeline: 0, lsn: 0 };

    /// This position of this timeline.
    #[must_use]
    pub const fn new(timeline: Timeline, lsn: Lsn) -> Self {
        Self { timeline: timeline.0, lsn: lsn.0 }
    }
}

/// Whether the WAL at `point` is part of this history.
#[must_use]
pub fn holds(history: &History, point: Point) -> bool {
    point.timeline == 0
        || point.timeline == history.timeline().0
        || history.end_of(Timeline(point.timeline)).is_some_and(|until| point.lsn < until.0)
}

/// Whether a standby holds a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// Its records pass.
    Included,
    /// Its records are replaced.
    Excluded,
}

impl Fate {
    /// The fate of something that does or does not pass a filter.
    #[must_use]
    pub const fn of(passes: bool) -> Self {
        if passes { Self::Included } else { Self::Excluded }
    }

    /// The word for the log.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Included => "included",
            Self::Excluded => "excluded",
        }
    }
}

/// Why a fate is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The filter, applied to the name.
    Name,
    /// The database's default tablespace is excluded, and with it the database's catalogs.
    DefaultTablespace,
    /// The database was moved into an excluded tablespace: its files left the standby.
    MovedOut,
    /// The database was made by copying files that the standby does not have.
    TemplateExcluded,
    /// Records came whose name could not be found; a no-op is always safe.
    Unknown,
    /// A stricter filter was configured.
    FilterTightened,
}

/// A fate, and from which point on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoch {
    /// First point at which it holds.
    pub since: Point,
    /// What is done.
    pub fate: Fate,
    /// Why.
    pub reason: Reason,
    /// The name that decided; shown, and used when the filter changes after a drop.
    pub name: String,
    /// The database's default tablespace; 0 for a tablespace.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tablespace: u32,
    /// Where it was dropped; an insert behind that point is another thing with the same OID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<Point>,
    /// Where the server was when its catalogs told of it, for what was not seen in the WAL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<Point>,
    /// The name that decided, once it has another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renamed_from: Option<String>,
    /// Where its files were copied to another tablespace, in the order of positions. Whether
    /// that was the end of the old ones shows later: see [`Epoch::leaves`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moves: Vec<Move>,
}

/// `ALTER DATABASE … SET TABLESPACE`, which may still be undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// The record that copies the files.
    pub at: Point,
    /// The tablespace that it leaves.
    pub from: u32,
    /// Whether the standby gets the copy.
    pub fate: Fate,
}

impl Epoch {
    /// An epoch without a past.
    #[must_use]
    pub const fn new(since: Point, fate: Fate, reason: Reason, name: String) -> Self {
        Self {
            since,
            fate,
            reason,
            name,
            tablespace: 0,
            dropped: None,
            told: None,
            renamed_from: None,
            moves: Vec::new(),
        }
    }

    /// Whether catalogs told of it that were read on a branch which `history` has left before
    /// `lsn`: what is inserted there is something else with the same OID.
    #[must_use]
    pub fn is_of_another_branch(&self, history: &History, lsn: Lsn) -> bool {
        self.told
            .is_some_and(|told| told.timeline < history.timeline_at(lsn).0 && !holds(history, told))
    }

    /// Whether dropping the files in `tablespaces` at `lsn` ends a move to where the standby
    /// does not follow. A move that was undone drops nothing.
    #[must_use]
    pub fn leaves(&self, tablespaces: &[Oid], history: &History, lsn: Lsn) -> bool {
        let mut before = self.moves.iter().filter(|it| it.at.lsn < lsn.0);
        let last = before.rfind(|it| holds(history, it.at));
        last.is_some_and(|it| it.fate == Fate::Excluded && tablespaces.contains(&Oid(it.from)))
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
const fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// What an OID is the OID of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A database.
    Database,
    /// A tablespace.
    Tablespace,
}

impl Kind {
    /// The word for the log.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::Tablespace => "tablespace",
        }
    }
}

/// Every fate of one configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fates {
    databases: BTreeMap<u32, Vec<Epoch>>,
    tablespaces: BTreeMap<u32, Vec<Epoch>>,
    /// Relation files that hold, or held, the rows of `pg_database`.
    pub database_files: Vec<u32>,
    /// The same of `pg_tablespace`.
    pub tablespace_files: Vec<u32>,
}

impl Fates {
    const fn book(&self, kind: Kind) -> &BTreeMap<u32, Vec<Epoch>> {
        match kind {
            Kind::Database => &self.databases,
            Kind::Tablespace => &self.tablespaces,
        }
    }

    const fn book_mut(&mut self, kind: Kind) -> &mut BTreeMap<u32, Vec<Epoch>> {
        match kind {
            Kind::Database => &mut self.databases,
            Kind::Tablespace => &mut self.tablespaces,
        }
    }

    /// The epoch of `oid` that rules at `lsn`; the oldest one when all began later.
    #[must_use]
    pub fn at(&self, kind: Kind, oid: Oid, history: &History, lsn: Lsn) -> Option<&Epoch> {
        let mut known =
            self.book(kind).get(&oid.0)?.iter().filter(|epoch| holds(history, epoch.since));
        let first = known.next()?;
        Some(known.take_while(|epoch| epoch.since.lsn <= lsn.0).last().unwrap_or(first))
    }

    /// The newest epoch of each OID in this history.
    pub fn newest<'a>(
        &'a self,
        kind: Kind,
        history: &'a History,
    ) -> impl Iterator<Item = (Oid, &'a Epoch)> {
        self.book(kind).iter().filter_map(|(oid, epochs)| {
            let newest = epochs.iter().rfind(|epoch| holds(history, epoch.since))?;
            Some((Oid(*oid), newest))
        })
    }

    /// Every epoch of this history, for the table that judges.
    pub fn epochs<'a>(
        &'a self,
        kind: Kind,
        history: &'a History,
    ) -> impl Iterator<Item = (Oid, Vec<(Lsn, Fate)>)> + 'a {
        self.book(kind).iter().filter_map(|(oid, epochs)| {
            let known = epochs.iter().filter(|epoch| holds(history, epoch.since));
            let fates: Vec<_> = known.map(|epoch| (Lsn(epoch.since.lsn), epoch.fate)).collect();
            (!fates.is_empty()).then_some((Oid(*oid), fates))
        })
    }

    /// The last epoch of each OID that may still be there, on any timeline.
    pub fn last(&self, kind: Kind) -> impl Iterator<Item = (Oid, &Epoch)> {
        let last = self.book(kind).iter().filter_map(|(oid, it)| Some((Oid(*oid), it.last()?)));
        // The files of one that was moved out are dropped while it lives on.
        last.filter(|(_, it)| it.dropped.is_none() || it.reason == Reason::MovedOut)
    }

    /// The names of what was excluded last and may still be there, on any timeline.
    pub fn excluded(&self) -> impl Iterator<Item = (Kind, &str)> {
        [Kind::Database, Kind::Tablespace].into_iter().flat_map(|kind| {
            let excluded = self.last(kind).filter(|(_, it)| it.fate == Fate::Excluded);
            excluded.map(move |(_, it)| (kind, it.name.as_str()))
        })
    }

    /// Adds an epoch, in the order of positions.
    pub fn begin(&mut self, kind: Kind, oid: Oid, epoch: Epoch) {
        let epochs = self.book_mut(kind).entry(oid.0).or_default();
        let place = epochs.partition_point(|known| known.since.lsn <= epoch.since.lsn);
        epochs.insert(place, epoch);
    }

    /// Takes the newest epoch of `oid` back, as if it had never begun.
    pub fn take_back(&mut self, kind: Kind, oid: Oid, history: &History) {
        let Some(epochs) = self.book_mut(kind).get_mut(&oid.0) else { return };
        if let Some(newest) = epochs.iter().rposition(|epoch| holds(history, epoch.since)) {
            epochs.remove(newest);
        }
    }

    /// As [`Self::at`], to note a move.
    pub fn at_mut(
        &mut self,
        kind: Kind,
        oid: Oid,
        history: &History,
        lsn: Lsn,
    ) -> Option<&mut Epoch> {
        let since = self.at(kind, oid, history, lsn)?.since;
        self.book_mut(kind).get_mut(&oid.0)?.iter_mut().find(|epoch| epoch.since == since)
    }

    /// The newest epoch of `oid`, to note a drop or a new name.
    pub fn newest_mut(&mut self, kind: Kind, oid: Oid, history: &History) -> Option<&mut Epoch> {
        let epochs = self.book_mut(kind).get_mut(&oid.0)?;
        epochs.iter_mut().rfind(|epoch| holds(history, epoch.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(timeline: u32, lsn: u64, fate: Fate) -> Epoch {
        let since = Point { timeline, lsn };
        Epoch::new(since, fate, Reason::Name, "d".into())
    }

    const FIRST: History = History::without_past(Timeline(1));

    #[test]
    fn an_epoch_rules_from_its_point_on() {
        let mut fates = Fates::default();
        fates.begin(Kind::Database, Oid(9), epoch(1, 500, Fate::Excluded));
        fates.begin(Kind::Database, Oid(9), epoch(0, 0, Fate::Included));
        let at = |lsn| fates.at(Kind::Database, Oid(9), &FIRST, Lsn(lsn)).unwrap().fate;
        assert_eq!(at(0), Fate::Included);
        assert_eq!(at(499), Fate::Included);
        assert_eq!(at(500), Fate::Excluded);
        assert_eq!(fates.at(Kind::Tablespace, Oid(9), &FIRST, Lsn(1)), None);
    }

    #[test]
    fn what_was_seen_late_rules_before_too() {
        let mut fates = Fates::default();
        fates.begin(Kind::Database, Oid(9), epoch(1, 500, Fate::Excluded));
        assert!(fates.at(Kind::Database, Oid(9), &FIRST, Lsn(10)).is_some());
    }

    #[test]
    fn only_the_end_of_the_last_move_is_a_way_out() {
        let mut epoch = epoch(0, 0, Fate::Included);
        let moved = |lsn, fate| Move { at: Point { timeline: 1, lsn }, from: 1663, fate };
        let leaves =
            |epoch: &Epoch, tablespace, lsn| epoch.leaves(&[Oid(tablespace)], &FIRST, Lsn(lsn));
        epoch.moves = vec![moved(100, Fate::Excluded)];
        assert!(leaves(&epoch, 1663, 200));
        assert!(!leaves(&epoch, 70, 200));
        assert!(!leaves(&epoch, 1663, 50));
        let left_before = History::parse(Timeline(2), b"1\t0/50\tx\n").unwrap();
        assert!(!epoch.leaves(&[Oid(1663)], &left_before, Lsn(200)), "on another branch");
        epoch.moves.push(moved(150, Fate::Included));
        assert!(!leaves(&epoch, 1663, 200), "the first one was undone");
    }

    #[test]
    fn what_catalogs_told_on_an_abandoned_branch_is_something_else() {
        let mut epoch = epoch(0, 0, Fate::Excluded);
        let second = History::parse(Timeline(2), b"1\t0/190\tx\n").unwrap();
        let of_another = |epoch: &Epoch, lsn| epoch.is_of_another_branch(&second, Lsn(lsn));
        assert!(!of_another(&epoch, 0x200), "nobody knows");
        epoch.told = Some(Point { timeline: 1, lsn: 0x300 });
        assert!(of_another(&epoch, 0x200), "read behind the switch");
        assert!(!of_another(&epoch, 0x100), "inserted before the switch, on both branches");
        assert!(!epoch.is_of_another_branch(&FIRST, Lsn(0x200)), "on that branch itself");
        epoch.told = Some(Point { timeline: 1, lsn: 0x180 });
        assert!(!of_another(&epoch, 0x200), "read before the switch");
        epoch.told = Some(Point { timeline: 2, lsn: 0x300 });
        assert!(!of_another(&epoch, 0x200), "read on this branch");
    }

    #[test]
    fn what_happened_on_an_abandoned_branch_is_not_believed() {
        let mut fates = Fates::default();
        fates.begin(Kind::Database, Oid(9), epoch(0, 0, Fate::Included));
        fates.begin(Kind::Database, Oid(9), epoch(1, 500, Fate::Excluded));
        let left_before = History::parse(Timeline(2), b"1\t0/190\tx\n").unwrap();
        let left_after = History::parse(Timeline(2), b"1\t0/258\tx\n").unwrap();
        let fate = |history| fates.at(Kind::Database, Oid(9), history, Lsn(900)).unwrap().fate;
        assert_eq!(fate(&left_before), Fate::Included);
        assert_eq!(fate(&left_after), Fate::Excluded);
    }
}
