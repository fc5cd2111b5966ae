//! What clients are told when they do not get what they ask for.
//!
//! Written for whoever reads the standby's log: what, and what to do. Nothing here tells
//! about other clients or about the relay's own login.

use pgproto::SqlState;
use pgproto::backend::Report;
use pgproto::replication::Command;
use pgproto::startup::Startup;
use pgtypes::UnknownMajor;

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
    .with_hint("Connect to the server itself for SQL; a standby's primary_conninfo is right here.")
}

pub(super) fn bad_value() -> Report {
    let message = "invalid value for parameter \"replication\"";
    Report::fatal(SqlState::INVALID_PARAMETER_VALUE, message)
        .with_hint("Valid values are: \"false\", 0, \"true\", 1, \"database\".")
}

pub(super) fn no_configuration(startup: &Startup) -> Report {
    let name = String::from_utf8_lossy(startup.application_name().unwrap_or_default());
    let message = format!("no configuration of this pgherd relay matches application {name:?}");
    Report::fatal(SqlState::INVALID_AUTHORIZATION, message).with_hint(
        "Set application_name in primary_conninfo to one that a configuration of the relay \
         matches, or add a configuration.",
    )
}

pub(super) fn unknown_version(error: &UnknownMajor) -> Report {
    Report::fatal(SqlState::FEATURE_NOT_SUPPORTED, error.to_string())
        .with_hint("Use a pgherd that knows this version of PostgreSQL.")
}

pub(super) fn upstream_unreachable(reason: &str) -> Report {
    Report::fatal(SqlState::UNABLE_TO_CONNECT, format!("pgherd relay: {reason}"))
}

pub(super) fn upstream_left() -> Report {
    let message = "pgherd relay: the upstream server closed the connection";
    Report::fatal(SqlState::CONNECTION_FAILURE, message)
}

pub(super) fn stopping() -> Report {
    let message = "terminating connection due to administrator command: the relay is stopping";
    Report::fatal(SqlState::ADMIN_SHUTDOWN, message)
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
    Report::error(SqlState::FEATURE_NOT_SUPPORTED, message)
}

/// Commands that would give a filtered client what its filter leaves out.
pub(super) fn unfiltered_only(command: &Command) -> Report {
    let message = format!("{} is not supported for a client with a filter", command.keyword());
    Report::error(SqlState::FEATURE_NOT_SUPPORTED, message).with_hint(
        "The backup would hold the excluded databases. Take it from the server itself and leave \
         the folders of the excluded databases and tablespaces out, or match this client with a \
         configuration that has no filter.",
    )
}
