//! What happened so far.

use std::time::Instant;

/// Steps that are told when something fails.
const STEPS: usize = 25;
/// The last lines of the relay's log that are told.
const LINES: usize = 40;

/// The steps of a run.
#[derive(Debug)]
pub(crate) struct Story {
    steps: Vec<String>,
    began: Instant,
}

impl Story {
    pub(crate) fn new() -> Self {
        Self { steps: Vec::new(), began: Instant::now() }
    }

    /// Tells what happens next.
    pub(crate) fn tell(&mut self, step: &str) {
        let line = format!("{:7.1} s  {step}", self.began.elapsed().as_secs_f64());
        println!("{line}");
        self.steps.push(line);
    }

    /// The last steps and the relay's last words, for an error.
    pub(crate) fn end(&self, relay: &[String]) -> String {
        let tail = |lines: &[String], count: usize| {
            lines.get(lines.len().saturating_sub(count)..).unwrap_or_default().join("\n")
        };
        format!(
            "the last steps:\n{}\nthe relay's log:\n{}",
            tail(&self.steps, STEPS),
            tail(relay, LINES)
        )
    }
}
