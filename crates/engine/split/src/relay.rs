//! The relay between the two servers: a process of its own, found again after any end of ours.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use config::Pattern;
use postgres_protocol::password::scram_sha_256;

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
/// The relay's passwords at the source, in the folder of the split.
const PASSFILE: &str = "passfile";
/// Who comes in to it, there too.
const USERS: &str = "users";
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
        let mut passwords = String::new();
        for (database, line) in [("replication", "replication"), (&*record.control, "*")] {
            if let Some(password) = record.source.find_password(database)? {
                passwords.push_str(&passfile(line, &password));
            }
        }
        let (passfile, users) = (folder.join(PASSFILE), folder.join(USERS));
        state::replace(&passfile, passwords.as_bytes(), None)?;
        let user = user(&record.source.user, &record.relay_password);
        state::replace(&users, user.as_bytes(), None)?;
        let path = self.relay_config();
        let text = config_text(record, &folder.join(RELAY_STATE), &passfile, &users);
        Ok(state::replace(&path, text.as_bytes(), None)?)
    }

    /// A file with the relay's password for the clone. Another user's clone need not reach our
    /// folder: for that it is beside the target.
    pub(crate) fn clone_passfile(&self) -> PathBuf {
        let record = &self.journal.record;
        if record.owner.is_none() {
            return self.journal.folder.join("clone-passfile");
        }
        let mut name = record.target.clone().into_os_string();
        name.push(format!(".{}.passfile", record.client));
        name.into()
    }

    pub(crate) fn remove_passfiles(&self) -> Result<(), Error> {
        remove(&self.journal.folder.join(PASSFILE))?;
        remove(&self.journal.folder.join(USERS))?;
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

/// A line with a password for every server and user.
pub(crate) fn passfile(database: &str, password: &str) -> String {
    format!("*:*:{database}:*:{}\n", password.replace('\\', r"\\").replace(':', r"\:"))
}

/// A line of the relay's file of users.
fn user(name: &str, password: &str) -> String {
    let plain = |char: char| if ":\\#".contains(char) { format!("\\{char}") } else { char.into() };
    let verifier = scram_sha_256(password.as_bytes());
    format!("{}:{verifier}\n", name.chars().map(plain).collect::<String>())
}

/// JSON's strings are strings of YAML.
///
/// The relay listens on this machine, where others may be, and logs in to the source as a
/// superuser: it asks for a password of its own, which the clone and the standby have.
fn config_text(record: &Record, state: &Path, passfile: &Path, users: &Path) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let path = |path: &Path| quoted(&path.to_string_lossy());
    let login = format!("user: {}, passfile: {}", quoted(&record.source.user), path(passfile));
    let mut upstream = format!("host: {}", quoted(&record.source.host));
    upstream.push_str(&format!(", port: {}, {login}", record.source.port));
    for (name, value) in record.source.ssl.settings() {
        upstream.push_str(&format!(", {name}: {}", quoted(&value)));
    }
    let names = record.databases.iter().map(|database| quoted(&plain_pattern(&database.name)));
    format!(
        "# Written by pgherd split.\n\
         listen: [\"127.0.0.1:{}\"]\n\
         upstream: {{{upstream}, catalog: {{{login}, database: {}}}}}\n\
         state_dir: {}\n\
         configurations:\n  - {CONFIGURATION}:\n      match: {{application_name: {}}}\n      \
         auth: scram\n      users_file: {}\n      filter: {{include_databases: [{}]}}\n",
        record.relay_port,
        quoted(&record.control),
        path(state),
        quoted(&record.client),
        path(users),
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
pub(crate) fn tail(path: &Path) -> String {
    const LINES: usize = 12;
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines: Vec<_> = text.lines().collect();
    lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_a_line_of_its_own() {
        let line = user(r"#a:b\c", "secret");
        assert!(
            line.starts_with(r"\#a\:b\\c:SCRAM-SHA-256$") && !line.contains("secret"),
            "{line}"
        );
        assert_eq!(passfile("*", r"a:b\c"), "*:*:*:*:a\\:b\\\\c\n");
    }
}
