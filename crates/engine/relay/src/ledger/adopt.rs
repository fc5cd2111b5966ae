//! Takes over what the catalogs say when a stream starts.

use alarm::Code;
use config::Kind as FilterKind;
use pgproto::history::History;
use pgtypes::{Lsn, Oid, SegmentBytes};
use tracing::{error, info};

use super::fates::{Epoch, Fate, Fates, Kind, Point, Reason};
use super::{Ledger, LedgerError, judge_database, log_decision, shown};
use crate::names::Names;

/// A pattern of the filter that no name on the server matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmatched {
    /// What it would be the name of.
    pub kind: Kind,
    /// The pattern.
    pub pattern: String,
}

/// A thing that the catalogs know.
#[derive(Clone, Copy)]
struct Thing<'a> {
    kind: Kind,
    oid: Oid,
    name: &'a [u8],
    tablespace: Oid,
}

/// All that the catalogs know, tablespaces first: the fate of a database depends on its own.
fn things(names: &Names) -> Vec<Thing<'_>> {
    let tablespaces = names.tablespaces.iter().map(|tablespace| Thing {
        kind: Kind::Tablespace,
        oid: tablespace.oid,
        name: &tablespace.name,
        tablespace: Oid::INVALID,
    });
    let databases = names.databases.iter().map(|database| Thing {
        kind: Kind::Database,
        oid: database.oid,
        name: &database.name,
        tablespace: database.tablespace,
    });
    tablespaces.chain(databases).collect()
}

impl Ledger {
    /// Gives a fate to each OID that has none, notes new names, and applies a filter that
    /// was changed since the last time.
    ///
    /// A stricter filter rules from the first segment on that no client has reached. What
    /// was included until then stays as it is on the standbys, and is not kept up.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Loosened`] when the filter includes what standbys do not hold; nothing
    /// was changed then.
    pub fn adopt(
        &mut self,
        names: &Names,
        history: &History,
        segment_bytes: SegmentBytes,
    ) -> Result<(), LedgerError> {
        let before = self.record.clone();
        let filter_text = self.filter.canonical();
        let things = things(names);
        if self.has_names() && self.record.filter != filter_text {
            let since = Point::new(history.timeline(), self.behind_all_sent(segment_bytes));
            if let Err(error) = self.change_filter(&things, history, since) {
                self.record = before;
                return Err(error);
            }
        }
        self.record.filter = filter_text;
        let told = names.read_at.map(|(timeline, lsn)| Point::new(timeline, lsn));
        for thing in &things {
            self.adopt_thing(thing, told, history);
        }
        self.adopt_files(names);
        if self.record != before { self.commit() } else { Ok(()) }
    }

    /// The patterns of the filter that fit nothing on the server.
    #[must_use]
    pub fn unmatched(&self, names: &Names) -> Vec<Unmatched> {
        unmatched(&self.filter, names)
    }

    fn adopt_thing(&mut self, thing: &Thing<'_>, told: Option<Point>, history: &History) {
        let name = shown(thing.name);
        let wanted = self.judge(thing, history).0;
        if let Some(known) = self.record.fates.newest_mut(thing.kind, thing.oid, history) {
            if known.name != name && known.reason != Reason::Unknown {
                info!(
                    configuration = self.name,
                    kind = thing.kind.word(),
                    oid = %thing.oid,
                    from = known.name,
                    to = name,
                    fate = known.fate.word(),
                    "renamed; the decision stays as it was made under the first name",
                );
            }
            if known.reason == Reason::Unknown && wanted == Fate::Included && known.name != name {
                self.counters.alarms.add(1);
                error!(
                    code = %Code::LateName,
                    configuration = self.name,
                    kind = thing.kind.word(),
                    oid = %thing.oid,
                    name,
                    "the filter includes it, but its records came before its name could be found \
                     and were replaced: it stays excluded until the standbys get a new base backup \
                     and `pgherd relay forget` was run",
                );
            }
            if known.name != name {
                let before = std::mem::replace(&mut known.name, name);
                if known.reason != Reason::Unknown {
                    known.renamed_from.get_or_insert(before);
                }
            }
            return;
        }
        let (fate, reason) = self.judge(thing, history);
        let tablespace = thing.tablespace.0;
        let epoch = Epoch { tablespace, told, ..Epoch::new(Point::ORIGIN, fate, reason, name) };
        log_decision(&self.name, thing.kind, thing.oid, &epoch);
        self.record.fates.begin(thing.kind, thing.oid, epoch);
    }

    /// What the filter, as it is now, says of a thing.
    fn judge(&self, thing: &Thing<'_>, history: &History) -> (Fate, Reason) {
        match thing.kind {
            Kind::Tablespace => (Fate::of(self.filter.tablespace(thing.name)), Reason::Name),
            Kind::Database => {
                let newest = Lsn(u64::MAX);
                let home = self.fate(Kind::Tablespace, thing.tablespace, history, newest);
                judge_database(&self.filter, thing.name, home)
            }
        }
    }

