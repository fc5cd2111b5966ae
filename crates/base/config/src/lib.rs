//! The configuration of `pgherd relay`: one YAML file, read strictly.
//!
//! [`load()`] turns a file and the options of the command line into a [`Relay`], a type
//! that cannot hold a bad value. When it cannot, [`ConfigError`] holds *every* problem
//! with its place and a hint, not only the first one.
//!
//! walbouncer's keys (`listen_port`, `master`, `source`) stay valid, and its files mean
//! here what they mean there; `docs/reference.md` lists every setting.
//!
//! # What it does not do
//!
//! No names are looked up, neither of hosts nor of databases, and nothing is bound or
//! created: a checked configuration can still meet a world that does not fit it.

mod address;
mod auth;
mod check;
mod configurations;
mod encryption;
mod environment;
mod filter;
mod http;
mod keys;
mod listen;
mod load;
mod matching;
mod moving;
mod network;
mod passing;
mod pattern;
mod problem;
mod relay;
mod scalar;
mod secrets;
mod section;
mod tree;
mod upstream;

pub use auth::{Auth, UserMap, Users, Verifiers};
pub use environment::state_dir;
pub use filter::{Filter, Kind};
pub use http::{Ask, BadHttpAddress, Http, HttpAddress};
pub use listen::Listen;
pub use load::{defaults, from_text, load, load_ask};
pub use matching::{Client, Match};
pub use network::{BadNetwork, Network};
pub use pattern::Pattern;
pub use problem::{ConfigError, Place, Problem};
pub use relay::{
    Address, Catalog, Configuration, Host, Limits, LogFormat, Moving, Overrides, Relay, Selection,
    Slot, Sql, Target, Upstream,
};
