//! Logs on standard error: one line an event, as text or as JSON.
//!
//! The levels mean what PostgreSQL's administrators expect: ERROR asks a person to act,
//! WARN tells of something that was handled, INFO tells the story, DEBUG and TRACE are for
//! `-v` and `-vv`. `PGHERD_LOG` overrides them with a filter as in `relay=debug,info`.
//!
//! Never in a log: passwords, row values, query texts. Names that clients choose may be in it, so
//! control characters are shown escaped: nobody can write a line that looks like one of ours.

//!
//! Under systemd each line begins with its priority, which the journal takes off, and the time
//! is left to the journal.

mod journal;
mod one_line;
mod recent;

use std::io::Stderr;

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use one_line::OneLine;
pub use recent::{Recent, RecentEvent};

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people and journald: time, level, sentence, fields.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The variable that overrides the level, in the syntax of `tracing_subscriber::EnvFilter`.
pub const FILTER_VARIABLE: &str = "PGHERD_LOG";

/// Starts logging for the whole process; `verbose` counts the `-v`. Gives what keeps the last
/// events.
///
/// A second call changes nothing.
pub fn start(format: Format, verbose: u8) -> Recent {
    let level = match verbose {
        0 => Level::INFO,
        1 => Level::DEBUG,
        _ => Level::TRACE,
    };
    start_at(level, format, verbose > 0)
}

/// As [`start`] for a command that talks to a person: it logs what went wrong, and the story
/// only when asked for.
pub fn start_quietly(verbose: u8) {
    let level = match verbose {
        0 => Level::WARN,
        1 => Level::INFO,
        2 => Level::DEBUG,
        _ => Level::TRACE,
    };
    drop(start_at(level, Format::Text, verbose > 1));
}

/// Writes to standard error, one line an event.
struct Lines {
    is_journal: bool,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = OneLine<Stderr>;

    fn make_writer(&'a self) -> Self::Writer {
        OneLine::new(std::io::stderr(), "")
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Self::Writer {
        let prefix = if self.is_journal { journal::priority(event.level()) } else { "" };
        OneLine::new(std::io::stderr(), prefix)
    }
}

fn start_at(level: Level, format: Format, with_target: bool) -> Recent {
    let filter = EnvFilter::builder()
        .with_default_directive(level.into())
        .with_env_var(FILTER_VARIABLE)
        .from_env_lossy();
    let is_journal = journal::is_there();
    let recent = Recent::default();
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(Lines { is_journal })
        .with_target(with_target)
        // It would tell standard error about it, and panic: that is what is gone.
        .log_internal_errors(false)
        .with_ansi(!is_journal && std::io::IsTerminal::is_terminal(&std::io::stderr()));
    let lines = match (format, is_journal) {
        (Format::Text, false) => lines.boxed(),
        (Format::Text, true) => lines.without_time().boxed(),
        (Format::Json, false) => lines.json().flatten_event(true).boxed(),
        (Format::Json, true) => lines.json().flatten_event(true).without_time().boxed(),
    };
    let started =
        tracing_subscriber::registry().with(filter).with(recent.clone()).with(lines).try_init();
    if let Err(error) = started {
        tracing::debug!(%error, "logging had been started before");
    }
    recent
}
