//! Page borders: entering a stream, and records that go over them.

use pgtypes::Lsn;

use super::{Open, Phase, Rewriter, Step};
use crate::error::{PageProblem, WalError};
use crate::event::Event;
use crate::noop::{PREFIX_BYTES_MAX, Prefix};
use crate::page::{PAGE, PageHeader};
use crate::record::{HEADER_BYTES, Header, RMGR_INFO_MASK, XLOG_SWITCH, rmid};
use crate::span::{Entry, Span, SpanFate};

/// Headers that were gathered over a page border.
pub(super) enum Gathered {
    /// They are in `Rewriter::gathered`.
    Head,
    /// More bytes are needed.
    Short,
    /// The record was given up: its part on this page is all there is.
    Overwritten,
}

impl Rewriter {
    /// The header of the first page, and the record that continues there.
    pub(super) fn enter(&mut self, rest: &[u8]) -> Result<Step, WalError> {
        let Some(page) = self.pages.check(self.at, rest)? else { return Ok(Step::Hold) };
        if !page.is_continuation() {
            return Ok(self.turn(&page, Phase::Head));
        }
        let rem_len = page.rem_len;
        if rem_len == 0 {
            let problem = PageProblem::Continued { found: 0 };
            return Err(WalError::Page { at: self.at, problem });
        }
        let entry = std::mem::replace(&mut self.phase, Phase::Lost(rem_len));
        let open = match entry {
            Phase::Start(Entry::Span(span)) => resume(&span, self.at, rem_len),
            Phase::Start(Entry::Raw) => Some(Open {
                start: Lsn::INVALID,
                total: rem_len,
                remaining: rem_len,
                fate: SpanFate::Unresolved,
                prefix: Prefix::EMPTY,
                lesson: None,
            }),
            _ => None,
        };
        let Some(open) = open else {
            return Ok(Step::Tell(Event::NeedsLookBack { at: self.at, rem_len }));
        };
        self.prev = Some(open.start).filter(|start| *start != Lsn::INVALID);
        self.open = open;
        Ok(self.turn(&page, Phase::Body))
    }

    /// A page header where a record may start.
    pub(super) fn page_at_head(&mut self, rest: &[u8]) -> Result<Step, WalError> {
        let Some(page) = self.pages.check(self.at, rest)? else { return Ok(Step::Hold) };
        if page.is_continuation() {
            let problem = PageProblem::Continued { found: page.rem_len };
            return Err(WalError::Page { at: self.at, problem });
        }
        Ok(self.turn(&page, Phase::Head))
    }

    /// A page header inside the open record.
    pub(super) fn page_in_body(&mut self, rest: &[u8]) -> Result<Step, WalError> {
        let Some(page) = self.pages.check(self.at, rest)? else { return Ok(Step::Hold) };
        if page.is_overwrite() {
            self.abandon();
            return Ok(Step::Moved(0));
        }
        goes_on(&page, self.at, self.open.start, self.open.remaining)?;
        Ok(self.turn(&page, Phase::Body))
    }

    /// The open record has come to the start of a segment for the first time.
    ///
    /// This is told before the page header is seen: a stream often ends just here, and starts
    /// again here. Should the record turn out to be given up, the span fits no page.
    pub(super) fn boundary(&mut self) -> Option<Event> {
        let segment_bytes = self.pages.layout.segment_bytes.bytes();
        let new = self.announced != self.at && self.at.0.is_multiple_of(segment_bytes);
        if self.phase != Phase::Body || !new {
            return None;
        }
        self.announced = self.at;
        Some(Event::Boundary(self.span()))
    }

    /// Steps over a page header.
    fn turn(&mut self, page: &PageHeader, phase: Phase) -> Step {
        self.pages.accept(page);
        self.phase = phase;
        Step::Moved(page.size())
    }

    /// After a crash the server went on without the rest of the open record.
    fn abandon(&mut self) {
        self.open.lesson = None;
        self.open.remaining = 0;
        self.prev = self.before;
        self.phase = Phase::Head;
    }

