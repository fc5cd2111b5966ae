//! What this machine says about a split: programs, room, the port. Folders are in [`places`].

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::plan::places::{self, existing};
use crate::plan::{Facts, Findings, list, size};
use crate::{Options, Programs};

/// What a clone holds beside its databases: shared catalogs, templates, and WAL, in bytes.
const REST_BYTES: u64 = 256 << 20;

pub(crate) fn judge(facts: &Facts, options: &Options, findings: &mut Findings) -> Option<Programs> {
    let programs = programs(facts, options, findings);
    if let Some(programs) = &programs {
        libraries(facts, programs, findings);
    }
    places::judge(facts, options, findings);
    room(facts, options, findings);
    port(facts, options, findings);
    programs
}

fn programs(facts: &Facts, options: &Options, findings: &mut Findings) -> Option<Programs> {
    let programs = match Programs::find(facts.major, options.bin_dir.as_deref()) {
        Ok(programs) => programs,
        Err(error) => {
            findings.stop("programs", error.to_string());
            return None;
        }
    };
    let text = format!("PostgreSQL {} in {}", programs.version, programs.folder.display());
    let older = |minor: i32| minor < facts.version_number % 10_000;
    let minor = programs.version.split('.').nth(1).and_then(|minor| minor.parse().ok());
    if minor.is_some_and(older) {
        findings.warn("programs", format!("{text}: older than the source"));
    } else {
        findings.ok("programs", text);
    }
    Some(programs)
}

fn libraries(facts: &Facts, programs: &Programs, findings: &mut Findings) {
    if facts.libraries.is_empty() {
        return;
    }
    let Some(folder) = programs.libraries() else {
        let names = list(facts.libraries.iter().map(String::as_str));
        findings.warn(
            "libraries",
            format!("{names}: cannot tell where the target would look for them"),
        );
        return;
    };
    let missing: Vec<_> =
        facts.libraries.iter().filter(|it| !library_exists(&folder, it)).collect();
    if missing.is_empty() {
        findings.ok("libraries", list(facts.libraries.iter().map(String::as_str)));
    } else {
        let names = list(missing.iter().map(|it| it.as_str()));
        findings.stop("libraries", format!("not in {}: {names}", folder.display()));
    }
}

/// `expand_dynamic_library_name` (dfmgr.c), as far as it looks into the one folder.
fn library_exists(folder: &Path, name: &str) -> bool {
    let path = match name.strip_prefix("$libdir/") {
        Some(name) => folder.join(name),
        // An absolute one replaces the folder.
        None => folder.join(name),
    };
    let with = |ending: &str| {
        let mut path = path.clone().into_os_string();
        path.push(ending);
        PathBuf::from(path).exists()
    };
    path.is_file() || with(".so") || with(".dylib")
}

/// Looks at each file system once.
fn room(facts: &Facts, options: &Options, findings: &mut Findings) {
    let location = |oid: u32| {
        let found = facts.tablespaces.iter().find(|it| it.oid == oid);
        found.and_then(|it| it.location.as_ref()).map(|it| options.place_of(it))
    };
    let mut needed: BTreeMap<u64, (PathBuf, u64)> = BTreeMap::new();
    let mut need = |path: PathBuf, bytes: u64| {
        let place = existing(&path).to_owned();
        let Ok(device) = fs::metadata(&place).map(|it| it.dev()) else { return };
        needed.entry(device).or_insert((place, 0)).1 += bytes;
    };
    need(options.target.clone(), REST_BYTES);
    for held in &facts.held {
        need(location(held.tablespace).unwrap_or_else(|| options.target.clone()), held.bytes);
    }
    // Nobody could look into these to see where their tables are.
    for database in facts.moved().filter(|it| !it.open) {
        need(options.target.clone(), database.bytes);
    }
    for (place, bytes) in needed.into_values() {
        let Ok(room) = rustix::fs::statvfs(&place) else { continue };
        let free = room.f_bavail.saturating_mul(room.f_frsize);
        let text = format!("{}: {} needed, {} free", place.display(), size(bytes), size(free));
        if free < bytes {
            findings.stop("disk", text);
        } else if free / 5 < bytes / 4 {
            findings.warn("disk", text);
        } else {
            findings.ok("disk", text);
        }
    }
}

fn port(facts: &Facts, options: &Options, findings: &mut Findings) {
    let port = options.port;
    match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)) {
        Ok(_free) => findings.ok("port", format!("{port} is free")),
        Err(_taken) if facts.setting("port") == port.to_string() => {
            findings.stop("port", format!("{port} is the source's own"));
        }
        Err(error) => findings.stop("port", format!("{port}: {error}")),
    }
}
