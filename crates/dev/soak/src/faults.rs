//! What can happen, one thing at a time.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pgtypes::Major;
use testkit::{Stop, Traffic};

use crate::dice::Dice;
use crate::load::Writer;
use crate::names::Database;
use crate::world::World;

/// Fewest steps between two promotions, as each costs a base backup: one in so many.
const STEPS_A_PROMOTION: u64 = 60;

/// Does one thing.
pub(crate) fn step(world: &mut World, dice: &mut Dice) -> Result<()> {
    if dice.below(STEPS_A_PROMOTION) == 0 {
        world.tell("the whole standby is promoted and takes over");
        return world.fail_over().context("fail over");
    }
    match dice.below(20) {
        0 | 1 => relay_killed(world, dice),
        2 => relay_stopped(world, dice),
        3..=5 => link(world, dice),
        6 => filtered_dies(world, dice),
        7 => whole_dies(world, dice),
        8 | 9 => primary_dies(world, dice),
        10 | 11 => create_database(world, dice),
        12 => drop_database(world, dice),
        13 => rename_database(world, dice),
        14 => tablespace(world, dice),
        15..=17 => maintenance(world, dice),
        _ => large(world, dice),
    }
}

fn relay_killed(world: &mut World, dice: &mut Dice) -> Result<()> {
    world.tell("kill -9 of the relay");
    sound(world)?;
    world.relay.kill9()?;
    sleep(Duration::from_millis(dice.below(1500)));
    world.relay.run()
}

fn relay_stopped(world: &mut World, dice: &mut Dice) -> Result<()> {
    world.tell("SIGTERM of the relay");
    sound(world)?;
    let status = world.relay.stop()?;
    ensure!(status.success(), "the relay ended with {status}");
    sleep(Duration::from_millis(dice.below(1500)));
    world.relay.run()
}

/// The relay itself never panics, and never meets WAL that it does not understand.
pub(crate) fn sound(world: &mut World) -> Result<()> {
    for line in world.relay.program()?.lines() {
        for trouble in ["panicked", "please report", "excluded relations at once"] {
            ensure!(!line.contains(trouble), "the relay said: {line}");
        }
    }
    Ok(())
}

fn link(world: &mut World, dice: &mut Dice) -> Result<()> {
    match dice.below(4) {
        0 => {
            world.tell("the upstream stalls");
            world.link.set(Traffic::Stall);
            sleep(Duration::from_millis(dice.below(3000)));
            world.link.set(Traffic::Pass);
        }
        1 => {
            let bytes = usize::try_from(dice.below(9000) + 200)?;
            world.tell(&format!("the upstream's bytes come in pieces of {bytes}"));
            world.link.split(bytes);
        }
        2 => {
            world.tell("the upstream's bytes come as they are");
            world.link.split(0);
        }
        _ => {
            world.tell("the upstream's connections are reset");
            world.link.cut()?;
        }
    }
    Ok(())
}

fn filtered_dies(world: &mut World, dice: &mut Dice) -> Result<()> {
    if dice.below(2) == 0 {
        world.tell("kill -9 of the filtered standby");
        world.filtered.kill9()?;
    } else {
        world.tell("the filtered standby is stopped");
        world.filtered.stop(Stop::Fast)?;
    }
    sleep(Duration::from_millis(dice.below(4000)));
    world.filtered.start()
}

fn whole_dies(world: &mut World, dice: &mut Dice) -> Result<()> {
    world.tell("the whole standby is stopped");
    world.whole.stop(if dice.below(2) == 0 { Stop::Fast } else { Stop::Immediate })?;
    sleep(Duration::from_millis(dice.below(2000)));
    world.whole.start()
}

fn primary_dies(world: &mut World, dice: &mut Dice) -> Result<()> {
    match dice.below(3) {
        0 => {
            world.tell("kill -9 of the primary");
            world.primary.kill9()?;
        }
        1 => {
            world.tell("the primary is restarted");
            world.primary.stop(Stop::Fast)?;
        }
        _ => {
            world.tell("the primary is stopped at once");
            world.primary.stop(Stop::Immediate)?;
        }
    }
    world.primary.start()
}

fn create_database(world: &mut World, dice: &mut Dice) -> Result<()> {
    let kind = if dice.below(2) == 0 { "keep_new" } else { "drop_new" };
    let database = Database::new(&format!("{kind}{}", world.next_number));
    world.next_number += 1;
    let strategy = match (world.primary.major() >= Major::V15, dice.below(2)) {
        (true, 0) => " strategy file_copy",
        (true, _) => " strategy wal_log",
        (false, _) => "",
    };
    world.tell(&format!("create database {}{strategy}", database.name));
    world.primary.sql(&format!("create database {}{strategy}", database.name))?;
    let writer = Writer::start(&world.primary, &database)?;
    world.writers.insert(database.name.clone(), writer);
    world.databases.push(database);
    Ok(())
}

