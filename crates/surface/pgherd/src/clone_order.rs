//! What `pgherd clone` is asked for, and what speaks against it before anything is done.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clone::{Address, Owner, Pace, Programs};
use config::Listen;
use relay::{Options as RelaySettings, Plan};

use crate::cli::CloneOptions;
use crate::clone_report::Room;

/// WAL that a backup brings along beside the files: a few segments.
const WAL_BYTES: u64 = 64 << 20;

/// A clone as the command line wants it.
pub(crate) struct Order {
    name: String,
    /// Who logs in.
    pub(crate) user: String,
    passfile: Option<PathBuf>,
    /// The data directory.
    pub(crate) target: PathBuf,
    mapping: Vec<(PathBuf, PathBuf)>,
    slot: Option<String>,
    pace: Pace,
    owner: Option<Owner>,
    /// Where the standby will stream from.
    pub(crate) relay: Address,
}

impl Order {
    /// Reads the options; what is wrong with them alone is an error.
    pub(crate) fn new(options: &CloneOptions, settings: &RelaySettings) -> Result<Self> {
        ensure!(!options.name.is_empty(), "--as needs a name");
        let target = absolute(&options.target)?;
        let mapping = options.tablespace_mapping.iter().map(|it| mapped(it));
        let mapping = mapping.collect::<Result<Vec<_>>>()?;
        let relay = standbys_relay(options, settings)?;
        let owner = Owner::choose(options.owner.as_deref(), &target);
        let owner = owner.context("whose shall the clone be? See --owner")?;
        let passfile = options.passfile.as_deref().map(absolute).transpose()?;
        if let Some(path) = &passfile {
            Owner::check_passfile(owner.as_ref(), path).context("--passfile")?;
        }
        Ok(Self {
            name: options.name.clone(),
            user: user(options, settings)?,
            passfile,
            target,
            mapping,
            slot: slot(options),
            pace: options.pace.of_clone(),
            owner,
            relay,
        })
    }

    /// What this machine alone tells.
    pub(crate) fn problems_here(&self) -> Vec<String> {
        let mut problems = Vec::new();
        problems.extend(clone::ensure_free(&self.target).err().map(|it| it.to_string()));
        for (_, to) in &self.mapping {
            let free = clone::ensure_place_free(&self.target, to, self.owner.as_ref());
            problems.extend(free.err().map(|it| it.to_string()));
        }
        problems
    }

    /// What the server adds.
    pub(crate) fn problems_with(&self, plan: &Plan) -> Vec<String> {
        let mut problems = Vec::new();
        for (from, _) in &self.mapping {
            if plan.tablespaces.iter().all(|it| it.location.as_ref() != Some(from)) {
                problems.push(format!("-T: no tablespace is at {}", from.display()));
            }
        }
        for (name, place) in self.unmapped(plan) {
            let free = clone::ensure_place_free(&self.target, &place, self.owner.as_ref());
            if let Err(error) = free {
                let place = place.display();
                let text = format!("{error}, where tablespace {name} would go: -T {place}=NEW");
                problems.push(text);
            }
        }
        problems.extend(self.slot_in_use(plan));
        problems
    }

    /// That somebody else has the slot, unless a clone into the same folder left it behind.
    fn slot_in_use(&self, plan: &Plan) -> Option<String> {
        let found = plan.slots.iter().find(|it| Some(&it.name) == self.slot.as_ref())?;
        let left = clone::slot_left_behind(&self.target, self.owner.as_ref());
        if left.as_ref() == Some(&found.name) {
            return None;
        }
        let state = if found.is_active { "active" } else { "kept for a standby that is away" };
        Some(format!(
            "there is a replication slot {:?} already ({state}); choose another --slot; drop it only \
             when its standby is gone",
            found.name
        ))
    }

    /// Tablespaces of the clone that nobody has mapped, and where they go.
    fn unmapped(&self, plan: &Plan) -> Vec<(String, PathBuf)> {
        let held = plan.tablespaces.iter().filter(|it| it.included);
        let held = held.filter_map(|it| Some((it.name.clone(), it.location.clone()?)));
        held.filter(|(_, place)| self.mapping.iter().all(|(from, _)| from != place)).collect()
    }

    /// The order for the engine.
    pub(crate) fn clone_of(self, plan: &Plan, programs: Programs) -> clone::Options {
        clone::Options {
            unmapped: self.unmapped(plan).into_iter().map(|(_, place)| place).collect(),
            programs,
            source: self.relay.clone(),
            upstream: self.relay,
            name: self.name,
            user: Some(self.user),
            passfile: self.passfile,
            target: self.target,
            mapping: self.mapping,
            slot: self.slot,
            pace: self.pace,
            owner: self.owner,
            settings: Vec::new(),
        }
    }

    /// What goes to which place, and whether there is room. Places on one file system count
    /// together.
    pub(crate) fn rooms(&self, plan: &Plan) -> Result<Vec<Room>> {
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
                    let what = what.to_string();
                    let room = Room { needed_bytes: bytes, wal_bytes: 0, free_bytes, what };
                    rooms.push((device, room));
                }
            }
            Ok(())
        };
        let kept = |inside: bool| {
            plan.tablespaces.iter().filter(move |it| it.location.is_none() == inside)
        };
        add(&self.target, kept(true).map(|it| it.kept_bytes).sum::<u64>() + WAL_BYTES)?;
        for it in kept(false).filter(|it| it.included) {
            let Some(location) = &it.location else { continue };
            let place = self.mapping.iter().find(|(from, _)| from == location).map(|(_, to)| to);
            add(place.unwrap_or(location), it.kept_bytes)?;
        }
        let mut rooms: Vec<_> = rooms.into_iter().map(|(_, room)| room).collect();
        // The data directory's came first.
        if let Some(room) = rooms.first_mut() {
            room.wal_bytes = WAL_BYTES;
        }
        Ok(rooms)
    }
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
