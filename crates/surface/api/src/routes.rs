//! The answers.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Extension, State};
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use relay::status::{ClientStatus, History, RelayStatus, Thing};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tracing::warn;

use crate::guard::{self, Way};
use crate::{OPENAPI, Options, metrics, page};

/// Longest body of a request that is taken, in bytes: none is looked at.
const BODY_BYTES_MAX: usize = 4096;
/// How long an answer may take; a change of the configuration waits for those who leave.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(45);

/// What a change of the configuration did, or why there was none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadAnswer {
    /// Whether the new configuration holds.
    pub reloaded: bool,
    /// What it did.
    pub did: Option<relay::Reloaded>,
    /// Why the old one stays.
    pub problems: Vec<String>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// A sentence.
    pub error: String,
}

#[derive(Serialize)]
struct Events {
    events: Vec<Event>,
}

/// An event of the log.
#[derive(Serialize)]
struct Event {
    number: u64,
    at_unix_ms: u64,
    level: &'static str,
    message: String,
    fields: String,
}

struct Shared {
    options: Options,
    /// One change at a time.
    changing: Mutex<()>,
}

type Relay = State<Arc<Shared>>;

/// All answers, ready to be given.
#[derive(Clone)]
pub(crate) struct Answers {
    router: Router,
    options: Options,
}

impl Answers {
    pub(crate) fn new(options: Options) -> Self {
        let shared = Arc::new(Shared { options: options.clone(), changing: Mutex::new(()) });
        let router = Router::new()
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .route("/metrics", get(scrape))
            .route("/v1/openapi.json", get(openapi))
            .route("/v1/relay/status", get(status))
            .route("/v1/relay/clients", get(clients))
            .route("/v1/relay/databases", get(databases))
            .route("/v1/relay/history", get(history))
            .route("/v1/relay/events", get(events))
            .route("/v1/reload", post(reload))
            .route("/", get(page::html))
            .route("/page.js", get(page::script))
            .route("/page.css", get(page::style))
            .fallback(nothing)
            .method_not_allowed_fallback(wrong_method)
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
            .with_state(shared);
        Self { router, options }
    }

    /// What is shown in handshakes; nothing for plain HTTP.
    pub(crate) fn tls(&self) -> Option<tls::Server> {
        self.options.tls()
    }

    /// Answers a request, whatever it is.
    pub(crate) async fn answer(&self, mut request: Request<Body>, way: Way) -> Response {
        let answer = match guard::host(request.headers(), way, &self.options.hosts()) {
            Err(refusal) => trouble(refusal),
            Ok(()) => {
                request.extensions_mut().insert(way);
                let answer = TowerToHyperService::new(self.router.clone()).call(request);
                match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
                    Ok(Ok(answer)) => answer,
                    Ok(Err(never)) => match never {},
                    Err(_elapsed) => {
                        let what = "it took too long".to_owned();
                        trouble((StatusCode::SERVICE_UNAVAILABLE, what))
                    }
                }
            }
        };
        harden(answer)
    }
}

/// What every answer says to browsers.
fn harden(mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, page::POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let own = HeaderValue::from_static("same-origin");
    headers.insert("cross-origin-resource-policy", own.clone());
    headers.insert("cross-origin-opener-policy", own);
    answer
}

fn trouble((status, error): (StatusCode, String)) -> Response {
    let mut answer = (status, Json(Trouble { error })).into_response();
    if status == StatusCode::UNAUTHORIZED {
        let challenge = HeaderValue::from_static("Bearer realm=\"pgherd\"");
        answer.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    answer
}

async fn nothing() -> Response {
    let what = "there is nothing here; /v1/openapi.json lists what there is";
    trouble((StatusCode::NOT_FOUND, what.to_owned()))
}

async fn wrong_method(method: Method) -> Response {
    trouble((StatusCode::METHOD_NOT_ALLOWED, format!("{method} is not for this path")))
}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(shared): Relay) -> Response {
    match shared.options.relay.upstream_reachable().await {
        Ok(()) => "ready\n".into_response(),
        Err(problem) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")).into_response(),
    }
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

async fn status(State(shared): Relay) -> Json<RelayStatus> {
    Json(shared.options.relay.status().await)
}

async fn clients(State(shared): Relay) -> Json<Vec<ClientStatus>> {
    Json(shared.options.relay.clients())
}

async fn history(State(shared): Relay) -> Json<History> {
    Json(shared.options.relay.history())
}

async fn events(State(shared): Relay) -> Json<Events> {
    let events = shared.options.events.events().into_iter().map(|it| Event {
        number: it.number,
        at_unix_ms: it.at_unix_ms,
        level: it.level,
        message: it.message,
        fields: it.fields,
    });
    Json(Events { events: events.collect() })
}

async fn databases(State(shared): Relay) -> Response {
    match decisions(&shared).await {
        Ok(things) => Json(things).into_response(),
        Err(refusal) => trouble(refusal),
    }
}

/// Reads files, so it is done aside.
async fn decisions(shared: &Shared) -> Result<Vec<Thing>, guard::Refusal> {
    let relay = shared.options.relay.clone();
    let read = tokio::task::spawn_blocking(move || relay.decisions()).await;
    let failed = |what: String| {
        warn!(error = what, "cannot tell over HTTP what was decided");
        let what = "the decisions cannot be read; the relay's log has the reason";
        (StatusCode::INTERNAL_SERVER_ERROR, what.to_owned())
    };
    match read {
        Ok(Ok(things)) => Ok(things),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(error) => Err(failed(error.to_string())),
    }
}

async fn scrape(State(shared): Relay) -> Response {
    let relay = &shared.options.relay;
    let scrape = metrics::Scrape {
        status: relay.status().await,
        clients: relay.clients(),
        things: decisions(&shared).await.unwrap_or_default(),
    };
    match scrape.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => trouble((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}

async fn reload(
    State(shared): Relay,
    Extension(way): Extension<Way>,
    headers: HeaderMap,
) -> Response {
    let file = shared.options.token_file();
    if let Err((status, what)) = guard::change(&headers, way, file.as_deref()) {
        warn!(reason = what, "a change over HTTP was refused");
        return trouble((status, what));
    }
    let _one_at_a_time = shared.changing.lock().await;
    match (shared.options.reload)().await {
        Ok(did) => Json(ReloadAnswer { reloaded: true, did: Some(did), problems: Vec::new() })
            .into_response(),
        Err(problems) => {
            let answer = ReloadAnswer { reloaded: false, did: None, problems };
            (StatusCode::UNPROCESSABLE_ENTITY, Json(answer)).into_response()
        }
    }
}
