//! A relay that is operated while it works: reloads, changes of certificates, switches of the
//! upstream, restarts, and visitors.

mod changes;
mod moves;
mod poll;
mod settings;
mod trust;
mod verdict;
mod visitors;
mod world;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pgtypes::Major;

use crate::dice::Dice;
use world::World;

/// Runs it for so long; the summary.
pub(crate) fn run(major: Major, pgherd: &Path, limit: Duration, seed: u64) -> Result<String> {
    ensure!(major >= Major::V13, "pg_rewind and the slots of this soak need 13 or later");
    let mut dice = Dice::new(seed);
    let mut world = World::new(major, pgherd, seed)?;
    match act(&mut world, &mut dice, limit) {
        Ok(summary) => Ok(summary),
        Err(error) => {
            let lines = world.relay.program().map(|it| it.lines()).unwrap_or_default();
            let story = world.story.end(&lines);
            let folder = world.keep_logs(seed)?;
            Err(error.context(format!("{story}\nall logs are in {}", folder.display())))
        }
    }
}

fn act(world: &mut World, dice: &mut Dice, limit: Duration) -> Result<String> {
    let began = Instant::now();
    let mut steps = 0;
    while began.elapsed() < limit {
        step(world, dice)?;
        world.sound()?;
        steps += 1;
        std::thread::sleep(Duration::from_millis(dice.below(1000)));
    }
    println!("soak: {steps} steps in {:?}; comparing", began.elapsed());
    let compared = verdict::everything(world).context("in the end")?;
    Ok(format!("{steps} steps, {compared}"))
}

/// Does one thing.
fn step(world: &mut World, dice: &mut Dice) -> Result<()> {
    match dice.below(24) {
        0..=3 => changes::about_nobody(world, dice).context("a reload that is about nobody"),
        4..=6 => changes::about_one(world, dice).context("a reload that is about one stream"),
        7..=9 => changes::bad_file(world, dice).context("a bad file"),
        10 | 11 => changes::socket(world, dice).context("a socket"),
        12 | 13 => changes::certificate(world, dice).context("a new certificate"),
        14 | 15 => changes::bad_certificate(world, dice).context("a bad certificate"),
        16 => changes::clients_authority(world, dice).context("a new authority of clients"),
        17 | 18 => changes::upstream_certificates(world, dice).context("upstream certificates"),
        19..=21 => moves::switch(world, dice).context("a switch"),
        22 => moves::restart(world, dice).context("a restart of the relay"),
        _ => moves::rest(world, dice).context("at rest"),
    }
}
