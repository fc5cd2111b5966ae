//! The relay's main job, live, on throwaway servers: a primary with three databases and two
//! tablespaces, a standby that should hold only a part of them, and a relay between the two.
//!
//! While the primary is written to, a line shows how far the standby is. In the end every table
//! is compared, and a table tells what is where. Everything is removed, or kept to play on.
//!
//! # What it does not do
//!
//! It measures nothing worth quoting: all servers share this machine, and `fsync` is off.

mod compare;
mod herd;
mod interrupt;
mod load;
mod plan;
mod programs;
mod relay;
mod show;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;

pub use interrupt::Interrupt;

use herd::Herd;
use show::Screen;

/// Shows the relay at work on throwaway servers.
#[derive(Clone, Debug, Parser)]
#[command(name = "demo", version)]
pub struct Options {
    /// Leave everything running, and tell how to play on
    #[arg(long)]
    pub keep: bool,
    /// Write for so many seconds
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub seconds: u64,
    /// Folder with PostgreSQL's programs [default: the newest of 12 to 18 that is found]
    #[arg(long, value_name = "DIR")]
    pub bin: Option<PathBuf>,
    /// The pgherd to show [default: the one beside this program]
    #[arg(long, value_name = "FILE")]
    pub pgherd: Option<PathBuf>,
}

/// What the comparison of the standby with the primary says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The standby holds what it should, and nothing else.
    Equal,
    /// It does not.
    Different,
}

/// Runs the demo.
///
/// # Errors
///
/// When something could not be started or asked, or on an interrupt.
pub fn run(options: &Options, interrupt: &Interrupt) -> Result<Outcome> {
    let screen = Screen::new();
    let begun = Instant::now();
    screen.title("A standby that holds only what you choose");
    let programs = programs::find(options.bin.as_deref())?;
    let pgherd = programs::pgherd(options.pgherd.as_deref())?;

    let mut herd = Herd::start(&programs, &pgherd, &screen, interrupt)?;
    load::run(&herd, Duration::from_secs(options.seconds), &screen, interrupt)?;
    let lag = herd.catch_up(interrupt)?;
    let story = herd.story_of_the_stream()?;
    let parts = compare::compare(&herd, interrupt)?;
    screen.results(&parts, &story, lag);

    let good = parts.iter().all(compare::Part::is_as_planned);
    screen.verdict(good, begun.elapsed());
    if options.keep {
        herd.keep(&screen)?;
    }
    Ok(if good { Outcome::Equal } else { Outcome::Different })
}
