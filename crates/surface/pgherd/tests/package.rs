//! The Debian package and the service: installed, started, upgraded, removed and purged in a copy
//! of this machine; and what systemd is told.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use testkit::{PATIENCE, Port, Relay};

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pgherd"))
}

/// Makes the package and plays `packaging/test/scenario` with it.
fn play(mode: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let deb = xtask::deb::build(binary(), folder.path(), true)?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(3).context("no root")?;
    let run = root.join("packaging/test/run");
    // Mounts need root; elsewhere in the tests nothing does.
    let mut command = if rustix::process::geteuid().is_root() {
        Command::new(run)
    } else {
        let mut command = Command::new("sudo");
        command.arg("-n").arg(run);
        command
    };
    let output = command.arg(mode).arg(deb).output().context("run packaging/test/run")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    let passed = output.status.success() && said.lines().last() == Some("== passed");
    ensure!(passed, "{}\n{said}\n{complaint}", output.status);
    Ok(())
}

#[test]
fn the_package_is_installed_started_and_removed() -> Result<()> {
    play("plain")
}

/// Under systemd as process 1, with every restriction of the unit: `make test-packages`.
#[test]
#[ignore = "starts systemd; make test-packages"]
fn heavy_the_package_under_systemd() -> Result<()> {
    play("systemd")
}

#[test]
fn systemd_is_told_when_the_relay_is_up_and_when_it_stops() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let nobody = Port::reserve()?;
    let mut relay = Relay::prepare(binary(), nobody.number(), "")?;
    relay.set_environment("NOTIFY_SOCKET", path.to_str().context("a path that is no text")?);
    relay.spawn()?;
    let told = || -> Result<String> {
        let mut buffer = [0; 64];
        let bytes = socket.recv(&mut buffer).context("wait for a notification")?;
        Ok(String::from_utf8_lossy(&buffer[..bytes]).into_owned())
    };
    ensure!(told()? == "READY=1\n", "the first is another");
    // Not before: what starts after the relay connects at once.
    testkit::Client::connect(relay.port())?;
    relay.stop()?;
    ensure!(told()? == "STOPPING=1\n", "the second is another");
    Ok(())
}
