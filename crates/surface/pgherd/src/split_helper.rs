//! What `pgherd split` lends to its engine: relays, clones, and a voice.

use std::cell::{Cell, RefCell};
use std::fs::OpenOptions;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use clone::{Address, Programs};
use split::{CloneFailure, CloneOrder, Owner, Plan};
use tasks::CancellationToken;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::clone_report::Meter;
use crate::runtime::Signals;

/// Between two lines of progress, when nobody watches one that changes.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// The caller of the engine.
#[derive(Default)]
pub(crate) struct Helper {
    /// Whether a line is shown that the next one replaces.
    shown: Cell<bool>,
    told: RefCell<Option<Instant>>,
}

impl Helper {
    /// Removes a line of progress.
    pub(crate) fn clear(&self) {
        if self.shown.replace(false) {
            eprint!("\r\x1b[K");
        }
    }
}

impl split::Helper for Helper {
    fn start_relay(&self, config: &Path, log: &Path) -> io::Result<u32> {
        let log = OpenOptions::new().create(true).append(true).open(log)?;
        let mut relay = Command::new(std::env::current_exe()?);
        relay.args(["relay", "--own-session", "--config"]).arg(config).current_dir("/");
        relay.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // It is not waited for: it outlives us, or is ended by its process id.
        Ok(relay.spawn()?.id())
    }

    async fn clone(&self, order: CloneOrder, stop: CancellationToken) -> Result<(), CloneFailure> {
        let failed = |reason: String| CloneFailure::Failed(reason);
        let programs = Programs::find(order.major, Some(&order.bin_dir));
        let address = Address { host: "127.0.0.1".into(), port: order.port, is_own: true };
        let options = clone::Options {
            programs: programs.map_err(|error| failed(error.to_string()))?,
            source: address.clone(),
            upstream: address,
            name: order.name,
            user: Some(order.user),
            passfile: Some(order.passfile),
            target: order.target,
            mapping: order.mapping,
            unmapped: order.unmapped,
            slot: Some(order.slot),
            pace: clone::Pace {
                max_rate_kb: order.pace.max_rate_kb,
                is_spread: order.pace.is_spread,
            },
            owner: order.owner.map(cloned),
            settings: order.settings,
        };
        self.clear();
        let mut meter = Meter::new();
        let made = clone::run(&options, |progress| meter.show(progress), stop).await;
        meter.end(made.is_ok());
        made.map_err(|error| match error {
            clone::Error::Stopped => CloneFailure::Stopped,
            error => failed(error.to_string()),
        })
    }

    fn discard(
        &self,
        target: &Path,
        slot: &str,
        owner: Option<&Owner>,
    ) -> Result<(), CloneFailure> {
        let owner = owner.cloned().map(cloned);
        let discarded = clone::discard(target, slot, owner.as_ref());
        discarded.map_err(|error| CloneFailure::Failed(error.to_string()))
    }

    fn say(&self, line: &str) {
        self.clear();
        println!("{line}");
    }

    fn progress(&self, line: &str) {
        if io::stderr().is_terminal() {
            eprint!("\r\x1b[K{line}");
            self.shown.set(true);
            return;
        }
        let mut told = self.told.borrow_mut();
        if told.is_none_or(|told| told.elapsed() >= LINE_INTERVAL) {
            eprintln!("{line}");
            *told = Some(Instant::now());
        }
    }
}

/// The owner as the clone has it.
fn cloned(owner: Owner) -> clone::Owner {
    clone::Owner { uid: owner.uid, gid: owner.gid, home: owner.home }
}

/// The findings, for people.
pub(crate) fn plan_table(plan: &Plan) -> String {
    let about = plan.findings.iter().map(|it| it.about.len()).max().unwrap_or(0);
    let mut text = String::new();
    for finding in &plan.findings {
        text.push_str(&format!(
            "{:<4}  {:<about$}  {}\n",
            finding.weight, finding.about, finding.text
        ));
    }
    text
}

/// Asks somebody at a terminal; without one the answer is no.
pub(crate) fn ask(question: &str) -> io::Result<bool> {
    if !io::stdin().is_terminal() {
        eprintln!("nobody can be asked here: --yes goes on without a question");
        return Ok(false);
    }
    eprint!("{question} [y/N] ");
    io::stderr().flush()?;
    let (tell, told) = oneshot::channel();
    // A signal does not end its reading. The process ends without it.
    thread::spawn(move || {
        let mut answer = String::new();
        let read = io::stdin().lock().read_line(&mut answer);
        // Nobody may want to know any more.
        tell.send(read.map(|_| answer)).ok();
    });
    let answered = async {
        let mut signals = Signals::of_command()?;
        tokio::select! {
            answer = told => answer.map_err(io::Error::other)?,
            signal = signals.first() => {
                eprintln!("\nstopped ({signal})");
                Ok(String::new())
            }
        }
    };
    let answer = tokio::task::block_in_place(|| Handle::current().block_on(answered))?;
    Ok(["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()))
}
