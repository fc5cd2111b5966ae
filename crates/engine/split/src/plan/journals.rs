//! What the journals of other splits say: two splits must not move the same database, nor make
//! their servers at the same place.

use std::path::{Path, PathBuf};

use crate::Error;
use crate::journal::{Record, Step, names_in, summary};
use crate::plan::places::{Writer, overlap};
use crate::plan::source::Database;
use crate::plan::{Findings, Plan};

/// What a split needs for itself.
struct Wanted<'a> {
    system_identifier: i64,
    databases: Vec<&'a Database>,
    /// New folders, and what they are.
    places: Vec<(&'static str, PathBuf)>,
    port: u16,
}

impl Plan {
    /// Looks at the folder of the journals too: what other splits there do, and whether a journal
    /// can be written.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the folder cannot be read.
    pub fn look_at_journals(&mut self, state_dir: &Path) -> Result<(), Error> {
        let (facts, options) = (&self.facts, &self.options);
        let locations = facts.tablespaces.iter().filter_map(|it| it.location.as_deref());
        let tablespaces = locations.map(|it| ("tablespaces", options.place_of(it)));
        let wanted = Wanted {
            system_identifier: facts.system_identifier,
            databases: facts.moved().collect(),
            places: std::iter::once(("target", options.target.clone()))
                .chain(tablespaces)
                .collect(),
            port: options.port,
        };
        let mut findings = Findings::default();
        judge(state_dir, &wanted, &mut findings)?;
        self.findings.extend(findings.0);
        Ok(())
    }
}

fn judge(state_dir: &Path, wanted: &Wanted<'_>, findings: &mut Findings) -> Result<(), Error> {
    // It is written by who runs this, whoever the owner is.
    if let Some(reason) = Writer::new(None).cannot_write(state_dir) {
        findings.stop("journal", format!("{reason}, with --state-dir"));
        // Then there may be nothing to read either.
        return Ok(());
    }
    for name in names_in(state_dir)? {
        match summary(state_dir, &name) {
            Ok(Some(record)) => compare(&name, &record, wanted, findings),
            Ok(None) => {}
            Err(error) => {
                let text = format!("{error}; see that {name} does not move the same databases");
                findings.warn("other splits", text);
            }
        }
    }
    Ok(())
}

