//! Measures pgherd against its performance bars: `make bench`.
//!
//! Everything runs on real servers of this machine, whose speed changes from minute to minute.
//! So what is judged are ratios between routes to the same server that are taken in turn, and
//! their medians over several rounds. `docs/benchmarks.md` says what the bars mean.
//!
//! A missed bar is printed loudly and is no failure: the exit status tells whether it could be
//! measured.

mod backup;
mod catchup;
mod commit;
mod login;
mod memory;
mod pump;
mod receiver;
mod report;
mod rewriter;
mod route;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand, ValueEnum};

use report::Report;

/// Measures pgherd against its performance bars.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Cli {
    #[command(subcommand)]
    command: Option<Internal>,
    /// Only these parts.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// Less data and fewer rounds: to see that it runs, not to judge.
    #[arg(long)]
    quick: bool,
    /// Another `pgherd` to measure beside this tree's, to see what a change brings.
    #[arg(long, value_name = "BINARY")]
    against: Option<PathBuf>,
    /// Majors of PostgreSQL for catch-up.
    #[arg(long, value_delimiter = ',', default_values = ["15", "18"])]
    majors: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The rewriter alone.
    Rewriter,
    /// Receiving a gigabyte of WAL.
    Catchup,
    /// Commits that wait for a standby.
    Commit,
    /// Peak memory.
    Memory,
    /// Base backups.
    Backup,
    /// Whether the time of a login tells who exists.
    Login,
}

#[derive(Debug, Subcommand)]
enum Internal {
    /// The byte pump that the relay is compared with.
    #[command(hide = true)]
    Pump {
        /// Port of the server on 127.0.0.1.
        upstream: u16,
        /// Size of its buffers.
        #[arg(default_value_t = pump::BUFFER_BYTES)]
        buffer_bytes: usize,
    },
    /// Holds a server with WAL to catch up with, for profiling by hand.
    #[command(hide = true)]
    Hold {
        /// Major of PostgreSQL.
        major: String,
        /// How much WAL.
        megabytes: u64,
    },
    /// Receives from a port what `hold` said, some times over.
    #[command(hide = true)]
    Receive { port: u16, start: pgtypes::Lsn, end: pgtypes::Lsn, times: u32 },
}

/// What the parts need.
struct Bench {
    /// `pgherd`, as users get it.
    pgherd: PathBuf,
    /// Another one.
    against: Option<PathBuf>,
    /// walbouncer, for comparison, when `WALBOUNCER` names one.
    walbouncer: Option<PathBuf>,
    majors: Vec<pgtypes::Major>,
    quick: bool,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot measure: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Some(Internal::Pump { upstream, buffer_bytes }) => {
            return pump::serve(upstream, buffer_bytes);
        }
        Some(Internal::Hold { major, megabytes }) => {
            return catchup::hold(pgtypes::Major::from_server_version(&major)?, megabytes << 20);
        }
        Some(Internal::Receive { port, start, end, times }) => {
            return catchup::receive(port, start, end, times);
        }
        None => {}
    }
    let majors = cli.majors.iter().map(|major| pgtypes::Major::from_server_version(major));
    let bench = Bench {
        pgherd: build_pgherd()?,
        against: cli.against,
        walbouncer: env::var_os("WALBOUNCER").map(PathBuf::from),
        majors: majors.collect::<Result<_, _>>()?,
        quick: cli.quick,
    };
    let wanted = |part| cli.only.is_empty() || cli.only.contains(&part);
    let mut report = Report::new()?;
    if wanted(Part::Rewriter) {
        rewriter::measure(&bench, &mut report).context("the rewriter alone")?;
    }
    if wanted(Part::Catchup) {
        catchup::measure(&bench, &mut report).context("catch-up")?;
    }
    if wanted(Part::Commit) {
        commit::measure(&bench, &mut report).context("commits")?;
    }
    if wanted(Part::Memory) {
        memory::measure(&bench, &mut report).context("memory")?;
    }
    if wanted(Part::Backup) {
        backup::measure(&bench, &mut report).context("base backups")?;
    }
    if wanted(Part::Login) {
        login::measure(&bench, &mut report).context("logins")?;
    }
    report.finish()
}

/// Builds the binary as `make build` does, beside this one.
fn build_pgherd() -> Result<PathBuf> {
    let status = cargo(&["build", "--release", "--locked", "--package", "pgherd"]).status()?;
    ensure!(status.success(), "pgherd does not build");
    Ok(target_dir()?.join("release/pgherd"))
}

/// Cargo, with the target folder in which this program is.
fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR"));
    if let Ok(target) = target_dir() {
        cargo.env("CARGO_TARGET_DIR", target);
    }
    cargo
}

fn target_dir() -> Result<PathBuf> {
    let own = env::current_exe()?;
    let target = own.ancestors().nth(2).context("no target folder around this program")?;
    Ok(target.to_owned())
}

/// A folder in memory where there is one, so that the disk is not what is measured.
fn folder_in_memory() -> Result<tempfile::TempDir> {
    let mut folder = tempfile::Builder::new();
    folder.prefix("pgherd-bench-");
    let memory = Path::new("/dev/shm");
    let made = if fs::metadata(memory).is_ok_and(|place| place.is_dir()) {
        folder.tempdir_in(memory)
    } else {
        folder.tempdir()
    };
    made.context("make a folder for what is received")
}
