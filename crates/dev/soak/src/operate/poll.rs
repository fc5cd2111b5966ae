//! Somebody who asks the relay all the time, and holds its answers against each other.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use testkit::http;

use super::trust::SECRETS;

const BETWEEN: Duration = Duration::from_millis(250);

/// How much the relay takes, at one time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Which process.
    pub(crate) pid: u32,
    /// What it has asked for: the pages of the program's file come with whatever is used first.
    pub(crate) own_kb: u64,
    pub(crate) peak_kb: u64,
    /// Without the pages of the program's file.
    pub(crate) own_peak_kb: u64,
    pub(crate) files: u64,
    /// The most clients that were seen in this process.
    pub(crate) clients: u64,
}

/// The thread that asks.
#[derive(Debug)]
pub(crate) struct Poller {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    http: u16,
    over: AtomicBool,
    /// Process of the relay; 0 while it is away.
    pid: AtomicU32,
    answers: AtomicU64,
    samples: Mutex<Vec<Sample>>,
    trouble: Mutex<Option<String>>,
}

impl Poller {
    pub(crate) fn start(http: u16, pid: u32) -> Self {
        let shared = Arc::new(Shared {
            http,
            over: AtomicBool::new(false),
            pid: AtomicU32::new(pid),
            answers: AtomicU64::new(0),
            samples: Mutex::default(),
            trouble: Mutex::default(),
        });
        let ours = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            if let Err(error) = ours.ask() {
                let said = format!("{error:?}");
                *ours.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(said);
            }
        });
        Self { shared, thread: Some(thread) }
    }

    /// The relay is about to go: it need not answer.
    pub(crate) fn away(&self) {
        self.shared.pid.store(0, Ordering::SeqCst);
    }

    /// It is there again.
    pub(crate) fn back(&self, pid: u32) {
        self.shared.pid.store(pid, Ordering::SeqCst);
    }

    /// Fails when something was wrong.
    pub(crate) fn sound(&self) -> Result<()> {
        let trouble = self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.as_ref().map_or(Ok(()), |what| bail!("over HTTP: {what}"))
    }

    /// Ends it; how many answers there were, and what the relay took.
    pub(crate) fn stop(&mut self) -> Result<(u64, Vec<Sample>)> {
        self.shared.over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            ensure!(thread.join().is_ok(), "the thread that asks panicked");
        }
        self.sound()?;
        let mut samples = self.shared.samples.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((self.shared.answers.load(Ordering::SeqCst), std::mem::take(&mut *samples)))
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
    }
}

impl Shared {
    fn ask(&self) -> Result<()> {
        let mut life = 0;
        let mut counters = BTreeMap::new();
        let mut most_clients = 0;
        while !self.over.load(Ordering::SeqCst) {
            thread::sleep(BETWEEN);
            let pid = self.pid.load(Ordering::SeqCst);
            if pid == 0 {
                continue;
            }
            if life != pid {
                (life, most_clients) = (pid, 0);
                counters.clear();
            }
            let looked = self.look(pid, &mut counters, &mut most_clients);
            // It was sent away in the middle of it.
            if self.pid.load(Ordering::SeqCst) == pid {
                looked?;
            }
        }
        Ok(())
    }

    fn look(&self, pid: u32, counters: &mut Counters, most: &mut u64) -> Result<()> {
        let metrics = self.get("/metrics", &[200])?;
        rise(counters, parse(&metrics)?)?;
        let clients: serde_json::Value =
            serde_json::from_str(&self.get("/v1/relay/clients", &[200])?)?;
        let clients = clients.as_array().context("clients are no list")?;
        *most = (*most).max(u64::try_from(clients.len())?);
        for client in clients {
            for key in ["name", "configuration", "activity"] {
                ensure!(client.get(key).is_some(), "a client without {key}: {client}");
            }
        }
        self.get("/readyz", &[200, 503])?;
        self.get("/healthz", &[200])?;
        for path in ["/v1/relay/databases", "/v1/relay/events", "/v1/relay/history"] {
            let body = self.get(path, &[200])?;
            serde_json::from_str::<serde_json::Value>(&body).with_context(|| path.to_owned())?;
        }
        self.sample(pid, *most)
    }

    fn get(&self, path: &str, good: &[u16]) -> Result<String> {
        let answer = http(self.http, "GET", path, &[], "").with_context(|| path.to_owned())?;
        ensure!(good.contains(&answer.status), "{path}: {} {}", answer.status, answer.body);
        for secret in SECRETS {
            ensure!(!answer.body.contains(secret), "{secret:?} is in {path}");
        }
        self.answers.fetch_add(1, Ordering::SeqCst);
        Ok(answer.body)
    }

    fn sample(&self, pid: u32, clients: u64) -> Result<()> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let kb = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next());
            Ok(number.with_context(|| format!("no {name}"))?.parse()?)
        };
        let files = u64::try_from(fs::read_dir(format!("/proc/{pid}/fd"))?.count())?;
        let (own_kb, peak_kb) = (kb("RssAnon:")?, kb("VmHWM:")?);
        let own_peak_kb = peak_kb.saturating_sub(kb("RssFile:")?);
        let sample = Sample { pid, own_kb, peak_kb, own_peak_kb, files, clients };
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
        Ok(())
    }
}

type Counters = BTreeMap<String, f64>;

/// The samples of `OpenMetrics` text.
pub(crate) fn parse(text: &str) -> Result<Counters> {
    ensure!(text.ends_with("# EOF\n"), "metrics without an end: {text}");
    let mut samples = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').with_context(|| format!("metrics: {line}"))?;
        let value: f64 = value.parse().with_context(|| format!("metrics: {line}"))?;
        ensure!(name.starts_with("pgherd_relay_") && value.is_finite(), "metrics: {line}");
        ensure!(samples.insert(name.to_owned(), value).is_none(), "metrics, twice: {line}");
    }
    Ok(samples)
}

/// Counters do not fall as long as a relay lives, and none goes.
fn rise(before: &mut Counters, now: Counters) -> Result<()> {
    for (name, was) in before.iter().filter(|(name, _)| is_counter(name)) {
        let is = now.get(name).with_context(|| format!("{name} is gone"))?;
        ensure!(is >= was, "{name} fell from {was} to {is}");
    }
    *before = now;
    Ok(())
}

fn is_counter(name: &str) -> bool {
    name.split('{').next().is_some_and(|name| name.ends_with("_total"))
}
