//! The cut: from the last write on the source to the first one on the target.
//!
//! Between begin and done of [`Step::Promoted`] lies the point behind which only undoing leads
//! back. Everything that can wait is done before the databases are closed or after they are open.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pgtypes::Lsn;

use crate::close::{Closed, allow, end_sessions};
use crate::count::Counts;
use crate::error::shown;
use crate::journal::{Database, Step};
use crate::server::Session;
use crate::split::Split;
use crate::target::{CONTROL, REPLAYED};
use crate::{Error, Helper};

const PROMOTE_TIMEOUT: Duration = Duration::from_secs(120);
/// Between two looks, while nobody can write.
const INTERVAL: Duration = Duration::from_millis(2);
/// What is added to the time of the cut where nobody looks at the clock: for a server that hangs.
const GRACE: Duration = Duration::from_secs(1);

/// Writes a record and then flushes it, with all that is before it, by committing. What it gives
/// is where the record ends.
const MARK: &str = "select pg_logical_emit_message(true, 'pgherd', 'split')::text";

/// Whoever reads on the target must not hold up what is replayed at the last.
const NO_DELAY: [&str; 3] = [
    "alter system set max_standby_streaming_delay = 0",
    "alter system set max_standby_archive_delay = 0",
    "select pg_reload_conf()",
];

