//! One entry for anything that makes up bytes.

use pgtypes::{Lsn, Major, SegmentBytes};
use wal::{Entry, Layout, Rewriter};

use super::drive::{Learner, run};

/// Feeds `data` to a rewriter; the first bytes choose version and pieces. Must not panic,
/// must not loop for ever, and must not depend on how the bytes are cut.
pub fn fuzz(data: &[u8]) {
    let Some(([major, piece, entry], wal)) = data.split_first_chunk::<3>() else { return };
    if wal.is_empty() {
        return;
    }
    let major = Major::ALL[usize::from(*major) % 7];
    let layout = Layout { major, segment_bytes: SegmentBytes::new(1 << 20).unwrap() };
    let start = wal.get(8..16).map_or(Lsn(0), |at| Lsn(u64::from_le_bytes(at.try_into().unwrap())));
    let entry = || if *entry % 2 == 0 { Entry::Unknown } else { Entry::Raw };
    let mut whole = Rewriter::new(layout, start, entry());
    let mut cut = Rewriter::new(layout, start, entry());
    let whole = run(&mut whole, &mut Learner::usual(), wal, &[usize::MAX]);
    let piece = usize::from(*piece) * 7 + 1;
    let cut = run(&mut cut, &mut Learner::usual(), wal, &[piece]);
    assert_eq!(whole.error, cut.error);
    assert_eq!(whole.events, cut.events);
    assert!(whole.output == cut.output, "the cut shows in the output");
}
