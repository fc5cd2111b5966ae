//! The innermost loop: records in the commonest form that lie on one page as a whole.
//!
//! Four of five records of a mixed load are such. What is here decides nothing that `weigh`
//! would decide otherwise: whatever is out of the ordinary (a fate that is not known, a shared
//! catalog, a wrong `xl_prev`) ends the loop, and the long way takes that record. State is kept
//! in registers until then, which is what makes this loop worth its lines.

use pgtypes::{Lsn, Oid};

use super::Rewriter;
use super::records::ALIGN;
use crate::block::{PLAIN_BYTES, plain};
use crate::judge::{Judge, Verdict};
use crate::noop::Kept;
use crate::record::{HEADER_BYTES, Header};
use crate::rules;

impl Rewriter {
    /// Goes over the records of `page`, which starts at `base`, from `moved` on for as long as
    /// they are plain; returns where the first other one starts, or the end of `page`.
    #[inline]
    pub(super) fn plain_records(
        &mut self,
        page: &mut [u8],
        base: Lsn,
        mut moved: usize,
        judge: &impl Judge,
    ) -> usize {
        // The first record has nothing to be checked against.
        let Some(mut prev) = self.prev else { return moved };
        let mut before = self.before;
        let (mut passed, mut replaced, mut replaced_bytes) = (0, 0, 0);
        while let Some(record) = page.get_mut(moved..) {
            let Some(head) = record.first_chunk::<PLAIN_BYTES>() else { break };
            let Some(fixed) = head.first_chunk::<HEADER_BYTES>() else { break };
            let header = Header::parse(fixed);
            let Some(locator) = plain(head, header.total_bytes) else { break };
            let ordinary = header.prev == prev
                && locator.place.database != Oid::INVALID
                && rules::is_about_blocks(header.rmid);
            let total = header.total_bytes as usize;
            let (true, Some(whole)) = (ordinary, record.get_mut(..total)) else { break };
            let at = base + moved as u64;
            let verdict = judge.place(locator.place, at);
            match verdict {
                Verdict::Unknown => break,
                Verdict::Pass => passed += 1,
                Verdict::Replace => {
                    if self.blank.erase(whole, &Kept::EMPTY).is_none() {
                        break;
                    }
                    replaced += 1;
                    replaced_bytes += u64::from(header.total_bytes);
                }
            }
            judge.judged(locator.place, verdict);
            before = Some(prev);
            prev = at;
            moved = (moved + total).next_multiple_of(ALIGN);
        }
        self.prev = Some(prev);
        self.before = before;
        self.stats.records_passed += passed;
        self.stats.records_replaced += replaced;
        self.stats.replaced_bytes += replaced_bytes;
        moved.min(page.len())
    }
}
