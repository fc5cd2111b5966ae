//! What a plan tells.

use std::process::Command;

use anyhow::{Result, ensure};

use super::Stage;

/// The plan of a split that would fail; with `--yes` it is not begun either.
pub(crate) fn refused(stage: &Stage) -> Result<String> {
    stopped(&mut stage.split(&["--yes"]))
}

/// The same of any command.
pub(crate) fn stopped(command: &mut Command) -> Result<String> {
    let refused = command.output()?;
    ensure!(refused.status.code() == Some(1), "{}", refused.status);
    Ok(String::from_utf8(refused.stdout)?)
}

pub(crate) fn finding(plan: &str, weight: &str, about: &str, text: &str) -> Result<()> {
    let found = plan.lines().any(|line| {
        let rest = line.strip_prefix(weight).map(str::trim_start);
        let rest = rest.and_then(|it| it.strip_prefix(about));
        rest.is_some_and(|it| it.starts_with(' ') && it.contains(text))
    });
    ensure!(found, "no {weight} {about}: {text} in\n{plan}");
    Ok(())
}
