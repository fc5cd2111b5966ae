//! The ways from a client to the server that are compared.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use tempfile::TempDir;
use testkit::{Cluster, PATIENCE, Port, Program, Relay};

use crate::Bench;

/// The database whose WAL is filtered out.
pub(crate) const EXCLUDED: &str = "gone";
/// The other one.
pub(crate) const KEPT: &str = "keep";

/// A way to the server.
pub(crate) struct Route {
    /// What it is called.
    pub(crate) name: &'static str,
    /// Where it begins.
    pub(crate) port: u16,
    hop: Hop,
}

enum Hop {
    None,
    Program(Program),
    Relay(Box<Relay>),
    /// Ports and folders stay reserved as long as the program runs.
    Walbouncer {
        program: Program,
        _port: Port,
        _folder: TempDir,
    },
}

/// For a client that is named as its route is.
const FILTERED: &str = "
configurations:
  - filtered:
      filter: {exclude_databases: [gone]}
";

impl Route {
    pub(crate) const DIRECT: &str = "direct";
    pub(crate) const PUMP: &str = "pump";
    pub(crate) const RELAY: &str = "relay";
    pub(crate) const FILTERED: &str = "relay, filtered";

    /// All of them, direct first.
    pub(crate) fn all(bench: &Bench, primary: &Cluster) -> Result<Vec<Self>> {
        let mut routes = vec![
            Self { name: Self::DIRECT, port: primary.port(), hop: Hop::None },
            Self::pump(primary)?,
            Self::relay(Self::RELAY, &bench.pgherd, primary, "")?,
            Self::filtered(bench, primary)?,
        ];
        if let Some(other) = &bench.against {
            routes.push(Self::relay("other relay", other, primary, "")?);
            routes.push(Self::relay("other relay, filtered", other, primary, FILTERED)?);
        }
        if let Some(walbouncer) = &bench.walbouncer {
            routes.push(Self::walbouncer("walbouncer", walbouncer, primary, "")?);
            let filter = "        filter: {exclude_databases: [gone]}\n";
            routes.push(Self::walbouncer("walbouncer, filtered", walbouncer, primary, filter)?);
        }
        Ok(routes)
    }

    pub(crate) fn pump(primary: &Cluster) -> Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.args(["pump", &primary.port().to_string()]);
        let mut pump = Program::start(&mut command)?;
        let line = pump.wait_for_line("listening on port ", PATIENCE)?;
        let port = line.rsplit(' ').next().context("no port")?.parse()?;
        Ok(Self { name: Self::PUMP, port, hop: Hop::Program(pump) })
    }

    fn relay(name: &'static str, pgherd: &Path, primary: &Cluster, more: &str) -> Result<Self> {
        let relay = Relay::start(pgherd, primary.port(), more)?;
        Ok(Self { name, port: relay.port(), hop: Hop::Relay(Box::new(relay)) })
    }

    /// A relay that filters every client.
    pub(crate) fn filtered(bench: &Bench, primary: &Cluster) -> Result<Self> {
        Self::relay(Self::FILTERED, &bench.pgherd, primary, FILTERED)
    }

    fn walbouncer(
        name: &'static str,
        program: &Path,
        primary: &Cluster,
        filter: &str,
    ) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let port = Port::reserve()?;
        let config = folder.path().join("walbouncer.yaml");
        let text = format!(
            "listen_port: {}\nmaster:\n    host: 127.0.0.1\n    port: {}\nconfigurations:\n    \
             - all:\n        match:\n            source: 127.0.0.0/8\n{filter}",
            port.number(),
            primary.port(),
        );
        fs::write(&config, text)?;
        let program = Program::start(Command::new(program).arg("-c").arg(&config))?;
        let number = port.number();
        testkit::wait_until("walbouncer to listen", PATIENCE, || {
            Ok(std::net::TcpStream::connect(("127.0.0.1", number)).ok())
        })?;
        let hop = Hop::Walbouncer { program, _port: port, _folder: folder };
        Ok(Self { name, port: number, hop })
    }

    /// walbouncer does not see soon that a client has gone.
    pub(crate) const fn is_walbouncer(&self) -> bool {
        matches!(self.hop, Hop::Walbouncer { .. })
    }

    fn program(&mut self) -> Result<Option<&mut Program>> {
        Ok(match &mut self.hop {
            Hop::None => None,
            Hop::Program(program) | Hop::Walbouncer { program, .. } => Some(program),
            Hop::Relay(relay) => Some(relay.program()?),
        })
    }

    /// CPU time that the hop has used, in seconds; zero without one.
    pub(crate) fn cpu_secs(&mut self) -> Result<f64> {
        self.program()?.map_or(Ok(0.0), |program| program.cpu_secs())
    }

    /// The most memory that the hop has used, in kB.
    pub(crate) fn peak_rss_kb(&mut self) -> Result<u64> {
        self.program()?.map_or(Ok(0), |program| program.peak_rss_kb())
    }
}
