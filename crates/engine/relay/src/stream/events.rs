//! What the rewriter finds in the WAL while it goes over it: the ledger learns it, names that are
//! missing are found out, and the segments that a stream entered are noted.

use alarm::Code;
use pgtypes::Lsn;
use tracing::error;
use wal::Event;

use super::StreamError;
use super::course::lock;
use super::flow::Flow;

impl Flow {
    /// Notes segments that were entered between records; see [`Event::Boundary`] for others.
    pub(super) fn enter_segments(&mut self) -> Result<(), StreamError> {
        let position = self.rewriter.position();
        let segment = position.round_down(self.course.segment_bytes.bytes());
        if segment > self.entered && position > segment {
            self.enter(segment, None)?;
        }
        Ok(())
    }

    pub(super) fn enter(
        &mut self,
        boundary: Lsn,
        span: Option<&wal::Span>,
    ) -> Result<(), StreamError> {
        let timeline = self.course.history.timeline_at(boundary);
        lock(&self.course.ledger).enter(timeline, boundary, span)?;
        self.entered = boundary;
        Ok(())
    }

    /// Takes over what the WAL says, and makes sure that what it needs is known.
    pub(crate) async fn handle(&mut self, event: &Event) -> Result<(), StreamError> {
        match event {
            Event::Boundary(span) => return self.enter(span.boundary, Some(span)),
            Event::Unknown { at, xid, place } => {
                return self.resolve(*place, *xid, *at).await;
            }
            Event::DatabaseCreate { at, xid, database, tablespace, source } => {
                let target = wal::Place { tablespace: *tablespace, database: *database };
                self.resolve(target, *xid, *at).await?;
                if let Some(source) = source {
                    self.resolve(*source, *xid, *at).await?;
                }
            }
            Event::DatabaseRow { at, xid, tablespace, .. } => {
                self.resolve(wal::Place::tablespace(*tablespace), *xid, *at).await?;
            }
            Event::TablespaceCreate { at, xid, oid } => {
                self.resolve(wal::Place::tablespace(*oid), *xid, *at).await?;
            }
            Event::CatalogUpdated { .. } => {
                self.course.context.names_changed(&self.course);
                return Ok(());
            }
            Event::Unreadable { at, problem, .. } => {
                self.course.context.counters.alarms.add(1);
                error!(
                    code = %Code::UnreadableName,
                    configuration = self.course.configuration,
                    lsn = %at,
                    ?problem,
                    "cannot read the name of a new database or tablespace from the WAL; \
                     the catalog will be asked when its records come",
                );
                return Ok(());
            }
            _ => {}
        }
        lock(&self.course.ledger).learn(event, &self.course.history)?;
        self.refresh();
        Ok(())
    }

    /// Takes a new table when the ledger has learned something.
    pub(super) fn refresh(&mut self) {
        let table = lock(&self.course.ledger).table(&self.course.history);
        table.count_on(&self.table);
        self.table = table;
    }
}
