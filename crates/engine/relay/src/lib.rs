//! The relay: physical replication forwarded, with unwanted records replaced by no-ops.
//!
//! A client comes in through [`Service`]; [`session`] reads its first packet, chooses its
//! configuration, and passes the login between it and the upstream untouched. Commands are
//! passed on or refused one by one. A stream goes through [`stream`]: unfiltered as it is,
//! filtered through `wal::Rewriter`, with the fates that [`ledger`] keeps; [`backup`] filters
//! base backups with the same fates. Which server all this comes from [`upstream`] decides.
//!
//! # What it guarantees
//!
//! Nothing is confirmed to the upstream that the standby did not confirm itself, and the
//! same range of WAL asked again gives the same bytes.
//!
//! # What it does not do
//!
//! It makes no users and keeps no passwords; whom it lets in itself it knows by verifiers.

mod backup;
mod clients;
pub mod counters;
mod failed_logins;
pub mod ledger;
mod listen;
pub mod names;
pub mod plan;
mod probe;
mod reload;
mod room;
mod service;
mod session;
mod slots;
pub mod status;
mod stream;
pub mod upstream;
mod verifiers;

pub use ledger::forget;
pub use plan::{Plan, PlanError, plan};
pub use probe::is_relay;
pub use reload::{ReloadError, Reloaded};
pub use service::{Error, Handle, Options, Service};
pub use upstream::{DroppedSlot, UpstreamStatus, drop_slots, forget_upstream};
