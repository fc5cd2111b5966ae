//! `pgherd split` that is killed, interrupted, undone; and the end of the source's copies.

mod splitting;

use std::fs;

use anyhow::ensure;
use testkit::{PATIENCE, Session, Signal, on_majors, run, run_failing, wait_until};

use splitting::held::held_in_the_cut;
use splitting::load::{Writer, check};
use splitting::{SPLIT_LIMIT, Stage, as_server, start};

/// Steps of the journal, and where in them a kill may come: after the beginning was written,
/// once a process was started that is not written down, before and after the end was.
const STEPS: [&str; 13] = [
    "planned",
    "relay_started",
    "cloned",
    "target_started",
    "caught_up",
    "source_closed",
    "drained",
    "promoted",
    "opened",
    "dropped",
    "settled",
    "checked",
    "finished",
];
const MOMENTS: [&str; 4] = ["begun", "started", "doing", "done"];
/// These are written only when they are done.
const ONLY_DONE: [&str; 4] = ["planned", "caught_up", "drained", "finished"];
/// Told when nothing else says where the split has to be ended.
const FIRST_OF_TARGET: &str = "opened";

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// Killed at each step, and continued each time: the result is as if nothing had been.
    fn continues_after_a_kill_at_any_step(major) {
        let stage = Stage::new(major)?;
        // Only a session in a database that the target does not have could end this one there.
        let theirs = "begin; create table theirs (x int); prepare transaction 'theirs'";
        stage.source.session("stays")?.query(theirs)?;
        let moved = Writer::start(&stage, "orders", 1, "set synchronous_commit = on");
        let other = Writer::start(&stage, "stays", 2, "set synchronous_commit = on");
        moved.wait_for_more()?;
        let mut begun = false;
        let mut opened = false;
        for step in STEPS {
            for moment in MOMENTS {
                if moment == "begun" && ONLY_DONE.contains(&step)
                    || moment == "started" && step != "relay_started"
                {
                    continue;
                }
                let mut command =
                    if begun { stage.then("finish", &["--yes"]) } else { stage.split(&["--yes"]) };
                // Before that nothing is written down.
                begun |= (step, moment) != ("planned", "doing");
                let mut split = start(command.env("PGHERD_SPLIT_KILL", format!("{moment}:{step}")))?;
                let status = split.wait(SPLIT_LIMIT)?;
                ensure!(status.code().is_none(), "{moment}:{step}: {status}\n{}", split.text());
                opened |= step == FIRST_OF_TARGET && moment != "begun";
                if opened {
                    moved.wait_for_more()?;
                }
                if (step, moment) == ("cloned", "begun") {
                    // As if it had been killed when the clone had made its slot, and not noted it.
                    let made = "select pg_create_physical_replication_slot('pgherd_split_new')";
                    stage.source.sql(made)?;
                }
            }
        }
        let printed = run(&mut stage.then("finish", &["--yes"]))?;
        ensure!(printed.contains("connect to: "), "{printed}");
        moved.wait_for_more()?;
        other.wait_for_more()?;
        let (worker, written) = moved.stop()?;
        check(&stage, "orders", worker, &written)?;
        let (_, written) = other.stop()?;
        ensure!(written.errors.is_empty(), "{:?}", written.errors.first());
        let prepared = "select string_agg(gid, ',') from pg_prepared_xacts";
        assert_eq!(stage.ask("orders", prepared)?, "");
        assert_eq!(stage.source.sql_in("stays", "commit prepared 'theirs'; table theirs")?, "");
        stage.check_moved(&["orders", "tenant_eu_1"])
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// Killed while it copies: what it had started goes on for a while, and is in nobody's way. The
    /// clone that is begun anew asks for no more than the first.
    fn killed_in_the_midst_of_the_clone(major) {
        let logs = [("log_checkpoints", "on"), ("log_replication_commands", "on")];
        let stage = Stage::with(major, &logs)?;
        stage.source.sql_in(
            "orders",
            "create table large (v text); alter table large alter v set storage external; \
             insert into large select repeat(md5(g::text), 250) from generate_series(1, 10000) g",
        )?;
        stage.source.checkpoint()?;
        let gently = ["--yes", "--max-rate", "64M", "--checkpoint", "spread"];
        let mut split = start(&mut stage.split(&gently))?;
        wait_until("files of the clone", PATIENCE, || {
            ensure!(split.is_running()?, "{}", split.text());
            Ok(stage.data().join(".pgherd-clone/data/base").exists().then_some(()))
        })?;
        split.kill9()?;
        run(&mut stage.then("finish", &["--yes"]))?;
        assert_eq!(stage.ask("orders", "select count(*) from large")?, "10000");
        let log = stage.source.log();
        let backups = log.lines().filter(|it| it.contains("replication command: BASE_BACKUP"));
        let gentle = backups.clone().filter(|it| it.contains("MAX_RATE 65536")).count();
        assert_eq!((gentle, backups.count()), (2, 2), "{log}");
        assert_eq!(log.matches("checkpoint starting: force wait").count(), 2, "{log}");
        stage.check_moved(&["orders", "tenant_eu_1"])
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// Ctrl-C while the databases are closed opens them again; `finish` then moves them, even
    /// when the new machine was down in between.
    fn ctrl_c_before_the_promotion_opens_the_source(major) {
        let stage = Stage::new(major)?;
        stage.ready()?;
        let (stuck, mut split) = held_in_the_cut(&stage)?;
        let refused = Session::connect(&stage.source.socket(), "orders", &[]);
        ensure!(refused.is_err(), "the source lets somebody in");
        split.signal(Signal::INT)?;
        let status = split.wait(PATIENCE)?;
        ensure!(!status.success(), "{}", split.text());
        split.wait_for_line("open on the source again", PATIENCE)?;
        stuck.go_on()?;
        stage.source.sql_in("orders", "insert into t values (9999, 'after')")?;
        // Nothing that ran runs any more, and the port of the relay is still written down.
        stage.crash()?;
        run(&mut stage.then("finish", &["--yes"]))?;
        stage.check_moved(&["orders", "tenant_eu_1"])?;
        assert_eq!(stage.ask("orders", "select v from t where g = 9999")?, "after");
        Ok(())
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    fn undone_before_the_cut_nothing_is_left(major) {
        let mut stage = Stage::new(major)?;
        stage.ready()?;
        let status = run(&mut stage.then("status", &[]))?;
        ensure!(status.contains("has caught up") && status.contains("follows, "), "{status}");
        // Both servers on one machine, and one folder for both.
        stage.source.create_tablespace("late")?;
        let refused = run_failing(&mut stage.then("finish", &["--yes"]))?;
        ensure!(refused.contains("tablespace late was made since"), "{refused}");
        // The new machine was down, and somebody thought that nobody needs the slot.
        stage.crash()?;
        let status = run(&mut stage.then("status", &[]))?;
        ensure!(status.contains("does not follow"), "{status}");
        let drop = "select pg_drop_replication_slot('pgherd_split_new')";
        wait_until("the slot to be free", PATIENCE, || Ok(stage.source.sql(drop).ok()))?;
        let refused = run_failing(&mut stage.then("finish", &["--yes"]))?;
        ensure!(refused.contains("slot pgherd_split_new is gone"), "{refused}");
        stage.source.sql_in("orders", "insert into t values (1, 'never closed')")?;
        // Nobody is there to ask.
        ensure!(run_failing(&mut stage.then("undo", &[]))?.contains("--yes"));
        run(&mut stage.then("undo", &["--yes"]))?;
        ensure!(!stage.data().exists());
        assert_eq!(stage.source.sql("select count(*) from pg_replication_slots")?, "0");
        stage.source.sql_in("orders", "insert into t values (1, 'x')")?;
        stage.source.sql_in("orders", "create table l tablespace late as select 1 x")?;
        stage.map("late");
        // It can be begun anew.
        stage.split_now()?;
        stage.check_moved(&["orders", "tenant_eu_1"])
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// Killed when it may have been promoted, and not opened: the source is the one that has them.
    fn undone_in_the_midst_of_the_cut(major) {
        let stage = Stage::new(major)?;
        for moment in ["begun:promoted", "doing:promoted"] {
            let mut split = stage.split(&["--yes"]);
            let mut killed = start(split.env("PGHERD_SPLIT_KILL", moment))?;
            ensure!(killed.wait(SPLIT_LIMIT)?.code().is_none(), "{moment}: {}", killed.text());
            let refused = Session::connect(&stage.source.socket(), "orders", &[]);
            ensure!(refused.is_err(), "{moment}: the source lets somebody in");
            run(&mut stage.then("undo", &["--yes"]))?;
            stage.source.sql_in("orders", "insert into t values (1, 'x')")?;
            fs::remove_dir_all(stage.data())?;
        }
        Ok(())
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// What was written on the new server stays there, closed; also when it is started again.
    fn undone_after_the_cut_the_source_has_its_databases(major) {
        let stage = Stage::new(major)?;
        stage.split_now()?;
        stage.ask("orders", "insert into t values (7777, 'new')")?;
        // Killed in the midst, and undone again.
        let mut undo = stage.then("undo", &["--yes"]);
        let mut killed = start(undo.env("PGHERD_SPLIT_KILL", "begun:undone"))?;
        ensure!(killed.wait(SPLIT_LIMIT)?.code().is_none());
        let refused = run_failing(&mut stage.then("finish", &["--yes"]))?;
        ensure!(refused.contains("undo"), "{refused}");
        for moment in ["doing:undone", "done:undone"] {
            let mut undo = stage.then("undo", &["--yes"]);
            let mut killed = start(undo.env("PGHERD_SPLIT_KILL", moment))?;
            ensure!(killed.wait(SPLIT_LIMIT)?.code().is_none(), "{moment}: {}", killed.text());
        }
        // It is over now, and nothing more is done.
        let refused = run_failing(&mut stage.then("undo", &["--yes"]))?;
        ensure!(refused.contains("there is no split"), "{refused}");
        run(&mut stage.then("undo", &["--yes", "--name", "new"]))?;
        assert_eq!(stage.source.sql_in("orders", "select count(*) from t where g = 7777")?, "0");
        stage.source.sql_in("orders", "insert into t values (1, 'x')")?;
        ensure!(stage.ask("template1", "select 1").is_err(), "the target runs");
        let mut pg_ctl = as_server(&stage.path("bin/pg_ctl"), &stage.data());
        let log = stage.data().join("log-of-the-test");
        run(pg_ctl.arg("start").arg("-D").arg(stage.data()).arg("-l").arg(log).args(["-w", "-s"]))?;
        let refused = stage.ask("orders", "select 1").err().map(|error| format!("{error:#}"));
        ensure!(refused.is_some_and(|it| it.contains("not currently accepting")));
        Ok(())
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    fn the_source_drops_them_when_it_is_told_to(major) {
        let stage = Stage::with(major, &[("wal_level", "logical")])?;
        // Before there is a prepared transaction: a slot would wait for its end.
        for (database, name) in [("orders", "moves"), ("stays", "remains")] {
            let slot = format!("select pg_create_logical_replication_slot('{name}', 'pgoutput')");
            stage.source.sql_in(database, &slot)?;
            let subscription = format!(
                "create subscription {name} connection 'host=127.0.0.1 port=1' publication p \
                 with (connect = false)"
            );
            stage.source.sql_in(database, &subscription)?;
        }
        let mut prepared = stage.source.session("orders")?;
        prepared.query("begin; insert into t values (1, 'p'); prepare transaction 'it''s'")?;
        drop(prepared);
        stage.split_now()?;
        let slots = "select string_agg(slot_name, ',' order by slot_name) from pg_replication_slots";
        assert_eq!(stage.source.sql(slots)?, "moves,remains");
        for moment in ["begun", "doing"] {
            let mut killed = stage.then("finish", &["--drop-source"]);
            let moment = format!("{moment}:source_dropped");
            let mut killed = start(killed.env("PGHERD_SPLIT_KILL", &moment))?;
            ensure!(killed.wait(SPLIT_LIMIT)?.code().is_none(), "{moment}: {}", killed.text());
        }
        let printed = run(&mut stage.then("finish", &["--drop-source"]))?;
        ensure!(printed.contains("dropped on the source"), "{printed}");
        let left =
            "select string_agg(datname, ',' order by datname) from pg_database where not datistemplate";
        assert_eq!(stage.source.sql(left)?, "postgres,stays");
        assert_eq!(stage.source.sql("select count(*) from pg_prepared_xacts")?, "0");
        // What others have stays theirs; the target's subscription goes on.
        assert_eq!(stage.source.sql(slots)?, "remains");
        let subscriptions = "select string_agg(subname, ',') || count(roname) from pg_subscription \
                             full join pg_replication_origin on roname = 'pg_' || oid";
        assert_eq!(stage.source.sql(subscriptions)?, "remains1");
        assert_eq!(stage.ask("orders", subscriptions)?, "moves1");
        // The target has its own copy, which somebody finishes.
        stage.ask("orders", "commit prepared 'it''s'")?;
        assert_eq!(stage.ask("orders", "select count(*) from t where v = 'p'")?, "1");
        let refused = run_failing(&mut stage.then("undo", &["--yes"]))?;
        ensure!(refused.contains("nothing leads back"), "{refused}");
        Ok(())
    }
}
