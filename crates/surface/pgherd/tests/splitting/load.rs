//! Clients that write all the time, and remember each commit that was acknowledged.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use testkit::{Session, wait_until};

use super::Stage;

/// Between two tries to connect.
const RETRY: Duration = Duration::from_millis(2);

/// What a writer did.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// Numbers whose commit the source acknowledged.
    pub(crate) old: BTreeSet<i64>,
    /// The same of the target.
    pub(crate) new: BTreeSet<i64>,
    /// From the last acknowledgement of the source to the first one of the target.
    pub(crate) gap: Duration,
    /// Errors, of connections too.
    pub(crate) errors: Vec<String>,
}

/// One client.
pub(crate) struct Writer {
    pub(crate) database: String,
    worker: i64,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicI64>,
    thread: JoinHandle<Written>,
}

impl Writer {
    /// Writes into `acks` of a database, on the source as long as it lets us, then on the target.
    pub(crate) fn start(stage: &Stage, database: &str, worker: i64, setting: &str) -> Self {
        let socket = |port: u16| stage.source.socket_dir().join(format!(".s.PGSQL.{port}"));
        let sockets = [socket(stage.source.port()), socket(stage.port())];
        let (stop, acknowledged) = (Arc::<AtomicBool>::default(), Arc::<AtomicI64>::default());
        let (name, setting) = (database.to_owned(), setting.to_owned());
        let (ends, counter) = (Arc::clone(&stop), Arc::clone(&acknowledged));
        let work = move || write(&sockets, &name, worker, &setting, &ends, &counter);
        let thread = thread::spawn(work);
        Self { database: database.to_owned(), worker, stop, acknowledged, thread }
    }

    /// Waits until it has written some more.
    pub(crate) fn wait_for_more(&self) -> Result<()> {
        let before = self.acknowledged.load(Ordering::Relaxed);
        wait_until("a writer to go on", testkit::PATIENCE, || {
            let now = self.acknowledged.load(Ordering::Relaxed);
            Ok((now > before + 20).then_some(()))
        })
    }

    pub(crate) fn stop(self) -> Result<(i64, Written)> {
        self.stop.store(true, Ordering::Relaxed);
        let written = self.thread.join().map_err(|_panic| anyhow!("a writer broke off"))?;
        Ok((self.worker, written))
    }
}

fn write(
    sockets: &[PathBuf; 2],
    database: &str,
    worker: i64,
    setting: &str,
    stop: &AtomicBool,
    acknowledged: &AtomicI64,
) -> Written {
    let mut written = Written::default();
    let mut session: Option<(bool, Session)> = None;
    let mut last = Instant::now();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let Some((is_new, open)) = &mut session else {
            session = connect(sockets, database, setting, &mut written.errors);
            continue;
        };
        number += 1;
        match open.query(&format!("insert into public.acks values ({worker}, {number})")) {
            Ok(_) => {
                if *is_new && written.new.is_empty() {
                    written.gap = last.elapsed();
                }
                if *is_new { &mut written.new } else { &mut written.old }.insert(number);
                last = Instant::now();
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                written.errors.push(format!("{error:#}"));
                session = None;
            }
        }
    }
    written
}

/// The source if it lets us in, else the target.
fn connect(
    sockets: &[PathBuf; 2],
    database: &str,
    setting: &str,
    errors: &mut Vec<String>,
) -> Option<(bool, Session)> {
    for (socket, is_new) in sockets.iter().zip([false, true]) {
        let opened = Session::connect(socket, database, &[]).and_then(|mut session| {
            session.query(setting)?;
            // A standby is no place to write.
            ensure!(session.query("select pg_is_in_recovery()")? == "f", "a standby");
            Ok(session)
        });
        match opened {
            Ok(session) => return Some((is_new, session)),
            Err(error) => errors.push(format!("{error:#}")),
        }
    }
    thread::sleep(RETRY);
    None
}

/// The numbers of a worker that a table has.
pub(crate) fn numbers(session: &mut Session, worker: i64) -> Result<BTreeSet<i64>> {
    let text = session.query(&format!("select n from public.acks where worker = {worker}"))?;
    let numbers: Vec<i64> = text.lines().map(str::parse).collect::<Result<_, _>>()?;
    let set: BTreeSet<i64> = numbers.iter().copied().collect();
    ensure!(set.len() == numbers.len(), "worker {worker} has numbers twice");
    Ok(set)
}

/// Looks where the acknowledged commits of a moved database are. The source is opened for that.
pub(crate) fn check(stage: &Stage, database: &str, worker: i64, written: &Written) -> Result<()> {
    let there = numbers(&mut stage.target(database)?, worker)?;
    let lost: Vec<_> = written.old.union(&written.new).filter(|it| !there.contains(it)).collect();
    ensure!(lost.is_empty(), "{database}: lost {lost:?}");
    let name = database.replace('"', "\"\"");
    stage.source.sql(&format!("alter database \"{name}\" with allow_connections true"))?;
    let here = numbers(&mut stage.source.session(database)?, worker).context("on the source")?;
    stage.source.sql(&format!("alter database \"{name}\" with allow_connections false"))?;
    let both: Vec<_> = written.new.intersection(&here).collect();
    ensure!(both.is_empty(), "{database}: on both sides {both:?}");
    ensure!(here.is_subset(&there), "{database}: on the source only");
    Ok(())
}
