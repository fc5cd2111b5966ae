//! `pgherd relay status`, `clients`, `databases` and `reload`: questions to a running relay.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use alarm::Code;
use anyhow::{Context as _, Result, bail};
use config::{Http, HttpAddress};
use hyper::{Method, StatusCode};
use relay::status::{ClientStatus, RelayStatus, Thing};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::cli::{Ask, Question, Reload, Status, Where};
use crate::{EXIT_CONFIG, ask_report, fail, relay_client};

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
    asked.unwrap_or_else(|error| fail(Code::NotAsked, format_args!("{error:#}")))
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
    let at = find(&options.ask.at)?;
    loop {
        let status = get(&at, "/v1/relay/status").await?;
        let clients = get(&at, "/v1/relay/clients").await?;
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
        print!("{}{text}", if clear { CLEAR } else { "" });
        if !options.watch {
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
    let at = find(&ask.at)?;
    let answer = get(&at, path).await?;
    if ask.json {
        println!("{answer:#}");
    } else {
        print!("{}", show(&typed::<Vec<T>>(answer)?));
    }
    Ok(ExitCode::SUCCESS)
}

async fn reload(options: &Reload) -> Result<ExitCode> {
    let at = find(&options.at)?;
    let file = options.token_file.clone().or_else(|| at.token_file.clone());
    // Over a Unix socket none is needed.
    let file = file.filter(|_| matches!(at.address, HttpAddress::Tcp(_)));
    let token = file.as_deref().map(token).transpose()?;
    let answer = relay_client::ask(
        &at.address,
        at.tls.as_ref(),
        Method::POST,
        "/v1/reload",
        token.as_deref(),
    )
    .await?;
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

/// Where the relay answers, and the file of its token.
struct At {
    address: HttpAddress,
    token_file: Option<PathBuf>,
    /// Its certificate, when the file has one.
    tls: Option<tls::Server>,
}

fn find(at: &Where) -> Result<At> {
    let written = match &at.config {
        Some(file) => match config::load_http(file) {
            Ok(http) => http,
            Err(bad) => bail!("{bad}"),
        },
        None => None,
    };
    let token_file = written.as_ref().and_then(|http| http.token_file.clone());
    let tls = written.as_ref().and_then(|http| http.tls.clone());
    let address = match (&at.http, written) {
        (Some(text), _) => text.parse().map_err(|bad| anyhow::anyhow!("--http: {bad}"))?,
        (None, Some(Http { address, .. })) => address,
        (None, None) => bail!(
            "the configuration does not set `http`, so the relay cannot be asked\nhint: add \
             `http: \"127.0.0.1:8432\"` to it and restart the relay; SIGHUP has it read its \
             configuration again without that"
        ),
    };
    Ok(At { address, token_file, tls })
}

async fn get(at: &At, path: &str) -> Result<Value> {
    let answer = relay_client::ask(&at.address, at.tls.as_ref(), Method::GET, path, None).await?;
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
