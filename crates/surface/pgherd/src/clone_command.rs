//! `pgherd clone`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use alarm::Code;
use anyhow::{Context as _, Result, bail, ensure};
use clone::{Address, Owner, Programs};
use config::{Listen, Overrides};
use pgnet::{Endpoint, Local};
use relay::{Options as RelaySettings, Plan, Service};
use tasks::CancellationToken;

use crate::cli::CloneOptions;
use crate::clone_report::{self, Meter, Room};
use crate::{chain, fail, relay_command, runtime};

/// WAL that a backup brings along beside the files: a few segments.
const WAL_BYTES: u64 = 64 << 20;

/// Makes a standby.
pub(crate) fn run(options: &CloneOptions) -> ExitCode {
    let settings = match relay_command::load(Some(&options.config), &Overrides::default()) {
        Ok(settings) => settings,
        Err(status) => return status,
    };
    telemetry::start_quietly(options.verbose);
    match runtime::run(|stop| make(options, settings, stop)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(Code::NoClone, chain(&error)),
    }
}

async fn make(
    options: &CloneOptions,
    settings: RelaySettings,
    stop: CancellationToken,
) -> Result<()> {
    ensure!(!options.name.is_empty(), "--as needs a name");
    let settings = settings.for_own_use();
    let target = absolute(&options.target)?;
    let mapping = options.tablespace_mapping.iter().map(|it| mapped(it));
    let mapping = mapping.collect::<Result<Vec<_>>>()?;
    let user = user(options, &settings)?;
    let client = config::Client {
        application_name: options.name.as_bytes(),
        source: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        user: user.as_bytes(),
        tls: false,
        certificate: None,
    };
    let plan = relay::plan(&settings, &client).await?;
    let rooms = rooms(&plan, &target, &mapping)?;
    eprint!("{}", clone_report::plan(&plan, &target, &rooms));
    if options.dry_run {
        return Ok(());
    }
    if let Some(room) = rooms.iter().find(|room| !room.suffices()) {
        bail!("not enough room for {}", room.what);
    }
    let slot = slot(options);
    let left_behind = clone::slot_left_behind(&target);
    let is_foreign =
        |slot: &&String| plan.slots.contains(*slot) && left_behind != Some((*slot).clone());
    if let Some(slot) = slot.as_ref().filter(is_foreign) {
        bail!("there is a replication slot {slot:?} already; drop it, or choose another --slot");
    }
    let owner = Owner::choose(options.owner.as_deref(), &target);
    let owner = owner.context("whose shall the clone be? See --owner")?;
    let programs = Programs::find(plan.major, options.bin_dir.as_deref())?;
    let upstream = standbys_relay(options, &settings)?;
    let is_running = relay::is_relay(&endpoint(&upstream)).await;
    if options.relay.is_some() && !is_running {
        bail!("no pgherd relay answers at {}:{}", upstream.host, upstream.port);
    }
    let unmapped = plan.tablespaces.iter().filter(|it| it.included);
    let unmapped = unmapped.filter_map(|it| it.location.clone());
    let unmapped = unmapped.filter(|it| mapping.iter().all(|(from, _)| from != it)).collect();
    let passfile = options.passfile.as_deref().map(absolute).transpose()?;
    let clone = clone::Options {
        programs,
        source: upstream.clone(),
        upstream,
        name: options.name.clone(),
        user: Some(user),
        passfile,
        target,
        mapping,
        unmapped,
        slot,
        owner,
        settings: Vec::new(),
    };
    if is_running {
        // It has the decisions, and it may hold their lock.
        take(&clone, stop).await?;
    } else {
        eprintln!("no relay answers there: working as it would, with its configuration and state");
        take_embedded(clone.clone(), settings, stop).await?;
    }
    tell(&clone);
    Ok(())
}

async fn take(options: &clone::Options, stop: CancellationToken) -> Result<()> {
    let mut meter = Meter::new();
    let taken = clone::run(options, |progress| meter.show(progress), stop).await;
    meter.end(taken.is_ok());
    taken.context("no clone was made")
}

/// With a relay of our own, which lives as long as the backup.
async fn take_embedded(
    mut options: clone::Options,
    mut settings: RelaySettings,
    stop: CancellationToken,
) -> Result<()> {
    settings.listen = vec![Listen::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))];
    let (service, handle) = Service::bind(settings).await?;
    let Some(Local::Tcp(address)) = handle.locals().first() else { bail!("no address") };
    options.source = Address { host: address.ip().to_string(), port: address.port(), is_own: true };
    // It goes on while the clone cleans up: a slot is dropped through it.
    let relays_stop = CancellationToken::new();
    let mut group = tasks::Group::new(relays_stop.clone());
    group.spawn("relay", |stop| async move { Ok(service.run(stop).await?) });
    let taken = take(&options, stop).await;
    relays_stop.cancel();
    group.finish(std::time::Duration::from_secs(15)).await?;
    taken
}

