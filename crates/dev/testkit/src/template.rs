//! Data directories straight from `initdb`, made once per major and options, then copied.
//!
//! A copy takes a tenth of what `initdb` takes. Copies have the same system identifier; tests for
//! which that matters ask for a fresh one.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::install::{Install, cache_dir, clean_command};
use crate::user;

/// What `initdb` is told.
#[derive(Clone, Debug, Default)]
pub(crate) struct InitOptions {
    /// `--wal-segsize` in MB.
    pub(crate) segment_mb: Option<u32>,
    pub(crate) checksums: bool,
    /// Run `initdb` for this cluster alone.
    pub(crate) fresh: bool,
}

/// Makes the data directory `data`, which must not exist.
pub(crate) fn make_data(install: &Install, options: &InitOptions, data: &Path) -> Result<()> {
    if options.fresh {
        return initdb(install, options, data);
    }
    let template = template(install, options)?;
    // Sparse, because a segment of 1 GB is mostly zeros.
    copy_tree(&template, data)
}

/// Copies a folder as it is, owners included.
pub(crate) fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    let mut copy = clean_command(Path::new("cp"));
    copy.args(["-a", "--reflink=auto", "--sparse=always", "-T"]).arg(from).arg(to);
    run(&mut copy)
}

fn template(install: &Install, options: &InitOptions) -> Result<PathBuf> {
    let folder = cache_dir()?.join("templates");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let segment_mb = options.segment_mb.unwrap_or(16);
    let checksums = if options.checksums { "-checksums" } else { "" };
    let name = format!("{}-{segment_mb}mb{checksums}", install.label()?);
    let template = folder.join(&name);
    if template.exists() {
        return Ok(template);
    }
    // Tests run in processes of their own; the first one makes the template.
    let lock = File::create(folder.join(format!("{name}.lock")))?;
    lock.lock()?;
    if !template.exists() {
        let work = tempfile::Builder::new().prefix("making-").tempdir_in(&folder)?;
        user::give(work.path())?;
        let data = work.path().join("data");
        initdb(install, options, &data)?;
        fs::rename(&data, &template)?;
    }
    Ok(template)
}

fn initdb(install: &Install, options: &InitOptions, data: &Path) -> Result<()> {
    let mut initdb = clean_command(&install.server("initdb"));
    initdb.arg("-D").arg(data);
    initdb.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]);
    if let Some(megabytes) = options.segment_mb {
        initdb.arg(format!("--wal-segsize={megabytes}"));
    }
    if options.checksums {
        initdb.arg("--data-checksums");
    } else if install.major() >= pgtypes::Major::V18 {
        initdb.arg("--no-data-checksums");
    }
    user::run_as_server(&mut initdb)?;
    run(&mut initdb)
}

/// Runs a command to its end; its output is in the error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?} ended with {}: {}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}
