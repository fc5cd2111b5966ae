//! The relay's file, of which a few things change.

use std::path::Path;

use super::trust::Trust;

/// The standbys behind the relay, and their configurations.
pub(crate) const NAMES: [&str; 3] = ["berlin", "whole", "paris"];

/// What changes.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) listen: Vec<u16>,
    pub(crate) http: u16,
    pub(crate) upstream: [u16; 2],
    /// Concerns nobody who streams.
    pub(crate) strict: bool,
    pub(crate) max_connections: u64,
    pub(crate) spare: u64,
    /// For each of [`NAMES`], something that makes its configuration another one.
    pub(crate) require_tls: [bool; 3],
}

impl Settings {
    /// The file; `more` comes at its end.
    pub(crate) fn yaml(&self, trust: &Trust, state_dir: &Path, more: &str) -> String {
        let listen: Vec<_> = self.listen.iter().map(|it| format!("127.0.0.1:{it}")).collect();
        let [first, second] = self.upstream;
        let at = |file: &str| trust.path(file);
        let (passfile, users) = (at("pgpass"), at("users"));
        let [berlin, whole, paris] = self.require_tls;
        format!(
            "listen: {listen:?}\n\
             upstream:\n  hosts: [\"localhost:{first}\", \"localhost:{second}\"]\n  \
             watch_interval: 200ms\n  failover_wait: 60s\n  sslmode: verify-full\n  \
             sslrootcert: {}\n  sslcert: {}\n  sslkey: {}\n  user: pgherd\n  passfile: {passfile}\n  \
             catalog: {{user: pgherd, passfile: {passfile}}}\n\
             state_dir: {}\nhttp: \"127.0.0.1:{}\"\nhttp_token_file: {}\nstrict: {}\n\
             limits: {{max_connections: {}}}\n\
             tls: {{cert: {}, key: {}, client_ca: {}}}\n\
             configurations:\n\
             - spare: {{match: {{application_name: spare}}, filter: {{exclude_databases: [\"spare{}*\"]}}}}\n\
             - berlin: {{match: {{application_name: berlin}}, require_tls: {berlin}, \
             filter: {{exclude_databases: [\"drop*\"]}}}}\n\
             - whole: {{match: {{application_name: whole}}, require_tls: {whole}, auth: scram, users_file: {users}}}\n\
             - paris: {{match: {{application_name: paris}}, require_tls: {paris}, auth: cert, \
             user_map: {{paris.example: [repl]}}, slot: auto, filter: {{exclude_databases: [\"drop*\"]}}}}\n\
             - visitor: {{match: {{application_name: visitor}}, auth: scram, users_file: {users}}}\n\
             - guest: {{match: {{application_name: guest}}, filter: {{exclude_databases: [\"drop*\"]}}}}\n\
             {more}",
            at("servers-ca.crt"),
            at("upstream.crt"),
            at("upstream.key"),
            state_dir.display(),
            self.http,
            at("token"),
            self.strict,
            self.max_connections,
            at("relay.crt"),
            at("relay.key"),
            at("clients-ca.crt"),
            self.spare,
        )
    }
}
