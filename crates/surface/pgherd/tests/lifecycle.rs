//! Databases that come, go, move and change their names, with the standby streaming or away.

mod stage;

use anyhow::{Context as _, Result};
use stage::{
    Relaying, absent, berlin, calm, cancel, disturb, fill, hold_creation, no_tablespace, sound,
    standby_without, wait_blocked,
};
use testkit::{Cluster, Major, PATIENCE, Standby, Stop, on_majors, same_contents};

const FILTER: &str = "exclude_databases: [\"drop*\"]";

/// Whether the standby is there while something happens on the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Away {
    No,
    Yes,
}

/// All ways in which the relay and the standby go through an event.
const PASSAGES: [(Away, Relaying); 5] = [
    (Away::No, Relaying::Stays),
    (Away::No, Relaying::Killed),
    (Away::Yes, Relaying::Stays),
    (Away::Yes, Relaying::Restarts),
    (Away::Yes, Relaying::Killed),
];

on_majors! {
    [v12 V12, v13 V13, v15 V15, v18 V18]
    /// Scenarios 11 to 13: in every passage an excluded database is made, renamed and dropped.
    fn databases_come_and_go(major) {
        let primary = Cluster::builder(major).start()?;
        primary.sql("create database keep")?;
        let mut relay = berlin(&primary, FILTER)?;
        let mut standby = standby_without(&primary, &relay, &[], &[])?;
        let copied = if major >= Major::V15 { "strategy file_copy" } else { "" };
        for (round, (away, relaying)) in PASSAGES.into_iter().enumerate() {
            if away == Away::Yes {
                standby.stop(Stop::Fast)?;
            }
            for (name, how) in [("drop", ""), ("dropcopy", copied), ("also", ""), ("alsocopy", copied)] {
                primary.sql(&format!("create database {name}{round} {how}"))?;
                if round % 2 == 0 {
                    primary.sql("checkpoint")?;
                }
                fill(&primary, &format!("{name}{round}"), "t")?;
            }
            disturb(&mut relay, relaying)?;
            if round > 0 {
                // What one passage made the next one renames, to and from an excluded name.
                let last = round - 1;
                primary.sql(&format!("alter database drop{last} rename to was{last}"))?;
                primary.sql(&format!("alter database also{last} rename to dropalso{last}"))?;
                primary.sql(&format!("drop database dropcopy{last}; drop database alsocopy{last}"))?;
                primary.sql_in(&format!("was{last}"), "insert into t select 1, 'more'")?;
                primary.sql_in(&format!("dropalso{last}"), "insert into t select 1, 'more'")?;
            }
            if away == Away::Yes {
                standby.start()?;
            }
            standby.wait_replayed(&primary)?;
            absent(&standby, &primary, &format!("drop{round}"))?;
            absent(&standby, &primary, &format!("dropcopy{round}"))?;
            same_contents(&primary, &standby, &format!("also{round}"))?;
            same_contents(&primary, &standby, &format!("alsocopy{round}"))?;
            if round > 0 {
                let last = round - 1;
                absent(&standby, &primary, &format!("was{last}"))?;
                same_contents(&primary, &standby, &format!("dropalso{last}"))?;
            }
            calm(&mut relay, &[])?;
        }
        sound(&standby, &[])
    }
}

/// What `standby` says of a table that was not to come.
fn not_there(standby: &Standby, table: &str) -> Result<()> {
    let error = standby.sql_in("keep", &format!("select count(*) from {table}")).err();
    let error = format!("{:#}", error.with_context(|| format!("the standby has {table}"))?);
    anyhow::ensure!(error.contains("could not open file"), "{error}");
    Ok(())
}

