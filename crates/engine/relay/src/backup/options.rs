//! Which backups can be filtered.

use pgproto::SqlState;
use pgproto::backend::Report;
use pgproto::replication::BaseBackup;

/// Refuses what the relay cannot look into, or does not get to see.
pub(super) fn check(backup: &BaseBackup) -> Result<(), Report> {
    let text = |name: &str| backup.option(name).and_then(|option| option.as_text());
    if text("compression").is_some_and(|method| !method.eq_ignore_ascii_case("none")) {
        let message = "server-side compression is not supported for a client with a filter";
        return Err(Report::error(SqlState::FEATURE_NOT_SUPPORTED, message).with_hint(
            "The relay has to look into the backup. Compress at the client: \
             pg_basebackup --compress=client-gzip (or client-lz4, client-zstd).",
        ));
    }
    if text("target").is_some_and(|target| !target.eq_ignore_ascii_case("client")) {
        let message = "a backup target on the server is not supported for a client with a filter";
        return Err(Report::error(SqlState::FEATURE_NOT_SUPPORTED, message)
            .with_hint("Such a backup does not pass through the relay. Leave --target out."));
    }
    Ok(())
}
