//! Closing databases on the source, and opening them again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio_postgres::types::ToSql;

use crate::journal::{Database, Step};
use crate::login::APPLICATION_NAME;
use crate::server::Session;
use crate::split::Split;
use crate::{Error, Helper, sql};

/// How long sessions may take to end where nothing else says so.
pub(crate) const END_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the sessions of a run that was killed may take to end.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(2);
/// How long opening again is tried.
const REOPEN_TIMEOUT: Duration = Duration::from_secs(60);
const REOPEN_INTERVAL: Duration = Duration::from_secs(1);

/// Sessions that are still starting hold locks, on their database and in it, and appear in
/// `pg_stat_activity` before they let them go. Who starts later finds the database closed.
/// 1262 is `pg_database`.
const STARTING: &str = "select distinct pid from pg_locks where pid <> all($2) and ( \
     (locktype = 'object' and classid = 1262 and objid = any($1) and database = 0 \
         and mode <> 'AccessShareLock') or database = any($1)) \
     and pid not in (select pid from pg_stat_activity where backend_type = 'autovacuum worker')";
/// Autovacuum comes to closed databases too, and writes nothing that anybody could miss.
const CONNECTED: &str = "select count(*) from pg_stat_activity where datid = any($1) \
     and pid <> all($2) and backend_type <> 'autovacuum worker'";
/// What lets somebody in, and whose row it was not we who wrote it last: with the OIDs and `xmin`.
const OPEN: &str = "select count(*) filter (where d.datallowconn or d.xmin::text::bigint <> k.xmin) \
     from unnest($1::oid[], $2::bigint[]) k(oid, xmin) join pg_database d using (oid)";
/// Nobody else changes these rows until the end of the transaction.
const LOCK_ROWS: &str = "select oid, datname::text, datallowconn, xmin::text::bigint from pg_database \
     where oid = any($1) order by oid for update";
const ROWS: &str = "select oid, datname::text, datallowconn, xmin::text::bigint from pg_database where oid = any($1)";
const LEFT: &str = "select format('process %s of %s in %s', pid, coalesce(usename, backend_type), datname) \
     from pg_stat_activity where datid = any($1) and pid <> all($2) \
     and backend_type <> 'autovacuum worker' order by pid limit 5";
const TERMINATE: &str = "select count(pg_terminate_backend(pid)) from pg_stat_activity \
     where datid = any($1) and pid <> all($2) and backend_type <> 'autovacuum worker'";
const TERMINATE_ONE: &str = "select count(pg_terminate_backend(pid)) from pg_stat_activity \
     where pid = $1 and (extract(epoch from backend_start) * 1000000)::bigint = $2";
/// All others that are ours, on a server that is ours alone.
const TERMINATE_OURS: &str = "select count(pg_terminate_backend(pid)) from pg_stat_activity \
     where application_name = $1::text and pid <> pg_backend_pid()";

/// Sets `datallowconn` of several databases at once, whatever they are called now.
pub(crate) async fn allow(
    session: &Session,
    databases: &[&Database],
    open: bool,
) -> Result<(), Error> {
    let oids: Vec<u32> = databases.iter().map(|database| database.oid).collect();
    let names = "select datname::text from pg_database where oid = any($1) and datallowconn <> $2";
    let names: Vec<String> = session.column("list databases", names, &[&oids, &open]).await?;
    let mut sql = "begin;".to_owned();
    for name in &names {
        let name = sql::name(name);
        sql.push_str(&format!("alter database {name} with allow_connections {open};"));
    }
    sql.push_str("commit");
    let action = if open { "open the databases" } else { "close the databases" };
    let done = session.run(action, &sql).await;
    if done.is_err() {
        session.run("end the transaction", "rollback").await.ok();
    }
    done
}

/// Ends the sessions in databases that are closed, but for those of `own`, until none is left or
/// the time is over.
pub(crate) async fn end_sessions<H: Helper>(
    split: &Split<'_, H>,
    session: &Session,
    oids: &[u32],
    own: &[i32],
    limit: Duration,
) -> Result<(), Error> {
    let since = Instant::now();
    let mut starting: Vec<i32> =
        session.column("look for sessions", STARTING, &[&oids, &own]).await?;
    loop {
        session.rows("end sessions", TERMINATE, &[&oids, &own]).await?;
        if !starting.is_empty() {
            let now = session.column("look for sessions", STARTING, &[&oids, &own]).await?;
            starting.retain(|pid| now.contains(pid));
        }
        let connected: i64 = session.one("look for sessions", CONNECTED, &[&oids, &own]).await?;
        if starting.is_empty() && connected == 0 {
            return Ok(());
        }
        if since.elapsed() > limit {
            let left: Vec<String> =
                session.column("look for sessions", LEFT, &[&oids, &own]).await?;
            return Err(Error::Late {
                what: format!(
                    "the end of sessions in the moved databases; what is left: {}",
                    left.join(", ")
                ),
                secs: limit.as_secs(),
            });
        }
        split.pause(INTERVAL).await?;
    }
}

