//! Writers that go on whatever happens to the server, and remember what was acknowledged.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, ensure};
use testkit::{Cluster, PATIENCE, Session, wait_until};

/// How long a writer waits before it tries a server again that is away.
const PAUSE: Duration = Duration::from_millis(20);

const TABLE: &str = "
create table if not exists load (id bigint primary key, writer int, t text, n int);
create index if not exists load_t on load using hash (t);
create index if not exists load_n on load (n);
";

/// Writers in several databases; they stop when dropped.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    over: AtomicBool,
    socket: Mutex<PathBuf>,
    next_id: AtomicU64,
    /// Rows whose commit was acknowledged, by database.
    acknowledged: Mutex<Vec<(String, u64)>>,
}

impl Load {
    /// Starts one writer for each of `databases`; text in their rows begins with `database:`.
    pub fn start(primary: &Cluster, databases: &[&str]) -> Result<Self> {
        let shared = Arc::new(Shared {
            over: AtomicBool::new(false),
            socket: Mutex::new(primary.socket()),
            next_id: AtomicU64::new(1),
            acknowledged: Mutex::default(),
        });
        let mut threads = Vec::new();
        for database in databases {
            primary.sql_in(database, TABLE)?;
            let (shared, database) = (Arc::clone(&shared), (*database).to_owned());
            threads.push(thread::spawn(move || shared.write(&database)));
        }
        Ok(Self { shared, threads })
    }

    /// Waits until `more` further transactions were acknowledged.
    pub fn wait_for(&self, more: usize) -> Result<()> {
        let target = self.acknowledged() + more;
        wait_until("the load to go on", PATIENCE, || {
            Ok((self.acknowledged() >= target).then_some(()))
        })
    }

    /// Transactions that were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.shared.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Sends the writers to another server.
    pub fn retarget(&self, server: &Cluster) {
        *self.shared.socket.lock().unwrap_or_else(PoisonError::into_inner) = server.socket();
    }

    /// Stops the writers; gives the rows that were acknowledged, by database.
    pub fn stop(mut self) -> Result<Vec<(String, u64)>> {
        self.shared.over.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            ensure!(thread.join().is_ok(), "a writer panicked");
        }
        let mut acknowledged =
            self.shared.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut *acknowledged))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
    }
}

impl Shared {
    fn write(&self, database: &str) {
        while !self.over.load(Ordering::SeqCst) {
            let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner).clone();
            // A server that is away, or goes away, is why this exists.
            if self.write_to(&socket, database).is_err() {
                thread::sleep(PAUSE);
            }
        }
    }

    fn write_to(&self, socket: &Path, database: &str) -> Result<()> {
        let mut session = Session::connect(socket, database, &[])?;
        while !self.over.load(Ordering::SeqCst)
            && *self.socket.lock().unwrap_or_else(PoisonError::into_inner) == socket
        {
            let id = self.next_id.fetch_add(1, Ordering::SeqCst);
            // Some rows go out of line, some are changed or deleted again.
            let length = if id.is_multiple_of(40) { 4000 } else { 10 };
            session.query(&format!(
                "insert into load select {id}, 0, '{database}:' || repeat(md5('{id}'), {length}), {id}; \
                 insert into load select -{id} * 100 - g, 1, '{database}:' || g, g \
                 from generate_series(0, 20) g; \
                 update load set n = n + 1 where id between -{id} * 100 - 5 and -{id} * 100; \
                 delete from load where id between -{id} * 100 - 20 and -{id} * 100 - 10"
            ))?;
            let mut acknowledged = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
            acknowledged.push((database.to_owned(), id));
        }
        Ok(())
    }
}

/// Fails when a row that was acknowledged is not there.
pub fn nothing_lost(
    server: &Cluster,
    database: &str,
    acknowledged: &[(String, u64)],
) -> Result<()> {
    let there = server.sql_in(database, "select id from load where id > 0")?;
    let there: std::collections::BTreeSet<u64> =
        there.lines().map(str::parse).collect::<Result<_, _>>()?;
    let ours = acknowledged.iter().filter(|(name, _)| name == database);
    let lost: Vec<_> = ours.map(|(_, id)| *id).filter(|id| !there.contains(id)).collect();
    ensure!(lost.is_empty(), "acknowledged rows are lost in {database}: {lost:?}");
    Ok(())
}
