//! Takes over what the WAL itself says: databases and tablespaces that come, move and go.
//!
//! Every rule here is idempotent: several standbys stream the same WAL at different times,
//! and each may ask for it again.

use pgproto::history::History;
use pgtypes::{Lsn, Oid};
use tracing::{debug, error, info, warn};
use wal::{Event, Place};

use super::fates::{Epoch, Fate, Kind, Point, Reason};
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
            Event::DatabaseDrop { at, database, .. } => {
                self.dropped(Kind::Database, *database, history, *at)
            }
            Event::TablespaceDrop { at, oid } => self.dropped(Kind::Tablespace, *oid, history, *at),
            Event::Relmap { database, tablespace, .. } => self.remapped(*database, *tablespace),
            Event::Torn { at, rmid, info } => {
                self.counters.alarms.add(1);
                error!(
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
            self.begin(kind, oid, Point::ORIGIN, Fate::Excluded, Reason::Unknown, String::new());
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
            let reused = known.dropped.is_some_and(|dropped| dropped.lsn < at.0);
            if !reused {
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
        let epoch = Epoch { since, fate, reason, name, tablespace: tablespace.0, dropped: None };
        log_decision(&self.name, kind, oid, &epoch);
        self.record.fates.begin(kind, oid, epoch);
        self.commit()
    }

    /// `ALTER DATABASE … SET TABLESPACE`: the record copies the database's files.
    fn moved(
        &mut self,
        to: Place,
        from: Place,
        history: &History,
        at: Lsn,
    ) -> Result<(), LedgerError> {
        let since = Point::new(history.timeline_at(at), at);
        let Some(known) = self.record.fates.at(Kind::Database, to.database, history, at) else {
            return Ok(());
        };
        let (name, fate, reason) = (known.name.clone(), known.fate, known.reason);
        let target = self.fate(Kind::Tablespace, to.tablespace, history, at);
        match (fate, target) {
            (Fate::Included, Some(Fate::Excluded)) => {
                warn!(
                    configuration = self.name,
                    database = name,
                    oid = %to.database,
                    tablespace = %to.tablespace,
                    lsn = %at,
                    "moved into an excluded tablespace: the database leaves the standbys",
                );
                let out = (Fate::Excluded, Reason::MovedOut);
                self.begin(Kind::Database, to.database, since, out.0, out.1, name);
                self.commit()
            }
            // Excluded by its name: it does not matter where it lies.
            (Fate::Excluded, Some(Fate::Included)) if reason != Reason::Name => {
                self.counters.alarms.add(1);
                error!(
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
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// `CREATE DATABASE` by copying files, which needs the template on the standby.
    fn copied(
        &mut self,
        to: Place,
        from: Place,
        history: &History,
        at: Lsn,
    ) -> Result<(), LedgerError> {
        let template = self.fate(Kind::Database, from.database, history, at);
        let Some(known) = self.record.fates.at(Kind::Database, to.database, history, at) else {
            return Ok(());
        };
        if known.fate == Fate::Excluded || template != Some(Fate::Excluded) {
            return Ok(());
        }
        self.counters.alarms.add(1);
        error!(
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
        let reason = Reason::TemplateExcluded;
        self.begin(Kind::Database, to.database, since, Fate::Excluded, reason, name);
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

    fn begin(
        &mut self,
        kind: Kind,
        oid: Oid,
        since: Point,
        fate: Fate,
        reason: Reason,
        name: String,
    ) {
        let epoch = Epoch { since, fate, reason, name, tablespace: 0, dropped: None };
        self.record.fates.begin(kind, oid, epoch);
    }
}
