//! Two servers that take turns, a relay, three standbys behind it, and what is known of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use testkit::{Auth, Cluster, Link, Major, PATIENCE, Port, Relay, Standby, http, wait_until};

use super::poll::{Poller, parse};
use super::settings::{NAMES, Settings};
use super::trust::{Leaf, SECRETS, Trust};
use super::visitors::Visitors;
use crate::load::Writer;
use crate::names::Database;
use crate::story::Story;

/// A commit is acknowledged when all of these have it.
pub(crate) const ALL_THREE: &str = "3 (next, berlin, whole)";
/// While there is no next.
pub(crate) const BOTH: &str = "2 (berlin, whole)";
pub(crate) const SYNCHRONOUS: &str = "synchronous_standby_names";

/// Everything.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) story: Story,
    pub(crate) visitors: Visitors,
    pub(crate) poller: Poller,
    pub(crate) writers: BTreeMap<String, Writer>,
    pub(crate) databases: Vec<Database>,
    pub(crate) relay: Relay,
    /// In the order of [`NAMES`].
    pub(crate) standbys: [Standby; 3],
    pub(crate) pids: Vec<Option<u32>>,
    /// Nothing while the old primary has not come back.
    pub(crate) next: Option<Standby>,
    pub(crate) primary: Cluster,
    /// One for each host of the relay: in front of the primary, and of the other server.
    pub(crate) link: Link,
    pub(crate) other: Link,
    pub(crate) trust: Trust,
    pub(crate) settings: Settings,
    pub(crate) switches: u64,
    pub(crate) acknowledged: usize,
    /// What relays that are gone have logged.
    pub(crate) logged: Vec<String>,
    pub(crate) extra: Option<Port>,
    pub(crate) http: Port,
    pgherd: PathBuf,
}

impl World {
    pub(crate) fn new(major: Major, pgherd: &Path, seed: u64) -> Result<Self> {
        let trust = Trust::new()?;
        let primary = primary(major, &trust)?;
        let databases = ["keep1", "keep2", "drop1", "drop2"].map(Database::new).to_vec();
        for database in &databases {
            primary.sql(&format!("create database {}", database.name))?;
        }
        let next = next_of(&primary, &trust)?;
        let (link, other) = (Link::to(primary.port())?, Link::to(next.port())?);
        let http = Port::reserve()?;
        let mut relay = Relay::prepare(pgherd, link.port(), "")?;
        let settings = Settings {
            listen: vec![relay.port()],
            http: http.number(),
            upstream: [link.port(), other.port()],
            strict: false,
            max_connections: 200,
            spare: 0,
            require_tls: [false; 3],
        };
        fs::write(relay.config(), settings.yaml(&trust, &relay.state_dir(), ""))?;
        relay.run()?;
        let poller = Poller::start(http.number(), relay.program()?.pid());
        let mut standbys = Vec::new();
        for name in NAMES {
            let mut standby = Standby::of(&primary).via(relay.port()).name(name);
            for database in &databases {
                if !database.included && name != "whole" {
                    standby = standby.without_database(primary.database_oid(&database.name)?);
                }
            }
            standbys.push(standby.conninfo(&trust.to_relay(name)).start()?);
        }
        let pids = standbys.iter().map(|standby| standby.pid()).collect();
        let standbys = <[Standby; 3]>::try_from(standbys);
        let standbys = standbys.map_err(|_other| anyhow::anyhow!("not three standbys"))?;
        let mut writers = BTreeMap::new();
        for database in &databases {
            writers.insert(database.name.clone(), Writer::start(&primary, database)?);
        }
        let root = trust.path("relay-ca.crt");
        let visitors = Visitors::start(primary.install(), relay.port(), root, seed);
        let mut world = Self {
            story: Story::new(),
            visitors,
            poller,
            writers,
            databases,
            relay,
            standbys,
            pids,
            next: Some(next),
            primary,
            link,
            other,
            trust,
            settings,
            switches: 0,
            acknowledged: 0,
            logged: Vec::new(),
            extra: None,
            http,
            pgherd: pgherd.to_owned(),
        };
        world.settle()?;
        world.primary.set(SYNCHRONOUS, ALL_THREE)?;
        Ok(world)
    }

    pub(crate) fn tell(&mut self, step: &str) {
        self.story.tell(step);
    }

    /// Writes the relay's file; `more` comes at its end.
    pub(crate) fn write(&self, more: &str) -> Result<()> {
        let text = self.settings.yaml(&self.trust, &self.relay.state_dir(), more);
        fs::write(self.relay.config(), text).context("write the relay's configuration")
    }

    /// A command of a running relay.
    pub(crate) fn command(&self, command: &str, arguments: &[&str]) -> Result<Output> {
        let mut program = Command::new(&self.pgherd);
        program.args(["relay", command, "-c"]).arg(self.relay.config()).args(arguments);
        let output = program.env_clear().output().context("run pgherd")?;
        for text in [&output.stdout, &output.stderr] {
            let text = String::from_utf8_lossy(text);
            let secret = SECRETS.iter().find(|secret| text.contains(**secret));
            ensure!(secret.is_none(), "pgherd relay {command} told a secret: {text}");
        }
        Ok(output)
    }