/// What is left to do.
fn tell(options: &clone::Options) {
    let Address { host, port, .. } = &options.upstream;
    eprintln!("{} is a standby of the relay at {host} port {port}", options.target.display());
    if let Some(slot) = &options.slot {
        eprintln!("its replication slot {slot} keeps WAL for it from now on: start it soon");
    }
    eprintln!("start it as any standby; its login finds the password as psql does (passfile)");
}

fn user(options: &CloneOptions, settings: &RelaySettings) -> Result<String> {
    let variable = |name| std::env::var(name).ok().filter(|it: &String| !it.is_empty());
    let user = options.user.clone().or_else(|| variable("PGUSER"));
    let user = user.or_else(|| settings.upstream.catalog.user.clone());
    user.or_else(|| variable("USER")).context("who logs in? Give --user")
}

/// The slot's name; of the standby's name the characters that a slot may have.
fn slot(options: &CloneOptions) -> Option<String> {
    if options.no_slot {
        return None;
    }
    let own = || {
        let letters = options.name.to_ascii_lowercase();
        let plain = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit();
        let letters = letters.chars().map(|char| if plain(char) { char } else { '_' });
        format!("pgherd_{}", letters.take(50).collect::<String>())
    };
    Some(options.slot.clone().unwrap_or_else(own))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(path).with_context(|| format!("find {}", path.display()))?;
    // It is written into settings and a journal, which are text.
    ensure!(path.to_str().is_some(), "{} is not UTF-8", path.display());
    Ok(path)
}

/// `OLD=NEW`, where `\=` is a sign of a path.
fn mapped(text: &str) -> Result<(PathBuf, PathBuf)> {
    let marked = text.replace("\\=", "\0");
    let (from, to) = marked.split_once('=').with_context(|| format!("-T {text}: no OLD=NEW"))?;
    ensure!(!to.contains('='), "-T {text}: more than one =; write \\= inside a path");
    let path = |part: &str| PathBuf::from(part.replace('\0', "="));
    let (from, to) = (path(from), path(to));
    ensure!(from.is_absolute() && to.is_absolute(), "-T {text}: both paths have to be absolute");
    Ok((from, to))
}

/// What goes to which place, and whether there is room. Places on one file system count
/// together.
fn rooms(plan: &Plan, target: &Path, mapping: &[(PathBuf, PathBuf)]) -> Result<Vec<Room>> {
    let mut rooms: Vec<(u64, Room)> = Vec::new();
    let mut add = |path: &Path, bytes: u64| -> Result<()> {
        let (device, free_bytes) = clone::room(path)?;
        let what = path.display();
        match rooms.iter_mut().find(|(known, _)| *known == device) {
            Some((_, room)) => {
                room.needed_bytes += bytes;
                room.what = format!("{}, {what}", room.what);
            }
            None => {
                let room = Room { needed_bytes: bytes, free_bytes, what: what.to_string() };
                rooms.push((device, room));
            }
        }
        Ok(())
    };
    let kept =
        |inside: bool| plan.tablespaces.iter().filter(move |it| it.location.is_none() == inside);
    add(target, kept(true).map(|it| it.kept_bytes).sum::<u64>() + WAL_BYTES)?;
    for it in kept(false).filter(|it| it.included) {
        let Some(location) = &it.location else { continue };
        let place = mapping.iter().find(|(from, _)| from == location).map(|(_, to)| to);
        add(place.unwrap_or(location), it.kept_bytes)?;
    }
    Ok(rooms.into_iter().map(|(_, room)| room).collect())
}

/// Where the standby will stream from.
fn standbys_relay(options: &CloneOptions, settings: &RelaySettings) -> Result<Address> {
    if let Some(text) = &options.relay {
        let (host, port) = text.rsplit_once(':').context("--relay: write HOST:PORT")?;
        let port = port.parse().with_context(|| format!("--relay {text}: no port"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        return Ok(Address { host, port, is_own: false });
    }
    let first = settings.listen.first().context("the relay listens nowhere; give --relay")?;
    Ok(match first {
        Listen::Tcp(address) => {
            let here = match address.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
                ip => ip,
            };
            Address { host: here.to_string(), port: address.port(), is_own: false }
        }
        Listen::Unix { dir, port } => {
            Address { host: dir.display().to_string(), port: *port, is_own: false }
        }
    })
}

fn endpoint(address: &Address) -> Endpoint {
    Endpoint::new(&address.host, address.port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_pairs_of_absolute_paths() {
        assert_eq!(mapped("/a=/b").unwrap(), ("/a".into(), "/b".into()));
        assert_eq!(mapped(r"/a\=x=/b").unwrap(), ("/a=x".into(), "/b".into()));
        for bad in ["/a", "/a=b", "a=/b", "/a=/b=/c"] {
            assert!(mapped(bad).is_err(), "{bad}");
        }
    }
}
