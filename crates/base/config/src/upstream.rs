//! The section `upstream`: which server to follow, and how to read names from it.

use crate::address::{self, Bad};
use crate::check::{Options, path};
use crate::environment::Environment;
use crate::problem::Problems;
use crate::scalar::{port, text};
use crate::section::{Entry, section};
use crate::tree::Node;
use crate::{Address, Catalog, Host, Upstream, encryption, keys, moving};

const HOST: &str = "localhost";
const PORT: u16 = 5432;
/// The database that names are read from.
const DATABASE: &str = "postgres";

/// The upstream; a file that has none needs one from the options.
pub(crate) fn read(
    entry: Option<Entry<'_>>,
    options: &Options,
    environment: &Environment,
    problems: &mut Problems<'_>,
) -> Option<Upstream> {
    let node = entry.map(|entry| entry.value).filter(|node| !node.is_null());
    if node.is_none() && !options.upstream {
        let span = entry.map_or(0..0, |entry| entry.key.span.clone());
        let hint = "add `upstream: {host: ..., port: 5432}`, or give --host";
        problems.add(&span, "no upstream: the file does not say which server to follow", hint);
        return None;
    }
    section_of(node, options, environment, problems)
}

/// The section `upstream`; without it everything is as by default.
pub(crate) fn section_of(
    node: Option<&Node>,
    options: &Options,
    environment: &Environment,
    problems: &mut Problems<'_>,
) -> Option<Upstream> {
    let [
        host,
        upstream_port,
        catalog,
        hosts,
        target,
        failover_wait,
        watch_interval,
        sslmode,
        sslrootcert,
        sslcert,
        sslkey,
        user,
        passfile,
    ] = node.map_or([None; 13], |node| section(node, &keys::UPSTREAM, problems));
    let ssl = encryption::Ssl { sslmode, sslrootcert, sslcert, sslkey };
    let tls = encryption::client(ssl, environment, problems);
    let user = match user {
        Some(entry) => text(entry.value, "the user", problems).map(|user| Some(user.to_owned())),
        None => Some(None),
    };
    let passfile = match passfile {
        Some(entry) => path(entry.value, "passfile", environment, problems).map(Some),
        None => Some(None),
    };
    let moving = moving::Keys { host, hosts, target, failover_wait, watch_interval };
    let host = host
        .map_or_else(|| Some(Host::Name(HOST.to_owned())), |entry| host_of(entry.value, problems));
    let port = upstream_port.map_or(Some(PORT), |entry| port(entry.value, problems));
    let port = options.masterport.or(port);
    let moving = moving::read(moving, port, problems);
    // One host of the command line wins over all of the file.
    let moving = moving.map(|moving| moving.filter(|_| options.host.is_none()));
    let catalog = catalog_of(catalog.map(|entry| entry.value), environment, problems);
    let moving = moving?;
    let first = moving.as_ref().and_then(|moving| moving.hosts.first()).cloned();
    let Address { host, port } = match first {
        Some(first) => first,
        None => Address::new(options.host.clone().or(host)?, port?),
    };
    Some(Upstream {
        host,
        port,
        catalog: catalog?,
        moving,
        tls: tls?,
        user: user?,
        passfile: passfile?,
    })
}

fn host_of(node: &Node, problems: &mut Problems<'_>) -> Option<Host> {
    match address::host(text(node, "the host", problems)?) {
        Ok(host) => Some(host),
        Err(Bad { message, hint }) => {
            problems.add(&node.span, message, hint);
            None
        }
    }
}

fn catalog_of(
    node: Option<&Node>,
    environment: &Environment,
    problems: &mut Problems<'_>,
) -> Option<Catalog> {
    let [host, catalog_port, user, database, passfile] = node
        .filter(|node| !node.is_null())
        .map_or([None; 5], |node| section(node, &keys::CATALOG, problems));
    // Each is read before the first `?`, so that a bad one does not hide the next.
    let host = host.map(|entry| host_of(entry.value, problems));
    let port = catalog_port.map(|entry| port(entry.value, problems));
    let user = user.map(|entry| text(entry.value, "the user", problems));
    let database =
        database.map_or(Some(DATABASE), |entry| text(entry.value, "the database", problems));
    let passfile = passfile.map(|entry| path(entry.value, "passfile", environment, problems));
    Some(Catalog {
        host: host.map_or(Some(None), |host| host.map(Some))?,
        port: port.map_or(Some(None), |port| port.map(Some))?,
        user: user.map_or(Some(None), |user| user.map(|user| Some(user.to_owned())))?,
        database: database?.to_owned(),
        passfile: passfile.map_or(Some(None), |passfile| passfile.map(Some))?,
    })
}