    /// What the relay says of itself, by its own command.
    pub(crate) fn status(&self) -> Result<serde_json::Value> {
        let output = self.command("status", &["--json"])?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "status: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_str(&text).with_context(|| format!("status: {text}"))
    }

    /// One of its metrics.
    pub(crate) fn metric(&self, name: &str) -> Result<f64> {
        let text = http(self.http.number(), "GET", "/metrics", &[], "")?.body;
        parse(&text)?.get(name).copied().with_context(|| format!("no {name} in {text}"))
    }

    /// The server processes of the standbys' streams; nothing where there is not just one.
    pub(crate) fn backends(&self) -> Result<[Option<u32>; 3]> {
        let mut session = self.primary.session("postgres")?;
        let mut backends = [None; 3];
        for (backend, name) in backends.iter_mut().zip(NAMES) {
            let pids = session.query(&format!(
                "select pid || state from pg_stat_replication where application_name = '{name}'"
            ))?;
            *backend = pids.strip_suffix("streaming").and_then(|pid| pid.parse().ok());
        }
        Ok(backends)
    }

    /// Waits until all standbys stream, and the next primary.
    pub(crate) fn settle(&mut self) -> Result<[u32; 3]> {
        let limit = PATIENCE * 2;
        let settled = wait_until("all standbys to stream", limit, || {
            let [Some(berlin), Some(whole), Some(paris)] = self.backends()? else {
                return Ok(None);
            };
            Ok(Some([berlin, whole, paris]))
        });
        let settled = settled.with_context(|| {
            let standbys = self.standbys.iter().zip(NAMES);
            let tails = standbys.map(|(it, name)| format!("{name}:\n{}", it.log_tail()));
            tails.collect::<Vec<_>>().join("\n")
        })?;
        if let Some(next) = &self.next {
            next.wait_streaming().context("the next primary")?;
        }
        Ok(settled)
    }

    /// What must be true at every time.
    pub(crate) fn sound(&mut self) -> Result<()> {
        self.poller.sound()?;
        self.visitors.sound()?;
        let lines = self.relay.program()?.lines();
        quiet(&lines)
    }

    /// Keeps what the relay logged, before it goes.
    pub(crate) fn keep_log(&mut self) -> Result<()> {
        self.sound()?;
        let lines = self.relay.program()?.lines();
        self.logged.extend(lines);
        Ok(())
    }

    /// Writes all logs where they stay; gives the folder.
    pub(crate) fn keep_logs(&mut self, seed: u64) -> Result<PathBuf> {
        let folder = std::env::temp_dir().join(format!("soak-operate-{seed}"));
        fs::create_dir_all(&folder)?;
        let lines = self.relay.program().map(|it| it.lines()).unwrap_or_default();
        let lines: Vec<_> = self.logged.iter().chain(&lines).cloned().collect();
        fs::write(folder.join("relay.log"), lines.join("\n"))?;
        fs::copy(self.relay.config(), folder.join("relay.yaml"))?;
        for (standby, name) in self.standbys.iter().zip(NAMES) {
            fs::write(folder.join(format!("{name}.log")), standby.log())?;
        }
        fs::write(folder.join("primary.log"), self.primary.log())?;
        if let Some(next) = &self.next {
            fs::write(folder.join("next.log"), next.log())?;
        }
        Ok(folder)
    }
}

/// Nothing of what a relay must never say.
pub(crate) fn quiet(lines: &[String]) -> Result<()> {
    for line in lines {
        for trouble in ["panicked", "please report", "excluded relations at once"] {
            ensure!(!line.contains(trouble), "the relay said: {line}");
        }
        let secret = SECRETS.iter().find(|secret| line.contains(**secret));
        ensure!(secret.is_none(), "the relay logged a secret: {line}");
    }
    Ok(())
}

fn primary(major: Major, trust: &Trust) -> Result<Cluster> {
    let (ca, cert, key) =
        (trust.path("servers-ca.crt"), trust.path("server.crt"), trust.path("server.key"));
    let primary = Cluster::builder(major)
        .auth(Auth::Scram)
        .set_all(&[
            ("ssl", "on"),
            ("ssl_ca_file", &ca),
            ("ssl_cert_file", &cert),
            ("ssl_key_file", &key),
            ("wal_log_hints", "on"),
            ("wal_keep_size", "2GB"),
            ("checkpoint_timeout", "60s"),
            ("autovacuum_naptime", "10s"),
            ("log_checkpoints", "off"),
        ])
        .start()?;
    trust.furnish(&primary)?;
    Ok(primary)
}

/// A standby of this one that can take over.
pub(crate) fn next_of(primary: &Cluster, trust: &Trust) -> Result<Standby> {
    Standby::of(primary).name("next").conninfo(&trust.between_servers()).start()
}

/// Renews what the servers show, and has them read it.
pub(crate) fn renew_servers(world: &World) -> Result<()> {
    world.trust.issue(Leaf::Server)?;
    world.trust.issue(Leaf::Next)?;
    world.primary.sql("select pg_reload_conf()")?;
    if let Some(next) = &world.next {
        next.sql("select pg_reload_conf()")?;
    }
    Ok(())
}
