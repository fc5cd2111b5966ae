//! The target's server: started, stopped, connected to, and followed until it has caught up.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pgnet::libpq_variables;
use pgtypes::Lsn;

use crate::cut::mark;
use crate::error::{Side, io, shown};
use crate::plan::size;
use crate::relay::tail;
use crate::server::Session;
use crate::split::Split;
use crate::{Error, Helper, Login, Owner, processes};

/// The database that is on every target, open, and not moved.
pub(crate) const CONTROL: &str = "template1";
/// Where `pg_ctl` lets the server write until it knows better.
const LOG: &str = "pgherd-split.log";
/// How long a standby may take to accept connections: it replays what the backup needs.
const START_TIMEOUT: Duration = Duration::from_secs(3600);
const STOP_TIMEOUT_SECS: &str = "600";
const INTERVAL: Duration = Duration::from_millis(100);
/// A target that has not moved for so long tells why, if it knows.
const STUCK_AFTER: Duration = Duration::from_secs(10);
/// A target that replays what the source had this long ago has caught up.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(1);
/// Between two looks at a target that is almost there.
const SHORT_INTERVAL: Duration = Duration::from_millis(10);
/// Lines of `postmaster.pid` (`miscadmin.h`), counted from zero.
const PID_LINE: usize = 0;
const PORT_LINE: usize = 3;
const SOCKET_LINE: usize = 4;
const ADDRESS_LINE: usize = 5;

/// What a standby has replayed.
pub(crate) const REPLAYED: &str = "select coalesce(pg_last_wal_replay_lsn(), '0/0')::text";

