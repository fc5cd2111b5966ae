//! `pgherd split` beside others: other splits, other servers, and people who do things by hand.
//! Nothing is opened, removed or dropped that is not this split's.

mod splitting;

use std::fs;

use anyhow::{Context as _, Result, ensure};
use testkit::{Port, on_majors, run, run_failing};

use splitting::held::held_in_the_cut;
use splitting::{SPLIT_LIMIT, Stage, as_server, start};

/// Databases that let somebody in.
const OPEN: &str = "select string_agg(datname, ',' order by datname) from pg_database \
                    where datallowconn and not datistemplate";

/// `--drop-source` says why not, and drops nothing.
fn refuses_to_drop(stage: &Stage, reason: &str) -> Result<()> {
    let told = run_failing(&mut stage.then("finish", &["--drop-source"]))?;
    let said = told.contains("nothing is dropped on the source") && told.contains(reason);
    ensure!(said, "no {reason:?} in {told}");
    let there = "select count(*) from pg_database where datname in ('orders', 'tenant_eu_1')";
    ensure!(stage.source.sql(there)? == "2", "something was dropped");
    Ok(())
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// A clone that never came about, and then somebody else's files and server in its place.
    fn undo_removes_what_this_split_made_and_nothing_else(major) {
        let mut stage = Stage::new(major)?;
        stage.source.create_tablespace("fast")?;
        stage.source.sql_in("orders", "create table f tablespace fast as select 1 x")?;
        stage.map("fast");
        let mut killed = start(stage.split(&["--yes"]).env("PGHERD_SPLIT_KILL", "begun:cloned"))?;
        ensure!(killed.wait(SPLIT_LIMIT)?.code().is_none(), "{}", killed.text());
        // Another one, which does not know of it, works in the same place.
        let state = stage.path("state");
        run(stage.split(&["--yes", "--name", "second"]).arg("--state-dir").arg(&state))?;
        let undone = run(&mut stage.then("undo", &["--yes"]))?;
        ensure!(undone.contains("left alone") && !undone.contains("removed"), "{undone}");
        ensure!(undone.contains("were not touched on the source"), "{undone}");
        assert_eq!(stage.ask("orders", "select x from f")?, "1");
        assert_eq!(stage.ask("orders", "select pg_is_in_recovery()")?, "f");
        stage.check_moved(&["orders", "tenant_eu_1"])
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// The new server is moved away, and another one takes its place: it is neither stopped, removed,
    /// nor taken for the one that was made. What else lies in a tablespace's folder stays, too.
    fn another_server_in_its_place_is_left_alone(major) {
        let mut stage = Stage::new(major)?;
        stage.source.create_tablespace("fast")?;
        stage.source.sql_in("orders", "create table f tablespace fast as select 1 x")?;
        stage.map("fast");
        stage.ready()?;
        fs::write(stage.path("fast/precious"), "")?;
        let pg_ctl = |what: &str| {
            let mut pg_ctl = as_server(&stage.path("bin/pg_ctl"), &stage.data());
            pg_ctl.arg(what).arg("-D").arg(stage.data()).args(["-m", "fast", "-s"]);
            run(&mut pg_ctl)
        };
        pg_ctl("stop")?;
        fs::rename(stage.data(), stage.path("away"))?;
        fs::create_dir(stage.data())?;
        testkit::give_to_servers(&stage.data())?;
        let mut initdb = as_server(&stage.path("bin/initdb"), &stage.data());
        run(initdb.arg("-D").arg(stage.data()).args(["-U", "postgres", "-A", "trust", "--no-sync"]))?;
        let refused = run_failing(&mut stage.then("finish", &["--yes"]))?;
        ensure!(refused.contains("not the server that this split made"), "{refused}");
        let undone = run(&mut stage.then("undo", &["--yes"]))?;
        ensure!(undone.contains("left alone"), "{undone}");
        ensure!(stage.data().join("PG_VERSION").exists() && stage.path("away/PG_VERSION").exists());
        assert_eq!(stage.source.sql("select count(*) from pg_replication_slots")?, "0");

        // Its own folders go, but for what is not a server's.
        fs::remove_dir_all(stage.data())?;
        fs::remove_dir_all(stage.path("fast"))?;
        stage.ready()?;
        fs::write(stage.path("fast/precious"), "")?;
        run(&mut stage.then("undo", &["--yes"]))?;
        ensure!(!stage.data().exists());
        let left: Vec<_> = fs::read_dir(stage.path("fast"))?.flatten().map(|it| it.file_name()).collect();
        assert_eq!(left, ["precious"]);
        Ok(())
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// Of two splits that move the same database one does, and the other opens nothing of it.
    fn of_two_splits_one_moves_a_database(major) {
        let stage = Stage::new(major)?;
        stage.ready()?;
        let port = Port::reserve()?;
        let more = ["--yes", "--until-ready"];
        // As from another machine, which does not know the first.
        let mut other = stage.split_into("other", port.number(), "orders,stays", &more);
        run(other.arg("--state-dir").arg(stage.path("state")))?;
        let then = |what: &str| {
            let mut command = stage.then(what, &["--yes"]);
            command.arg("--state-dir").arg(stage.path("state"));
            command
        };
        run(&mut stage.then("finish", &["--yes"]))?;
        let refused = run_failing(&mut then("finish"))?;
        ensure!(refused.contains("database orders was closed on the source since"), "{refused}");
        assert_eq!(stage.source.sql(OPEN)?, "postgres,stays");
        let undone = run(&mut then("undo"))?;
        ensure!(undone.contains("were not touched"), "{undone}");
        assert_eq!(stage.source.sql(OPEN)?, "postgres,stays");
        stage.check_moved(&["orders", "tenant_eu_1"])
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// Two cuts at once, and a row that somebody changed in one: who is not the last to write it opens
    /// nothing there.
    fn a_row_that_somebody_else_wrote_is_not_ours(major) {
        let stage = Stage::new(major)?;
        stage.ready()?;
        let (stuck, mut split) = held_in_the_cut(&stage)?;
        stage.source.sql("alter database tenant_eu_1 allow_connections false")?;
        stuck.go_on()?;
        ensure!(!split.wait(SPLIT_LIMIT)?.success(), "{}", split.text());
        split.wait_for_line("database tenant_eu_1 is closed on the source, and somebody changed it", SPLIT_LIMIT)?;
        split.wait_for_line("the other databases are open on the source again", SPLIT_LIMIT)?;
        assert_eq!(stage.source.sql(OPEN)?, "orders,postgres,stays");
        let refused = run_failing(&mut stage.then("finish", &["--yes"]))?;
        ensure!(refused.contains("tenant_eu_1 was closed on the source since"), "{refused}");
        stage.source.sql("alter database tenant_eu_1 allow_connections true")?;
        run(&mut stage.then("finish", &["--yes"]))?;
        stage.check_moved(&["orders", "tenant_eu_1"])
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// `--drop-source` drops the other copy only when there is one, and when it is as it was.
    fn the_only_copy_is_never_dropped(major) {
        let stage = Stage::new(major)?;
        let printed = run(&mut stage.split(&["--yes"]))?;
        ensure!(printed.contains("connect to: "), "{printed}");
        // Opened, written and closed again.
        stage.source.sql("alter database orders allow_connections true")?;
        refuses_to_drop(&stage, "database orders was opened there")?;
        stage.source.sql_in("orders", "insert into t values (5555, 'after')")?;
        stage.source.sql("alter database orders allow_connections false")?;
        refuses_to_drop(&stage, "database orders was changed there after the cut")?;
        // What was refused is not begun: there is a way back.
        run(&mut stage.then("undo", &["--yes"]))?;
        ensure!(stage.source.sql("select datallowconn from pg_database where datname = 'tenant_eu_1'")? == "t");

        let stage = Stage::new(major)?;
        stage.split_now()?;
        stage.crash_server()?;
        refuses_to_drop(&stage, "does not listen")?;
        let mut pg_ctl = as_server(&stage.path("bin/pg_ctl"), &stage.data());
        run(pg_ctl.arg("start").arg("-D").arg(stage.data()).arg("-l").arg(stage.data().join("log")).args(["-w", "-s"]))?;
        stage.ask("template1", "alter database orders rename to renamed")?;
        stage.ask("template1", "drop database tenant_eu_1")?;
        refuses_to_drop(&stage, "database tenant_eu_1 is not on the new server")?;
        Ok(())
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// What the comparison of rows found is not forgotten, and who did not compare does not drop.
    fn rows_that_differ_stay_so(major) {
        let stage = Stage::new(major)?;
        stage.ready()?;
        stage.stop_for_good()?;
        stage.target_file("orders", "t")?.set_len(8192)?;
        for _again in 0..2 {
            let told = run_failing(&mut stage.then("finish", &["--yes", "--drop-source"]))?;
            ensure!(told.contains("rows of database orders differ: public.t: 2000 on the source"), "{told}");
        }
        run(&mut stage.then("undo", &["--yes"]))?;
        assert_eq!(stage.source.sql_in("orders", "select count(*) from t")?, "2000");

        // A run that was killed behind the cut compared nothing.
        let stage = Stage::new(major)?;
        let mut split = start(stage.split(&["--yes"]).env("PGHERD_SPLIT_KILL", "done:opened"))?;
        ensure!(split.wait(SPLIT_LIMIT)?.code().is_none(), "{}", split.text());
        let told = run_failing(&mut stage.then("finish", &["--yes", "--drop-source"]))?;
        ensure!(told.contains("rows of orders, tenant_eu_1 were not compared"), "{told}");
        ensure!(stage.source.sql("select count(*) from pg_database where datname = 'orders'")? == "1");
        let dropped = run(&mut stage.then("finish", &["--yes", "--drop-source", "--skip-checks"]))?;
        ensure!(dropped.contains("dropped on the source: orders, tenant_eu_1"), "{dropped}");
        Ok(())
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// A cut that was broken off is what `status` tells first.
    fn a_cut_that_was_broken_off_is_told(major) {
        let stage = Stage::new(major)?;
        let mut split = start(stage.split(&["--yes"]).env("PGHERD_SPLIT_KILL", "done:drained"))?;
        ensure!(split.wait(SPLIT_LIMIT)?.code().is_none(), "{}", split.text());
        let status = run(&mut stage.then("status", &[]))?;
        ensure!(status.contains("closed on the source, and not open on the new server"), "{status}");
        // A journal of another version is told, and hides none of its neighbours.
        let journal = stage.path(".local/state/pgherd/split/old/journal");
        fs::create_dir(journal.parent().context("a folder")?)?;
        let text = r#"{"format":1}"#;
        fs::write(&journal, format!("crc32c={:08x} {text}\n", crc32c::crc32c(text.as_bytes())))?;
        let status = stage.then("status", &[]).output()?;
        ensure!(!status.status.success());
        let status = String::from_utf8(status.stdout)?;
        ensure!(status.contains("end the split with the version that began it"), "{status}");
        ensure!(status.contains("closed on the source"), "{status}");
        run(&mut stage.then("undo", &["--yes", "--name", "new"]))?;
        stage.source.sql_in("orders", "insert into t values (1, 'x')")?;
        Ok(())
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// Without its mark a new server may be ours and open: the source is not opened beside it.
    fn a_server_that_lost_its_mark_is_not_passed_over(major) {
        let stage = Stage::new(major)?;
        stage.split_now()?;
        let id = stage.ask("template1", "show pgherd.split")?;
        stage.ask("template1", "alter system reset \"pgherd.split\"")?;
        let refused = run_failing(&mut stage.then("undo", &["--yes"]))?;
        ensure!(refused.contains(&format!("pgherd.split = '{id}'")), "{refused}");
        stage.check_moved(&["orders", "tenant_eu_1"])?;
        stage.ask("template1", &format!("alter system set \"pgherd.split\" = '{id}'"))?;
        run(&mut stage.then("undo", &["--yes"]))?;
        ensure!(stage.ask("template1", "select 1").is_err(), "the target runs");
        stage.source.sql_in("orders", "insert into t values (1, 'x')")?;
        Ok(())
    }
}
