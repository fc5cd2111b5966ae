//! The list `configurations`: who gets what.

use std::collections::HashMap;

use crate::auth::{self, Offered};
use crate::environment::Environment;
use crate::filter::{GLOBAL_TABLESPACE, TEMPLATE_DATABASES};
use crate::problem::Problems;
use crate::scalar::{boolean, list, shown, text, wrong_type};
use crate::section::{Entry, key_text, section};
use crate::tree::{Node, Value};
use crate::{Auth, Configuration, Filter, Match, Pattern, Sql, keys, passing};

/// Most entries.
const CONFIGURATIONS_MAX: usize = 1_000;
/// Most names in one list of a filter.
const PATTERNS_MAX: usize = 10_000;
/// Longest pattern, in bytes: a name of 63 with a backslash before each is 126.
const PATTERN_BYTES_MAX: usize = 255;
/// Longest name of a configuration, in bytes; as long as a name in PostgreSQL.
const NAME_BYTES_MAX: usize = 63;

/// Reads the list; `None` when the list itself is wrong. A wrong entry is noted and left out.
///
/// `offered`: what clients can come in with.
pub(crate) fn read(
    node: &Node,
    offered: Offered,
    environment: &Environment,
    problems: &mut Problems<'_>,
) -> Option<Vec<Configuration>> {
    if node.is_null() {
        let hint = "leave the key out to let every client through unfiltered, or write [] to \
                    refuse every client";
        wrong_type(node, "a list of configurations", hint, problems);
        return None;
    }
    let items = list(node, "`- NAME: {match: ..., filter: ...}`", problems)?;
    if items.len() > CONFIGURATIONS_MAX {
        let message = format!("{} configurations are too many", items.len());
        problems.add(&node.span, message, format!("keep at most {CONFIGURATIONS_MAX}"));
        return None;
    }
    let mut names = HashMap::new();
    let mut configurations = Vec::with_capacity(items.len());
    for (item, number) in items.iter().zip(1_usize..) {
        let Some((name, body)) = entry(item, problems) else { continue };
        let Value::Text { text, .. } = &name.value else { continue };
        if let Some(first) = names.insert(text.as_str(), number) {
            let message = format!("there are two configurations named {}", shown(text));
            let hint = format!("the other one is number {first} of the list; rename one");
            problems.add(&name.span, message, hint);
        }
        configurations.extend(configuration(text, body, offered, environment, problems));
    }
    Some(configurations)
}

/// The name and the body of an entry: a mapping with one key.
fn entry<'n>(item: &'n Node, problems: &mut Problems<'_>) -> Option<(&'n Node, &'n Node)> {
    const HINT: &str = "write `- NAME:` and, indented further below it, `match:` and `filter:`";
    let Value::Map(pairs) = &item.value else {
        wrong_type(item, "a configuration with a name", HINT, problems);
        return None;
    };
    let Some((name, body)) = pairs.first() else {
        problems.add(&item.span, "a configuration without a name", HINT);
        return None;
    };
    if let Some((second, _)) = pairs.get(1) {
        problems.add(&second.span, "a configuration has one name and nothing beside it", HINT);
        if body.is_null() {
            return None; // `match` beside the name and not below it: one slip, one problem
        }
    }
    let (text, _) = key_text(name, problems)?;
    if name.is_null() || text.is_empty() {
        problems.add(&name.span, "the name of a configuration is empty", HINT);
    } else if text.len() > NAME_BYTES_MAX {
        let message = format!("the name of a configuration has {} bytes", text.len());
        problems.add(&name.span, message, format!("use at most {NAME_BYTES_MAX} bytes"));
    } else if text.chars().any(char::is_control) {
        let message = "the name of a configuration has a control character in it";
        problems.add(&name.span, message, "use letters, digits and punctuation");
    }
    Some((name, body))
}

fn configuration(
    name: &str,
    body: &Node,
    offered: Offered,
    environment: &Environment,
    problems: &mut Problems<'_>,
) -> Option<Configuration> {
    if body.is_null() {
        let hint = "write `match:` and `filter:` indented below the name, or `{}` to match \
                    every client and filter nothing";
        wrong_type(body, "`match` and `filter`", hint, problems);
        return None;
    }
    let [matching, filter, require_tls, auth, users_file, users_query, user_map, open, sql, slot] =
        section(body, &keys::CONFIGURATION, problems);
    let given = |entry: Option<Entry<'_>>| !entry.is_none_or(|entry| entry.value.is_null());
    let matching = match matching {
        Some(entry) if given(matching) => conditions(entry.value, problems),
        _ => Some(Match::default()),
    };
    let filter = match filter {
        Some(entry) if given(filter) => filter_of(entry.value, problems),
        _ => Some(None),
    };
    if let Some(entry) = require_tls.filter(|_| !offered.tls) {
        let message = "`require_tls`, and clients are not offered TLS";
        problems.add(&entry.key.span, message, "add `tls: {cert: ..., key: ...}` to the file");
    }
    let keys = auth::Keys { auth, users_file, users_query, user_map, open };
    let auth = auth::read(keys, offered, environment, problems);
    let require_tls = require_tls.map_or(Some(false), |entry| boolean(entry.value, problems));
    let given_sql = sql;
    let sql = passing::sql(sql, problems);
    if let (Some(Sql::Passthrough), Some(auth), Some(entry)) = (sql, &auth, given_sql)
        && *auth != Auth::Passthrough
    {
        let message = "`sql: passthrough` needs `auth: passthrough`";
        let hint = "with another `auth` every client would send its SQL as `upstream.user`";
        problems.add(&entry.value.span, message, hint);
    }
    let slot = passing::slot(slot, problems);
    Some(Configuration {
        name: name.to_owned(),
        matching: matching?,
        filter: filter?,
        require_tls: require_tls?,
        auth: auth?,
        sql: sql?,
        slot: slot?,
    })
}

