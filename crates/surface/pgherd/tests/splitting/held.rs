//! A cut that is held up while the source is closed.

use std::process::Command;

use anyhow::Result;
use testkit::{PATIENCE, Program, Session, run};

use super::{Stage, start};

/// A session on the source that does not react.
pub(crate) struct Stuck {
    pid: String,
    _session: Session,
}

impl Stuck {
    /// Lets it react.
    pub(crate) fn go_on(&self) -> Result<()> {
        run(Command::new("kill").args(["-CONT", &self.pid]))?;
        Ok(())
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        // The server would wait for it at its end.
        drop(self.go_on());
    }
}

/// `finish` of a split that is ready; it has closed `orders`, and waits for a session in it.
pub(crate) fn held_in_the_cut(stage: &Stage) -> Result<(Stuck, Program)> {
    held_at_most(stage, "30")
}

/// The same where the cut may take so many seconds.
pub(crate) fn held_at_most(stage: &Stage, secs: &str) -> Result<(Stuck, Program)> {
    let mut session = stage.source.session("orders")?;
    let pid = session.query("select pg_backend_pid()")?;
    run(Command::new("kill").args(["-STOP", &pid]))?;
    let stuck = Stuck { pid, _session: session };
    let split = start(&mut stage.then("finish", &["--yes", "--cut-timeout", secs]))?;
    let closed = "select count(*) from pg_database where not datallowconn and datname = 'orders'";
    stage.source.wait_for(closed, "1", PATIENCE)?;
    Ok((stuck, split))
}
