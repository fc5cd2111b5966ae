//! What clients are told when they do not get what they ask for.
//!
//! Written for whoever reads the standby's log: what, and what to do. Nothing here tells
//! about other clients or about the relay's own login.

use pgnet::ReadError;
use pgproto::SqlState;
use pgproto::backend::Report;
use pgproto::replication::Command;
use pgproto::startup::Startup;
use pgtypes::UnknownMajor;

use super::{SessionError, shown};

pub(crate) fn too_many_connections(limit: u32) -> Report {
    Report::fatal(SqlState::TOO_MANY_CONNECTIONS, "sorry, too many clients already")
        .with_detail(format!("This pgherd relay takes {limit} connections."))
        .with_hint("Raise limits.max_connections in the relay's configuration.")
}

pub(super) fn not_replication() -> Report {
    Report::fatal(
        SqlState::FEATURE_NOT_SUPPORTED,
        "this is a pgherd relay: it takes replication connections only",
    )
    .with_hint(
        "Connect to the server itself for SQL, or set sql to passthrough in this client's \
         configuration; a standby's primary_conninfo is right here.",
    )
}

pub(super) fn bad_value() -> Report {
    let message = "invalid value for parameter \"replication\"";
    Report::fatal(SqlState::INVALID_PARAMETER_VALUE, message)
        .with_hint("Valid values are: \"false\", 0, \"true\", 1, \"database\".")
}

pub(super) fn no_configuration(startup: &Startup) -> Report {
    let name = shown(startup.application_name().unwrap_or_default());
    let message = format!("no configuration of this pgherd relay matches application {name:?}");
    Report::fatal(SqlState::INVALID_AUTHORIZATION, message).with_hint(
        "Set application_name in primary_conninfo, or in pg_basebackup -d, to one that a \
         configuration of the relay matches, or add a configuration.",
    )
}

/// As a server says it.
pub(super) fn unencrypted_data() -> Report {
    let message = "received unencrypted data after SSL request";
    Report::fatal(SqlState::PROTOCOL_VIOLATION, message).with_detail(
        "This could be either a client-software bug or evidence of an attempted \
         man-in-the-middle attack.",
    )
}

pub(super) fn tls_required(configuration: &str) -> Report {
    let message = format!("configuration {configuration:?} of this pgherd relay requires TLS");
    Report::fatal(SqlState::INVALID_AUTHORIZATION, message).with_hint(
        "Set sslmode=require, or better verify-full with sslrootcert, in primary_conninfo.",
    )
}

pub(super) fn unknown_version(error: &UnknownMajor) -> Report {
    Report::fatal(SqlState::FEATURE_NOT_SUPPORTED, error.to_string())
        .with_hint("Use a pgherd that knows this version of PostgreSQL.")
}

/// What a client is told when its session ends on an error; `None` when it was told already,
/// or is gone.
pub(super) fn last_words(error: &SessionError) -> Option<Report> {
    let upstream = |sqlstate, message: &str| {
        Report::fatal(sqlstate, format!("pgherd relay: {message}"))
            .with_hint("The relay's log has more; it names the upstream server.")
    };
    Some(match error {
        SessionError::Stopping => {
            let what = "terminating connection due to administrator command";
            Report::fatal(SqlState::ADMIN_SHUTDOWN, format!("{what}: the relay is stopping"))
        }
        SessionError::Reconfigured => {
            let what = "terminating connection due to administrator command";
            let message = format!("{what}: the relay's configuration changed");
            Report::fatal(SqlState::ADMIN_SHUTDOWN, message)
        }
        SessionError::Moved => {
            let what = "terminating connection due to administrator command";
            Report::fatal(SqlState::ADMIN_SHUTDOWN, format!("{what}: the upstream moved"))
                .with_hint("Connect again: the relay leads to where the upstream is now.")
        }
        SessionError::NoHost(error) => {
            Report::fatal(SqlState::CANNOT_CONNECT_NOW, format!("pgherd relay: {error}"))
                .with_hint("Check upstream.hosts and target in the relay's configuration.")
        }
        SessionError::Unfit { .. } => {
            Report::fatal(SqlState::CANNOT_CONNECT_NOW, format!("pgherd relay: {error}"))
                .with_hint("The relay's log has more; connecting again leads to a host that fits.")
        }
        SessionError::Dial(error) => {
            let message = format!("pgherd relay: {error}");
            Report::fatal(SqlState::UNABLE_TO_CONNECT, message)
                .with_hint("Check upstream in the relay's configuration, and the upstream server.")
        }
        SessionError::Upstream(ReadError::Io(error)) => {
            let message = format!("the connection to the upstream server broke: {error}");
            upstream(SqlState::CONNECTION_FAILURE, &message)
        }
        SessionError::UpstreamLeft | SessionError::Upstream(_) => {
            upstream(SqlState::CONNECTION_FAILURE, "the upstream server closed the connection")
        }
        SessionError::OwnLogin(_) => {
            upstream(SqlState::CONNECTION_FAILURE, "it cannot log in to the upstream server")
        }
        SessionError::Verifier(_) => {
            let message = "pgherd relay: passwords cannot be checked now";
            Report::fatal(SqlState::UNABLE_TO_CONNECT, message).with_hint(
                "The relay's log has the reason; check users_query and upstream.catalog in its \
                 configuration.",
            )
        }
        SessionError::UpstreamSilent => {
            upstream(SqlState::CONNECTION_FAILURE, "the upstream server does not answer the login")
        }
        SessionError::ClientMessage { .. } | SessionError::ClientSlow { .. } => {
            Report::fatal(SqlState::PROTOCOL_VIOLATION, error.to_string())
        }
        SessionError::Client(ReadError::Frame(error)) => {
            Report::fatal(SqlState::PROTOCOL_VIOLATION, format!("invalid message: {error}"))
        }
        SessionError::Stream(error) => error.report(),
        SessionError::UpstreamEnded
        | SessionError::Client(_)
        | SessionError::ClientLeft
        | SessionError::Probed
        | SessionError::Refused(..) => return None,
    })
}

/// Commands that no client may send.
pub(super) fn unsupported(command: &Command) -> Report {
    let what = match command {
        Command::Sql => "SQL",
        Command::StartLogical { .. } => "logical replication",
        Command::CreateLogicalSlot { .. } => "a logical replication slot",
        other => other.keyword(),
    };
    let message = format!("{what} is not supported through a pgherd relay");
    Report::error(SqlState::FEATURE_NOT_SUPPORTED, message)
        .with_hint("The relay forwards physical replication. Connect to the server itself.")
}

/// Messages of the extended query protocol, which a replication connection does not have.
pub(super) fn extended_query() -> Report {
    let message = "extended query protocol not supported in a replication connection";
    Report::error(SqlState::PROTOCOL_VIOLATION, message)
}

/// A call of a function by its OID.
pub(super) fn function_call() -> Report {
    let message = "fastpath function calls not supported in a replication connection";
    Report::error(SqlState::PROTOCOL_VIOLATION, message)
}
