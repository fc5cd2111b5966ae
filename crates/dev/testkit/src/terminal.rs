//! A program on a terminal of its own, with somebody who has typed something.
//!
//! The terminal is that of `script` (util-linux), which Debian always has.

use std::fs;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::program::Program;
use crate::wait::{PATIENCE, wait_until};

/// The terminal and what was shown on it.
#[derive(Debug)]
pub struct Terminal {
    program: Program,
    shown: tempfile::NamedTempFile,
}

impl Terminal {
    /// Starts `command` there, with its own variables alone; `typed` waits as a line of input.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start(command: &Command, typed: &str) -> Result<Self> {
        let shown = tempfile::NamedTempFile::new()?;
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let words: Option<Vec<_>> = words.map(|word| Some(quoted(word.to_str()?))).collect();
        let line = words.context("a word that is no text")?.join(" ");
        let script = format!(
            "printf '%s\\n' {} | script --quiet --return --flush --command {} {}",
            quoted(typed),
            quoted(&line),
            quoted(&shown.path().to_string_lossy())
        );
        let mut shell = Command::new("/bin/sh");
        shell.env_clear().env("TERM", "xterm").arg("-c").arg(script);
        shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Ok(Self { program: Program::start(&mut shell)?, shown })
    }

    /// Everything that was shown so far, with all that moves the cursor.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn text(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(self.shown.path())?).into_owned())
    }

    /// Waits until `part` was shown.
    ///
    /// # Errors
    ///
    /// Everything shown, when it does not come or the program ends without it.
    pub fn wait_for(&mut self, part: &str) -> Result<()> {
        wait_until(part, PATIENCE, || {
            let is_over = !self.program.is_running()?;
            let text = self.text()?;
            ensure!(!is_over || text.contains(part), "no {part:?} in {text}");
            Ok(text.contains(part).then_some(()))
        })
    }

    /// Waits for the end.
    ///
    /// # Errors
    ///
    /// When it does not come within `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.program.wait(limit)
    }
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
