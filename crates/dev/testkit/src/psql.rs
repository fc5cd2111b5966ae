//! Scripts of SQL, run by Debian's `psql`, which connects to every major.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cluster::Cluster;
use crate::install::clean_command;

impl Cluster {
    /// Runs a script of SQL in database `postgres` as `psql -XAtq` does: statement by statement,
    /// up to the first error; gives what it prints, without the last line break.
    ///
    /// # Errors
    ///
    /// The first error of the server.
    pub fn sql(&self, script: &str) -> Result<String> {
        self.sql_in("postgres", script)
    }

    /// As [`Cluster::sql`], in another database.
    ///
    /// # Errors
    ///
    /// The first error of the server.
    pub fn sql_in(&self, database: &str, script: &str) -> Result<String> {
        let mut psql = clean_command(&newest_psql()?);
        psql.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres"]);
        psql.arg("-h").arg(self.socket_dir()).args([
            "-p",
            &self.port().to_string(),
            "-d",
            database,
        ]);
        run_script(&mut psql, script)
            .with_context(|| format!("in {database} on port {}", self.port()))
    }
}

/// The newest of Debian's `psql`, without its wrapper; it connects to every major.
fn newest_psql() -> Result<PathBuf> {
    let releases = fs::read_dir("/usr/lib/postgresql");
    let releases = releases.context("no client programs of Debian: run `make provision`")?;
    let found = releases.flatten().map(|release| release.path().join("bin/psql"));
    let newest = found.filter(|psql| psql.exists()).max_by_key(|psql| release_number(psql));
    newest.context("no psql: run `make provision`")
}

fn release_number(psql: &Path) -> Option<u32> {
    psql.ancestors().nth(2)?.file_name()?.to_str()?.parse().ok()
}

/// Feeds a script to `psql` and gives what it prints.
fn run_script(psql: &mut Command, script: &str) -> Result<String> {
    let mut child = psql
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start psql")?;
    let stdin = child.stdin.take();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || {
            // A script that fails half-way leaves the rest unread: psql's own message says why.
            stdin.map(|mut stdin| stdin.write_all(script.as_bytes()).ok())
        });
        child.wait_with_output()
    })?;
    if !output.status.success() {
        let shown: String = script.chars().take(300).collect();
        bail!("{}\nscript: {shown}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    let text = String::from_utf8(output.stdout)?;
    Ok(text.strip_suffix('\n').unwrap_or(&text).to_owned())
}
