//! The records that start on one page.

use super::cross::Gathered;
use super::weigh::Weighed;
use super::{Open, Phase, Rewriter, Step};
use crate::error::{RecordProblem, WalError};
use crate::judge::Judge;
use crate::noop::Prefix;
use crate::page::PAGE;
use crate::record::{HEADER_BYTES, Header};
use crate::span::SpanFate;

/// `MAXIMUM_ALIGNOF`: records start at multiples of it.
pub(super) const ALIGN: usize = 8;

/// What became of the record at the position.
enum Seen {
    /// It is final, all of its bytes.
    Whole(usize),
    /// It is the open record, or the caller has to hear something about it first.
    Left,
    /// Its headers are not complete.
    Short,
}

impl Rewriter {
    /// Records from the position on, which is aligned and behind a page header, to the end of
    /// the page.
    ///
    /// Leaves the position at the start of the last record that it looked at.
    pub(super) fn records(
        &mut self,
        rest: &mut [u8],
        judge: &impl Judge,
    ) -> Result<Step, WalError> {
        if self.is_behind_unseen_switch(rest) {
            self.phase = Phase::Skip(self.segment_end(self.at));
            return Ok(Step::Moved(0));
        }
        let base = self.at;
        let window = (PAGE - self.page_offset()).min(rest.len());
        let mut moved = 0;
        while moved < window {
            let page = rest.get_mut(..window).unwrap_or_default();
            moved = self.plain_records(page, base, moved, judge);
            if moved == window {
                break;
            }
            self.at = base + moved as u64;
            let Some(record) = rest.get_mut(moved..window) else { break };
            match self.record(record, judge)? {
                Seen::Whole(bytes) => moved = (moved + bytes).next_multiple_of(ALIGN).min(window),
                Seen::Left => break,
                Seen::Short => {
                    let wide = rest.get(moved..).unwrap_or_default();
                    match self.record_over_border(wide, judge)? {
                        Seen::Whole(bytes) => moved += bytes,
                        Seen::Left => {}
                        Seen::Short if moved == 0 => return Ok(Step::Hold),
                        Seen::Short => {}
                    }
                    break;
                }
            }
        }
        Ok(Step::Moved(moved))
    }

    /// A tail that passed raw may be that of an XLOG_SWITCH: shorter than its 24 bytes, and
    /// nothing behind it.
    fn is_behind_unseen_switch(&self, rest: &[u8]) -> bool {
        self.prev.is_none()
            && self.open.fate == SpanFate::Unresolved
            && self.open.total < 24
            && rest.first_chunk::<4>() == Some(&[0; 4])
    }

    /// The record at the start of `record`, which ends with the page or with what is there.
    #[inline]
    fn record(&mut self, record: &mut [u8], judge: &impl Judge) -> Result<Seen, WalError> {
        let Some(head) = record.first_chunk::<HEADER_BYTES>() else { return Ok(Seen::Short) };
        let header = Header::parse(head);
        let weighed = self.consider(&header, record, judge)?;
        let bytes = record.get_mut(..header.total_bytes as usize);
        match (weighed, bytes) {
            (Weighed::Pass, Some(whole)) if self.pending.is_none() => Ok(Seen::Whole(whole.len())),
            (Weighed::Replace, Some(whole)) if self.pending.is_none() => {
                match self.blank.erase(whole, &self.survey.kept) {
                    Some(()) => Ok(Seen::Whole(whole.len())),
                    None => Err(self.no_noop()),
                }
            }
            (weighed, _) => self.open(&header, weighed, record),
        }
    }

    /// The same for a record whose headers go over the end of its page, or of what is there.
    fn record_over_border(&mut self, rest: &[u8], judge: &impl Judge) -> Result<Seen, WalError> {
        let Some(total) = rest.first_chunk::<4>() else { return Ok(Seen::Short) };
        let total = u32::from_le_bytes(*total);
        self.check_length(total)?;
        match self.gather(rest, total)? {
            Gathered::Short => return Ok(Seen::Short),
            Gathered::Overwritten => return Ok(Seen::Whole(PAGE - self.page_offset())),
            Gathered::Head => {}
        }
        let gathered = std::mem::take(&mut self.gathered);
        let seen = match gathered.first_chunk::<HEADER_BYTES>() {
            None => Ok(Seen::Short),
            Some(head) => {
                let header = Header::parse(head);
                let weighed = self.consider(&header, &gathered, judge);
                weighed.and_then(|weighed| self.open(&header, weighed, &gathered))
            }
        };
        self.gathered = gathered;
        seen
    }

    /// Makes a record with a fate the open one; `head` begins with its header.
    fn open(&mut self, header: &Header, weighed: Weighed, head: &[u8]) -> Result<Seen, WalError> {
        let head = head.first_chunk::<HEADER_BYTES>();
        let mut prefix = Prefix::EMPTY;
        let mut lesson = None;
        let mut fate = SpanFate::Passed;
        match weighed {
            Weighed::Short => return Ok(Seen::Short),
            Weighed::Told => return Ok(Seen::Left),
            Weighed::Pass => {}
            Weighed::Replace => {
                let noop = head.and_then(|head| self.blank.prefix(head, &self.survey.kept));
                prefix = noop.ok_or_else(|| self.no_noop())?;
                fate = SpanFate::Replaced;
            }
            Weighed::Learn(learn) => lesson = Some(learn),
            // so that who starts behind the border knows what follows
            Weighed::Switch => _ = prefix.push(head.map_or(&[], |head| head)),
        }
        let total = header.total_bytes;
        self.open = Open { start: self.at, total, remaining: total, fate, prefix, lesson };
        self.captured.clear();
        self.phase = Phase::Body;
        Ok(Seen::Left)
    }

    #[cold]
    fn no_noop(&self) -> WalError {
        self.bad(RecordProblem::Cut { field: "the main data" })
    }
}
