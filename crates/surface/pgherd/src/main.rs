//! `pgherd`: one binary, a subcommand for each thing it does.
//!
//! It reads the command line and the configuration, wires the engines, and decides nothing.

#[macro_use]
mod say;

mod ask_command;
mod ask_report;
mod cli;
mod clone_command;
mod clone_order;
mod clone_report;
mod core_dumps;
#[cfg(test)]
mod man;
mod open_files;
mod pace;
mod relay_client;
mod relay_command;
mod reloader;
mod runtime;
mod split_command;
mod split_helper;
mod split_options;

use std::fmt;
use std::process::ExitCode;

use alarm::Code;

/// `EX_CONFIG` of `sysexits.h`: the configuration is wrong.
const EXIT_CONFIG: u8 = 78;
/// `EX_USAGE` of `sysexits.h`: the command line is wrong.
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    match cli::parse(std::env::args_os()) {
        cli::Parsed::Relay(options) => relay_command::run(&options),
        cli::Parsed::Forget(forget) => relay_command::forget(&forget),
        cli::Parsed::Ask(question) => ask_command::run(&question),
        cli::Parsed::Clone(options) => clone_command::run(&options),
        cli::Parsed::Split(split) => split_command::run(&split),
        cli::Parsed::Said(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        cli::Parsed::Wrong(text) => {
            let coded = format!("error[{}]:", Code::BadCommandLine);
            eprint!("{}", text.replacen("error:", &coded, 1));
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// The last words of a command that failed, and its status.
fn fail(code: Code, what: impl fmt::Display) -> ExitCode {
    eprintln!("error[{code}]: {what}");
    ExitCode::FAILURE
}

/// An error with all that caused it, but for what it tells itself.
fn chain(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn causes_are_told_once() {
        let error = anyhow::anyhow!("no room").context("cannot write /x: no room");
        assert_eq!(
            super::chain(&error.context("no clone was made")),
            "no clone was made: cannot write /x: no room"
        );
    }
}
