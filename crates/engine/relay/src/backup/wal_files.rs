//! Segments of WAL inside a backup (`-X fetch`), filtered as a stream of the same range is.
//!
//! The segments follow one another, with tar headers in between. Their bytes are taken
//! together, rewritten, and put back; the last few bytes of a segment may be decided only by
//! the first ones of the next.

use std::collections::VecDeque;
use std::ops::Range;

use pgtypes::{Lsn, Major, Timeline};
use tracing::{debug, warn};
use wal::{Entry, Event, Layout, Outcome, Rewriter, Span, SpanFate};

use crate::clients::Client;
use crate::room::Rooms;
use crate::session::SessionError;
use crate::stream::{Course, Flow, lock};

/// The rewriter for segments, and what of them is not final.
pub(super) struct WalFiles {
    flow: Flow,
    layout: Layout,
    /// Parts of the body that hold WAL which is not final, in order.
    open: VecDeque<Range<usize>>,
    /// The next byte of WAL that will come.
    next: Lsn,
    /// Behind the end of the WAL: the rest of this segment is of no use and becomes zero.
    over: bool,
    /// Segments that begin, with the place in the body where they do.
    beginning: VecDeque<(usize, Lsn)>,
}

impl WalFiles {
    pub(super) fn new(course: Course, major: Major) -> Self {
        let layout = Layout { major, segment_bytes: course.segment_bytes };
        let table = lock(&course.ledger).table(&course.history);
        let rewriter = Rewriter::new(layout, Lsn::INVALID, Entry::Unknown);
        let flow = Flow::new(course, rewriter, table, Lsn::INVALID);
        Self {
            flow,
            layout,
            open: VecDeque::new(),
            next: Lsn::INVALID,
            over: false,
            beginning: VecDeque::new(),
        }
    }

    /// What the fates are taken from.
    pub(super) fn flow(&mut self) -> &mut Flow {
        &mut self.flow
    }

    /// Room for what is read of the backup.
    pub(super) fn rooms(&self) -> &Rooms {
        &self.flow.course.context.rooms
    }

    /// Who takes the backup.
    pub(super) fn client(&self) -> &Client {
        &self.flow.course.client
    }

    pub(super) fn configuration(&self) -> &str {
        &self.flow.course.configuration
    }

    /// A segment begins with the next byte of WAL.
    pub(super) fn segment(&mut self, timeline: Timeline, high: u32, low: u32) {
        let start = Lsn(u64::from(high) << 32) + u64::from(low) * self.layout.segment_bytes.bytes();
        debug!(%timeline, %start, "a segment in the backup");
        self.beginning.push_back((usize::MAX, start));
    }

    /// `bytes` of WAL are about to be put into the body at `at`.
    pub(super) fn note(&mut self, at: usize, bytes: usize) {
        if let Some((place, _)) = self.beginning.iter_mut().find(|(place, _)| *place == usize::MAX)
        {
            *place = at;
        }
        self.open.push_back(at..at + bytes);
    }

    /// Rewrites the WAL in `body` as far as it can be decided.
    pub(super) async fn filter(&mut self, body: &mut [u8]) -> Result<(), SessionError> {
        while let Some((at, start)) = self.beginning.front().copied() {
            if at == usize::MAX {
                break;
            }
            if start != self.next || self.over {
                // What lies before is not continued here.
                self.rewrite(body, at).await?;
                self.clear(body, at);
                self.restart(start);
            }
            self.next = start + self.layout.segment_bytes.bytes();
            self.beginning.pop_front();
        }
        self.rewrite(body, usize::MAX).await
    }

    fn restart(&mut self, start: Lsn) {
        let span = lock(&self.flow.course.ledger).span(&self.flow.course.history, start);
        let entry = span.map_or(Entry::Unknown, Entry::Span);
        self.flow.rewriter = Rewriter::new(self.layout, start, entry);
        self.over = false;
    }

    /// Rewrites what is open before `until`.
    async fn rewrite(&mut self, body: &mut [u8], until: usize) -> Result<(), SessionError> {
        let parts: Vec<_> =
            self.open.iter().take_while(|part| part.start < until).cloned().collect();
        let mut wal = Vec::new();
        for part in &parts {
            wal.extend_from_slice(body.get(part.clone()).unwrap_or_default());
        }
        let done = self.digest(&mut wal).await?;
        let mut rest = wal.get(..done).unwrap_or_default();
        while let Some(part) = self.open.front_mut()
            && !rest.is_empty()
        {
            let (now, later) = rest.split_at(part.len().min(rest.len()));
            if let Some(place) = body.get_mut(part.start..part.start + now.len()) {
                place.copy_from_slice(now);
            }
            part.start += now.len();
            if part.start == part.end {
                self.open.pop_front();
            }
            rest = later;
        }
        Ok(())
    }

    /// Feeds the rewriter; gives how many bytes are final.
    async fn digest(&mut self, wal: &mut [u8]) -> Result<usize, SessionError> {
        if self.over {
            wal.fill(0);
            return Ok(wal.len());
        }
        let mut done = 0;
        loop {
            let rest = wal.get_mut(done..).unwrap_or_default();
            let start = self.flow.rewriter.position();
            let fed = match self.flow.rewriter.feed(rest, &self.flow.table) {
                Ok(fed) => fed,
                Err(error) => {
                    // The last segment of a standby's backup ends in the middle, and what
                    // follows is old. A server stops reading at the same place.
                    let at = self.flow.rewriter.position();
                    done += usize::try_from(at.bytes_since(start)).unwrap_or(0);
                    warn!(%error, %at, "the WAL in the backup ends here");
                    self.over = true;
                    wal.get_mut(done..).unwrap_or_default().fill(0);
                    return Ok(wal.len());
                }
            };
            done += fed.done;
            match fed.outcome {
                Outcome::Drained => return Ok(done),
                // The backup starts behind that record, so nobody will read it; but whose it is
                // nobody knows, and so its bytes go.
                Outcome::Event(Event::NeedsLookBack { at, rem_len }) => {
                    let entry = Entry::Span(Span {
                        boundary: at,
                        record: Lsn::INVALID,
                        total_bytes: rem_len,
                        remaining_bytes: rem_len,
                        fate: SpanFate::Replaced,
                        prefix: Vec::new(),
                    });
                    self.flow.rewriter = Rewriter::new(self.layout, at, entry);
                }
                // The journal is for streams.
                Outcome::Event(Event::Boundary(_)) => {}
                Outcome::Event(event) => {
                    self.flow.handle(&event).await.map_err(SessionError::from)?;
                }
            }
        }
    }

    /// What is open before `until` will never be complete.
    fn clear(&mut self, body: &mut [u8], until: usize) {
        while let Some(part) = self.open.pop_front_if(|part| part.start < until) {
            body.get_mut(part).unwrap_or_default().fill(0);
        }
    }

    /// No more WAL comes in this archive.
    pub(super) fn end(&mut self, body: &mut [u8]) {
        self.clear(body, usize::MAX);
        self.next = Lsn::INVALID;
    }

    /// How many of the `bytes` in the body are final.
    pub(super) fn final_bytes(&self, bytes: usize) -> usize {
        self.open.front().map_or(bytes, |part| part.start)
    }

    /// The first `bytes` of the body have been taken out.
    pub(super) fn emitted(&mut self, bytes: usize) {
        for part in &mut self.open {
            *part = part.start - bytes..part.end - bytes;
        }
        for (place, _) in &mut self.beginning {
            if *place != usize::MAX {
                *place -= bytes;
            }
        }
    }
}
