//! Checks of the source tree that no other tool makes: `cargo xtask layers`, `cargo xtask sizes`.

mod layers;
mod sizes;

use std::process::ExitCode;

fn main() -> ExitCode {
    let check = std::env::args().nth(1);
    let found = match check.as_deref() {
        Some("layers") => layers::check(),
        Some("sizes") => sizes::check(),
        _ => {
            eprintln!("usage: cargo xtask layers | sizes");
            return ExitCode::from(2);
        }
    };
    match found {
        Ok(problems) if problems.is_empty() => ExitCode::SUCCESS,
        Ok(problems) => {
            for problem in problems {
                eprintln!("error: {problem}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
