//! What the relay tells about itself over HTTP: health, metrics, status, and a page for people.
//!
//! [`routes`] are the answers, [`guard`] who gets them, [`server`] the sockets and their limits.
//! Everything is read from a [`relay::Handle`]; `openapi.json` is the schema.
//!
//! # What it does not do
//!
//! Whoever can connect can read, also over TLS; only what changes something needs a token, a
//! certificate or the Unix socket.

mod guard;
pub mod metrics;
mod page;
mod routes;
mod server;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use config::HttpAddress;

pub use routes::{ReloadAnswer, Trouble};
pub use server::{Error, Service};

/// The schema of all answers.
pub const OPENAPI: &str = include_str!("openapi.json");

/// What became of a wish to read the configuration again; the problems if it was refused.
pub type Reloaded = Result<relay::Reloaded, Vec<String>>;

/// Reads the configuration again.
pub type Reload =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Reloaded> + Send>> + Send + Sync + 'static>;

/// What it needs.
#[derive(Clone)]
pub struct Options {
    /// Where to listen.
    pub address: HttpAddress,
    /// The relay.
    pub relay: relay::Handle,
    /// The last events of its log.
    pub events: telemetry::Recent,
    /// Reads the configuration again.
    pub reload: Reload,
}

impl Options {
    /// The file of the token, as the configuration has it now.
    fn token_file(&self) -> Option<PathBuf> {
        self.relay.options().http.and_then(|http| http.token_file)
    }

    /// Names it is asked by, as the configuration has them now.
    fn hosts(&self) -> Vec<String> {
        self.relay.options().http.map(|http| http.hosts).unwrap_or_default()
    }

    /// What is shown in handshakes, as the configuration has it now.
    fn tls(&self) -> Option<tls::Server> {
        self.relay.options().http.and_then(|http| http.tls)
    }
}
