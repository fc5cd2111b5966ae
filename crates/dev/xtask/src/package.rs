//! What a package holds, laid out below a prefix; and the tarball.
//!
//! The binary is built already: that is cargo's work. Completions come from the binary itself,
//! manual pages and documentation from `docs`, unit and configuration from `packaging`.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Where each shell looks for completions, below the prefix.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "share/bash-completion/completions/pgherd"),
    ("zsh", "share/zsh/vendor-completions/_pgherd"),
    ("fish", "share/fish/vendor_completions.d/pgherd.fish"),
];
const DOC: &str = "share/doc/pgherd";
/// Version of every package of the workspace.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The root of the source tree.
pub(crate) fn root() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(3).context("no root")
}

/// Writes `pgherd-VERSION-ARCH-linux.tar.gz` into `out`: to be unpacked in `/usr/local`.
///
/// # Errors
///
/// As [`crate::deb::build`].
pub fn tarball(binary: &Path, out: &Path) -> Result<PathBuf> {
    let stage = Stage::new(out)?;
    let name = format!("pgherd-{VERSION}-{}-linux", std::env::consts::ARCH);
    let top = stage.path().join(&name);
    lay(binary, &top)?;
    let unit = top.join("lib/systemd/system/pgherd-relay.service");
    let text = fs::read_to_string(&unit)?.replace("=/usr/bin/", "=/usr/local/bin/");
    put(&unit, text, 0o644)?;
    put(&top.join(DOC).join("LICENSE"), fs::read(root()?.join("LICENSE"))?, 0o644)?;
    let sample = fs::read(root()?.join("packaging/relay.yaml"))?;
    put(&top.join(DOC).join("relay.yaml"), sample, 0o644)?;
    let file = out.join(format!("{name}.tar.gz"));
    run(Command::new("tar")
        .args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner"])
        .arg(format!("--mtime=@{}", changed_at()?))
        .arg("-C")
        .arg(stage.path())
        .args(["-czf".as_ref(), file.as_os_str(), name.as_ref()]))?;
    Ok(file)
}

/// Lays out what every package has below its prefix, `/usr` or `/usr/local`.
pub(crate) fn lay(binary: &Path, prefix: &Path) -> Result<()> {
    let root = root()?;
    let program = prefix.join("bin/pgherd");
    put(&program, fs::read(binary).with_context(|| binary.display().to_string())?, 0o755)?;
    run(Command::new("strip").args(["--strip-unneeded", "-R", ".comment"]).arg(&program))?;
    for (shell, place) in COMPLETIONS {
        let script = run(Command::new(binary).args(["completions", shell]))?;
        put(&prefix.join(place), script, 0o644)?;
    }
    for page in files(&root.join("docs/man"))? {
        let name = page.file_name().and_then(OsStr::to_str).context("a page without a name")?;
        put(&prefix.join("share/man/man1").join(format!("{name}.gz")), gzip(&page)?, 0o644)?;
    }
    let docs = root.join("docs");
    for page in files(&docs)?.iter().filter(|page| page.extension() == Some("md".as_ref())) {
        put(&prefix.join(DOC).join(page.strip_prefix(&docs)?), fs::read(page)?, 0o644)?;
    }
    for (from, to) in [
        ("pgherd-relay.service", "lib/systemd/system/pgherd-relay.service"),
        ("sysusers.conf", "lib/sysusers.d/pgherd.conf"),
    ] {
        let text = fs::read(root.join("packaging/systemd").join(from))?;
        put(&prefix.join(to), text, 0o644)?;
    }
    Ok(())
}

/// A folder to lay things out in, removed in the end.
pub(crate) struct Stage(PathBuf);

impl Stage {
    pub(crate) fn new(out: &Path) -> Result<Self> {
        let folder = out.join(format!(".stage-{}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        Ok(Self(folder))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// Writes a file, its folders too, whatever the umask is.
pub(crate) fn put(path: &Path, content: impl AsRef<[u8]>, mode: u32) -> Result<()> {
    let folder = path.parent().context("a file in no folder")?;
    fs::create_dir_all(folder)?;
    fs::write(path, content).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(())
}

/// The files below a folder.
pub(crate) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// A file compressed, the same bytes each time.
pub(crate) fn gzip(file: &Path) -> Result<Vec<u8>> {
    run(Command::new("gzip").arg("-9nc").arg(file))
}

/// Runs a program; gives what it prints.
pub(crate) fn run(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}\n{complaint}", output.status);
    Ok(output.stdout)
}

/// Seconds since 1970 of the last commit: packages of one tree are the same whenever they are
/// made.
pub(crate) fn changed_at() -> Result<String> {
    if let Ok(told) = std::env::var("SOURCE_DATE_EPOCH") {
        return Ok(told);
    }
    let said = run(Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(root()?))?;
    Ok(String::from_utf8(said)?.trim().to_owned())
}
