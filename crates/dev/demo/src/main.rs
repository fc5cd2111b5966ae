//! `make demo`: see the library for what it shows.

use std::process::ExitCode;

use clap::Parser as _;
use demo::{Interrupt, Options, Outcome};

/// What a shell says of a program that SIGINT ended.
const EXIT_INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let options = Options::parse();
    let interrupt = match Interrupt::watch() {
        Ok(interrupt) => interrupt,
        Err(error) => {
            eprintln!("demo: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    match demo::run(&options, &interrupt) {
        Ok(Outcome::Equal) => ExitCode::SUCCESS,
        Ok(Outcome::Different) => ExitCode::FAILURE,
        // Programs that the terminal stopped together with us complain of that.
        Err(_) if interrupt.happened() => {
            eprintln!("\ninterrupted: everything is stopped and removed");
            ExitCode::from(EXIT_INTERRUPTED)
        }
        Err(error) => {
            eprintln!("\ndemo: {error:#}");
            ExitCode::FAILURE
        }
    }
}
