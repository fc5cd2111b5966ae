//! `pgherd split` when somebody did something by hand meanwhile, or the disk did.

mod splitting;

use std::os::unix::fs::FileExt as _;

use anyhow::ensure;
use testkit::{on_majors, run, run_failing};

use splitting::{SPLIT_LIMIT, Stage, start};

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// Killed behind the cut; before it is continued, somebody opens a database on the source and
    /// writes there. The target, which lacks that, is not opened beside it.
    fn a_source_that_was_opened_by_hand_is_not_left_behind(major) {
        for moment in ["begun:promoted", "done:promoted", "begun:opened"] {
            let stage = Stage::new(major)?;
            let mut split = start(stage.split(&["--yes"]).env("PGHERD_SPLIT_KILL", moment))?;
            ensure!(split.wait(SPLIT_LIMIT)?.code().is_none(), "{moment}: {}", split.text());
            stage.source.sql("alter database orders allow_connections true")?;
            stage.source.sql_in("orders", "insert into acks values (7, 7)")?;
            for _again in 0..2 {
                let told = run_failing(&mut stage.then("finish", &["--yes"]))?;
                for part in ["was opened on the source after the cut", "pgherd split undo"] {
                    ensure!(told.contains(part), "{moment}: no {part:?} in {told}");
                }
                // While it is a standby it has what the source has.
                let open = "select count(*) from pg_database where datname = 'orders' \
                            and datallowconn and not pg_is_in_recovery()";
                ensure!(stage.ask("template1", open)? == "0", "{moment}: open on both sides");
            }
            if moment == "done:promoted" {
                // Closed again: nobody can say that the target lacks nothing.
                stage.source.sql("alter database orders allow_connections false")?;
                let told = run_failing(&mut stage.then("finish", &["--yes"]))?;
                ensure!(told.contains("or changed there"), "{told}");
                stage.source.sql("alter database orders allow_connections true")?;
            }
            run(&mut stage.then("undo", &["--yes"]))?;
            ensure!(stage.source.sql_in("orders", "select n from acks")? == "7");
            ensure!(stage.source.sql_in("tenant_eu_1", "select count(*) from t")? == "2000");
        }
        Ok(())
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// Without the source nobody knows whether it is closed: nothing is opened.
    fn nothing_is_opened_while_the_source_is_away(major) {
        let mut stage = Stage::new(major)?;
        let mut split = start(stage.split(&["--yes"]).env("PGHERD_SPLIT_KILL", "begun:promoted"))?;
        ensure!(split.wait(SPLIT_LIMIT)?.code().is_none(), "{}", split.text());
        stage.source.stop(testkit::Stop::Fast)?;
        let told = run_failing(&mut stage.then("finish", &["--yes"]))?;
        ensure!(told.contains("on the source"), "{told}");
        ensure!(stage.ask("template1", "select pg_is_in_recovery()")? == "t");
        stage.source.start()?;
        run(&mut stage.then("finish", &["--yes"]))?;
        stage.check_moved(&["orders", "tenant_eu_1"])
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// A table that cannot be read on the target is damage, and hides none of its neighbours.
    fn a_table_that_cannot_be_read_is_told(major) {
        let stage = Stage::new(major)?;
        for database in ["orders", "tenant_eu_1"] {
            stage.source.sql_in(
                database,
                "create table heap as select g, repeat('x', 200) from generate_series(1, 1000) g; \
                 create table short as select * from heap",
            )?;
        }
        stage.ready()?;
        stage.stop_for_good()?;
        stage.target_file("orders", "heap")?.write_all_at(&[0xff; 8192], 8192)?;
        stage.target_file("orders", "short")?.set_len(8192)?;
        let told = run_failing(&mut stage.then("finish", &["--yes"]))?;
        for part in [
            "tables of database orders cannot be read: public.heap: invalid page in block 1",
            "rows of database orders differ: public.short",
            "pgherd split undo",
        ] {
            ensure!(told.contains(part), "no {part:?} in {told}");
        }
        ensure!(!told.contains("tenant_eu_1 "), "{told}");
        run(&mut stage.then("undo", &["--yes"]))?;
        ensure!(stage.source.sql_in("orders", "select count(*) from heap")? == "1000");
        Ok(())
    }
}
