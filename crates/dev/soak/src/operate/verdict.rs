//! What must be true in the end.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use testkit::{Cluster, amcheck, same_contents};

use super::poll::Sample;
use super::settings::NAMES;
use super::trust::SECRETS;
use super::world::{World, quiet};
use crate::check;
use crate::load::none_lost;

/// What the relay may take of its own, and what each of its clients may add: half of 16 MB is for
/// the pages of the program's file, as in the test of hostile clients.
const OWN_KB: u64 = 8 << 10;
const CLIENT_KB: u64 = 512;
/// How much more it may take towards the end than at the beginning: streams that are behind have
/// 2 MB more among them (`relay/src/room.rs`), and what was used once the allocator keeps.
const GROWTH_KB: u64 = 4 << 10;
/// Visitors come and go: so many files.
const GROWTH_FILES: u64 = 6;
/// A process of which there are fewer samples is not judged: one minute.
const SAMPLES_MIN: usize = 240;

/// Stops the load and compares; says what was compared.
pub(crate) fn everything(world: &mut World) -> Result<String> {
    world.settle()?;
    world.sound()?;
    let (came, refused) = world.visitors.stop()?;
    let mut acknowledged = BTreeMap::new();
    for (name, writer) in std::mem::take(&mut world.writers) {
        let committed = writer.stop()?;
        world.acknowledged += committed.len();
        acknowledged.insert(name, committed);
    }
    for standby in &world.standbys {
        standby.wait_replayed(&world.primary)?;
    }
    let (answers, samples) = world.poller.stop()?;
    for (database, acknowledged) in &acknowledged {
        none_lost(&world.primary, database, acknowledged)?;
    }
    let tables = contents(world)?;
    let pids: Vec<_> = world.standbys.iter().map(|standby| standby.pid()).collect();
    ensure!(pids == world.pids, "a standby was restarted");
    for standby in &mut world.standbys {
        ensure!(standby.is_running()?, "a standby ended");
    }
    let mut servers: Vec<&Cluster> = vec![&world.primary];
    servers.extend(world.standbys.iter().map(|standby| -> &Cluster { standby }));
    servers.extend(world.next.iter().map(|standby| -> &Cluster { standby }));
    for server in servers {
        check::quiet(server)?;
        let log = server.log();
        let secret = SECRETS.iter().find(|it| **it != "SCRAM-SHA-256$" && log.contains(**it));
        ensure!(secret.is_none(), "the server on port {} logged a secret", server.port());
    }
    quiet(&world.logged)?;
    world.sound()?;
    let (switches, commits, timeline) =
        (world.switches, world.acknowledged, check::timeline(&world.primary)?);
    let all = format!(
        "{switches} switches up to timeline {timeline}, {commits} commits acknowledged and none \
         lost, {tables} tables equal on the standbys, {answers} answers over HTTP, {came} visitors \
         came in and {refused} were refused"
    );
    // Last, so that it is told what else was right.
    let memory = memory(&samples).with_context(|| format!("all else is as it should be: {all}"))?;
    Ok(format!("{all}; {memory}"))
}

/// The standbys have what they are to have, and nothing else.
fn contents(world: &World) -> Result<usize> {
    let mut tables = 0;
    for database in &world.databases {
        amcheck(&world.primary, &database.name).context("on the primary")?;
    }
    for standby in &world.standbys {
        standby.wait_replayed(&world.primary)?;
    }
    for (standby, standby_name) in world.standbys.iter().zip(NAMES) {
        for database in &world.databases {
            let name = &database.name;
            if database.included || standby_name == "whole" {
                same_contents(&world.primary, standby, name).context(standby_name)?;
                amcheck(standby, name).context(standby_name)?;
                tables += testkit::fingerprint(&world.primary, name)?.len();
            } else {
                let oid = world.primary.database_oid(name)?.to_string();
                let folder = standby.data().join("base").join(oid);
                ensure!(!folder.exists(), "{} is there, of {name}", folder.display());
            }
        }
        if standby_name != "whole" {
            check::nothing_leaked(standby)?;
        }
    }
    Ok(tables)
}

/// The relay's memory and files stay within their bounds, and do not grow.
fn memory(samples: &[Sample]) -> Result<String> {
    let (mut most_kb, mut most_own_kb, mut most_files) = (0, 0, 0);
    let mut lives: BTreeMap<u32, Vec<Sample>> = BTreeMap::new();
    for sample in samples {
        // One that comes and goes between two looks is not seen.
        let bound = OWN_KB + CLIENT_KB * (sample.clients + 1);
        let (own_kb, clients) = (sample.own_peak_kb, sample.clients);
        ensure!(own_kb <= bound, "{own_kb} kB of its own with {clients} clients at most");
        most_own_kb = most_own_kb.max(own_kb);
        most_kb = most_kb.max(sample.peak_kb);
        most_files = most_files.max(sample.files);
        lives.entry(sample.pid).or_default().push(*sample);
    }
    let processes = lives.len();
    let mut judged = 0;
    for life in lives.into_values().filter(|life| life.len() >= SAMPLES_MIN) {
        let third = life.len() / 3;
        let typical = |part: &[Sample], what: fn(&Sample) -> u64| {
            let mut values: Vec<_> = part.iter().map(what).collect();
            values.sort_unstable();
            values.get(values.len() / 2).copied().unwrap_or(0)
        };
        let first = life.get(..third).unwrap_or_default();
        let last = life.get(life.len() - third..).unwrap_or_default();
        for (what, unit, value, growth) in [
            ("memory", "kB", (|it: &Sample| it.own_kb) as fn(&Sample) -> u64, GROWTH_KB),
            ("open files", "files", |it| it.files, GROWTH_FILES),
        ] {
            let (first, last) = (typical(first, value), typical(last, value));
            ensure!(
                last <= first + growth,
                "{what} grew from {first} to {last} {unit} in {} looks",
                life.len()
            );
        }
        judged += 1;
    }
    Ok(format!(
        "{processes} processes of the relay ({judged} long enough to be judged for growth), \
         {most_kb} kB of memory ({most_own_kb} kB without the program's file) and {most_files} files \
         at most"
    ))
}
