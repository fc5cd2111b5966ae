//! Timeline history files, as `TIMELINE_HISTORY` sends them.
//!
//! One line for each timeline that came before: its number, where it was left, and why
//! (`readTimeLineHistory`, timeline.c).

use pgtypes::{Lsn, Timeline};

/// Longest file that is read: a line is about 60 bytes, so this is far over ten thousand
/// promotions.
pub const BYTES_MAX: usize = 1 << 20;

/// A timeline that was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    /// The timeline.
    pub timeline: Timeline,
    /// The first position that is no longer of it.
    pub until: Lsn,
}

/// The ancestry of a timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    timeline: Timeline,
    past: Vec<Past>,
}

/// A history that no server would have written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// More than [`BYTES_MAX`].
    #[error("timeline history of {bytes} bytes, {BYTES_MAX} are allowed")]
    TooLong {
        /// Length of the file.
        bytes: usize,
    },
    /// A line that does not begin with a timeline and a position.
    #[error("line {line} of the timeline history is not a timeline and a position")]
    Line {
        /// The line, from one.
        line: usize,
    },
    /// Timelines or positions that do not grow, or do not stay below the file's own.
    #[error(
        "line {line} of the timeline history is out of order: timeline {timeline} until {until}"
    )]
    Order {
        /// The line, from one.
        line: usize,
        /// The timeline that it names.
        timeline: Timeline,
        /// The position that it names.
        until: Lsn,
    },
}

impl History {
    /// The history of a timeline without ancestors, as 1 always is.
    #[must_use]
    pub const fn without_past(timeline: Timeline) -> Self {
        Self { timeline, past: Vec::new() }
    }

    /// Reads the content of the history file of `timeline`.
    ///
    /// # Errors
    ///
    /// [`HistoryError`], with the line.
    pub fn parse(timeline: Timeline, content: &[u8]) -> Result<Self, HistoryError> {
        if content.len() > BYTES_MAX {
            return Err(HistoryError::TooLong { bytes: content.len() });
        }
        let mut past: Vec<Past> = Vec::new();
        for (text, line) in content.split(|byte| *byte == b'\n').zip(1..) {
            let text = text.trim_ascii();
            if text.is_empty() || text.starts_with(b"#") {
                continue;
            }
            let found = past_of(text).ok_or(HistoryError::Line { line })?;
            let last =
                past.last().copied().unwrap_or(Past { timeline: Timeline(0), until: Lsn(0) });
            let grows = last.timeline < found.timeline && last.until <= found.until;
            if !grows || found.timeline >= timeline {
                let Past { timeline, until } = found;
                return Err(HistoryError::Order { line, timeline, until });
            }
            past.push(found);
        }
        Ok(Self { timeline, past })
    }

    /// The timeline whose history this is.
    #[must_use]
    pub const fn timeline(&self) -> Timeline {
        self.timeline
    }

    /// The timelines before it, oldest first.
    #[must_use]
    pub fn past(&self) -> &[Past] {
        &self.past
    }

    /// The timeline that the byte at `position` is of; mirrors `tliOfPointInHistory`.
    #[must_use]
    pub fn timeline_at(&self, position: Lsn) -> Timeline {
        let past = self.past.iter().find(|past| position < past.until);
        past.map_or(self.timeline, |past| past.timeline)
    }

    /// Where `timeline` was left; `None` for the newest and for one that is no ancestor.
    #[must_use]
    pub fn end_of(&self, timeline: Timeline) -> Option<Lsn> {
        self.past.iter().find(|past| past.timeline == timeline).map(|past| past.until)
    }

    /// The timeline that came after `timeline`; `None` as for [`History::end_of`].
    #[must_use]
    pub fn after(&self, timeline: Timeline) -> Option<Timeline> {
        let place = self.past.iter().position(|past| past.timeline == timeline)?;
        Some(self.past.get(place + 1).map_or(self.timeline, |next| next.timeline))
    }

    /// Whether `timeline` is this one or an ancestor of it.
    #[must_use]
    pub fn contains(&self, timeline: Timeline) -> bool {
        timeline == self.timeline || self.end_of(timeline).is_some()
    }
}

fn past_of(text: &[u8]) -> Option<Past> {
    let mut fields = text.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
    let mut field = || fields.next().and_then(|field| std::str::from_utf8(field).ok());
    let timeline = field()?;
    if !timeline.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(Past { timeline: Timeline(timeline.parse().ok()?), until: field()?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE: &[u8] = b"1\t0/30000D8\tno recovery target specified\n\n# a comment\n\
        3\t1/5000000\tbefore transaction 7, caf\xE9\n";

    #[test]
    fn reads_a_history() {
        let history = History::parse(Timeline(4), FILE).unwrap();
        let past = [
            Past { timeline: Timeline(1), until: Lsn(0x0300_00D8) },
            Past { timeline: Timeline(3), until: Lsn(0x1_0500_0000) },
        ];
        assert_eq!(history.past(), past);
        assert_eq!(history.timeline_at(Lsn(0x0300_00D7)), Timeline(1));
        assert_eq!(history.timeline_at(Lsn(0x0300_00D8)), Timeline(3));
        assert_eq!(history.timeline_at(Lsn(u64::MAX)), Timeline(4));
        assert_eq!(history.after(Timeline(1)), Some(Timeline(3)));
        assert_eq!(history.after(Timeline(3)), Some(Timeline(4)));
        assert_eq!(history.after(Timeline(4)), None);
        assert_eq!(history.end_of(Timeline(2)), None);
        assert!(history.contains(Timeline(4)) && !history.contains(Timeline(2)));
    }

    #[test]
    fn a_first_timeline_has_no_past() {
        let history = History::without_past(Timeline(1));
        assert_eq!(history.timeline_at(Lsn(0)), Timeline(1));
        assert_eq!(History::parse(Timeline(1), b""), Ok(history));
    }

    #[test]
    fn refuses_what_no_server_writes() {
        let order = |line, timeline, until| {
            Err(HistoryError::Order { line, timeline: Timeline(timeline), until: Lsn(until) })
        };
        assert_eq!(History::parse(Timeline(3), b"2\t0/1\n1\t0/2\n"), order(2, 1, 2));
        assert_eq!(History::parse(Timeline(3), b"1\t0/2\n2\t0/1\n"), order(2, 2, 1));
        assert_eq!(History::parse(Timeline(3), b"3\t0/1\n"), order(1, 3, 1));
        assert_eq!(History::parse(Timeline(3), b"0\t0/1\n"), order(1, 0, 1));
        for bad in [&b"x"[..], b"\n1", b"+1\t0/1", b"1\tzz", b"1\t0/1\n99999999999\t0/2"] {
            let error = History::parse(Timeline(3), bad).unwrap_err();
            assert!(matches!(error, HistoryError::Line { .. }), "{bad:?}: {error}");
        }
        let long = vec![b'\n'; BYTES_MAX + 1];
        let error = History::parse(Timeline(3), &long);
        assert_eq!(error, Err(HistoryError::TooLong { bytes: BYTES_MAX + 1 }));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(history) = History::parse(Timeline(9), &bytes) {
                prop_assert!(history.past().iter().all(|past| history.contains(past.timeline)));
            }
        }
    }
}
