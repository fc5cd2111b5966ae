//! `pgherd relay status`, `clients`, `databases` and `reload`: questions to a running relay.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use alarm::Code;
use anyhow::{Context as _, Result, bail};
use config::HttpAddress;
use hyper::{Method, StatusCode};
use relay::status::{ClientStatus, RelayStatus, Thing};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tls::Trust;

use crate::cli::{Ask, Question, Reload, Status, Where};
use crate::relay_client::{self, Relay};
use crate::{EXIT_CONFIG, ask_report, chain, fail, say};

/// Between two looks of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);
/// Clears a terminal and goes to its first line.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Asks, and shows the answer.
pub(crate) fn run(question: &Question) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let asked = runtime.context("start the runtime").and_then(|runtime| {
        runtime.block_on(async {
            match question {
                Question::Status(options) => status(options).await,
                Question::Clients(ask) => list(ask, "/v1/relay/clients", clients).await,
                Question::Databases(ask) => list(ask, "/v1/relay/databases", databases).await,
                Question::Reload(options) => reload(options).await,
            }
        })
    });
    asked.unwrap_or_else(|error| fail(Code::NotAsked, chain(&error)))
}

fn clients(all: &[ClientStatus]) -> String {
    if all.is_empty() { "nobody is connected\n".to_owned() } else { ask_report::clients(all) }
}

fn databases(all: &[Thing]) -> String {
    if all.is_empty() {
        return "nothing was decided yet: no client with a filter has come\n".to_owned();
    }
    ask_report::databases(all)
}

async fn status(options: &Status) -> Result<ExitCode> {
    let At { relay, .. } = find(&options.ask.at)?;
    loop {
        let status = get(&relay, "/v1/relay/status").await?;
        let clients = get(&relay, "/v1/relay/clients").await?;
        let text = if options.ask.json {
            let mut all = status;
            if let Some(fields) = all.as_object_mut() {
                fields.insert("clients".to_owned(), clients);
            }
            if options.watch { format!("{all}\n") } else { format!("{all:#}\n") }
        } else {
            let (status, clients): (RelayStatus, Vec<_>) = (typed(status)?, typed(clients)?);
            ask_report::status(&status, &clients)
        };
        let clear = options.watch && !options.ask.json && std::io::stdout().is_terminal();
        let is_read = say::answer(&format!("{}{text}", if clear { CLEAR } else { "" }));
        let is_read = is_read.context("print the answer")?;
        if !options.watch || !is_read {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::select! {
            () = tokio::time::sleep(WATCH_INTERVAL) => {}
            stopped = tokio::signal::ctrl_c() => {
                return stopped.map(|()| ExitCode::SUCCESS).context("wait for Ctrl-C");
            }
        }
    }
}

async fn list<T: DeserializeOwned>(
    ask: &Ask,
    path: &str,
    show: fn(&[T]) -> String,
) -> Result<ExitCode> {
    let At { relay, .. } = find(&ask.at)?;
    let answer = get(&relay, path).await?;
    let text = if ask.json { format!("{answer:#}\n") } else { show(&typed::<Vec<T>>(answer)?) };
    say::answer(&text).context("print the answer")?;
    Ok(ExitCode::SUCCESS)
}

async fn reload(options: &Reload) -> Result<ExitCode> {
    let at = find(&options.at)?;
    // Neither over a Unix socket nor with a certificate is a token needed.
    let needed = matches!(at.relay.address, HttpAddress::Tcp(_)) && options.at.cert.is_none();
    let file = options.token_file.as_ref().or(at.token_file.as_ref().filter(|_| needed));
    let token = file.map(|file| token(file)).transpose()?;
    let answer = at.relay.ask(Method::POST, "/v1/reload", token.as_deref()).await?;
    if !matches!(answer.status, StatusCode::OK | StatusCode::UNPROCESSABLE_ENTITY) {
        return Err(refused(&answer));
    }
    let answer: api::ReloadAnswer =
        serde_json::from_slice(&answer.body).context("understand the relay's answer")?;
    if let Some(did) = &answer.did {
        print!("{}", ask_report::reloaded(did));
        return Ok(ExitCode::SUCCESS);
    }
    for problem in &answer.problems {
        // The status is another one; the code is that of the relay's log.
        fail(Code::OldConfigurationStays, format_args!("{problem}"));
    }
    eprintln!("the old configuration stays");
    Ok(ExitCode::from(EXIT_CONFIG))
}

fn token(file: &Path) -> Result<String> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("read the token from {}", file.display()))?;
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

/// A relay, and the file of its token.
struct At {
    relay: Relay,
    token_file: Option<PathBuf>,
}

fn find(at: &Where) -> Result<At> {
    let written = match &at.config {
        Some(file) => match config::load_ask(file) {
            Ok(ask) => ask,
            Err(bad) => bail!("{bad}"),
        },
        None => None,
    };
    let token_file = written.as_ref().and_then(|ask| ask.token_file.clone());
    let certificate = written.as_ref().and_then(|ask| ask.certificate.clone());
    let address = match (&at.http, written) {
        (Some(text), _) => text.parse().map_err(|bad| anyhow::anyhow!("--http: {bad}"))?,
        (None, Some(config::Ask { address, .. })) => address,
        (None, None) => bail!(
            "the configuration does not set `http`, so the relay cannot be asked\nhint: add \
             `http: \"127.0.0.1:8432\"` to it and restart the relay; SIGHUP has it read its \
             configuration again without that"
        ),
    };
    let trust = match (&address, &at.cacert, certificate) {
        (HttpAddress::Unix(_), _, _) => None,
        (HttpAddress::Tcp(_), Some(file), _) => Some(Trust::Authorities(file.clone())),
        (HttpAddress::Tcp(_), None, file) => file.map(Trust::Certificate),
    };
    let own = at.cert.clone().zip(at.key.clone());
    if own.is_some() && trust.is_none() {
        bail!(
            "--cert is for TLS, and nothing says whose certificate the relay shows\nhint: name \
             its authority with --cacert, or a configuration with `http_tls` with -c"
        );
    }
    let tls = trust.map(|trust| tls::http_client(&trust, own.as_ref())).transpose();
    let tls = tls.map_err(|problem| anyhow::anyhow!("{problem}\nhint: {}", problem.hint))?;
    Ok(At { relay: Relay { address, tls }, token_file })
}

async fn get(relay: &Relay, path: &str) -> Result<Value> {
    let answer = relay.ask(Method::GET, path, None).await?;
    if answer.status != StatusCode::OK {
        return Err(refused(&answer));
    }
    serde_json::from_slice(&answer.body).context("understand the relay's answer")
}

fn typed<T: DeserializeOwned>(value: Value) -> Result<T> {
    serde_json::from_value(value).context("understand the relay's answer: is it another version?")
}

fn refused(answer: &relay_client::Answer) -> anyhow::Error {
    let status = answer.status;
    match serde_json::from_slice::<api::Trouble>(&answer.body) {
        Ok(trouble) => anyhow::anyhow!("the relay refuses ({status}): {}", trouble.error),
        Err(_other) => anyhow::anyhow!("what answers there is no relay ({status})"),
    }
}
