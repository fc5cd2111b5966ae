//! Real PostgreSQL servers, broken links and workloads for pgherd's tests.
//!
//! Blocking and without a runtime. Every server, port and folder belongs to the value that made it
//! and goes with it, so tests run in parallel. Errors are [`anyhow::Error`]s that carry the end of
//! the server's log.
//!
//! ```no_run
//! use pgtypes::Major;
//! use testkit::{Cluster, Standby};
//!
//! # fn main() -> anyhow::Result<()> {
//! let primary = Cluster::builder(Major::V18).set("wal_level", "logical").start()?;
//! primary.sql("create table t as select generate_series(1, 100) g")?;
//! let standby = Standby::of(&primary).name("berlin").start()?;
//! standby.wait_replayed(&primary)?;
//! assert_eq!(standby.sql("select count(*) from t")?, "100");
//! # Ok(())
//! # }
//! ```
//!
//! # What it does not do
//!
//! It installs nothing: `make provision` does. See [`Install`] for where the programs are.

mod ask;
mod builder;
mod certificates;
mod client;
mod cluster;
mod command;
mod disk;
mod http;
mod install;
mod link;
mod majors;
mod port;
mod postmaster;
mod program;
mod psql;
mod relay;
mod session;
mod standby;
mod template;
mod terminal;
mod user;
mod wait;
mod waldump;
mod workload;

pub use builder::{Auth, Builder, PASSWORD};
pub use certificates::{Authority, Certified};
pub use client::{Answer, Client, Reply};
pub use cluster::Cluster;
pub use command::{run, run_failing};
pub use disk::Disk;
pub use http::{HttpAnswer, http, http_unix};
pub use install::{Install, MAJORS_VARIABLE, cache_dir};
pub use link::{Link, Traffic};
pub use pgtypes::Major;
pub use port::Port;
pub use postmaster::Stop;
pub use program::Program;
pub use relay::Relay;
pub use rustix::process::Signal;
pub use session::Session;
pub use standby::{Standby, StandbyBuilder};
pub use terminal::Terminal;
pub use user::give_all as give_to_servers;
pub use wait::{PATIENCE, wait_until};
pub use waldump::{Locator, Record, WalDump, waldump};
pub use workload::{Workload, amcheck, fingerprint, same_contents};

/// For the macros of this crate.
#[doc(hidden)]
pub mod private {
    pub use anyhow::Result;

    pub use crate::majors::wanted;
}
