//! Logs on standard error: one line an event, as text or as JSON.
//!
//! The levels mean what PostgreSQL's administrators expect: ERROR asks a person to act,
//! WARN tells of something that was handled, INFO tells the story, DEBUG and TRACE are for
//! `-v` and `-vv`. `PGHERD_LOG` overrides them with a filter as in `relay=debug,info`.
//!
//! Never in a log: passwords, row values, query texts. Names that clients choose may be in it, so
//! control characters are shown escaped: nobody can write a line that looks like one of ours.

mod one_line;

use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use one_line::OneLine;

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

/// Starts logging for the whole process; `verbose` counts the `-v`.
///
/// A second call changes nothing.
pub fn start(format: Format, verbose: u8) {
    let level = match verbose {
        0 => Level::INFO,
        1 => Level::DEBUG,
        _ => Level::TRACE,
    };
    start_at(level, format, verbose > 0);
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
    start_at(level, Format::Text, verbose > 1);
}

fn start_at(level: Level, format: Format, with_target: bool) {
    let filter = EnvFilter::builder()
        .with_default_directive(level.into())
        .with_env_var(FILTER_VARIABLE)
        .from_env_lossy();
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| OneLine::new(std::io::stderr()))
        .with_span_events(FmtSpan::NONE)
        .with_target(with_target)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    let started = match format {
        Format::Text => lines.try_init(),
        Format::Json => lines.json().flatten_event(true).try_init(),
    };
    if let Err(error) = started {
        tracing::debug!(%error, "logging had been started before");
    }
}
