//! What a whole server can do: every tool of PostgreSQL works on it.

use std::fs;

use anyhow::{Result, ensure};
use testkit::{Standby, run};

use super::Stage;

/// Tries the tools on the target of a split that moved `orders` and `tenant_eu_1`.
pub(crate) fn check(stage: &Stage) -> Result<()> {
    let dump = run(stage.program("pg_dumpall")?.arg("--clean"))?;
    ensure!(dump.contains("orders") && dump.contains("tenant_eu_1") && !dump.contains("stays"));
    run(stage.program("vacuumdb")?.args(["--all", "--freeze", "--quiet"]))?;
    // Nothing is left whose age would grow for ever.
    let oldest = "select max(age(datfrozenxid)) from pg_database where datallowconn";
    let age: i64 = stage.ask("postgres", oldest)?.parse()?;
    ensure!(age < 1000, "{age}");
    let all = "select count(*) from pg_database where datfrozenxid::text::int < 3";
    assert_eq!(stage.ask("postgres", all)?, "0");
    // A backup, and a standby of its own.
    let data = stage.path("standby");
    let mut backup = stage.program("pg_basebackup")?;
    run(backup.arg("-D").arg(&data).args(["-c", "fast", "-X", "stream"]))?;
    testkit::give_to_servers(&data)?;
    // Two servers on one machine: the port that the split wrote is the target's.
    let auto = data.join("postgresql.auto.conf");
    let text = fs::read_to_string(&auto)?;
    ensure!(!text.contains("primary_conninfo") && !text.contains("primary_slot_name"), "{text}");
    let lines: Vec<_> = text.lines().filter(|it| !it.starts_with("port")).collect();
    fs::write(&auto, lines.join("\n") + "\n")?;
    let standby =
        Standby::from_backup(stage.source.major(), &data).via(stage.port()).name("own").start()?;
    stage.ask("orders", "insert into t values (4242, 'later')")?;
    let at = stage.ask("orders", "select pg_current_wal_flush_lsn()")?.parse()?;
    standby.wait_replayed_to(at, testkit::PATIENCE)?;
    assert_eq!(standby.sql_in("orders", "select v from t where g = 4242")?, "later");
    // And the old one is a whole server too.
    stage.source.sql("create database one_more; vacuum freeze")?;
    Ok(())
}
