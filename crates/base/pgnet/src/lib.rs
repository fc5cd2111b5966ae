//! Connections that carry PostgreSQL's protocol.
//!
//! [`Endpoint::dial`] and [`Listener`] give a [`Conn`], over TCP or a Unix socket, with
//! keepalives and a user timeout so that a peer which vanished is noticed. [`Inbound`] cuts
//! what arrives into messages, in a buffer that no peer can grow past a limit.
//!
//! # What it does not do
//!
//! No TLS and no authentication yet: the relay passes the server's own exchange on. It does
//! not know what messages mean beyond their frame (`pgproto`).

mod conn;
mod endpoint;
mod inbound;
mod listener;
pub mod passfile;

pub use conn::{Conn, ReadHalf, WriteHalf};
pub use endpoint::{DialError, Endpoint};
pub use inbound::{Inbound, Message, ReadError};
pub use listener::{Accepted, Listener, Local};
