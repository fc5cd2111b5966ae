//! One writer for each database, which goes on whatever happens to the server.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, ensure};
use testkit::{Cluster, Session};

use crate::names::Database;

/// Between two transactions: leaves the machine some room for the servers.
const BETWEEN: Duration = Duration::from_millis(5);
/// Before a server that is away is tried again.
const AWAY: Duration = Duration::from_millis(100);

const TABLES: &str = "
create table accounts (id int primary key, balance int not null, filler text);
insert into accounts select g, 0, 'TEXT' from generate_series(1, 3000) g;
create table history (id bigserial primary key, account int, delta int, words int[], at int4range,
    document text);
create index history_words on history using gin (words);
create index history_at on history using gist (at);
create index history_account on history using hash (account);
create index history_brin on history using brin (id);
create table noted (number bigint primary key);
create materialized view sums as select account, sum(delta) from history group by account;
";

/// A running writer.
#[derive(Debug)]
pub(crate) struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    over: AtomicBool,
    paused: AtomicBool,
    busy: AtomicBool,
    /// What was acknowledged.
    committed: Mutex<Vec<u64>>,
    socket: Mutex<PathBuf>,
    database: Mutex<Database>,
}

impl Writer {
    /// Makes the tables, and starts to write.
    pub(crate) fn start(primary: &Cluster, database: &Database) -> Result<Self> {
        primary.sql_in(&database.name, &TABLES.replace("TEXT", database.text()))?;
        let shared = Arc::new(Shared {
            over: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            busy: AtomicBool::new(false),
            committed: Mutex::default(),
            socket: Mutex::new(primary.socket()),
            database: Mutex::new(database.clone()),
        });
        let ours = Arc::clone(&shared);
        let thread = Some(thread::spawn(move || ours.write()));
        Ok(Self { shared, thread })
    }

    /// Disconnects, until [`Writer::resume`]: a database with connections cannot be renamed.
    pub(crate) fn pause(&self) {
        self.shared.paused.store(true, Ordering::SeqCst);
        while self.shared.busy.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Goes on, perhaps under another name.
    pub(crate) fn resume(&self, database: &Database) {
        *self.shared.database.lock().unwrap_or_else(PoisonError::into_inner) = database.clone();
        self.shared.paused.store(false, Ordering::SeqCst);
    }

    /// Writes to another server from now on.
    pub(crate) fn retarget(&self, server: &Cluster) {
        *self.shared.socket.lock().unwrap_or_else(PoisonError::into_inner) = server.socket();
    }

    /// How many commits were acknowledged so far.
    pub(crate) fn count(&self) -> usize {
        self.shared.committed.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Stops; gives the numbers of the transactions whose commit was acknowledged.
    pub(crate) fn stop(mut self) -> Result<Vec<u64>> {
        self.shared.over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            ensure!(thread.join().is_ok(), "a writer panicked");
        }
        Ok(std::mem::take(
            &mut *self.shared.committed.lock().unwrap_or_else(PoisonError::into_inner),
        ))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
    }
}

impl Shared {
    fn write(&self) {
        let mut number = 1;
        while !self.over.load(Ordering::SeqCst) {
            self.busy.store(true, Ordering::SeqCst);
            if !self.paused.load(Ordering::SeqCst) {
                let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let database = self.database.lock().unwrap_or_else(PoisonError::into_inner).clone();
                // A server that is away, or goes away, is what this program is about.
                drop(self.write_to(&socket, &database, &mut number));
            }
            self.busy.store(false, Ordering::SeqCst);
            thread::sleep(AWAY);
        }
    }

    fn write_to(&self, socket: &Path, database: &Database, number: &mut u64) -> Result<()> {
        let mut session = Session::connect(socket, &database.name, &[])?;
        let text = database.text();
        while !self.over.load(Ordering::SeqCst) && !self.paused.load(Ordering::SeqCst) {
            *number += 1;
            let (account, number) = (*number * 7919 % 3000 + 1, *number);
            let long = if number.is_multiple_of(50) { 400 } else { 2 };
            let mut sql = format!(
                "update accounts set balance = balance + {number} % 100 where id = {account}; \
                 insert into history (account, delta, words, at, document) \
                 values ({account}, {number}, array[{account}, {number} % 10], \
                 int4range({account}, {account} + 5), repeat('{text}', {long})); \
                 insert into noted values ({number})"
            );
            if number.is_multiple_of(97) {
                sql.push_str("; delete from history where id in (select id from history limit 40)");
            }
            if number.is_multiple_of(301) {
                sql.push_str("; refresh materialized view sums");
            }
            session.query(&sql)?;
            self.committed.lock().unwrap_or_else(PoisonError::into_inner).push(number);
            thread::sleep(BETWEEN);
        }
        Ok(())
    }
}

/// Fails when a commit that was acknowledged is not on this server.
pub(crate) fn none_lost(server: &Cluster, database: &str, acknowledged: &[u64]) -> Result<()> {
    let rows = server.session(database)?.query("select number from noted")?;
    let rows: HashSet<u64> = rows.lines().map(str::parse).collect::<Result<_, _>>()?;
    let lost: Vec<_> = acknowledged.iter().filter(|number| !rows.contains(number)).collect();
    ensure!(
        lost.is_empty(),
        "{} of {} acknowledged commits in {database} are lost on port {}, the first {:?}",
        lost.len(),
        acknowledged.len(),
        server.port(),
        lost.first()
    );
    Ok(())
}
