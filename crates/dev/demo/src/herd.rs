//! The servers, the relay between them, and what can be asked of them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use testkit::{Cluster, Install, PATIENCE, Session, Standby, wait_until};

use crate::interrupt::Interrupt;
use crate::plan::{self, CONFIGURATIONS, DATABASES, STANDBY, TABLES, TABLESPACES};
use crate::relay::Relay;
use crate::show::Screen;

/// A primary, a relay and a standby; stopped in the opposite order and removed when dropped.
#[derive(Debug)]
pub(crate) struct Herd {
    pub(crate) standby: Standby,
    relay: Relay,
    pub(crate) primary: Cluster,
    folder: TempDir,
}

/// What the relay's log says of a stream that ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Story {
    pub(crate) wal_bytes: u64,
    pub(crate) records_passed: u64,
    pub(crate) records_replaced: u64,
    pub(crate) replaced_bytes: u64,
}

/// How far the standby is, as the primary sees it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    /// Where the primary writes.
    pub(crate) written: u64,
    /// What has come through the relay to the standby.
    pub(crate) relayed: u64,
    /// What the standby has replayed.
    pub(crate) replayed: u64,
}

impl Herd {
    /// Starts everything, step by step.
    pub(crate) fn start(
        programs: &Install,
        pgherd: &Path,
        screen: &Screen,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("pgherd-demo-").tempdir()?;
        let primary = start_primary(programs).context("start the primary")?;
        let version = primary.session("postgres")?.query("show server_version")?;
        let version = version.split(' ').next().unwrap_or_default();
        screen.step("primary", &format!("PostgreSQL {version} on port {}", primary.port()));
        let (databases, tablespaces) = (DATABASES.join(", "), TABLESPACES.join(", "));
        screen.more(&format!("databases {databases}; tablespaces {tablespaces}"));
        interrupt.check()?;
        let relay = Relay::start(pgherd, folder.path(), primary.port(), CONFIGURATIONS)
            .context("start the relay")?;
        screen.step("relay", &format!("pgherd relay on port {}, configured with", relay.port()));
        screen.quote(CONFIGURATIONS);
        interrupt.check()?;
        let standby = Standby::of(&primary)
            .without_database(primary.database_oid(plan::EXCLUDED_DATABASE)?)
            .without_tablespace(primary.tablespace_oid(plan::EXCLUDED_TABLESPACE)?)
            .via(relay.port())
            .name(STANDBY)
            .start()
            .context("start the standby")?;
        standby.wait_streaming()?;
        let port = standby.port();
        screen.step("standby", &format!("{STANDBY:?} on port {port}, from a base backup without"));
        screen.more(&format!(
            "the files of database {} and tablespace {}",
            plan::EXCLUDED_DATABASE,
            plan::EXCLUDED_TABLESPACE,
        ));
        interrupt.check()?;
        Ok(Self { standby, relay, primary, folder })
    }

    /// Waits until the standby has replayed what the primary has flushed; gives the time it took.
    pub(crate) fn catch_up(&self, interrupt: &Interrupt) -> Result<Duration> {
        let begun = Instant::now();
        let target = self.primary.lsn()?;
        let waited = wait_until("the standby to catch up", PATIENCE, || {
            interrupt.check()?;
            Ok((self.standby.lsn()? >= target).then_some(()))
        });
        waited.with_context(|| format!("log of the standby:\n{}", self.standby.log_tail()))?;
        Ok(begun.elapsed())
    }

    /// Has the standby connect anew, and reads what the relay's log says of the stream that ended.
    pub(crate) fn story_of_the_stream(&mut self) -> Result<Story> {
        let mut session = self.standby.session("postgres")?;
        let receiver = session.query("select pid from pg_stat_wal_receiver")?.parse()?;
        // Not a backend: `pg_terminate_backend` does not know it.
        let receiver = Pid::from_raw(receiver).context("a receiver without a process")?;
        kill_process(receiver, Signal::TERM).context("end the WAL receiver")?;
        let line = self.relay.wait_for_line("the filtered stream ended")?;
        let number = |name: &str| -> Result<u64> {
            let field = line.split_whitespace().find_map(|field| field.strip_prefix(name));
            let field = field.and_then(|field| field.strip_prefix('='));
            field.with_context(|| format!("no {name} in {line:?}"))?.parse().context("a number")
        };
        let story = Story {
            wal_bytes: number("wal_bytes")?,
            records_passed: number("records_passed")?,
            records_replaced: number("records_replaced")?,
            replaced_bytes: number("replaced_bytes")?,
        };
        self.standby.wait_streaming()?;
        Ok(story)
    }

