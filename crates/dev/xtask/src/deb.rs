//! The Debian package.
//!
//! Made with Debian's own tools (`dpkg-shlibdeps`, `dpkg-deb`), but without debhelper: there is
//! one binary and nothing to configure. What it does when it is installed, upgraded, removed and
//! purged stands in `packaging/deb`.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::package::{self, Stage, VERSION, changed_at, files, gzip, put, root, run};

const MAINTAINER: &str = "The pgherd developers <pgherd@localhost.localdomain>";
const CONFIGURATION: &str = "etc/pgherd/relay.yaml";
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];
const DESCRIPTION: &str = "keeps a herd of PostgreSQL servers in step
 pgherd relay stands between a PostgreSQL primary and its standbys, forwards
 physical replication, and replaces the WAL records of databases and
 tablespaces that a standby should not hold. pgherd clone makes such
 standbys, pgherd split moves databases into a server of their own.
 .
 The service pgherd-relay is not started before it is told which server to
 follow, in /etc/pgherd/relay.yaml.";

/// Writes `pgherd_VERSION_ARCH.deb` into `out`. `quick` does not compress it.
///
/// # Errors
///
/// What is missing, or which tool failed.
pub fn build(binary: &Path, out: &Path, quick: bool) -> Result<PathBuf> {
    let stage = Stage::new(out)?;
    let tree = stage.path().join("tree");
    package::lay(binary, &tree.join("usr"))?;
    // Where Debian 12 has its units; the same folder as /usr/lib.
    fs::create_dir_all(tree.join("lib"))?;
    fs::rename(tree.join("usr/lib/systemd"), tree.join("lib/systemd"))?;
    put(&tree.join(CONFIGURATION), fs::read(root()?.join("packaging/relay.yaml"))?, 0o644)?;
    let doc = tree.join("usr/share/doc/pgherd");
    put(&doc.join("copyright"), fs::read(root()?.join("packaging/deb/copyright"))?, 0o644)?;
    let overrides = fs::read(root()?.join("packaging/deb/lintian-overrides"))?;
    put(&tree.join("usr/share/lintian/overrides/pgherd"), overrides, 0o644)?;
    let changes = stage.path().join("changelog");
    put(&changes, changelog()?, 0o644)?;
    put(&doc.join("changelog.gz"), gzip(&changes)?, 0o644)?;

    let control = tree.join("DEBIAN");
    put(&control.join("md5sums"), sums(&tree)?, 0o644)?;
    put(&control.join("conffiles"), format!("/{CONFIGURATION}\n"), 0o644)?;
    put(&control.join("control"), control_file(&tree, stage.path())?, 0o644)?;
    for script in SCRIPTS {
        put(&control.join(script), fs::read(root()?.join("packaging/deb").join(script))?, 0o755)?;
    }
    open_folders(&tree)?;
    let file = out.join(format!("pgherd_{VERSION}_{}.deb", architecture()?));
    run(Command::new("dpkg-deb")
        .env("SOURCE_DATE_EPOCH", changed_at()?)
        .args(["--root-owner-group", if quick { "-Znone" } else { "-Zxz" }, "--build"])
        .args([&tree, &file]))?;
    Ok(file)
}

fn architecture() -> Result<String> {
    let said = run(Command::new("dpkg").arg("--print-architecture"))?;
    Ok(String::from_utf8(said)?.trim().to_owned())
}

fn control_file(tree: &Path, scratch: &Path) -> Result<String> {
    let kilobytes = files(tree)?
        .iter()
        .map(|file| Ok(fs::metadata(file)?.len().div_ceil(1024)))
        .sum::<Result<u64>>()?;
    Ok(format!(
        "Package: pgherd\nVersion: {VERSION}\nArchitecture: {}\nMaintainer: {MAINTAINER}\n\
         Installed-Size: {kilobytes}\n\
         Depends: {}, systemd | systemd-standalone-sysusers\n\
         Suggests: postgresql-client\nSection: database\nPriority: optional\n\
         Description: {DESCRIPTION}\n",
        architecture()?,
        libraries(tree, scratch)?
    ))
}

/// The libraries that the binary needs, in which versions.
fn libraries(tree: &Path, scratch: &Path) -> Result<String> {
    // It insists on being in a source package.
    put(
        &scratch.join("debian/control"),
        "Source: pgherd\n\nPackage: pgherd\nArchitecture: any\n",
        0o644,
    )?;
    let mut command = Command::new("dpkg-shlibdeps");
    command.arg("-O").arg(tree.join("usr/bin/pgherd")).current_dir(scratch);
    let said = String::from_utf8(run(&mut command)?)?;
    let needs = said.trim().strip_prefix("shlibs:Depends=");
    Ok(needs.context("dpkg-shlibdeps named no library")?.to_owned())
}

fn changelog() -> Result<String> {
    let when = format!("@{}", changed_at()?);
    let date = run(Command::new("date").env("LC_ALL", "C").args(["-uRd", &when]))?;
    Ok(format!(
        "pgherd ({VERSION}) unstable; urgency=medium\n\n  * See /usr/share/doc/pgherd.\n\n \
         -- {MAINTAINER}  {}",
        String::from_utf8(date)?
    ))
}

fn sums(tree: &Path) -> Result<String> {
    let mut sums = String::new();
    for file in files(tree)? {
        let name = file.strip_prefix(tree)?;
        if name != Path::new(CONFIGURATION) {
            let said = String::from_utf8(run(Command::new("md5sum").arg(&file))?)?;
            let sum = said.split_whitespace().next().unwrap_or_default();
            writeln!(sums, "{sum}  {}", name.display())?;
        }
    }
    Ok(sums)
}

/// Everybody may enter the folders, whatever the umask was.
fn open_folders(folder: &Path) -> Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            open_folders(&path)?;
        }
    }
    Ok(())
}
