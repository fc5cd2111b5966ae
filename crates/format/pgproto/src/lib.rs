//! The PostgreSQL wire protocol as bytes and values, for both sides of a connection.
//!
//! A proxy is a server to one peer and a client to the other, so each message that
//! matters to it can be read and written here. Everything is a function of byte
//! slices: no I/O, no async, no clock.
//!
//! # Where the truth comes from
//!
//! The chapter "Frontend/Backend Protocol" of the manual, `pqcomm.h` and `protocol.h`
//! for the numbers, `backend_startup.c` for what a server refuses in a startup packet,
//! `repl_scanner.l` and `repl_gram.y` of PostgreSQL 12 to 18 for replication commands.
//!
//! # What it does not do
//!
//! No password and no SASL exchange is computed; of both only the messages are read.
//! Of the extended query protocol only the tags are known.

pub mod backend;
pub mod copy;
pub mod frame;
pub mod frontend;
pub mod history;
pub mod replication;
pub mod sasl;
mod sqlstate;
pub mod startup;

pub use sqlstate::{BadSqlState, SqlState};