    /// Bytes of the open record that lie on this page.
    pub(super) fn body(&mut self, rest: &mut [u8]) -> Step {
        let chunk = (PAGE - self.page_offset()).min(rest.len()).min(self.open.remaining as usize);
        let Some(bytes) = rest.get_mut(..chunk) else { return Step::Hold };
        let open = &mut self.open;
        match open.fate {
            SpanFate::Replaced => {
                let gone = (open.total - open.remaining) as usize;
                let prefix = open.prefix.as_slice().get(gone..).unwrap_or_default();
                overwrite(bytes, prefix);
            }
            _ if open.lesson.is_some() => self.captured.extend_from_slice(bytes),
            _ => {}
        }
        open.remaining = open.remaining.saturating_sub(u32::try_from(chunk).unwrap_or(u32::MAX));
        if open.remaining == 0 {
            let switch = is_switch(open);
            if let Some(lesson) = open.lesson.take() {
                let event = lesson.learn(self.pages.layout.major, open.start, &self.captured);
                self.pending = Some(event);
                self.captured = Vec::new();
            }
            let end = self.at + chunk as u64;
            self.phase = if switch { Phase::Skip(self.segment_end(end)) } else { Phase::Head };
        }
        Step::Moved(chunk)
    }

    /// The next start of a segment at or behind `at`.
    pub(super) fn segment_end(&self, at: Lsn) -> Lsn {
        let segment_bytes = self.pages.layout.segment_bytes.bytes();
        (at + (segment_bytes - 1)).round_down(segment_bytes)
    }

    /// Collects the headers of the record at the position, which go over the end of its page.
    ///
    /// `rest` has the whole of this page and `total` is sound; bytes behind the headers may
    /// come along.
    pub(super) fn gather(&mut self, rest: &[u8], total: u32) -> Result<Gathered, WalError> {
        let on_page = PAGE - self.page_offset();
        let Some((head, next)) = rest.split_at_checked(on_page) else {
            return Ok(Gathered::Short);
        };
        let border = self.at + on_page as u64;
        let Some(page) = self.pages.check(border, next)? else { return Ok(Gathered::Short) };
        if page.is_overwrite() {
            return Ok(Gathered::Overwritten);
        }
        let remaining = (total as usize).saturating_sub(on_page);
        goes_on(&page, border, self.at, u32::try_from(remaining).unwrap_or(u32::MAX))?;
        let more = next.get(page.size()..).unwrap_or_default();
        let wanted = remaining.min(super::HEAD_BYTES_MAX).min(more.len());
        self.gathered.clear();
        self.gathered.extend_from_slice(head);
        self.gathered.extend_from_slice(more.get(..wanted).unwrap_or_default());
        Ok(Gathered::Head)
    }
}

/// The first bytes of `bytes` become `prefix`, the others zero.
fn overwrite(bytes: &mut [u8], prefix: &[u8]) {
    let (head, zeros) = bytes.split_at_mut(prefix.len().min(bytes.len()));
    for (to, from) in head.iter_mut().zip(prefix) {
        *to = *from;
    }
    zeros.fill(0);
}

/// Whether nothing follows the open record in its segment.
fn is_switch(open: &Open) -> bool {
    let header = open.prefix.as_slice().first_chunk::<HEADER_BYTES>().map(Header::parse);
    open.fate == SpanFate::Passed
        && header.is_some_and(|header| {
            header.rmid == rmid::XLOG && header.info & RMGR_INFO_MASK == XLOG_SWITCH
        })
}

/// Whether the page at `at` continues the record at `record`, which lacks `missing` bytes.
fn goes_on(page: &PageHeader, at: Lsn, record: Lsn, missing: u32) -> Result<(), WalError> {
    let problem = if !page.is_continuation() {
        PageProblem::NotContinued { record, missing }
    } else if page.rem_len != missing {
        PageProblem::RemLen { found: page.rem_len, expected: missing, record }
    } else {
        return Ok(());
    };
    Err(WalError::Page { at, problem })
}

/// The record of a stored span, when it fits the page it is used for.
fn resume(span: &Span, at: Lsn, rem_len: u32) -> Option<Open> {
    let gone = span.total_bytes.checked_sub(span.remaining_bytes)? as usize;
    let mut prefix = Prefix::EMPTY;
    let fits = prefix.push(&span.prefix);
    let enough = match span.fate {
        SpanFate::Unresolved => false,
        SpanFate::Passed => true,
        SpanFate::Replaced => gone >= PREFIX_BYTES_MAX || span.prefix.len() >= HEADER_BYTES,
    };
    let sound = fits && enough && span.boundary == at && span.remaining_bytes == rem_len;
    sound.then_some(Open {
        start: span.record,
        total: span.total_bytes,
        remaining: span.remaining_bytes,
        fate: span.fate,
        prefix,
        lesson: None,
    })
}
