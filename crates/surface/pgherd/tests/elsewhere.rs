//! Clients that come from another host, where the relay has to know the difference.

mod host;

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use host::Host;
use testkit::{Cluster, Major, PATIENCE, Port, Program, run, run_failing};

/// `auth: trust` is for clients of the relay's own host, unless the file says that it is open.
#[test]
fn clients_of_other_hosts_are_not_trusted() -> Result<()> {
    let Some(host) = Host::new()? else { return Ok(()) };
    let primary = Cluster::builder(Major::V18).start()?;
    let folder = tempfile::tempdir()?;
    let port = Port::reserve()?;
    for (more, comes_in) in [("", false), (", i_know_that_this_is_open: true", true)] {
        let config = folder.path().join("relay.yaml");
        let text = format!(
            "listen: [\"127.0.0.1:{port}\", \"{}:{port}\"]\n\
             upstream: {{host: 127.0.0.1, port: {}, user: postgres}}\nstate_dir: {}\n\
             configurations: [{{all: {{auth: trust{more}}}}}]\n",
            host.here,
            primary.port(),
            folder.path().display(),
            port = port.number(),
        );
        fs::write(&config, text)?;
        let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_pgherd")));
        let mut relay = Program::start(command.args(["relay", "-c"]).arg(&config))?;
        relay.wait_for_line(&format!("{}:", host.here), PATIENCE)?;
        let identify = |address: &str| -> Result<Command> {
            let mut psql = primary.client("psql", port.number())?;
            let conninfo = format!("replication=true host={address} user=anybody");
            psql.args(["-XAtw", "-c", "IDENTIFY_SYSTEM", "-d", &conninfo]);
            Ok(psql)
        };
        run(&mut identify("127.0.0.1")?)?;
        let mut from_there = host.program(&identify(&host.here)?);
        if comes_in {
            run(&mut from_there)?;
        } else {
            let refused = run_failing(&mut from_there)?;
            ensure!(refused.contains("trusts clients of its own host only"), "{refused}");
            ensure!(refused.contains("i_know_that_this_is_open"), "{refused}");
            let line = relay.wait_for_line("refused: ", PATIENCE)?;
            ensure!(line.contains(&host.there), "{line}");
        }
        relay.kill9()?;
    }
    Ok(())
}
