//! Another host for tests: a network namespace at the end of a cable.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::Write as _;
use std::process::Command;

use anyhow::{Result, ensure};
use testkit::{Port, run};

/// Another host: a network namespace at the end of a cable, with processes of its own.
pub(crate) struct Host {
    name: String,
    cable: String,
    /// The address of this host, as the other one sees it.
    pub(crate) here: String,
    /// The address of the other host.
    pub(crate) there: String,
    _port: Port,
}

fn ip(arguments: &str) -> Result<String> {
    run(Command::new("ip").args(arguments.split(' ')))
}

/// Whether a test that needs another host may pass without one.
fn may_skip() -> bool {
    std::env::var_os("CI").is_none() && !rustix::process::geteuid().is_root()
}

impl Host {
    /// `None` when we may not make one, which takes root: then the test is skipped, and says so.
    /// Root, and whoever sets `CI`, gets an error instead.
    pub(crate) fn new() -> Result<Option<Self>> {
        match Self::make() {
            Ok(host) => Ok(Some(host)),
            Err(error) => {
                ensure!(may_skip(), "no other host, which this test needs: {error:#}");
                let mut stderr = std::io::stderr();
                // Not with `eprintln!`, which a test that passes keeps to itself.
                writeln!(stderr, "SKIPPED, for it takes root and `ip netns`: {error:#}")?;
                Ok(None)
            }
        }
    }

    fn make() -> Result<Self> {
        let port = Port::reserve()?;
        let number = port.number();
        let network = format!("10.213.{}", number >> 8);
        let host = Self {
            name: format!("pgherd{number}"),
            cable: format!("pgh{number}"),
            here: format!("{network}.{}", (number & 0xfc) | 1),
            there: format!("{network}.{}", (number & 0xfc) | 2),
            _port: port,
        };
        let Self { name, cable, here, there, .. } = &host;
        ip(&format!("netns add {name}"))?;
        ip(&format!("link add {cable} type veth peer name far netns {name}"))?;
        ip(&format!("addr add {here}/30 dev {cable}"))?;
        ip(&format!("link set {cable} up"))?;
        ip(&format!("-n {name} addr add {there}/30 dev far"))?;
        ip(&format!("-n {name} link set far up"))?;
        ip(&format!("-n {name} link set lo up"))?;
        Ok(host)
    }

    /// A program on the other host.
    pub(crate) fn program(&self, command: &Command) -> Command {
        let mut there = Command::new("ip");
        there.args(["netns", "exec", &self.name]).arg(command.get_program());
        there.args(command.get_args());
        for (name, value) in command.get_envs() {
            value.map(|value| there.env(name, value));
        }
        there
    }

    /// From now on nothing arrives in either direction, and nobody is told: the frames go to a
    /// card that does not exist.
    pub(crate) fn vanish(&self) -> Result<()> {
        let Self { name, cable, here, there, .. } = self;
        let nowhere = "lladdr 02:00:00:00:00:99 nud permanent";
        ip(&format!("neigh replace {there} dev {cable} {nowhere}"))?;
        ip(&format!("-n {name} neigh replace {here} dev far {nowhere}"))?;
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Takes the cable with it.
        ip(&format!("netns del {}", self.name)).ok();
        ip(&format!("link del {}", self.cable)).ok();
    }
}
