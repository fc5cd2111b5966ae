//! The servers, the relay and what is known of them.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::path::Path;

use anyhow::{Context, Result};
use pgtypes::Major;
use testkit::{Cluster, Link, PATIENCE, Relay, Standby};

use crate::load::Writer;
use crate::names::{CONFIGURATION, Database};
use crate::story::Story;

/// A server that was always a primary, or became one.
#[derive(Debug)]
pub(crate) enum Primary {
    Made(Cluster),
    Promoted(Standby),
}

impl Deref for Primary {
    type Target = Cluster;
    fn deref(&self) -> &Cluster {
        match self {
            Self::Made(cluster) => cluster,
            Self::Promoted(standby) => standby,
        }
    }
}

impl DerefMut for Primary {
    fn deref_mut(&mut self) -> &mut Cluster {
        match self {
            Self::Made(cluster) => cluster,
            Self::Promoted(standby) => standby,
        }
    }
}

/// Everything.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) primary: Primary,
    /// Between the relay and the primary.
    pub(crate) link: Link,
    pub(crate) relay: Relay,
    pub(crate) filtered: Standby,
    pub(crate) whole: Standby,
    pub(crate) databases: Vec<Database>,
    pub(crate) writers: BTreeMap<String, Writer>,
    pub(crate) tablespaces: Vec<String>,
    pub(crate) committed: usize,
    /// For names that were never used.
    pub(crate) next_number: u32,
    story: Story,
}

impl World {
    pub(crate) fn new(major: Major, pgherd: &Path) -> Result<Self> {
        let keep = if major >= Major::V13 {
            ("wal_keep_size", "2GB")
        } else {
            ("wal_keep_segments", "128")
        };
        let primary = Cluster::builder(major)
            .set_all(&[keep, ("autovacuum_naptime", "5s"), ("checkpoint_timeout", "30s")])
            .start()?;
        let databases = ["keep1", "keep2", "drop1", "drop2"].map(Database::new).to_vec();
        for database in &databases {
            primary.sql(&format!("create database {}", database.name))?;
        }
        let tablespaces = vec!["fast".to_owned(), "archive".to_owned()];
        for tablespace in &tablespaces {
            let create = format!("create tablespace {tablespace} location ''");
            primary.sql(&format!("set allow_in_place_tablespaces = on; {create}"))?;
        }
        let link = Link::to(primary.port())?;
        let relay = Relay::start(pgherd, link.port(), CONFIGURATION)?;
        let mut backup = Standby::of(&primary).via(relay.port()).name("berlin");
        for database in databases.iter().filter(|database| !database.included) {
            backup = backup.without_database(primary.database_oid(&database.name)?);
        }
        let filtered = backup.without_tablespace(primary.tablespace_oid("archive")?).start()?;
        let whole = Standby::of(&primary).via(relay.port()).name("whole").start()?;
        let mut writers = BTreeMap::new();
        for database in &databases {
            writers.insert(database.name.clone(), Writer::start(&primary, database)?);
        }
        Ok(Self {
            primary: Primary::Made(primary),
            link,
            relay,
            filtered,
            whole,
            databases,
            writers,
            tablespaces,
            committed: 0,
            next_number: 1,
            story: Story::new(),
        })
    }

    /// Tells what happens next.
    pub(crate) fn tell(&mut self, step: &str) {
        self.story.tell(step);
    }

    /// The last steps and the relay's last words, for an error.
    pub(crate) fn story(&mut self) -> String {
        let lines = self.relay.program().map(|program| program.lines()).unwrap_or_default();
        self.story.end(&lines)
    }

    /// A database that is there, of those that can be spared or of all.
    pub(crate) fn database(&self, name: &str) -> Option<&Database> {
        self.databases.iter().find(|database| database.name == name)
    }

    /// Promotes the unfiltered standby of a primary that is stopped cleanly, makes a new one,
    /// and leads everybody to the new primary.
    pub(crate) fn fail_over(&mut self) -> Result<()> {
        for writer in self.writers.values() {
            writer.pause();
        }
        // Only who has no more than the new primary can follow it: both are there when the
        // shutdown sends the last of it.
        for standby in [&self.filtered, &self.whole] {
            standby.wait_replayed(&self.primary)?;
            standby.wait_streaming()?;
        }
        self.primary.stop(testkit::Stop::Fast)?;
        let end = self.whole.lsn()?.max(self.filtered.lsn()?);
        self.whole.wait_replayed_to(end, PATIENCE).context("before the promotion")?;
        self.whole.promote()?;
        self.link.retarget(self.whole.port());
        let new = Standby::of(&self.whole).via(self.relay.port()).name("whole").start()?;
        let promoted = std::mem::replace(&mut self.whole, new);
        for (name, writer) in &self.writers {
            writer.retarget(&promoted);
            if let Some(database) = self.database(name) {
                writer.resume(database);
            }
        }
        self.primary = Primary::Promoted(promoted);
        self.link.cut()
    }
}
