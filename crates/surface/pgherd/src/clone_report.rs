//! What `pgherd clone` shows: the plan, and how far it is.

use std::fmt::{self, Write as _};
use std::io::IsTerminal as _;
use std::path::Path;
use std::time::{Duration, Instant};

use clone::Progress;
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressState, ProgressStyle};
use relay::Plan;

/// Between two lines of progress, when nobody watches a bar.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// The bar on a terminal.
const BAR: &str = "{bar:30} {percent:>3}%  {binary_bytes} of {binary_total_bytes}  \
                   {binary_bytes_per_sec}{left}";
/// Before so much has come, nobody knows how long the rest takes.
const KNOWN_PERCENT: u64 = 1;
/// The same of the time.
const KNOWN_AFTER: Duration = Duration::from_secs(2);

/// Room on a file system.
pub(crate) struct Room {
    /// Bytes that will be written there.
    pub(crate) needed_bytes: u64,
    /// Those among them that are for WAL, and no part of what is held.
    pub(crate) wal_bytes: u64,
    /// Bytes that may be.
    pub(crate) free_bytes: u64,
    /// What lies there.
    pub(crate) what: String,
}

impl Room {
    /// Whether what is needed fits.
    pub(crate) const fn suffices(&self) -> bool {
        self.needed_bytes <= self.free_bytes
    }
}

/// The plan, for people.
pub(crate) fn plan(plan: &Plan, target: &Path, rooms: &[Room]) -> String {
    let mut text = String::new();
    let configuration = match &plan.configuration {
        Some(name) => format!("configuration {name}"),
        None => "no configuration: everything".to_owned(),
    };
    // Writing to a string cannot fail.
    writeln!(text, "PostgreSQL {}, {configuration}, into {}", plan.major, target.display()).ok();
    let line = |text: &mut String, name: &str, included: bool, kept: u64, left_out: u64| {
        let held = if included { HumanBytes(kept).to_string() } else { "left out".to_owned() };
        let rest = match left_out {
            0 => String::new(),
            bytes if included => format!("  and {} left out", HumanBytes(bytes)),
            bytes => format!("  {}", HumanBytes(bytes)),
        };
        writeln!(text, "  {name:<30}  {held:>12}{rest}").ok();
    };
    writeln!(text, "databases:").ok();
    for it in &plan.databases {
        line(&mut text, &it.name, it.included, it.kept_bytes, it.left_out_bytes);
    }
    writeln!(text, "tablespaces:").ok();
    for it in &plan.tablespaces {
        line(&mut text, &it.name, it.included, it.kept_bytes, it.left_out_bytes);
    }
    let (kept, left_out) = (HumanBytes(plan.kept_bytes()), HumanBytes(plan.left_out_bytes()));
    writeln!(text, "together {kept}, {left_out} are left out").ok();
    for room in rooms {
        let (needed, free) = (HumanBytes(room.needed_bytes), HumanBytes(room.free_bytes));
        let verdict = if room.suffices() { "" } else { ": NOT ENOUGH" };
        let wal = match room.wal_bytes {
            0 => String::new(),
            bytes => format!(" ({} of it for WAL)", HumanBytes(bytes)),
        };
        writeln!(text, "{}: about {needed} needed{wal}, {free} free{verdict}", room.what).ok();
    }
    text
}

/// Shows progress: a bar on a terminal, else a line now and then.
pub(crate) struct Meter {
    bar: Option<ProgressBar>,
    started: Instant,
    /// When the first byte came, at the earliest: before it a server may make a checkpoint.
    moving: Instant,
    told: Instant,
    copied_bytes: u64,
}

impl Meter {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            bar.set_style(style());
            bar
        });
        Self { bar, started: now, moving: now, told: now, copied_bytes: 0 }
    }

    pub(crate) fn show(&mut self, progress: Progress) {
        if progress.total_bytes == 0 {
            eprintln!("waiting for the server's checkpoint");
            return;
        }
        self.copied_bytes = progress.done_bytes;
        if progress.done_bytes == 0 {
            self.moving = Instant::now();
        }
        if let Some(bar) = &self.bar {
            if progress.done_bytes == 0 {
                bar.reset_eta();
                bar.reset_elapsed();
            }
            bar.set_length(progress.total_bytes);
            bar.set_position(progress.done_bytes);
            return;
        }
        if self.told.elapsed() < LINE_INTERVAL {
            return;
        }
        self.told = Instant::now();
        eprintln!("{}", line(progress, self.moving.elapsed()));
    }

    pub(crate) fn end(&self, is_whole: bool) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if is_whole {
            let (copied, time) =
                (HumanBytes(self.copied_bytes), HumanDuration(self.started.elapsed()));
            eprintln!("copied {copied} in {time}");
        }
    }
}