impl<H: Helper> Split<'_, H> {
    /// Makes sure that the target's server runs and takes connections.
    pub(crate) async fn ensure_target(&self) -> Result<(), Error> {
        self.ensure_owned()?;
        if self.target_pid().is_none() {
            let mut start = self.pg_ctl("start");
            start.arg("--no-wait").arg("--log").arg(self.journal.record.target.join(LOG));
            run("pg_ctl start", &mut start)?;
        }
        let since = Instant::now();
        let mut seen = false;
        loop {
            let last = match self.target(CONTROL).await {
                Ok(_session) => return Ok(()),
                Err(error) => error,
            };
            let runs = self.target_pid().is_some();
            seen |= runs;
            // It takes a moment until there is a process to see.
            if (!runs && (seen || since.elapsed() > Duration::from_secs(5))) || !is_starting(&last)
            {
                return Err(Error::Program {
                    program: "the target's server",
                    reason: format!("{last}\n{}", self.last_words()),
                });
            }
            if since.elapsed() > START_TIMEOUT {
                let secs = START_TIMEOUT.as_secs();
                return Err(Error::Late { what: format!("the target's server: {last}"), secs });
            }
            self.pause(INTERVAL).await?;
        }
    }

    /// Stops the target's server if it runs.
    pub(crate) fn stop_target(&self) -> Result<(), Error> {
        if self.target_pid().is_none() {
            return Ok(());
        }
        let mut stop = self.pg_ctl("stop");
        run("pg_ctl stop", stop.args(["--mode=fast", "--wait", "--timeout", STOP_TIMEOUT_SECS]))
    }

    fn pg_ctl(&self, command: &str) -> Command {
        use std::os::unix::process::CommandExt as _;

        let record = &self.journal.record;
        let mut pg_ctl = Command::new(record.bin_dir.join("pg_ctl"));
        pg_ctl.arg(command).arg("--pgdata").arg(&record.target).arg("--silent");
        // The server would have them for as long as it runs: a password, whom to trust, a port.
        for name in libpq_variables() {
            pg_ctl.env_remove(name);
        }
        pg_ctl.current_dir("/");
        if let Some(owner) = &record.owner {
            pg_ctl.uid(owner.uid).gid(owner.gid).env("HOME", &owner.home);
        }
        pg_ctl
    }

    /// Process id of the target's server, when it runs.
    pub(crate) fn target_pid(&self) -> Option<u32> {
        let target = &self.journal.record.target;
        let text = self.postmaster_pid()?;
        let pid = text.lines().nth(PID_LINE)?.trim().parse().ok()?;
        // After a reboot the number may be that of another server's process.
        let is_elsewhere = processes::folder(pid)
            .zip(fs::canonicalize(target).ok())
            .is_some_and(|(folder, target)| folder != target);
        (!is_elsewhere && processes::is_running(pid, "postgres")).then_some(pid)
    }

    /// The last lines of the log of the target's server.
    fn last_words(&self) -> String {
        let record = &self.journal.record;
        let log = record.target.join(LOG);
        Owner::act(record.owner.as_ref(), || Ok(tail(&log))).unwrap_or_default()
    }

    /// What the target's server says of itself in its data directory.
    fn postmaster_pid(&self) -> Option<String> {
        let record = &self.journal.record;
        let path = record.target.join("postmaster.pid");
        let read = || fs::read_to_string(&path).map_err(io("read", &path));
        Owner::act(record.owner.as_ref(), read).ok()
    }

    /// A session on the target.
    pub(crate) async fn target(&self, database: &str) -> Result<Session, Error> {
        let mut last = None;
        for login in self.target_logins() {
            match login.connect(Side::Target, database).await {
                Ok(session) => return Ok(session),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::unfit("the target's server does not listen yet")))
    }

    /// The ways to the target: its socket first, then TCP.
    fn target_logins(&self) -> Vec<Login> {
        let record = &self.journal.record;
        let text = self.postmaster_pid().unwrap_or_default();
        let line = |number: usize| text.lines().nth(number).unwrap_or_default().trim();
        let Ok(port) = line(PORT_LINE).parse() else { return Vec::new() };
        let address = match line(ADDRESS_LINE) {
            "*" | "0.0.0.0" => "127.0.0.1",
            "::" => "::1",
            address => address,
        };
        let hosts = [line(SOCKET_LINE), address].into_iter().filter(|it| !it.is_empty());
        let source = &record.source;
        let password = source.find_password(CONTROL).ok().flatten();
        let login = |host: &str| Login {
            host: host.to_owned(),
            port,
            user: source.user.clone(),
            password: password.clone(),
            ssl: source.ssl.at_home(),
        };
        hosts.map(login).collect()
    }

    /// How somebody else connects to the target.
    #[must_use]
    pub fn connection_string(&self) -> String {
        let record = &self.journal.record;
        let hosts = self.target_logins();
        // A name or address that works from elsewhere is known to the administrator alone.
        let host = hosts.last().map_or("127.0.0.1", |login| login.host.as_str());
        let first = record.databases.first().map_or("postgres", |it| it.name.as_str());
        let port = record.port.to_string();
        let plain = |value: &str| {
            value.chars().all(|it| it.is_ascii_alphanumeric() || "_-./:".contains(it))
        };
        let pairs =
            [("host", host), ("port", &port), ("user", &record.source.user), ("dbname", first)];
        let pair = |(key, value): &(&str, &str)| {
            if plain(value) {
                format!("{key}={value}")
            } else {
                crate::sql::conninfo(&[(key, value)])
            }
        };
        pairs.iter().map(pair).collect::<Vec<_>>().join(" ")
    }

    /// Follows the target until it has what the source had a moment ago.
    pub(crate) async fn catch_up(&mut self) -> Result<(), Error> {
        let source = self.source().await?;
        let target = self.target(CONTROL).await?;
        let mut moved = (Lsn::default(), Instant::now());
        loop {
            // A record of our own: a target that does not follow may have all there is.
            let wanted = mark(&source).await?;
            let since = Instant::now();
            let mut replayed = target.lsn("ask for the position", REPLAYED).await?;
            while replayed < wanted && since.elapsed() < CAUGHT_UP_WITHIN {
                self.pause(SHORT_INTERVAL).await?;
                replayed = target.lsn("ask for the position", REPLAYED).await?;
            }
            if replayed >= wanted {
                self.helper.say(&format!("the target has caught up, at {replayed}"));
                return Ok(());
            }
            self.show_lag(wanted, replayed);
            if replayed != moved.0 {
                moved = (replayed, Instant::now());
            } else if moved.1.elapsed() > STUCK_AFTER {
                moved.1 = Instant::now();
                let secs = STUCK_AFTER.as_secs();
                let paused = "select pg_is_wal_replay_paused()";
                let why = if target.one("ask for the state", paused, &[]).await? {
                    "replay is paused there: select pg_wal_replay_resume()".to_owned()
                } else {
                    format!("its log: {}", self.last_words().lines().last().unwrap_or_default())
                };
                self.helper.say(&format!("the target has not moved for {secs} s; {why}"));
            }
            self.ensure_relay().await?;
            self.check_slot(&source).await?;
            if self.target_pid().is_none() {
                return Err(Error::Program {
                    program: "the target's server",
                    reason: self.last_words(),
                });
            }
        }
    }

    /// Without its slot the target never catches up.
    async fn check_slot(&self, source: &Session) -> Result<(), Error> {
        let slot = &self.journal.record.slot;
        // `wal_status` came with 13, and so did the setting that makes a slot lose WAL.
        let sql = "select coalesce(to_jsonb(s)->>'wal_status', '') from pg_replication_slots s \
                   where slot_name = $1::text";
        let status: Vec<String> = source.column("look for the slot", sql, &[slot]).await?;
        let lost = match status.first().map(String::as_str) {
            None => "is gone",
            Some("lost") => "has lost WAL (max_slot_wal_keep_size)",
            Some(_) => return Ok(()),
        };
        Err(Error::unfit(format!(
            "slot {slot} {lost} on the source, and the target cannot catch up without it: undo the \
             split and begin anew"
        )))
    }

    fn show_lag(&self, wanted: Lsn, replayed: Lsn) {
        let behind = size(wanted.bytes_since(replayed));
        self.helper.progress(&format!("catching up: {behind} behind, at {replayed}"));
    }
}

/// Whether a server that refuses like this may accept soon.
fn is_starting(error: &Error) -> bool {
    match error {
        // `ERRCODE_CANNOT_CONNECT_NOW`.
        Error::Server { cause, .. } => match cause.as_db_error() {
            Some(refused) => refused.code().code() == "57P03",
            None => !shown(cause).contains("authentication"),
        },
        // Nobody listens yet.
        Error::Dial { .. } | Error::Unfit(_) | Error::Late { .. } => true,
        _ => false,
    }
}

/// Runs a program to its end.
fn run(program: &'static str, command: &mut Command) -> Result<(), Error> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let path = PathBuf::from(command.get_program());
    // The server inherits what is not closed: its own standard error goes to the log.
    let output = command.output().map_err(io("run", Path::new(&path)))?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
    let reason = if reason.is_empty() { output.status.to_string() } else { reason };
    Err(Error::Program { program, reason })
}
