//! A relay that was never here before, and starts in the middle of things.

mod stage;

use anyhow::Context as _;
use stage::{absent, berlin, calm, fill, hold_creation, sound};
use testkit::{Cluster, PATIENCE, Standby, Stop, on_majors, same_contents};

on_majors! {
    [v13 V13, v15 V15, v18 V18]
    /// `CREATE DATABASE` is under way: the name went by in the WAL, the catalog does not have it
    /// yet, and records of the new database come.
    fn while_databases_are_made(major) {
        let primary = Cluster::builder(major).start()?;
        let mut standby = Standby::of(&primary).name("berlin").start()?;
        standby.wait_streaming()?;
        primary.sql("create table t as select 1 x")?;
        let copied = if major >= testkit::Major::V15 { "strategy file_copy" } else { "" };
        let names = [("drop1", ""), ("keep1", ""), ("drop2", copied), ("keep2", copied)];
        let mut relay = std::thread::scope(|scope| {
            // Gone with this closure, whatever happens: the creators wait for it.
            let mut holder = hold_creation(&primary)?;
            let creators = names.map(|(name, how)| {
                let create = format!("create database {name} {how}");
                let primary = &primary;
                scope.spawn(move || primary.session("postgres")?.query(&create))
            });
            let waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' \
                           and query like 'create database%'";
            primary.wait_for(waiting, "4", PATIENCE)?;
            // The standby has the rows; it will ask for what follows only.
            primary.switch_wal()?;
            primary.sql("insert into t values (2)")?;
            standby.wait_replayed(&primary)?;
            standby.stop(Stop::Fast)?;
            let mut relay = berlin(&primary, "exclude_databases: [\"drop*\"]")?;
            let conninfo =
                format!("host=127.0.0.1 port={} user=postgres application_name=berlin", relay.port());
            standby.set("primary_conninfo", &conninfo)?;
            standby.start()?;
            relay.wait_for_line("streaming with a filter", PATIENCE)?;
            holder.query("rollback")?;
            for creator in creators {
                creator.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            }
            anyhow::Ok(relay)
        })?;
        for (name, _) in names {
            fill(&primary, name, "t")?;
        }
        standby.wait_replayed(&primary)?;
        for name in ["keep1", "keep2"] {
            same_contents(&primary, &standby, name)?;
        }
        for name in ["drop1", "drop2"] {
            absent(&standby, &primary, name)?;
        }
        let text = relay.program()?.text();
        text.find("asking the catalog").context("the names were not looked for")?;
        sound(&standby, &[])?;
        calm(&mut relay, &[])
    }
}