/// One of those that came later.
fn spare(world: &World, dice: &mut Dice) -> Option<Database> {
    let spare: Vec<_> =
        world.databases.iter().filter(|database| database.name.contains("_new")).collect();
    dice.pick(&spare).map(|database| (*database).clone())
}

fn drop_database(world: &mut World, dice: &mut Dice) -> Result<()> {
    let Some(database) = spare(world, dice) else { return Ok(()) };
    world.tell(&format!("drop database {}", database.name));
    if let Some(writer) = world.writers.remove(&database.name) {
        world.committed += writer.stop()?.len();
    }
    world.primary.sql(&format!("drop database {}", database.name))?;
    world.databases.retain(|known| known.name != database.name);
    Ok(())
}

fn rename_database(world: &mut World, dice: &mut Dice) -> Result<()> {
    let Some(old) = spare(world, dice) else { return Ok(()) };
    let kind = if dice.below(2) == 0 { "keep_new_re" } else { "drop_new_re" };
    let name = format!("{kind}{}", world.next_number);
    world.next_number += 1;
    world.tell(&format!("rename database {} to {name}", old.name));
    let Some(writer) = world.writers.remove(&old.name) else { return Ok(()) };
    writer.pause();
    // The name is bound when the relay first meets it, which it must have by now.
    world.filtered.wait_replayed(&world.primary)?;
    world.primary.sql(&format!("alter database {} rename to {name}", old.name))?;
    let new = Database { name: name.clone(), included: old.included };
    writer.resume(&new);
    world.writers.insert(name, writer);
    for database in &mut world.databases {
        if database.name == old.name {
            *database = new.clone();
        }
    }
    Ok(())
}

/// A table that lives in a tablespace, and moves; or another tablespace.
fn tablespace(world: &mut World, dice: &mut Dice) -> Result<()> {
    if dice.below(3) == 0 {
        let kind = if dice.below(2) == 0 { "fast" } else { "archive" };
        let name = format!("{kind}{}", world.next_number);
        world.next_number += 1;
        world.tell(&format!("create tablespace {name}"));
        let create = format!("create tablespace {name} location ''");
        world.primary.sql(&format!("set allow_in_place_tablespaces = on; {create}"))?;
        world.tablespaces.push(name);
        return Ok(());
    }
    let (Some(tablespace), Some(database)) =
        (dice.pick(&world.tablespaces).cloned(), dice.pick(&world.databases).cloned())
    else {
        return Ok(());
    };
    world.tell(&format!("a table of {} moves to {tablespace}", database.name));
    world.primary.sql_in(
        &database.name,
        &format!(
            "create table if not exists wanderer (g int, t text); \
             insert into wanderer select g, '{}' from generate_series(1, 500) g; \
             alter table wanderer set tablespace {tablespace}; \
             update wanderer set g = g + 1; create index on wanderer (g)",
            database.text()
        ),
    )?;
    Ok(())
}

fn maintenance(world: &mut World, dice: &mut Dice) -> Result<()> {
    let Some(database) = dice.pick(&world.databases).map(|database| database.name.clone()) else {
        return Ok(());
    };
    let works = [
        "vacuum full history",
        "vacuum (analyze)",
        "cluster accounts using accounts_pkey",
        "reindex table history",
        "vacuum full pg_class",
        "vacuum full pg_database",
        "checkpoint",
        "select pg_switch_wal()",
        "truncate history",
        "alter table accounts alter balance type bigint; \
         alter table accounts alter balance type int",
        "create role r; drop role r",
    ];
    let Some(work) = dice.pick(&works) else { return Ok(()) };
    world.tell(&format!("{database}: {work}"));
    // Busy tables may make it fail with a deadlock or a time-out: that is no concern here.
    let sql = format!("set lock_timeout = '3s'; {work}");
    if let Err(error) = world.primary.sql_in(&database, &sql) {
        world.tell(&format!("  it did not: {}", error.root_cause().to_string().replace('\n', " ")));
    }
    Ok(())
}

/// A large transaction, a large record, a prepared transaction.
fn large(world: &mut World, dice: &mut Dice) -> Result<()> {
    let Some(database) = dice.pick(&world.databases).map(|database| database.name.clone()) else {
        return Ok(());
    };
    let text = world.database(&database).map_or("", |database| database.text());
    let megabytes = dice.below(20) + 1;
    let sql = match dice.below(3) {
        0 => format!(
            "begin; insert into history (document) select repeat('{text}', 40) \
             from generate_series(1, {megabytes} * 500); {}",
            if dice.below(3) == 0 { "rollback" } else { "commit" }
        ),
        1 => format!(
            "select pg_logical_emit_message(true, 'soak', repeat('{text}', {megabytes} * 40000))"
        ),
        _ => format!(
            "begin; insert into history (document) values ('{text}'); \
             prepare transaction 'soak'; commit prepared 'soak'"
        ),
    };
    world.tell(&format!("{database}: a large or odd transaction of {megabytes} MB"));
    world.primary.sql_in(&database, &sql)?;
    Ok(())
}