fn compare(name: &str, record: &Record, wanted: &Wanted<'_>, findings: &mut Findings) {
    if record.is_done(Step::Undone) {
        return;
    }
    let is_same_server = record.system_identifier == wanted.system_identifier;
    if is_same_server && !record.is_done(Step::SourceDropped) {
        for database in &wanted.databases {
            // The new server of that split has the same identifier. There it is open.
            let is_its_source = !record.is_done(Step::Opened) || !database.open;
            let is_in = record.databases.iter().any(|it| it.oid == database.oid);
            if is_in && is_its_source {
                let text = format!(
                    "{} is moved by the split {name} already: go on with `pgherd split finish \
                     --name {name}`, or back with `undo`",
                    database.name
                );
                findings.stop("databases", text);
            }
        }
    }
    // What it left is seen: its folders are not empty, and a server listens.
    if record.is_done(Step::Finished) {
        return;
    }
    for (about, place) in &wanted.places {
        let mapped = record.mapping.iter().map(|(_, new)| new);
        let mut theirs = std::iter::once(&record.target).chain(mapped).chain(&record.unmapped);
        if let Some(taken) = theirs.find(|it| overlap(it, place)) {
            let (place, taken) = (place.display(), taken.display());
            let text = format!("{place}: the split {name} has {taken}; choose another folder");
            findings.stop(about, text);
        }
    }
    if record.port == wanted.port {
        let text = format!("{} is that of the split {name}; choose another", wanted.port);
        findings.stop("port", text);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::journal::Journal;
    use crate::plan::Weight;
    use crate::record::example;

    const FREE: &str = "/nonexistent/other";

    /// What is told of a split of a database of the server `system`.
    fn told(
        state: &Path,
        system: i64,
        (oid, open): (u32, bool),
        target: &str,
        port: u16,
    ) -> Findings {
        let (name, invalid, bytes, moved) = ("orders".into(), false, 0, true);
        let database = Database { oid, name, open, invalid, bytes, moved };
        let wanted = Wanted {
            system_identifier: system,
            databases: vec![&database],
            places: vec![("target", target.into())],
            port,
        };
        let mut findings = Findings::default();
        judge(state, &wanted, &mut findings).unwrap();
        findings
    }

    fn texts(findings: &Findings, weight: Weight) -> Vec<String> {
        assert!(findings.0.iter().all(|it| it.weight == weight), "{findings:?}");
        findings.0.iter().map(|it| format!("{}: {}", it.about, it.text)).collect()
    }

    #[test]
    fn two_splits_have_nothing_in_common() {
        let folder = tempfile::tempdir().unwrap();
        let stops = |system, database, target: &str, port| {
            texts(&told(folder.path(), system, database, target, port), Weight::Stop)
        };
        let none: [&str; 0] = [];
        let (open, closed) = (true, false);
        assert_eq!(stops(7, (5, open), "/nonexistent/t", 5433), none);
        let mut journal = Journal::begin(folder.path(), "new2", example()).unwrap();
        assert_eq!(stops(7, (6, open), FREE, 1), none);
        assert_eq!(stops(8, (5, open), FREE, 1), none);
        assert_eq!(
            stops(7, (5, open), FREE, 1),
            ["databases: orders is moved by the split new2 already: go on with `pgherd split \
              finish --name new2`, or back with `undo`"]
        );
        assert_eq!(
            stops(8, (1, open), "/nonexistent/t/sub", 1),
            [
                "target: /nonexistent/t/sub: the split new2 has /nonexistent/t; choose another folder"
            ]
        );
        assert_eq!(
            stops(8, (1, open), "/nonexistent/ts", 1),
            ["target: /nonexistent/ts: the split new2 has /nonexistent/ts; choose another folder"]
        );
        assert_eq!(
            stops(8, (1, open), FREE, 5433),
            ["port: 5433 is that of the split new2; choose another"]
        );

        // The new server has the same identifier, and may be split again; its source may not.
        journal.done(Step::Opened).unwrap();
        assert_eq!(stops(7, (5, open), FREE, 1), none);
        assert_eq!(stops(7, (5, closed), FREE, 1).len(), 1);
        assert_eq!(stops(7, (5, closed), "/nonexistent/t", 5433).len(), 3);
        journal.done(Step::Finished).unwrap();
        assert_eq!(stops(7, (5, closed), "/nonexistent/t", 5433).len(), 1);
        journal.done(Step::SourceDropped).unwrap();
        assert_eq!(stops(7, (5, closed), "/nonexistent/t", 5433), none);
        drop(journal);

        let mut journal = Journal::begin(folder.path(), "new2", example()).unwrap();
        journal.begin_step(Step::Undone).unwrap();
        assert_eq!(stops(7, (5, open), "/nonexistent/t", 5433).len(), 3);
        journal.done(Step::Undone).unwrap();
        assert_eq!(stops(7, (5, open), "/nonexistent/t", 5433), none);
    }

    #[test]
    fn a_journal_that_cannot_be_read_or_written_is_told() {
        let folder = tempfile::tempdir().unwrap();
        drop(Journal::begin(folder.path(), "new2", example()).unwrap());
        fs::write(folder.path().join("split/new2/journal"), "{}").unwrap();
        let warned = texts(&told(folder.path(), 7, (5, true), FREE, 1), Weight::Warn).join("");
        assert!(warned.contains("see that new2 does not move the same databases"), "{warned}");
        // A file is no folder.
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let stopped = texts(&told(&file, 7, (5, true), FREE, 1), Weight::Stop).join("");
        assert!(stopped.contains("file cannot be written by"), "{stopped}");
    }
}
