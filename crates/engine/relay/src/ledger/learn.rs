//! Takes over what the WAL itself says: databases and tablespaces that come, move and go.
//!
//! Every rule here is idempotent: several standbys stream the same WAL at different times,
//! and each may ask for it again.

use alarm::Code;
use pgproto::history::History;
use pgtypes::{Lsn, Oid};
use tracing::{debug, error, info, warn};
use wal::{Event, Judge as _, Place, Verdict};

use super::fates::{Epoch, Fate, Kind, Move, Point, Reason};
use super::{Ledger, LedgerError, judge_database, log_decision, shown};

impl Ledger {
    /// Applies an event of a stream whose history is `history`.
    ///
    /// [`Event::Unknown`] is not for here: see [`Ledger::give_up`].
    ///
    /// # Errors
    ///
    /// When a change could not be made durable; the stream must not go on then.
    pub fn learn(&mut self, event: &Event, history: &History) -> Result<(), LedgerError> {
        match event {
            Event::DatabaseRow { at, oid, name, tablespace, .. } => {
                self.new_row(Kind::Database, *oid, name, *tablespace, history, *at)
            }
            Event::TablespaceRow { at, oid, name, .. } => {
                self.new_row(Kind::Tablespace, *oid, name, Oid::INVALID, history, *at)
            }
            Event::DatabaseCreate { at, database, tablespace, source: Some(source), .. } => {
                let target = Place { tablespace: *tablespace, database: *database };
                if source.database == *database {
                    self.moved(target, *source, history, *at)
                } else {
                    self.copied(target, *source, history, *at)
                }
            }
            Event::DatabaseDrop { at, database, tablespaces } => {
                self.left(*database, tablespaces, history, *at);
                self.dropped(Kind::Database, *database, history, *at)
            }
            Event::TablespaceDrop { at, oid } => self.dropped(Kind::Tablespace, *oid, history, *at),
            Event::Relmap { database, tablespace, .. } => self.remapped(*database, *tablespace),
            Event::Torn { at, rmid, info } => {
                self.counters.alarms.add(1);
                error!(
                    code = %Code::MixedRecord,
                    configuration = self.name,
                    lsn = %at,
                    rmid,
                    info,
                    "a record is about included and excluded relations at once and passes; \
                     an extension wrote it: keep its relations in one tablespace",
                );
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Excludes whatever has no fate in `place`: nothing else is safe when no name is found.
    ///
    /// # Errors
    ///
    /// When it could not be made durable.
    pub fn give_up(&mut self, place: Place, history: &History, at: Lsn) -> Result<(), LedgerError> {
        for (kind, oid) in [(Kind::Database, place.database), (Kind::Tablespace, place.tablespace)]
        {
            if oid == Oid::INVALID || self.fate(kind, oid, history, at).is_some() {
                continue;
            }
            self.counters.alarms.add(1);
            warn!(
                configuration = self.name,
                kind = kind.word(),
                %oid,
                lsn = %at,
                "the server does not know this OID (any more): its records are replaced",
            );
            // The first epoch rules before its beginning too.
            let since = Point::new(history.timeline_at(at), at);
            let epoch = Epoch::new(since, Fate::Excluded, Reason::Unknown, String::new());
            self.record.fates.begin(kind, oid, epoch);
        }
        self.commit()
    }

    /// An insert into `pg_database` or `pg_tablespace`: the name is bound to the OID now.
    fn new_row(
        &mut self,
        kind: Kind,
        oid: Oid,
        name: &[u8],
        tablespace: Oid,
        history: &History,
        at: Lsn,
    ) -> Result<(), LedgerError> {
        let known = self.record.fates.newest(kind, history).find(|(known, _)| *known == oid);
        if let Some((_, known)) = known {
            let dropped = known.dropped.is_some_and(|dropped| dropped.lsn < at.0);
            // A thing is inserted once. One that was seen before was undone, which need not
            // leave a trace; what the catalog told may be this one.
            let undone = known.since != Point::ORIGIN && known.since.lsn < at.0;
            let elsewhere = known.is_of_another_branch(history, at);
            if !dropped && !undone && !elsewhere {
                debug!(configuration = self.name, kind = kind.word(), %oid, "known already");
                return Ok(());
            }
        }
        let (fate, reason) = match kind {
            Kind::Tablespace => (Fate::of(self.filter.tablespace(name)), Reason::Name),
            Kind::Database => {
                let home = self.fate(Kind::Tablespace, tablespace, history, at);
                judge_database(&self.filter, name, home)
            }
        };
        let since = Point::new(history.timeline_at(at), at);
        let name = shown(name);
        let tablespace = tablespace.0;
        let epoch = Epoch { tablespace, ..Epoch::new(since, fate, reason, name) };
        log_decision(&self.name, kind, oid, &epoch);
        self.record.fates.begin(kind, oid, epoch);
        self.commit()
    }

    /// `ALTER DATABASE … SET TABLESPACE`: the record copies the database's files.
    ///
    /// The move can still be undone, and then nothing in the WAL says so. So one into an
    /// excluded tablespace is only noted; it counts when the old files are dropped.
    fn moved(
        &mut self,
        to: Place,
        from: Place,
        history: &History,
        at: Lsn,
    ) -> Result<(), LedgerError> {
        let Some(known) = self.record.fates.at(Kind::Database, to.database, history, at) else {
            return Ok(());
        };
        let (name, fate, reason) = (known.name.clone(), known.fate, known.reason);
        let since = Point::new(history.timeline_at(at), at);
        let told = known.since == since;
        let gets = self.fate(Kind::Tablespace, to.tablespace, history, at) != Some(Fate::Excluded);
        let has = self.fate(Kind::Tablespace, from.tablespace, history, at) != Some(Fate::Excluded);
        // Excluded by its name: it does not matter where it lies.
        let matters = fate == Fate::Included || reason != Reason::Name;
        if !has && gets && !told && matters {
            self.counters.alarms.add(1);
            error!(
                code = %Code::MovedBack,
                configuration = self.name,
                database = name,
                oid = %to.database,
                from_tablespace = %from.tablespace,
                tablespace = %to.tablespace,
                lsn = %at,
                "moved back from an excluded tablespace, but the standbys do not have its \
                 files: it stays excluded until they get a new base backup and \
                 `pgherd relay forget` was run",
            );
            self.exclude(to.database, since, Reason::MovedOut, name);
            return self.commit();
        }
        if fate == Fate::Excluded {
            return Ok(());
        }
        let fate = Fate::of(gets);
        self.note_move(to.database, Move { at: since, from: from.tablespace.0, fate }, history)
    }

    fn note_move(&mut self, oid: Oid, it: Move, history: &History) -> Result<(), LedgerError> {
        let at = Lsn(it.at.lsn);
        let Some(known) = self.record.fates.at_mut(Kind::Database, oid, history, at) else {
            return Ok(());
        };
        if known.moves.iter().any(|known| known.at == it.at) {
            return Ok(());
        }
        let place = known.moves.partition_point(|known| known.at.lsn < it.at.lsn);
        known.moves.insert(place, it);
        self.commit()
    }

    /// The files in `tablespaces` are dropped: perhaps the end of a move.
    fn left(&mut self, oid: Oid, tablespaces: &[Oid], history: &History, at: Lsn) {
        let Some(known) = self.record.fates.at(Kind::Database, oid, history, at) else { return };
        if known.fate == Fate::Excluded || !known.leaves(tablespaces, history, at) {
            return;
        }
        let name = known.name.clone();
        warn!(
            configuration = self.name,
            database = name,
            %oid,
            lsn = %at,
            "moved into an excluded tablespace: the database leaves the standbys",
        );
        let since = Point::new(history.timeline_at(at), at);
        self.exclude(oid, since, Reason::MovedOut, name);
    }

    /// `CREATE DATABASE` by copying files, which needs the template on the standby.
    fn copied(
        &mut self,
        to: Place,
        from: Place,
        history: &History,
        at: Lsn,
    ) -> Result<(), LedgerError> {
        let table = self.table(history);
        let wanted = table.place(to, at) == Verdict::Pass;
        let Some(known) = self.record.fates.at(Kind::Database, to.database, history, at) else {
            return Ok(());
        };
        if !wanted || table.place(from, at) != Verdict::Replace {
            return Ok(());
        }
        self.counters.alarms.add(1);
        error!(
            code = %Code::ExcludedTemplate,
            configuration = self.name,
            database = known.name,
            oid = %to.database,
            template = %from.database,
            lsn = %at,
            "made by copying the files of an excluded template, which the standbys do not have: \
             it is excluded too; use STRATEGY wal_log (15 and later) or an included template",
        );
        let since = Point::new(history.timeline_at(at), at);
        let name = known.name.clone();
        self.exclude(to.database, since, Reason::TemplateExcluded, name);
        self.commit()
    }

    fn dropped(
        &mut self,
        kind: Kind,
        oid: Oid,
        history: &History,
        at: Lsn,
    ) -> Result<(), LedgerError> {
        let point = Point::new(history.timeline_at(at), at);
        let Some(known) = self.record.fates.newest_mut(kind, oid, history) else {
            return Ok(());
        };
        // Also written when a database leaves a tablespace; then it is only a note that no
        // insert will ever look at. The first drop counts, also when the WAL is read again.
        if known.dropped.is_some() || known.since.lsn > at.0 {
            return Ok(());
        }
        known.dropped = Some(point);
        info!(
            configuration = self.name,
            kind = kind.word(),
            name = known.name,
            %oid,
            fate = known.fate.word(),
            lsn = %at,
            "files dropped",
        );
        self.commit()
    }

    fn remapped(&mut self, database: Oid, tablespace: Oid) -> Result<(), LedgerError> {
        let fates = &mut self.record.fates;
        let mut changed = false;
        for (files, now) in
            [(&mut fates.database_files, database), (&mut fates.tablespace_files, tablespace)]
        {
            if now != Oid::INVALID && !files.contains(&now.0) {
                files.push(now.0);
                changed = true;
            }
        }
        if changed { self.commit() } else { Ok(()) }
    }

    fn exclude(&mut self, database: Oid, since: Point, reason: Reason, name: String) {
        let epoch = Epoch::new(since, Fate::Excluded, reason, name);
        self.record.fates.begin(Kind::Database, database, epoch);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::path::Path;
    use std::sync::Arc;

    use config::Filter;
    use pgtypes::Timeline;

    use super::*;
    use crate::counters::Counters;

    /// What `does` writes to the log.
    fn logged(folder: &Path, does: impl FnOnce()) -> String {
        let path = folder.join("log");
        let log = Arc::new(File::create(&path).unwrap());
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(log).finish();
        tracing::subscriber::with_default(subscriber, does);
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_record_that_is_torn_is_an_alarm_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let counters = Arc::new(Counters::default());
        let filter = Filter::default();
        let ledger = Ledger::open(folder.path(), "berlin", &filter, "7", Arc::clone(&counters));
        let mut ledger = ledger.unwrap();
        let history = History::without_past(Timeline(1));
        let event = Event::Torn { at: Lsn(0x0A00_0028), rmid: 128, info: 0x10 };
        for round in 1..=2 {
            let log = logged(folder.path(), || ledger.learn(&event, &history).unwrap());
            assert_eq!(log.lines().count(), 1, "{log}");
            for part in [
                "ERROR",
                "PGH0101",
                "about included and excluded relations at once and passes",
                "configuration=\"berlin\"",
                "lsn=0/A000028",
                "rmid=128",
                "info=16",
            ] {
                assert!(log.contains(part), "{part} is not in {log}");
            }
            assert_eq!(counters.alarms.value(), round);
        }
        assert!(ledger.decisions().is_empty());
    }
}
