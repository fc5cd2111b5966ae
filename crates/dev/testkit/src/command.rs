//! PostgreSQL's own client programs, pointed at any port and run to their end.

use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};

use crate::cluster::Cluster;
use crate::user;

impl Cluster {
    /// A client program of this cluster's major, or of the oldest later one that there is, for a
    /// port of 127.0.0.1: a relay's or this cluster's own.
    ///
    /// # Errors
    ///
    /// When there is no such program.
    pub fn client(&self, program: &str, port: u16) -> Result<Command> {
        let mut command = self.install().client_command(program)?;
        self.point_client(&mut command);
        command.env("PGPORT", port.to_string()).env("PGCONNECT_TIMEOUT", "30");
        Ok(command)
    }

    /// A program that works on the files of this cluster, as `pg_rewind`, run as the servers' user.
    ///
    /// # Errors
    ///
    /// When there is no such program.
    pub fn file_program(&self, program: &str) -> Result<Command> {
        let mut command = self.install().client_command(program)?;
        user::run_as_server(&mut command)?;
        Ok(command)
    }
}

/// Runs a program to its end; gives what it printed on stdout, without the last line break.
///
/// # Errors
///
/// When it fails; what it printed on stderr is in the error.
pub fn run(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {stderr}", output.status);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(stdout.strip_suffix('\n').unwrap_or(&stdout).to_owned())
}

/// Runs a program that has to fail; gives what it printed on stderr.
///
/// # Errors
///
/// When it succeeds.
pub fn run_failing(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    ensure!(!output.status.success(), "{command:?} succeeded: {stdout}");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

fn output(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null());
    command.output().with_context(|| format!("run {command:?}"))
}
