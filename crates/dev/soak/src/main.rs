//! `make soak`: a primary under load, a relay with a filter, two standbys, and everything that
//! can happen to them, in random order. In the end every included table is compared, nothing
//! excluded may have come through, and no server may have complained.
//!
//! `make soak-operate`: the same for a relay that is operated; see [`operate`].
//!
//! The seed decides what happens and in which order; when it happens depends on the machine.

mod check;
mod dice;
mod faults;
mod load;
mod names;
mod operate;
mod story;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use pgtypes::Major;

use dice::Dice;
use world::World;

/// Runs the relay under random faults, then compares everything.
#[derive(Debug, Parser)]
struct Options {
    /// What happens.
    #[arg(value_enum, default_value_t)]
    subject: Subject,
    /// How long faults go on.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// What decides the faults; a new one each time by default.
    #[arg(long)]
    seed: Option<u64>,
    /// Version of the servers, 12 to 18.
    #[arg(long, default_value = "17")]
    major: String,
    /// The program under test; the one beside this program by default.
    #[arg(long)]
    pgherd: Option<PathBuf>,
}

/// What happens to the relay and to those around it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Subject {
    /// Everything breaks.
    #[default]
    Faults,
    /// It is operated: reloads, certificates, switches of the upstream.
    Operate,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |it| it.as_secs());
    let seed = options.seed.unwrap_or_else(clock);
    println!("soak: seed {seed}, {} minutes, PostgreSQL {}", options.minutes, options.major);
    match run(&options, seed) {
        Ok(summary) => {
            println!("soak: passed; seed {seed}; {summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("soak: FAILED; seed {seed}: {error:?}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options, seed: u64) -> Result<String> {
    let major = Major::from_server_version(&options.major)?;
    let beside = || -> Result<PathBuf> { Ok(std::env::current_exe()?.with_file_name("pgherd")) };
    let pgherd = options.pgherd.clone().map_or_else(beside, Ok)?;
    ensure!(pgherd.exists(), "no {}: build it, or give --pgherd", pgherd.display());
    let limit = Duration::from_secs(options.minutes * 60);
    if options.subject == Subject::Operate {
        return operate::run(major, &pgherd, limit, seed);
    }
    let mut dice = Dice::new(seed);
    let mut world = World::new(major, &pgherd)?;
    let began = Instant::now();
    let mut steps = 0;
    while began.elapsed() < limit {
        let step = faults::step(&mut world, &mut dice);
        step.with_context(|| world.story())?;
        steps += 1;
        let pause = Duration::from_millis(dice.below(2500));
        std::thread::sleep(pause.min(limit.saturating_sub(began.elapsed())));
    }
    println!("soak: {steps} steps in {:?}; comparing", began.elapsed());
    let compared = check::everything(&mut world);
    let compared = compared.with_context(|| world.story())?;
    Ok(format!("{steps} steps, {compared}"))
}
