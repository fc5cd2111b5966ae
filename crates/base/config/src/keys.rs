//! Every key of the file, section by section.

/// A key and the name that walbouncer has for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) alias: Option<&'static str>,
}

const fn key(name: &'static str) -> Key {
    Key { name, alias: None }
}

const fn also(name: &'static str, alias: &'static str) -> Key {
    Key { name, alias: Some(alias) }
}

/// The whole file. `listen_port` is no alias of `listen`: it takes a port only.
pub(crate) const RELAY: [Key; 13] = [
    key("listen"),
    key("listen_port"),
    also("upstream", "master"),
    key("state_dir"),
    key("strict"),
    key("configurations"),
    key("limits"),
    key("log_format"),
    key("tls"),
    key("http"),
    key("http_token_file"),
    key("http_hosts"),
    key("http_tls"),
];
/// `tls` and `http_tls`.
pub(crate) const TLS: [Key; 3] = [key("cert"), key("key"), key("client_ca")];
/// `upstream`.
pub(crate) const UPSTREAM: [Key; 13] = [
    key("host"),
    key("port"),
    key("catalog"),
    key("hosts"),
    key("target"),
    key("failover_wait"),
    key("watch_interval"),
    key("sslmode"),
    key("sslrootcert"),
    key("sslcert"),
    key("sslkey"),
    key("user"),
    key("passfile"),
];
/// `upstream.catalog`.
pub(crate) const CATALOG: [Key; 5] =
    [key("host"), key("port"), key("user"), key("database"), key("passfile")];
/// `limits`.
pub(crate) const LIMITS: [Key; 3] =
    [key("max_connections"), key("startup_timeout"), key("peer_timeout")];
/// One entry of `configurations`, below its name.
pub(crate) const CONFIGURATION: [Key; 10] = [
    key("match"),
    key("filter"),
    key("require_tls"),
    key("auth"),
    key("users_file"),
    key("users_query"),
    key("user_map"),
    key("i_know_that_this_is_open"),
    key("sql"),
    key("slot"),
];
/// `match`.
pub(crate) const MATCH: [Key; 5] = [
    key("application_name"),
    also("source", "source_ip"),
    key("user"),
    key("tls"),
    key("certificate"),
];
/// `filter`.
pub(crate) const FILTER: [Key; 4] = [
    key("include_databases"),
    key("exclude_databases"),
    key("include_tablespaces"),
    key("exclude_tablespaces"),
];

/// Every section with its name, as messages call it.
pub(crate) const SECTIONS: [(&str, &[Key]); 8] = [
    ("the top level of the file", &RELAY),
    ("`upstream`", &UPSTREAM),
    ("`catalog`", &CATALOG),
    ("`limits`", &LIMITS),
    ("`tls`", &TLS),
    ("a configuration", &CONFIGURATION),
    ("`match`", &MATCH),
    ("`filter`", &FILTER),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_in_the_reference() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../docs/reference.md");
        let reference = std::fs::read_to_string(path).unwrap();
        for (section, keys) in SECTIONS {
            for name in keys.iter().flat_map(|key| [Some(key.name), key.alias]).flatten() {
                assert!(reference.contains(&format!("`{name}`")), "{name} of {section}");
            }
        }
    }
}