/// Ends what a former run of ours left on the target: a statement that opens databases would
/// outlive the closing of them.
pub(crate) async fn end_former(target: &Session) -> Result<(), Error> {
    let what = "the end of a session of an earlier run on the target";
    end_backends(target, TERMINATE_OURS, &[&APPLICATION_NAME], what).await
}

/// Ends backends until none is left of those that `terminate` counts. Not to be stopped: what they
/// do must not come after what we do next.
async fn end_backends(
    session: &Session,
    terminate: &str,
    values: &[&(dyn ToSql + Sync)],
    what: &str,
) -> Result<(), Error> {
    let since = Instant::now();
    while session.one::<i64>("end a session", terminate, values).await? > 0 {
        if since.elapsed() > END_TIMEOUT {
            return Err(Error::Late { what: what.into(), secs: END_TIMEOUT.as_secs() });
        }
        tokio::time::sleep(INTERVAL).await;
    }
    Ok(())
}

/// What `pg_database` has of a database.
struct Row {
    oid: u32,
    name: String,
    is_open: bool,
    xmin: i64,
}

/// What `sql` gives of them: [`ROWS`] or [`LOCK_ROWS`].
async fn rows(session: &Session, sql: &str, oids: &[u32]) -> Result<Vec<Row>, Error> {
    let rows = session.rows("look at the databases", sql, &[&oids]).await?;
    let row = |row| {
        Ok(Row {
            oid: session.value(row, 0)?,
            name: session.value(row, 1)?,
            is_open: session.value(row, 2)?,
            xmin: session.value(row, 3)?,
        })
    };
    rows.iter().map(row).collect()
}

/// What there is of databases that have to be closed.
pub(crate) struct Closed {
    /// Databases that take connections, or that somebody changed since.
    open: i64,
    /// Sessions in them.
    connected: i64,
}

impl Closed {
    /// Looks at them; sessions of `own` do not count.
    pub(crate) async fn look(
        session: &Session,
        rows: &BTreeMap<u32, i64>,
        own: &[i32],
    ) -> Result<Self, Error> {
        let oids: Vec<u32> = rows.keys().copied().collect();
        let xmins: Vec<i64> = rows.values().copied().collect();
        let open = session.one("look at the databases", OPEN, &[&oids, &xmins]).await?;
        let connected = session.one("look for sessions", CONNECTED, &[&oids, &own]).await?;
        Ok(Self { open, connected })
    }

    /// Whether nobody has opened them again, and nobody is in.
    pub(crate) const fn is_true(&self) -> bool {
        self.open == 0 && self.connected == 0
    }
}

