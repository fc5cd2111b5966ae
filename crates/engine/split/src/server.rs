//! Questions to the two servers.

use std::time::Duration;

use tasks::Group;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use crate::Error;
use crate::error::Side;

/// How long a server may take to tell where it is, which it does without any work. In the cut the
/// databases are closed meanwhile: one that hangs must not keep them so.
const POSITION_TIMEOUT: Duration = Duration::from_secs(10);

/// An open connection; closed when dropped.
pub(crate) struct Session {
    client: Client,
    side: Side,
    _task: Group,
}

impl Session {
    /// Of a connection that `task` works for.
    pub(crate) const fn new(client: Client, side: Side, task: Group) -> Self {
        Self { client, side, _task: task }
    }

    fn failed(&self, action: &str) -> impl FnOnce(tokio_postgres::Error) -> Error {
        let (side, action) = (self.side, action.to_owned());
        move |cause| Error::Server { side, action, cause }
    }

    /// Runs statements, parted by semicolons, in one transaction unless they say otherwise.
    pub(crate) async fn run(&self, action: &str, sql: &str) -> Result<(), Error> {
        self.client.batch_execute(sql).await.map_err(self.failed(action))
    }

    /// Asks for rows.
    pub(crate) async fn rows(
        &self,
        action: &str,
        sql: &str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Error> {
        self.client.query(sql, values).await.map_err(self.failed(action))
    }

    /// Asks for the only column of the only row.
    pub(crate) async fn one<T>(
        &self,
        action: &str,
        sql: &str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<T, Error>
    where
        T: for<'a> tokio_postgres::types::FromSql<'a>,
    {
        let row = self.client.query_one(sql, values).await.map_err(self.failed(action))?;
        row.try_get(0).map_err(self.failed(action))
    }

    /// Asks for the first column of all rows.
    pub(crate) async fn column<T>(
        &self,
        action: &str,
        sql: &str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<T>, Error>
    where
        T: for<'a> tokio_postgres::types::FromSql<'a>,
    {
        let rows = self.rows(action, sql, values).await?;
        rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(self.failed(action))
    }

    /// A value of a row.
    pub(crate) fn value<T>(&self, row: &Row, column: usize) -> Result<T, Error>
    where
        T: for<'a> tokio_postgres::types::FromSql<'a>,
    {
        row.try_get(column).map_err(self.failed("read an answer"))
    }

    /// Process id of the backend.
    pub(crate) async fn pid(&self) -> Result<i32, Error> {
        self.one("ask for the backend", "select pg_backend_pid()", &[]).await
    }

    /// The backend and when it began, in microseconds since 1970: together nobody else's.
    pub(crate) async fn backend(&self) -> Result<(i32, i64), Error> {
        let sql = "select pid, (extract(epoch from backend_start) * 1000000)::bigint \
                   from pg_stat_activity where pid = pg_backend_pid()";
        let rows = self.rows("ask for the backend", sql, &[]).await?;
        let row =
            rows.first().ok_or_else(|| Error::unfit("a session that the server does not show"))?;
        Ok((self.value(row, 0)?, self.value(row, 1)?))
    }

    /// A position that the server tells.
    pub(crate) async fn lsn(&self, action: &str, sql: &str) -> Result<pgtypes::Lsn, Error> {
        let told = tokio::time::timeout(POSITION_TIMEOUT, self.one(action, sql, &[])).await;
        let text: String = told.map_err(|_elapsed| Error::Late {
            what: format!("the {} to {action}", self.side),
            secs: POSITION_TIMEOUT.as_secs(),
        })??;
        text.parse().map_err(|_bad| Error::unfit(format!("{text:?} is no position in the WAL")))
    }
}
