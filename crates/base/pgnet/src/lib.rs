//! Connections that carry PostgreSQL's protocol.
//!
//! [`Endpoint::dial`] and [`Listener`] give a [`Conn`], over TCP or a Unix socket, with
//! keepalives and a user timeout so that a peer which vanished is noticed. [`Inbound`] cuts
//! what arrives into messages, in a buffer that no peer can grow past a limit. [`Conn::accept_tls`]
//! and [`Conn::connect_tls`] begin TLS on a connection, with what the crate `tls` read from files.
//!
//! # What it does not do
//!
//! No authentication: the relay passes the server's own exchange on. It does not know what
//! messages mean beyond their frame (`pgproto`).

mod conn;
mod dial_tls;
mod endpoint;
mod environment;
mod inbound;
mod listener;
pub mod passfile;
mod secure;

pub use conn::{Conn, ReadHalf, WriteHalf};
pub use dial_tls::Try;
pub use endpoint::{DialError, Endpoint};
pub use environment::libpq_variables;
pub use inbound::{Inbound, Message, ReadError};
pub use listener::{Accepted, Listener, Local};
pub use secure::{Secured, TlsError, TlsStream};