on_majors! {
    [v12 V12, v18 V18]
    /// The same with tablespaces: made, renamed from and to an excluded name, and dropped before
    /// and behind whatever happens to the relay.
    fn tablespaces_come_and_go(major) {
        let primary = Cluster::builder(major).start()?;
        primary.sql("create database keep")?;
        let mut relay = berlin(&primary, "exclude_tablespaces: [\"cold*\"]")?;
        let mut standby = standby_without(&primary, &relay, &[], &[])?;
        let mut dropped = Vec::new();
        for (round, (away, relaying)) in PASSAGES.into_iter().enumerate() {
            if away == Away::Yes {
                standby.stop(Stop::Fast)?;
            }
            for name in ["cold", "coldsoon", "coldlate", "hot", "hotsoon", "hotlate"] {
                if name.starts_with("cold") {
                    primary.create_tablespace(&format!("{name}{round}"))?;
                } else {
                    primary.sql(&format!("create tablespace {name}{round} location ''"))?;
                }
                primary.sql_in("keep", &format!(
                    "create table in_{name}{round} tablespace {name}{round} as select 1 x"
                ))?;
            }
            // What one passage made the next one renames and drops.
            let last = round.checked_sub(1);
            if let Some(last) = last {
                for name in ["coldsoon", "coldlate", "hotsoon", "hotlate"] {
                    dropped.push((name, primary.tablespace_oid(&format!("{name}{last}"))?));
                    primary.sql_in("keep", &format!("drop table in_{name}{last}"))?;
                }
                primary.sql(&format!("drop tablespace coldsoon{last}; drop tablespace hotsoon{last}"))?;
            }
            disturb(&mut relay, relaying)?;
            if let Some(last) = last {
                primary.sql(&format!("drop tablespace coldlate{last}; drop tablespace hotlate{last}"))?;
                primary.sql(&format!("alter tablespace cold{last} rename to was{last}"))?;
                primary.sql(&format!("alter tablespace hot{last} rename to coldhot{last}"))?;
                primary.sql_in("keep", &format!(
                    "insert into in_cold{last} values (2); insert into in_hot{last} values (2); \
                     create table new_cold{last} tablespace was{last} as select 3 x; \
                     create table new_hot{last} tablespace coldhot{last} as select 3 x"
                ))?;
            }
            if away == Away::Yes {
                standby.start()?;
            }
            standby.wait_replayed(&primary)?;
            no_tablespace(&standby, &primary, &format!("cold{round}"))?;
            not_there(&standby, &format!("in_cold{round}"))?;
            assert_eq!(standby.sql_in("keep", &format!("select x from in_hot{round}"))?, "1");
            if let Some(last) = last {
                no_tablespace(&standby, &primary, &format!("was{last}"))?;
                not_there(&standby, &format!("in_cold{last}"))?;
                not_there(&standby, &format!("new_cold{last}"))?;
                let rows = format!("select x from in_hot{last} union select x from new_hot{last} order by x");
                assert_eq!(standby.sql_in("keep", &rows)?, "1\n2\n3");
            }
            for (_, oid) in &dropped {
                let folder = standby.data().join("pg_tblspc").join(oid.to_string());
                assert!(folder.symlink_metadata().is_err(), "{} is left", folder.display());
            }
            calm(&mut relay, &[])?;
            let alarms = relay.alarms();
            assert!(!alarms.iter().any(|it| it.contains("does not know this OID")), "{alarms:#?}");
        }
        // What it says when it shall drop a tablespace that it never had.
        let log = standby.log();
        for (_, oid) in dropped.iter().filter(|(name, _)| name.starts_with("cold")) {
            let told = log.lines().find(|it| it.contains(&format!("\"pg_tblspc/{oid}\"")));
            assert_eq!(told, None, "{}", standby.log_tail());
        }
        sound(&standby, &[])
    }
}

/// A rename is told once: what it was called, what it is called now, and what was decided.
#[test]
fn a_rename_is_told_in_one_line() -> Result<()> {
    let primary = Cluster::builder(Major::V18).start()?;
    primary.sql("create database drop1")?;
    let mut relay = berlin(&primary, FILTER)?;
    let standby = standby_without(&primary, &relay, &["drop1"], &[])?;
    primary.sql("alter database drop1 rename to other")?;
    let line = relay.wait_for_line("renamed", PATIENCE)?;
    for part in ["drop1", "other", "excluded"] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    fill(&primary, "other", "t")?;
    standby.wait_replayed(&primary)?;
    absent(&standby, &primary, "other")?;
    let told = relay.program()?.lines().iter().filter(|it| it.contains("renamed")).count();
    assert_eq!(told, 1);
    sound(&standby, &[])?;
    calm(&mut relay, &[])
}