impl<H: Helper> Split<'_, H> {
    /// Closes the databases on the source, all at once. What the rows are then is written down
    /// before that counts: only rows that are still so are ours to open again.
    pub(crate) async fn close_source(&mut self, source: &Session) -> Result<(), Error> {
        source.run("begin", "begin").await?;
        let closed = self.close_rows(source).await;
        if closed.is_err() {
            source.run("end the transaction", "rollback").await.ok();
        }
        closed
    }

    async fn close_rows(&mut self, source: &Session) -> Result<(), Error> {
        let oids = self.journal.record.oids();
        let mut sql = String::new();
        for Row { oid, name, is_open, .. } in rows(source, LOCK_ROWS, &oids).await? {
            let was_open = self.opened_before().iter().any(|it| it.oid == oid);
            if was_open && !is_open {
                return Err(Error::unfit(format!(
                    "database {name} was closed on the source since the split began, by another split or \
                     by hand: ALTER DATABASE ... ALLOW_CONNECTIONS true if it shall move, or undo this split"
                )));
            }
            if was_open {
                let name = sql::name(&name);
                sql.push_str(&format!("alter database {name} with allow_connections false;"));
            }
        }
        source.run("close the databases", &sql).await?;
        let closed = rows(source, ROWS, &oids).await?;
        self.journal.record.closed = closed.iter().map(|row| (row.oid, row.xmin)).collect();
        self.journal.save()?;
        source.run("close the databases", "commit").await
    }

    /// What was open before.
    pub(crate) fn opened_before(&self) -> Vec<&Database> {
        self.journal.record.databases.iter().filter(|it| it.open).collect()
    }

    /// Opens the databases on the source, and waits for whoever may still be closing them: a run
    /// that was killed, or gave up waiting for an answer, left a statement that goes on. What it
    /// did later would undo this. Our own statement is written down for the same reason: the next
    /// cut must not be undone by it. Says what is open then.
    pub(crate) async fn open_source(&mut self) -> Result<(), Error> {
        let source = self.source().await?;
        if let Some((pid, began)) = &self.journal.record.closer {
            let what = format!("the end of backend {pid}, which closes or opens the databases");
            end_backends(&source, TERMINATE_ONE, &[pid, began], &what).await?;
        }
        self.journal.record.closer = Some(source.backend().await?);
        self.journal.save()?;
        let opened = tokio::time::timeout(END_TIMEOUT, self.open_rows(&source));
        opened.await.map_err(|_elapsed| Error::Late {
            what: "the source to open the databases".into(),
            secs: END_TIMEOUT.as_secs(),
        })?
    }

    /// Opens those that we closed, and nobody has touched since; names the others.
    async fn open_rows(&self, source: &Session) -> Result<(), Error> {
        source.run("begin", "begin").await?;
        let not_open = self.open_ours(source).await;
        if not_open.is_err() {
            source.run("end the transaction", "rollback").await.ok();
        }
        let not_open = not_open?;
        for why in &not_open {
            self.helper.say(why);
        }
        let before = self.opened_before().len();
        if not_open.is_empty() && before > 0 {
            self.helper.say("the databases are open on the source again");
        } else if not_open.len() < before {
            self.helper.say("the other databases are open on the source again");
        }
        Ok(())
    }

    /// Gives those that are not open then, and why. Waits for nobody's rows but those that it opens.
    async fn open_ours(&self, source: &Session) -> Result<Vec<String>, Error> {
        let record = &self.journal.record;
        let is_closed = |row: &&Row| !row.is_open && record.closed.get(&row.oid) == Some(&row.xmin);
        let before = rows(source, ROWS, &record.oids()).await?;
        let ours: Vec<u32> = before.iter().filter(is_closed).map(|row| row.oid).collect();
        if !ours.is_empty() {
            rows(source, LOCK_ROWS, &ours).await?;
        }
        let now = rows(source, ROWS, &record.oids()).await?;
        let (mut sql, mut not_open) = (String::new(), Vec::new());
        for database in self.opened_before() {
            match now.iter().find(|row| row.oid == database.oid) {
                Some(row) if row.is_open => {}
                Some(row) if is_closed(&row) && ours.contains(&row.oid) => {
                    let name = sql::name(&row.name);
                    sql.push_str(&format!("alter database {name} with allow_connections true;"));
                }
                Some(Row { name, .. }) => not_open.push(format!(
                    "database {name} is closed on the source, and somebody changed it since we closed it: it \
                     stays so. Unless another split moved it, open it with ALTER DATABASE ... ALLOW_CONNECTIONS true"
                )),
                None => not_open.push(format!(
                    "database {} is not on the source any more: somebody dropped it",
                    database.name
                )),
            }
        }
        source.run("open the databases", &sql).await?;
        source.run("open the databases", "commit").await?;
        Ok(not_open)
    }

    /// Opens the databases on the source again, whatever stopped the cut.
    pub(crate) async fn reopen(&mut self) -> Result<(), Error> {
        let since = Instant::now();
        loop {
            match self.open_source().await {
                Ok(()) => break,
                Err(error) if since.elapsed() > REOPEN_TIMEOUT => {
                    return Err(Error::unfit(format!(
                        "the moved databases are closed on the source, and cannot be opened: {error}; \
                         `pgherd split undo` tries again"
                    )));
                }
                Err(_may_pass) => tokio::time::sleep(REOPEN_INTERVAL).await,
            }
        }
        self.journal.took_back()
    }

    /// The last look before anybody may write on the target. A run that was killed behind the cut
    /// leaves the databases closed for as long as nobody continues, and somebody may have opened
    /// them by hand meanwhile. Without the source nothing goes on.
    pub(crate) async fn ensure_source_closed(&self, own: &[i32]) -> Result<(), Error> {
        let source = self.source().await?;
        self.check_names(&source).await?;
        let since = Instant::now();
        loop {
            let closed = Closed::look(&source, &self.journal.record.closed, own).await?;
            if closed.is_true() {
                return Ok(());
            }
            // The sessions of a run that was killed take a moment to go.
            if closed.open > 0 || since.elapsed() > LEAVE_TIMEOUT {
                return Err(Error::unfit(
                    "a moved database was opened on the source after the cut, or changed there, so that the \
                     target may lack what was written since: `pgherd split undo` goes back to the source",
                ));
            }
            self.pause(INTERVAL).await?;
        }
    }

    /// A run that was killed in the cut, before the promotion, left them closed.
    pub(crate) async fn reopen_after_a_kill(&mut self) -> Result<(), Error> {
        if self.is_begun(Step::SourceClosed) || self.is_begun(Step::Drained) {
            self.reopen().await?;
        }
        Ok(())
    }
}