fn style() -> ProgressStyle {
    let style = ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.with_key("left", |state: &ProgressState, text: &mut dyn fmt::Write| {
        let total_bytes = state.len().unwrap_or(0);
        if is_known(Progress { done_bytes: state.pos(), total_bytes }, state.elapsed()) {
            write!(text, "  {:#} left", HumanDuration(state.eta())).ok();
        }
    })
}

/// Whether the time that is left can be told.
fn is_known(progress: Progress, moving: Duration) -> bool {
    let Progress { done_bytes, total_bytes } = progress;
    moving >= KNOWN_AFTER
        && done_bytes.saturating_mul(100) >= total_bytes.saturating_mul(KNOWN_PERCENT)
}

fn line(progress: Progress, elapsed: Duration) -> String {
    let Progress { done_bytes, total_bytes } = progress;
    let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    let rate = done_bytes.saturating_mul(1000) / millis;
    let percent = done_bytes.saturating_mul(100).checked_div(total_bytes).unwrap_or(100);
    let left = total_bytes.saturating_sub(done_bytes).checked_div(rate).map(Duration::from_secs);
    let left = left.filter(|_| is_known(progress, elapsed));
    let left = left.map_or(String::new(), |left| format!(", {} left", HumanDuration(left)));
    let (done, total, rate) = (HumanBytes(done_bytes), HumanBytes(total_bytes), HumanBytes(rate));
    format!("{percent} %: {done} of {total}, {rate}/s{left}")
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use indicatif::{ProgressDrawTarget, TermLike};

    use super::*;

    /// Keeps what is drawn.
    #[derive(Clone, Debug, Default)]
    struct Terminal(Arc<Mutex<String>>);

    impl TermLike for Terminal {
        fn width(&self) -> u16 {
            100
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Drawn, for names that nobody knows are not an error of the template's.
    #[test]
    fn the_bar_tells_bytes_rate_and_time_left() {
        let text = drawn(25 << 20, Duration::from_secs(5));
        for part in [" 25%  25.00 MiB of 100.00 MiB", "/s", "s left"] {
            assert!(text.contains(part), "no {part:?} in {text:?}");
        }
    }

    fn drawn(done_bytes: u64, elapsed: Duration) -> String {
        let terminal = Terminal::default();
        let target = ProgressDrawTarget::term_like(Box::new(terminal.clone()));
        let bar = ProgressBar::with_draw_target(Some(100 << 20), target).with_elapsed(elapsed);
        bar.set_style(style());
        bar.set_position(done_bytes);
        bar.tick();
        terminal.0.lock().unwrap().clone()
    }

    #[test]
    fn what_nobody_can_know_is_not_told() {
        let early = Duration::from_millis(1900);
        let late = Duration::from_secs(60);
        for (done_bytes, elapsed) in [(0, late), ((1 << 20) - 1, late), (50 << 20, early)] {
            let text = drawn(done_bytes, elapsed);
            assert!(text.contains("/s") && !text.contains("left"), "{text:?}");
            let progress = Progress { done_bytes, total_bytes: 100 << 20 };
            let text = line(progress, elapsed);
            assert!(text.contains("/s") && !text.contains("left"), "{text:?}");
        }
    }

    #[test]
    fn a_line_tells_rate_and_time_left() {
        let half = Progress { done_bytes: 50 << 20, total_bytes: 100 << 20 };
        let text = line(half, Duration::from_secs(5));
        assert_eq!(text, "50 %: 50.00 MiB of 100.00 MiB, 10.00 MiB/s, 5 seconds left");
        assert!(line(Progress::default(), Duration::ZERO).starts_with("100 %"));
    }
}
