//! `pgherd split` when something breaks: servers and processes that end or hang in the cut,
//! command lines that are given again, damage on the new server.

mod splitting;

use std::os::unix::fs::FileExt as _;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use testkit::{Major, PATIENCE, Program, Session, Stop, on_majors, run, run_failing};

use splitting::held::{held_at_most, held_in_the_cut};
use splitting::{SPLIT_LIMIT, Stage, start};

/// The split has failed before the promotion: the source has everything and is open, what to do
/// is told, and `finish` works once the reason is gone.
fn opened_again(
    stage: &Stage,
    split: &mut Program,
    reason: &str,
    mend: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let status = split.wait(SPLIT_LIMIT)?;
    assert_eq!(status.code(), Some(1), "{}", split.text());
    for part in ["open on the source again", "`pgherd split finish` goes on", reason] {
        split.wait_for_line(part, PATIENCE)?;
    }
    for database in ["orders", "tenant_eu_1"] {
        assert_eq!(stage.source.sql_in(database, "select count(*) from t")?, "2000");
        stage.source.sql_in(database, "insert into t values (9999, 'after')")?;
    }
    mend()?;
    run(&mut stage.then("finish", &["--yes"]))?;
    for database in ["orders", "tenant_eu_1"] {
        assert_eq!(stage.ask(database, "select v from t where g = 9999")?, "after");
    }
    stage.check_moved(&["orders", "tenant_eu_1"])
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// The new server ends while the databases are closed.
    fn a_target_that_dies_in_the_cut(major) {
        let stage = Stage::new(major)?;
        stage.ready()?;
        let (stuck, mut split) = held_in_the_cut(&stage)?;
        stage.crash_server()?;
        stuck.go_on()?;
        opened_again(&stage, &mut split, "target", || Ok(()))
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// What is written at the last does not arrive, or a session does not end: the cut is given up
    /// after its time.
    fn a_cut_that_takes_too_long(major) {
        let stage = Stage::new(major)?;
        stage.ready()?;
        let (stuck, mut split) = held_at_most(&stage, "2")?;
        let started = Instant::now();
        let status = split.wait(SPLIT_LIMIT)?;
        ensure!(!status.success() && started.elapsed() < PATIENCE, "{}", split.text());
        split.wait_for_line("in vain for the end of sessions in the moved databases; what is left: process ", PATIENCE)?;
        stuck.go_on()?;
        stage.source.sql_in("orders", "insert into acks values (1, 1)")?;

        let relay = stage.relay_pid().context("a relay")?.to_string();
        let (stuck, mut split) = held_at_most(&stage, "4")?;
        run(Command::new("kill").args(["-STOP", &relay]))?;
        stuck.go_on()?;
        let mend = || run(Command::new("kill").args(["-CONT", &relay])).map(drop);
        opened_again(&stage, &mut split, "the target to replay up to", mend)
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// The closing itself has to wait: what was given up, or killed, does not close them later.
    fn a_closing_that_comes_too_late(major) {
        let stage = Stage::new(major)?;
        stage.ready()?;
        let open = "select count(*) from pg_database where datallowconn and datname in ('orders', 'tenant_eu_1')";
        let waiting = "select count(*) from pg_stat_activity where application_name = 'pgherd split' \
                       and wait_event_type = 'Lock'";
        for kill in [false, true] {
            let mut holder = stage.source.session("stays")?;
            holder.query("begin; alter database tenant_eu_1 connection limit 7")?;
            let mut split = start(&mut stage.then("finish", &["--yes", "--cut-timeout", "1"]))?;
            stage.source.wait_for(waiting, "1", PATIENCE)?;
            if kill {
                split.kill9()?;
                let undone = start(&mut stage.then("undo", &["--yes"]))?.wait(SPLIT_LIMIT)?;
                ensure!(undone.success(), "{undone}");
            } else {
                ensure!(!split.wait(SPLIT_LIMIT)?.success(), "{}", split.text());
                split.wait_for_line("open on the source again", PATIENCE)?;
            }
            ensure!(stage.source.sql(waiting)? == "0", "it goes on");
            holder.query("rollback")?;
            ensure!(stage.source.sql(open)? == "2", "closed when nobody expects it");
        }
        stage.source.sql_in("orders", "insert into t values (1, 'open')")?;
        Ok(())
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// The source crashes while the databases are closed, and comes back.
    fn a_source_that_crashes_in_the_cut(major) {
        let mut stage = Stage::new(major)?;
        stage.ready()?;
        let (stuck, mut split) = held_in_the_cut(&stage)?;
        stuck.go_on()?;
        stage.source.stop(Stop::Immediate)?;
        stage.source.start()?;
        opened_again(&stage, &mut split, "on the source: cannot", || Ok(()))
    }
}

/// It stays away: that nobody can write anywhere is told, and how that ends.
#[test]
fn a_source_that_is_lost_in_the_cut() -> Result<()> {
    let mut stage = Stage::new(Major::V17)?;
    stage.ready()?;
    let (stuck, mut split) = held_in_the_cut(&stage)?;
    stage.source.stop(Stop::Immediate)?;
    drop(stuck);
    ensure!(!split.wait(SPLIT_LIMIT)?.success(), "{}", split.text());
    split.wait_for_line("hint: the databases are closed on the source", PATIENCE)?;
    stage.source.start()?;
    ensure!(Session::connect(&stage.source.socket(), "orders", &[]).is_err(), "it is open");
    run(&mut stage.then("undo", &["--yes"]))?;
    stage.source.sql_in("orders", "insert into t values (9999, 'after')")?;
    Ok(())
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// The new server hangs, as it does when its disk is gone.
    fn a_target_that_hangs_in_the_cut(major) {
        let stage = Stage::new(major)?;
        stage.ready()?;
        let (stuck, mut split) = held_at_most(&stage, "4")?;
        let backends = "select pid from pg_stat_activity where application_name = 'pgherd split'";
        let backends = stage.ask("template1", backends)?;
        ensure!(!backends.is_empty(), "nobody asks the target");
        let signal = |name: &str| run(Command::new("kill").arg(name).args(backends.lines()));
        signal("-STOP")?;
        stuck.go_on()?;
        let mend = || signal("-CONT").map(drop);
        opened_again(&stage, &mut split, "waited 4 s in vain for an answer", mend)
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// A killed split goes on with the command line that began it.
    fn the_same_command_line_goes_on(major) {
        let mut stage = Stage::new(major)?;
        let killed_at = |stage: &Stage, moment: &str, more: &[&str]| -> Result<()> {
            let mut split = start(stage.split(more).env("PGHERD_SPLIT_KILL", moment))?;
            let status = split.wait(SPLIT_LIMIT)?;
            ensure!(status.code().is_none(), "{moment}: {status}\n{}", split.text());
            Ok(())
        };
        let open = |stage: &Stage| stage.source.sql_in("orders", "insert into t values (1, 'x')");
        for moment in ["done:planned", "begun:cloned", "done:target_started"] {
            killed_at(&stage, moment, &["--yes", "--until-ready"])?;
        }
        stage.ready()?;
        // Ready already.
        stage.ready()?;
        open(&stage)?;
        // Nobody said that the databases may be closed now.
        let refused = run_failing(&mut stage.split(&[]))?;
        ensure!(refused.contains("--yes"), "{refused}");
        ensure!(run_failing(&mut stage.split(&["--plan"]))?.contains("was begun"));
        // Nor that others are moved than those that were planned.
        for others in ["stays", "orders", "orders,tenant_*,stays"] {
            let asked = std::mem::replace(&mut stage.databases, others.into());
            let refused = run_failing(&mut stage.split(&["--yes"]))?;
            ensure!(refused.contains("orders, tenant_eu_1"), "{others}: {refused}");
            stage.databases = asked;
        }
        // Nor in another way than before.
        let asked = std::mem::replace(&mut stage.user, "somebody".into());
        let refused = run_failing(&mut stage.split(&["--yes"]))?;
        ensure!(refused.contains("say the same") && refused.contains("user=postgres"), "{refused}");
        stage.user = asked;
        open(&stage)?;
        killed_at(&stage, "done:drained", &["--yes"])?;
        ensure!(open(&stage).is_err(), "the source lets somebody in");
        // Until it is ready: the source is open then.
        stage.ready()?;
        open(&stage)?;
        for moment in ["done:source_closed", "done:promoted", "doing:dropped"] {
            killed_at(&stage, moment, &["--yes"])?;
        }
        let printed = stage.split_now()?;
        ensure!(printed.contains("connect to: "), "{printed}");
        stage.check_moved(&["orders", "tenant_eu_1"])?;
        // And once more when nothing is left to do.
        let printed = stage.split_now()?;
        ensure!(printed.contains("moved: orders, tenant_eu_1"), "{printed}");
        stage.check_moved(&["orders", "tenant_eu_1"])
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// An index and a table of the new server are not what they were: told for every database, and
    /// the source still has them.
    fn damage_is_told(major) {
        let stage = Stage::new(major)?;
        stage.ready()?;
        stage.stop_for_good()?;
        for (database, relation) in [("orders", "t_g_idx"), ("tenant_eu_1", "t")] {
            stage.target_file(database, relation)?.set_len(8192)?;
        }
        let told = run_failing(&mut stage.then("finish", &["--yes"]))?;
        for part in ["database orders", "rows of database tenant_eu_1 differ: public.t", "undo"] {
            ensure!(told.contains(part), "no {part:?} in {told}");
        }
        run(&mut stage.then("undo", &["--yes"]))?;
        assert_eq!(stage.source.sql_in("tenant_eu_1", "select count(*) from t")?, "2000");
        Ok(())
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// The same of catalogs that no session needs: a tuple, an index, a whole page.
    fn damage_of_catalogs_is_told(major) {
        // Where its first line pointer says that the first tuple begins: 7, which is not aligned.
        const LINE_POINTER: (u64, u32) = (24, 7 | 1 << 15 | 100 << 17);
        let mut stage = Stage::new(major)?;
        for database in ["tenant_eu_2", "tenant_eu_3"] {
            stage.source.sql(&format!("create database {database}"))?;
        }
        stage.databases = "orders,tenant_*".into();
        stage.ready()?;
        stage.stop_for_good()?;
        let (at, pointer) = LINE_POINTER;
        stage.target_file("orders", "pg_conversion")?.write_all_at(&pointer.to_le_bytes(), at)?;
        stage.target_file("tenant_eu_1", "pg_conversion_oid_index")?.set_len(8192)?;
        // One that is counted by its index, and whose rows nobody needs.
        stage.target_file("tenant_eu_2", "pg_collation")?.write_all_at(&[0xaa; 8192], 8192)?;
        let told = run_failing(&mut stage.then("finish", &["--yes"]))?;
        // What only amcheck's look at tables finds, which came with 14.
        let pointer = "database orders, catalog pg_conversion: line pointer";
        ensure!(told.contains(pointer) == (major >= Major::V14), "{told}");
        for part in [
            "database tenant_eu_1: could not read block",
            "database tenant_eu_2, catalog pg_collation: invalid page",
            "--skip-checks",
        ] {
            ensure!(told.contains(part), "no {part:?} in {told}");
        }
        ensure!(!told.contains("database tenant_eu_3"), "{told}");
        // Somebody keeps what is there.
        let printed = run(&mut stage.then("finish", &["--yes", "--skip-checks"]))?;
        ensure!(printed.contains("not looked through"), "{printed}");
        assert_eq!(stage.ask("orders", "select count(*) from t")?, "2000");
        Ok(())
    }
}