    /// Applies another filter to OIDs whose fate an earlier one decided.
    fn change_filter(
        &mut self,
        things: &[Thing<'_>],
        history: &History,
        since: Point,
    ) -> Result<(), LedgerError> {
        let mut loosened = Vec::new();
        let under_way = self.under_way(things, history);
        let under_way = under_way.iter().map(|(kind, oid, epoch)| Thing {
            kind: *kind,
            oid: *oid,
            name: epoch.name.as_bytes(),
            tablespace: Oid(epoch.tablespace),
        });
        for thing in things.iter().copied().chain(under_way) {
            let newest = self.record.fates.newest_mut(thing.kind, thing.oid, history);
            let Some(known) = newest.map(|known| known.clone()) else { continue };
            let (fate, _) = self.judge(&thing, history);
            // Under the name that decided it may be as excluded as before.
            let first = match known.renamed_from.as_ref().unwrap_or(&known.name) {
                unknown if unknown.is_empty() => fate,
                first => self.judge(&Thing { name: first.as_bytes(), ..thing }, history).0,
            };
            match (known.fate, fate) {
                (Fate::Included, Fate::Excluded) => {
                    let reason = Reason::FilterTightened;
                    let epoch = Epoch { since, fate, reason, ..known };
                    log_decision(&self.name, thing.kind, thing.oid, &epoch);
                    self.record.fates.begin(thing.kind, thing.oid, epoch);
                }
                // Nobody has got so far that it made a difference.
                (Fate::Excluded, Fate::Included)
                    if known.reason == Reason::FilterTightened && known.since.lsn >= since.lsn =>
                {
                    info!(configuration = self.name, kind = thing.kind.word(), oid = %thing.oid,
                        name = known.name, "included again, and never was withheld");
                    self.record.fates.take_back(thing.kind, thing.oid, history);
                }
                (Fate::Excluded, Fate::Included)
                    if first == Fate::Included && !known.reason.is_lasting() =>
                {
                    loosened.push(format!("{} {:?}", thing.kind.word(), shown(thing.name)));
                }
                _ => {}
            }
        }
        // A database follows its tablespace: name the tablespaces too, they came first.
        if loosened.is_empty() {
            Ok(())
        } else {
            Err(LedgerError::Loosened { name: self.name.clone(), loosened })
        }
    }

    /// What the WAL told of and the catalogs do not know: somebody may be about to commit it.
    fn under_way(&self, things: &[Thing<'_>], history: &History) -> Vec<(Kind, Oid, Epoch)> {
        let mut found = Vec::new();
        for kind in [Kind::Tablespace, Kind::Database] {
            for (oid, epoch) in self.record.fates.newest(kind, history) {
                let listed = things.iter().any(|thing| thing.kind == kind && thing.oid == oid);
                if !listed && epoch.dropped.is_none() && !epoch.name.is_empty() {
                    found.push((kind, oid, epoch.clone()));
                }
            }
        }
        found
    }

    /// What the filter includes and the standbys do not have all the same, with the reason.
    #[must_use]
    pub fn withheld(&self, names: &Names, history: &History) -> Vec<(String, &'static str)> {
        let things = things(names);
        let held = things.iter().filter_map(|thing| {
            let mut newest = self.record.fates.newest(thing.kind, history);
            let (_, known) = newest.find(|(oid, _)| *oid == thing.oid)?;
            let wanted = self.judge(thing, history).0;
            (known.fate == Fate::Excluded && wanted == Fate::Included)
                .then(|| (format!("{} {:?}", thing.kind.word(), known.name), known.reason.told()))
        });
        held.collect()
    }

    fn adopt_files(&mut self, names: &Names) {
        let fates: &mut Fates = &mut self.record.fates;
        let pairs = [
            (&mut fates.database_files, names.database_file, Oid::PG_DATABASE),
            (&mut fates.tablespace_files, names.tablespace_file, Oid::PG_TABLESPACE),
        ];
        for (files, now, initial) in pairs {
            // A new cluster names these files after the catalog; old WAL may go back to then.
            for file in [initial, now] {
                if file != Oid::INVALID && !files.contains(&file.0) {
                    files.push(file.0);
                }
            }
        }
    }
}

impl Reason {
    /// Whether no filter can undo it: the files are not on the standbys whatever it says.
    const fn is_lasting(self) -> bool {
        matches!(self, Self::MovedOut | Self::TemplateExcluded)
    }

    /// Why something is excluded that the filter includes, in words.
    const fn told(self) -> &'static str {
        match self {
            Self::Name | Self::FilterTightened => "it was excluded under an earlier name or filter",
            Self::DefaultTablespace | Self::MovedOut => "it was in an excluded tablespace",
            Self::TemplateExcluded => "it was copied from an excluded template",
            Self::Unknown => "its name could not be found in time",
        }
    }
}

/// The patterns of `filter` that fit nothing in `names`.
#[must_use]
pub(crate) fn unmatched(filter: &config::Filter, names: &Names) -> Vec<Unmatched> {
    let fits = |kind, pattern: &config::Pattern| match kind {
        FilterKind::Database => names.databases.iter().any(|it| pattern.matches(&it.name)),
        FilterKind::Tablespace => names.tablespaces.iter().any(|it| pattern.matches(&it.name)),
    };
    let missing = filter.patterns().filter(|(kind, pattern)| !fits(*kind, pattern));
    missing
        .map(|(kind, pattern)| Unmatched {
            kind: match kind {
                FilterKind::Database => Kind::Database,
                FilterKind::Tablespace => Kind::Tablespace,
            },
            pattern: pattern.to_string(),
        })
        .collect()
}