impl<H: Helper> Split<'_, H> {
    /// Closes, drains, promotes, opens; gives what counts rows later, when it was not interrupted.
    pub(crate) async fn cut_over(&mut self) -> Result<Option<Counts>, Error> {
        let mut counts = None;
        if !self.is_begun(Step::Promoted) {
            counts = Some(self.close_and_drain().await?);
        }
        if !self.is_done(Step::Opened) {
            self.ensure_target().await?;
            let own = counts.as_ref().map(|counts: &Counts| counts.own.clone());
            if own.is_none() {
                self.ensure_source_closed(&[]).await?;
            }
            self.promote().await?;
            self.ensure_source_closed(&own.unwrap_or_default()).await?;
            self.open_target().await?;
        }
        Ok(counts)
    }

    /// Everything before the promotion; whatever fails, the source is open again afterwards.
    async fn close_and_drain(&mut self) -> Result<Counts, Error> {
        let source = self.source().await?;
        self.check_names(&source).await?;
        self.check_tablespaces(&source).await?;
        let target = self.target(CONTROL).await?;
        let mut counts =
            if self.checks { Counts::open(self, &source).await? } else { Counts::default() };
        for statement in NO_DELAY {
            target.run("let nobody hold up the target", statement).await?;
        }
        // From here on a kill may leave them closed.
        self.journal.record.closer = Some(source.backend().await?);
        self.journal.record.closed_at_millis = Some(now_millis());
        self.journal.begin_step(Step::SourceClosed)?;
        let limit = self.cut_timeout;
        let stop = self.stop.clone();
        let drained = tokio::select! {
            drained = self.drain(&source, &target, &mut counts) => drained,
            () = stop.cancelled() => Err(Error::Stopped),
            () = tokio::time::sleep(limit + GRACE) => {
                let what = "an answer of one of the servers in the cut, or a lock there".into();
                Err(Error::Late { what, secs: limit.as_secs() })
            }
        };
        let begun = match drained {
            // Once this is written, there is no way back.
            Ok(()) => self.check_stop().and_then(|()| self.journal.begin_step(Step::Promoted)),
            Err(error) => Err(error),
        };
        match begun {
            Ok(()) => Ok(counts),
            Err(error) => {
                drop(source);
                self.reopen().await?;
                Err(error)
            }
        }
    }

    async fn drain(
        &mut self,
        source: &Session,
        target: &Session,
        counts: &mut Counts,
    ) -> Result<(), Error> {
        let since = Instant::now();
        let oids = self.journal.record.oids();
        self.close_source(source).await?;
        let left = self.cut_timeout.saturating_sub(since.elapsed());
        end_sessions(self, source, &oids, &counts.own, left).await?;
        self.journal.done(Step::SourceClosed)?;
        let cut = mark(source).await?;
        loop {
            let replayed = target.lsn("ask for the position", REPLAYED).await?;
            if replayed >= cut {
                break;
            }
            if since.elapsed() > self.cut_timeout {
                let what = format!("the target to replay up to {cut}; it is at {replayed}");
                return Err(Error::Late { what, secs: self.cut_timeout.as_secs() });
            }
            self.pause(INTERVAL).await?;
        }
        self.journal.record.cut = Some(cut.to_string());
        self.journal.done(Step::Drained)?;
        counts.hold().await;
        // What was written behind the cut would be lost: the last look before there is no way back.
        if Closed::look(source, &self.journal.record.closed, &counts.own).await?.is_true() {
            return Ok(());
        }
        Err(Error::unfit("somebody opened a moved database on the source during the cut"))
    }

    async fn promote(&mut self) -> Result<(), Error> {
        let target = self.target(CONTROL).await?;
        let cut =
            self.journal.record.cut().ok_or_else(|| Error::unfit("the journal has no cut"))?;
        let since = Instant::now();
        let mut asked = false;
        while target.one::<bool>("ask for the state", "select pg_is_in_recovery()", &[]).await? {
            if !asked {
                // A server that was restarted meanwhile may have to replay again.
                asked = target.lsn("ask for the position", REPLAYED).await? >= cut
                    && target.one("promote the target", "select pg_promote(false)", &[]).await?;
            }
            if since.elapsed() > PROMOTE_TIMEOUT {
                let secs = PROMOTE_TIMEOUT.as_secs();
                return Err(Error::Late { what: "the promotion of the target".into(), secs });
            }
            tokio::time::sleep(INTERVAL).await;
        }
        if !self.is_done(Step::Promoted) {
            // Before anybody can make a database there: all that are not moved are left out.
            self.journal.record.left_out = self.left_out(&target).await?;
            self.journal.done(Step::Promoted)?;
        }
        Ok(())
    }

    /// All databases of the target that are neither moved nor on every server.
    async fn left_out(&self, target: &Session) -> Result<Vec<Database>, Error> {
        let sql = "select oid, datname::text, datallowconn from pg_database \
                   where oid <> all($1) and datname not in ('template0', 'template1') order by oid";
        let mut databases = Vec::new();
        for row in target.rows("list databases", sql, &[&self.journal.record.oids()]).await? {
            databases.push(Database {
                oid: target.value(&row, 0)?,
                name: target.value(&row, 1)?,
                open: target.value(&row, 2)?,
            });
        }
        Ok(databases)
    }

    /// Opens the databases on the target, and writes in one to see that it works.
    async fn open_target(&mut self) -> Result<(), Error> {
        let target = self.target(CONTROL).await?;
        self.journal.begin_step(Step::Opened)?;
        allow(&target, &self.opened_before(), true).await?;
        if let Some(first) = self.opened_before().first() {
            let writer = self.target(&first.name).await?;
            writer.one::<i64>("write on the target", "select txid_current()", &[]).await?;
        }
        let closed_at = self.journal.record.closed_at_millis.unwrap_or_default();
        let downtime = now_millis().saturating_sub(closed_at);
        self.journal.record.downtime_millis = Some(downtime);
        self.journal.done(Step::Opened)?;
        let secs = Duration::from_millis(downtime).as_secs_f64();
        self.helper
            .say(&format!("the databases are open on the target; no writes for {secs:.2} s"));
        Ok(())
    }
}

/// Writes a record and flushes it; gives where it ends.
pub(crate) async fn mark(source: &Session) -> Result<Lsn, Error> {
    source.run("begin", "begin").await?;
    let end = source.lsn("write a record", MARK).await?;
    source.run("flush the WAL", "commit").await?;
    Ok(end)
}

fn now_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// For messages of steps that may fail without harm.
pub(crate) fn reason(error: &Error) -> String {
    match error {
        Error::Server { cause, .. } => shown(cause),
        error => error.to_string(),
    }
}