fn conditions(node: &Node, problems: &mut Problems<'_>) -> Option<Match> {
    let [application_name, source, user, tls, certificate] = section(node, &keys::MATCH, problems);
    let mut name = |entry: Option<Entry<'_>>, what| match entry {
        Some(entry) => text(entry.value, what, problems).map(|text| Some(text.to_owned())),
        None => Some(None),
    };
    let application_name = name(application_name, "the application_name");
    let user = name(user, "the user");
    let certificate = name(certificate, "the certificate's name");
    let source = match source {
        Some(entry) => {
            let network = text(entry.value, "the network", problems)?;
            match network.parse() {
                Ok(network) => Some(Some(network)),
                Err(error) => {
                    let hint = "write an address or a network, as in 192.168.0.0/16 or fd00::/8";
                    let message = format!("{} is no network: {error}", shown(network));
                    problems.add(&entry.value.span, message, hint);
                    None
                }
            }
        }
        None => Some(None),
    };
    let tls = match tls {
        Some(entry) => boolean(entry.value, problems).map(Some),
        None => Some(None),
    };
    Some(Match {
        application_name: application_name?,
        source: source?,
        user: user?,
        tls: tls?,
        certificate: certificate?,
    })
}

/// `filter`; `Some(None)` when nothing is filtered.
fn filter_of(node: &Node, problems: &mut Problems<'_>) -> Option<Option<Filter>> {
    let [include_databases, exclude_databases, include_tablespaces, exclude_tablespaces] =
        section(node, &keys::FILTER, problems);
    let databases = include_databases.map(|entry| include(entry, "database", problems));
    let no_databases = exclude_databases.map(|entry| exclude(entry, &TEMPLATE_DATABASES, problems));
    let tablespaces = include_tablespaces.map(|entry| include(entry, "tablespace", problems));
    let no_tablespaces =
        exclude_tablespaces.map(|entry| exclude(entry, &[GLOBAL_TABLESPACE], problems));
    contradictions(databases.as_ref(), no_databases.as_ref(), problems);
    contradictions(tablespaces.as_ref(), no_tablespaces.as_ref(), problems);
    let patterns = |list: Option<Vec<Named<'_>>>| {
        let patterns = list?.into_iter().map(|named| named.pattern).collect::<Vec<_>>();
        Some(patterns).filter(|patterns| !patterns.is_empty())
    };
    let filter = Filter {
        include_databases: patterns(databases),
        exclude_databases: patterns(no_databases),
        include_tablespaces: patterns(tablespaces),
        exclude_tablespaces: patterns(no_tablespaces),
    };
    Some(Some(filter).filter(|filter| *filter != Filter::default()))
}

/// A pattern and where it stands.
struct Named<'n> {
    node: &'n Node,
    pattern: Pattern,
}

/// An include list. An empty one could mean everything (as in walbouncer) or nothing.
fn include<'n>(entry: Entry<'n>, what: &str, problems: &mut Problems<'_>) -> Vec<Named<'n>> {
    let empty = match &entry.value.value {
        Value::List(items) => items.is_empty(),
        _ => entry.value.is_null(),
    };
    if empty {
        let hint = format!("leave the key out to include every {what}, or name at least one");
        problems.add(&entry.value.span, "an include list without a name", hint);
        return Vec::new();
    }
    patterns(entry.value, problems)
}

/// An exclude list, in which `needed` cannot stand; an empty one excludes nothing.
fn exclude<'n>(entry: Entry<'n>, needed: &[&str], problems: &mut Problems<'_>) -> Vec<Named<'n>> {
    if entry.value.is_null() {
        return Vec::new();
    }
    let patterns = patterns(entry.value, problems);
    for named in &patterns {
        if let Some(name) = named.pattern.plain().filter(|name| needed.contains(name)) {
            let message = format!("{name} cannot be excluded");
            let hint = "remove it: no standby can do without it";
            problems.add(&named.node.span, message, hint);
        }
    }
    patterns
}

fn patterns<'n>(node: &'n Node, problems: &mut Problems<'_>) -> Vec<Named<'n>> {
    let Some(items) = list(node, "[orders, \"tenant_*\"]", problems) else { return Vec::new() };
    if items.len() > PATTERNS_MAX {
        let message = format!("{} names are too many", items.len());
        problems.add(&node.span, message, format!("use globs, or at most {PATTERNS_MAX} names"));
        return Vec::new();
    }
    let mut patterns = Vec::with_capacity(items.len());
    for node in items {
        let Some(text) = text(node, "the name", problems) else { continue };
        if text.len() > PATTERN_BYTES_MAX {
            let message = format!("the name has {} bytes", text.len());
            problems.add(&node.span, message, "names in PostgreSQL have at most 63 bytes");
            continue;
        }
        patterns.extend(Pattern::new(text).map(|pattern| Named { node, pattern }));
    }
    patterns
}

/// Notes what stands in both lists.
fn contradictions(
    include: Option<&Vec<Named<'_>>>,
    exclude: Option<&Vec<Named<'_>>>,
    problems: &mut Problems<'_>,
) {
    let (Some(include), Some(exclude)) = (include, exclude) else { return };
    let included: std::collections::HashSet<_> =
        include.iter().map(|named| &named.pattern).collect();
    for named in exclude.iter().filter(|named| included.contains(&named.pattern)) {
        let name = shown(&named.pattern.to_string());
        let message = format!("{name} is included and excluded");
        problems.add(&named.node.span, message, "remove it from one of the two lists");
    }
}
