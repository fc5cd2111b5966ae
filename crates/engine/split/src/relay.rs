//! The relay between the two servers: a process of its own, found again after any end of ours.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use config::Pattern;

use crate::error::io;
use crate::journal::{RELAY_LOG, RELAY_STATE, Record, Step, fail_point, remove};
use crate::split::Split;
use crate::{Error, Helper, processes};

/// How long the relay may take to listen.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// A process that was just started has no command line yet, and so has one that ended: for so
/// long it counts as the former.
const EXEC_TIMEOUT: Duration = Duration::from_secs(1);
/// How long it may take to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(50);
/// The relay's password, in the folder of the split.
const PASSFILE: &str = "passfile";
/// Name of the one configuration.
const CONFIGURATION: &str = "split";

impl<H: Helper> Split<'_, H> {
    /// Makes sure that the relay runs, on the port that it always had.
    pub(crate) async fn ensure_relay(&mut self) -> Result<(), Error> {
        if !self.relay_runs() {
            let lost = processes::find(&self.relay_mark());
            self.journal.record.relay_pid = lost.or(self.journal.record.relay_pid);
        }
        if self.relay_runs() {
            return if self.is_done(Step::RelayStarted) {
                Ok(())
            } else {
                self.journal.done(Step::RelayStarted)
            };
        }
        if self.journal.record.relay_port == 0 {
            // Nobody gets this port from the system for a while; the relay tells when it is taken.
            let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
            let port = probe.and_then(|it| it.local_addr());
            let port = port.map_err(io("find a free port on", "127.0.0.1".as_ref()))?.port();
            self.journal.record.relay_port = port;
        }
        self.write_relay_config()?;
        let (config, log) = (self.relay_config(), self.journal.folder.join(RELAY_LOG));
        self.journal.begin_step(Step::RelayStarted)?;
        let started =
            self.helper.start_relay(&config, &log).map_err(io("start a relay with", &config));
        let pid = started?;
        fail_point("started", Step::RelayStarted);
        self.journal.record.relay_pid = Some(pid);
        self.journal.save()?;
        let port = self.journal.record.relay_port;
        let since = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            let may_be_dead = since.elapsed() > EXEC_TIMEOUT && !self.relay_runs();
            if may_be_dead || since.elapsed() > START_TIMEOUT {
                return Err(Error::Program { program: "pgherd relay", reason: tail(&log) });
            }
            self.pause(INTERVAL).await?;
        }
        self.journal.done(Step::RelayStarted)
    }

    fn relay_config(&self) -> PathBuf {
        self.journal.folder.join("relay.yaml")
    }

    /// What its command line has, and nobody else's: arguments are parted by zero bytes.
    fn relay_mark(&self) -> String {
        format!("relay\0--own-session\0--config\0{}\0", self.relay_config().display())
    }

    fn relay_runs(&self) -> bool {
        let mark = self.relay_mark();
        self.journal.record.relay_pid.is_some_and(|pid| processes::is_running(pid, &mark))
    }

    fn write_relay_config(&self) -> Result<(), Error> {
        let folder = &self.journal.folder;
        let record = &self.journal.record;
        let passfile = match record.source.find_password(&record.control)? {
            Some(password) => {
                let path = folder.join(PASSFILE);
                write_passfile(&path, &password)?;
                Some(path)
            }
            None => None,
        };
        let path = self.relay_config();
        let text = config_text(record, &folder.join(RELAY_STATE), passfile.as_deref());
        fs::write(&path, text).map_err(io("write", &path))
    }

    /// A file with the password for the clone, beside the target: it need not reach our folder.
    pub(crate) fn clone_passfile(&self) -> PathBuf {
        let mut name = self.journal.record.target.clone().into_os_string();
        name.push(".pgherd-passfile");
        name.into()
    }

    pub(crate) fn remove_passfiles(&self) -> Result<(), Error> {
        remove(&self.journal.folder.join(PASSFILE))?;
        remove(&self.clone_passfile())
    }

    /// Ends the relay and waits for it.
    pub(crate) async fn stop_relay(&mut self) -> Result<(), Error> {
        let Some(pid) = self.journal.record.relay_pid else { return Ok(()) };
        let since = Instant::now();
        if self.relay_runs() {
            processes::terminate(pid);
        }
        while self.relay_runs() {
            if since.elapsed() > STOP_TIMEOUT {
                let secs = STOP_TIMEOUT.as_secs();
                return Err(Error::Late {
                    what: format!("the end of the relay, process {pid}"),
                    secs,
                });
            }
            tokio::time::sleep(INTERVAL).await;
        }
        self.journal.record.relay_pid = None;
        self.journal.save()
    }
}

/// Writes a password for every server and user, where only its owner can read it.
pub(crate) fn write_passfile(path: &std::path::Path, password: &str) -> Result<(), Error> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;

    let escaped = password.replace('\\', r"\\").replace(':', r"\:");
    let write = || {
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
        writeln!(file, "*:*:*:*:{escaped}")
    };
    write().map_err(io("write", path))
}

/// JSON's strings are strings of YAML.
fn config_text(
    record: &Record,
    state: &std::path::Path,
    passfile: Option<&std::path::Path>,
) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let mut catalog =
        format!("user: {}, database: {}", quoted(&record.source.user), quoted(&record.control));
    if let Some(passfile) = passfile {
        catalog.push_str(&format!(", passfile: {}", quoted(&passfile.to_string_lossy())));
    }
    let names = record.databases.iter().map(|database| quoted(&plain_pattern(&database.name)));
    format!(
        "# Written by pgherd split.\n\
         listen: [\"127.0.0.1:{}\"]\n\
         upstream: {{host: {}, port: {}, catalog: {{{catalog}}}}}\n\
         state_dir: {}\n\
         configurations:\n  - {CONFIGURATION}:\n      match: {{application_name: {}}}\n      \
         filter: {{include_databases: [{}]}}\n",
        record.relay_port,
        quoted(&record.source.host),
        record.source.port,
        quoted(&state.to_string_lossy()),
        quoted(&record.client),
        names.collect::<Vec<_>>().join(", "),
    )
}

/// The pattern that matches this name alone.
fn plain_pattern(name: &str) -> String {
    let escape = |char| match char {
        '*' | '?' | '\\' => format!("\\{char}"),
        char => char.to_string(),
    };
    let pattern: String = name.chars().map(escape).collect();
    debug_assert!(Pattern::new(&pattern).is_some_and(|it| it.plain() == Some(name)));
    pattern
}

/// The last lines of a file of log.
pub(crate) fn tail(path: &std::path::Path) -> String {
    const LINES: usize = 12;
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines: Vec<_> = text.lines().collect();
    lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default().join("\n")
}