    /// Leaves everything running, and tells how to play on.
    pub(crate) fn keep(self, screen: &Screen) -> Result<()> {
        let folder = self.folder.path().to_owned();
        let stop = folder.join("stop");
        fs::write(&stop, self.stop_script()?).context("write the script that stops everything")?;
        fs::set_permissions(&stop, fs::Permissions::from_mode(0o755))?;
        let psql = |port: u16| format!("psql -h 127.0.0.1 -p {port} -U postgres orders");
        screen.kept(&[
            ("primary", psql(self.primary.port())),
            ("standby", psql(self.standby.port())),
            ("configuration", format!("less {}", self.relay.config().display())),
            ("relay's log", format!("tail -f {}", self.relay.log().display())),
            ("stop, remove", stop.display().to_string()),
        ]);
        // The processes outlive us, and their folders are removed by the script.
        std::mem::forget(self);
        Ok(())
    }

    fn stop_script(&self) -> Result<String> {
        let root =
            |data: PathBuf| data.parent().map(Path::to_owned).context("a folder without a parent");
        let (primary, standby) = (root(self.primary.data())?, root(self.standby.data())?);
        Ok(format!(
            "#!/bin/sh\n\
             # Stops the servers and the relay of the demo, and removes all that it made.\n\
             primary={}\nstandby={}\ndemo={}\nrelay={}\n\
             for data in \"$standby/data\" \"$primary/data\"; do\n\
             \x20   [ -e \"$data/postmaster.pid\" ] && kill -INT \"$(head -n 1 \"$data/postmaster.pid\")\"\n\
             \x20   while [ -e \"$data/postmaster.pid\" ]; do sleep 0.1; done\n\
             done\n\
             # Not somebody else's process that has the number by now.\n\
             grep -q \"$demo\" \"/proc/$relay/cmdline\" 2>/dev/null && kill -TERM \"$relay\"\n\
             rm -rf \"$primary\" \"$standby\" \"$demo\"\n\
             echo 'stopped and removed'\n",
            primary.display(),
            standby.display(),
            self.folder.path().display(),
            self.relay.pid(),
        ))
    }
}

impl Progress {
    /// Asks the primary.
    pub(crate) fn ask(session: &mut Session) -> Result<Self> {
        let answer = session.query(&format!(
            "select pg_current_wal_insert_lsn() - '0/0', coalesce(max(write_lsn - '0/0'), 0), \
             coalesce(max(replay_lsn - '0/0'), 0) \
             from pg_stat_replication where application_name = '{STANDBY}'"
        ))?;
        let numbers = answer.split('|').map(str::parse).collect::<Result<Vec<u64>, _>>()?;
        match numbers.as_slice() {
            [written, relayed, replayed] => {
                Ok(Self { written: *written, relayed: *relayed, replayed: *replayed })
            }
            _ => anyhow::bail!("{answer:?} does not tell the progress"),
        }
    }

    /// What was done since `before`.
    pub(crate) const fn since(self, before: Self) -> Self {
        Self {
            written: self.written.saturating_sub(before.written),
            relayed: self.relayed.saturating_sub(before.written),
            replayed: self.replayed.saturating_sub(before.written),
        }
    }
}

fn start_primary(programs: &Install) -> Result<Cluster> {
    let builder = Cluster::builder(programs.major()).programs(programs.clone());
    let primary = builder.fresh_initdb().start()?;
    for tablespace in TABLESPACES {
        primary.create_tablespace(tablespace)?;
    }
    for database in DATABASES {
        primary.session("postgres")?.query(&format!("create database {database}"))?;
        let mut session = primary.session(database)?;
        for table in TABLES.iter().filter(|table| table.database == database) {
            session.query(&table.create())?;
        }
    }
    Ok(primary)
}
