//! Clients that come and go: with the right password, with a wrong one, and receivers of WAL that
//! are killed.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use testkit::{Install, PASSWORD};

use super::trust::{SCRAM, WRONG};
use crate::dice::Dice;

const BETWEEN: Duration = Duration::from_millis(700);
/// A wrong password slows all clients of this host down: one in so many.
const WRONG_ONE_IN: u64 = 12;

/// The thread that visits.
#[derive(Debug)]
pub(crate) struct Visitors {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    install: Install,
    port: u16,
    root: String,
    over: AtomicBool,
    came_in: AtomicU64,
    refused: AtomicU64,
    trouble: Mutex<Option<String>>,
}

impl Visitors {
    pub(crate) fn start(install: &Install, port: u16, root: String, seed: u64) -> Self {
        let shared = Arc::new(Shared {
            install: install.clone(),
            port,
            root,
            over: AtomicBool::new(false),
            came_in: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            trouble: Mutex::default(),
        });
        let ours = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let mut dice = Dice::new(seed);
            while !ours.over.load(Ordering::SeqCst) {
                if let Err(error) = ours.visit(&mut dice) {
                    let said = format!("{error:?}");
                    *ours.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(said);
                    return;
                }
                thread::sleep(BETWEEN);
            }
        });
        Self { shared, thread: Some(thread) }
    }

    /// Fails when somebody came in who must not, or not as told.
    pub(crate) fn sound(&self) -> Result<()> {
        let trouble = self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.as_ref().map_or(Ok(()), |what| bail!("a visitor: {what}"))
    }

    /// Ends it; how many came in, and how many were refused as they had to be.
    pub(crate) fn stop(&mut self) -> Result<(u64, u64)> {
        self.shared.over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            ensure!(thread.join().is_ok(), "the thread of visitors panicked");
        }
        self.sound()?;
        let count = |it: &AtomicU64| it.load(Ordering::SeqCst);
        Ok((count(&self.shared.came_in), count(&self.shared.refused)))
    }
}

impl Drop for Visitors {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
    }
}

impl Shared {
    fn visit(&self, dice: &mut Dice) -> Result<()> {
        let guest = dice.below(2) == 0;
        let (name, user, password) =
            if guest { ("guest", "postgres", PASSWORD) } else { ("visitor", "walter", SCRAM) };
        if dice.below(WRONG_ONE_IN) == 0 {
            let mut psql = self.client("psql", name, user, WRONG)?;
            let output = psql.args(["-XAtw", "-c", "IDENTIFY_SYSTEM"]).output()?;
            ensure!(!output.status.success(), "{user} came in with a wrong password");
            self.refused.fetch_add(1, Ordering::SeqCst);
        } else if dice.below(3) == 0 {
            self.receive(name, user, password, dice)?;
        } else {
            // It may come at a time at which nobody can be let in.
            let mut psql = self.client("psql", name, user, password)?;
            let output = psql.args(["-XAtw", "-c", "IDENTIFY_SYSTEM"]).output()?;
            self.came_in.fetch_add(u64::from(output.status.success()), Ordering::SeqCst);
        }
        Ok(())
    }

    fn receive(&self, name: &str, user: &str, password: &str, dice: &mut Dice) -> Result<()> {
        let folder = tempfile::tempdir()?;
        let mut receive = self.client("pg_receivewal", name, user, password)?;
        receive.args(["-w", "-D"]).arg(folder.path());
        let conninfo = self.conninfo(name, user);
        receive.args(["-n", "-d", &conninfo]);
        let mut child = receive.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        thread::sleep(Duration::from_millis(500 + dice.below(3000)));
        child.kill()?;
        child.wait()?;
        let got = folder.path().read_dir()?.next().is_some();
        self.came_in.fetch_add(u64::from(got), Ordering::SeqCst);
        Ok(())
    }

    fn conninfo(&self, name: &str, user: &str) -> String {
        format!(
            "host=localhost hostaddr=127.0.0.1 port={} user={user} application_name={name} \
             replication=true sslmode=verify-full sslrootcert={} channel_binding=disable \
             connect_timeout=30",
            self.port, self.root
        )
    }

    fn client(&self, program: &str, name: &str, user: &str, password: &str) -> Result<Command> {
        let mut command = self.install.client_command(program).context("a visitor's program")?;
        command.env("PGPASSWORD", password).stdin(Stdio::null());
        if program == "psql" {
            command.args(["-d", &self.conninfo(name, user)]);
        }
        Ok(command)
    }
}