on_majors! {
    [v12 V12, v14 V14, v15 V15, v18 V18]
    /// Files cannot be copied from a template that is not there: the new database is excluded too,
    /// and that is an error in the log.
    fn an_excluded_template_cannot_be_copied(major) {
        let primary = Cluster::builder(major).start()?;
        primary.sql("create database drop_template")?;
        fill(&primary, "drop_template", "t")?;
        let mut relay = berlin(&primary, FILTER)?;
        let mut standby = standby_without(&primary, &relay, &["drop_template"], &[])?;
        let copied = if major >= Major::V15 { "strategy file_copy" } else { "" };
        primary.sql(&format!("create database lost template drop_template {copied}"))?;
        primary.sql_in("lost", "insert into t select 1, 'more'")?;
        if major >= Major::V15 {
            primary.sql("create database whole template drop_template strategy wal_log")?;
            primary.sql_in("whole", "insert into t select 1, 'more'")?;
        }
        standby.wait_replayed(&primary)?;
        absent(&standby, &primary, "lost")?;
        if major >= Major::V15 {
            same_contents(&primary, &standby, "whole")?;
        }
        calm(&mut relay, &["excluded template"])?;
        // It stays so.
        relay.kill9()?;
        relay.run()?;
        primary.sql_in("lost", "insert into t select 1, 'more'")?;
        standby.restart()?;
        standby.wait_replayed(&primary)?;
        absent(&standby, &primary, "lost")?;
        let line = relay.wait_for_line("which the filter includes", PATIENCE)?;
        assert!(line.contains("lost") && line.contains("template"), "{line}");
        sound(&standby, &[])
    }
}

/// A `CREATE DATABASE` that is undone leaves nothing, also when its OID is used again: the new
/// name decides.
#[test]
fn an_aborted_creation_leaves_nothing() -> Result<()> {
    let primary = Cluster::builder(Major::V16).start()?;
    let mut relay = berlin(&primary, FILTER)?;
    let standby = standby_without(&primary, &relay, &[], &[])?;
    for (first, second, oid) in [("drop_a", "keep_a", 70_001), ("keep_b", "drop_b", 70_002)] {
        let mut holder = hold_creation(&primary)?;
        let create = format!("create database {first} oid {oid}");
        std::thread::scope(|scope| -> Result<()> {
            let creator = scope.spawn(|| primary.session("postgres")?.query(&create));
            wait_blocked(&primary, "create database")?;
            cancel(&primary, "create database")?;
            let error = creator.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            error.err().context("the creation went through")?;
            Ok(())
        })?;
        holder.query("rollback")?;
        primary.sql(&format!("create database {second} oid {oid}"))?;
        fill(&primary, second, "t")?;
    }
    standby.wait_replayed(&primary)?;
    same_contents(&primary, &standby, "keep_a")?;
    absent(&standby, &primary, "drop_b")?;
    sound(&standby, &[])?;
    calm(&mut relay, &[])
}

/// An OID that is used again after a drop: the new name decides, whatever the old one was.
#[test]
fn an_oid_that_is_used_again() -> Result<()> {
    let primary = Cluster::builder(Major::V15).start()?;
    let mut relay = berlin(&primary, FILTER)?;
    let mut standby = standby_without(&primary, &relay, &[], &[])?;
    for (round, relaying) in [Relaying::Stays, Relaying::Killed].into_iter().enumerate() {
        for (first, second, oid) in [("drop", "keep", 80_001), ("also", "dropalso", 80_002)] {
            let oid = oid + round * 10;
            primary.sql(&format!("create database {first}{round} oid {oid}"))?;
            fill(&primary, &format!("{first}{round}"), "t")?;
            if round == 1 {
                standby.wait_replayed(&primary)?;
                standby.stop(Stop::Fast)?;
            }
            primary.sql(&format!("drop database {first}{round}"))?;
            disturb(&mut relay, relaying)?;
            primary.sql(&format!("create database {second}{round} oid {oid}"))?;
            fill(&primary, &format!("{second}{round}"), "u")?;
            if round == 1 {
                standby.start()?;
            }
        }
        standby.wait_replayed(&primary)?;
        same_contents(&primary, &standby, &format!("keep{round}"))?;
        absent(&standby, &primary, &format!("dropalso{round}"))?;
        calm(&mut relay, &[])?;
    }
    // All of it once more from the last restart point.
    restart_hard(&mut standby)?;
    standby.wait_replayed(&primary)?;
    same_contents(&primary, &standby, "keep0")?;
    sound(&standby, &[])
}

fn restart_hard(standby: &mut Standby) -> Result<()> {
    standby.stop(Stop::Immediate)?;
    standby.start()
}
