//! `pgherd clone`: a whole standby or nothing.

mod cloning;
mod partial;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use testkit::{
    Cluster, Disk, Link, PATIENCE, Program, Relay, Signal, Terminal, Traffic, on_majors, run,
    run_failing, wait_until,
};

use cloning::{
    check, clone, clone_as, clone_with, half_made, nothing_left, programs, slots, wait_for_half,
};
use partial::{FILTER, Folder, Stage, binary, fill};

on_majors! {
    [v12 V12, v13 V13, v15 V15, v17 V17, v18 V18]
    /// Through the relay that runs; then the estimate, and the refusals.
    fn makes_a_standby(major) {
        let stage = Stage::new(major)?;
        let folder = Folder::new()?;
        let missing = run_failing(&mut clone_as("nobody", &stage, &folder, &[])?)?;
        ensure!(missing.contains("no configuration matches"), "{missing}");
        let mut without = clone_with(Path::new("/nonexistent"), "berlin", &stage, &folder)?;
        let missing = run_failing(&mut without)?;
        ensure!(missing.contains("no pg_basebackup") && missing.contains("--bin-dir"), "{missing}");
        let plan = partial::run(clone(&stage, &folder, &["--dry-run"])?.args(["-v"]))?;
        for line in ["configuration berlin", "keep", "drop1", "left out", "free"] {
            ensure!(plan.contains(line), "{line} is not in:\n{plan}");
        }
        nothing_left(&stage, &folder)?;
        let told = partial::run(&mut clone(&stage, &folder, &[])?)?;
        ensure!(told.contains("copied 3"), "{told}");
        let again = run_failing(&mut clone(&stage, &folder, &["--no-slot"])?)?;
        ensure!(again.contains("is not empty"), "{again}");
        check(&stage, &folder)
    }
}

/// What the estimate says of a database or tablespace: what is kept, and what is left out.
fn told(plan: &str, section: &str, name: &str) -> Result<(f64, f64)> {
    let (_, rest) = plan.split_once(section).with_context(|| format!("{section} in\n{plan}"))?;
    let lines = rest.lines().skip(1).take_while(|line| line.starts_with("  "));
    let mut lines = lines.map(str::trim_start).filter_map(|line| line.strip_prefix(name));
    let line = lines.find(|rest| rest.starts_with("  "));
    let line = line.with_context(|| format!("{name} in\n{plan}"))?;
    Ok(match line.trim().strip_prefix("left out") {
        Some(rest) => (0.0, bytes(rest)?),
        None => match line.split_once("  and ") {
            Some((kept, rest)) => (bytes(kept)?, bytes(rest.trim_end_matches(" left out"))?),
            None => (bytes(line)?, 0.0),
        },
    })
}

/// `12.34 MiB`
fn bytes(text: &str) -> Result<f64> {
    let (number, unit) = text.trim().split_once(' ').with_context(|| format!("{text:?}"))?;
    let units = ["B", "KiB", "MiB", "GiB"];
    let power = units.iter().position(|it| *it == unit).with_context(|| format!("{text:?}"))?;
    Ok(number.replace(',', "").parse::<f64>()? * 1024_f64.powi(i32::try_from(power)?))
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// The estimate is what the server says of the same, and a disk that is too small for it is
    /// refused before anything is written.
    fn the_estimate_is_what_the_server_says(major) {
        let stage = Stage::new(major)?;
        // So that nothing grows meanwhile.
        stage.primary.sql("vacuum")?;
        stage.primary.sql("checkpoint")?;
        let folder = Folder::new()?;
        let plan = partial::run(&mut clone(&stage, &folder, &["--dry-run"])?)?;
        let size = |sql: &str| -> Result<f64> { Ok(stage.primary.sql(sql)?.parse()?) };
        let near = |one: f64, other: f64, what: &str| {
            // Folders count a little, and two digits are shown.
            ensure!((one - other).abs() < 32_768.0, "{what}: {one} and {other} in\n{plan}");
            Ok(())
        };
        let (mut kept_sum, mut left_sum) = (0.0, 0.0);
        for (name, is_kept) in [
            ("keep", true),
            ("postgres", true),
            ("template0", true),
            ("template1", true),
            ("drop1", false),
        ] {
            let (kept, left_out) = told(&plan, "databases:", name)?;
            near(kept + left_out, size(&format!("select pg_database_size('{name}')"))?, name)?;
            ensure!((kept > 0.0) == is_kept, "{name}: {kept} in\n{plan}");
            (kept_sum, left_sum) = (kept_sum + kept, left_sum + left_out);
        }
        // A table of the database that stays is in the tablespace that does not.
        let archived = stage.primary.sql_in("keep", "select pg_total_relation_size('a')")?;
        near(told(&plan, "databases:", "keep")?.1, archived.parse()?, "keep without its table a")?;
        for name in ["fast", "archive", "pg_default"] {
            let (kept, left_out) = told(&plan, "tablespaces:", name)?;
            near(kept + left_out, size(&format!("select pg_tablespace_size('{name}')"))?, name)?;
            ensure!((kept > 0.0) == (name != "archive"), "{name}: {kept} in\n{plan}");
            (kept_sum, left_sum) = (kept_sum - kept, left_sum - left_out);
        }
        near(kept_sum, 0.0, "kept, by databases and by tablespaces")?;
        near(left_sum, 0.0, "left out, by databases and by tablespaces")?;
        // What is needed beside what is held.
        ensure!(plan.contains(" needed (64.00 MiB of it for WAL), "), "{plan}");
        nothing_left(&stage, &folder)?;

        let Some(disk) = Disk::mount(4096)? else {
            eprintln!("not tried: only root can mount a small disk");
            return Ok(());
        };
        symlink(disk.path(), folder.path().join("data"))?;
        let plan = run_failing(&mut clone(&stage, &folder, &["--dry-run"])?)?;
        ensure!(plan.contains("4.00 MiB free: NOT ENOUGH"), "{plan}");
        ensure!(plan.contains("STOP  not enough room for"), "{plan}");
        let refused = clone(&stage, &folder, &[])?.output()?;
        assert_eq!(refused.status.code(), Some(1));
        let text = String::from_utf8_lossy(&refused.stderr);
        ensure!(text.contains("not enough room for") && text.contains("/data"), "{text}");
        ensure!(fs::read_dir(disk.path())?.next().is_none(), "something is left");
        fs::remove_file(folder.path().join("data"))?;
        nothing_left(&stage, &folder)
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// Without a relay that runs the clone works as it would, and keeps what it decided.
    fn works_without_a_running_relay(major) {
        let mut stage = Stage::new(major)?;
        let folder = Folder::new()?;
        stage.relay.stop()?;
        // The rights of a standby's role are enough.
        stage.primary.sql("create role repl login replication")?;
        let told = partial::run(clone(&stage, &folder, &[])?.env("PGUSER", "repl"))?;
        ensure!(told.contains("no relay answers"), "{told}");
        stage.relay.run()?;
        check(&stage, &folder)
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// Stopped in the middle: nothing is left, not even the slot.
    fn a_clone_that_is_stopped_leaves_nothing(major) {
        let stage = Stage::new(major)?;
        for signal in [Signal::INT, Signal::TERM] {
            let folder = Folder::new()?;
            let (link, mut program) = half_made(&stage, &folder)?;
            program.signal(signal)?;
            link.set(Traffic::Pass);
            let status = program.wait(PATIENCE)?;
            assert_eq!(status.code(), Some(1), "{}", program.text());
            ensure!(program.text().contains("stopped"), "{}", program.text());
            nothing_left(&stage, &folder)?;
        }
        // The network goes away, and comes back before the slot has to be dropped.
        let folder = Folder::new()?;
        let (link, mut program) = half_made(&stage, &folder)?;
        link.set(Traffic::Pass);
        link.cut()?;
        assert_eq!(program.wait(PATIENCE)?.code(), Some(1), "{}", program.text());
        nothing_left(&stage, &folder)
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// The disk is full in the middle: the reason is told, and nothing is left.
    fn a_clone_on_a_full_disk_leaves_nothing(major) {
        let stage = Stage::new(major)?;
        let folder = Folder::new()?;
        let Some(disk) = Disk::mount(128 * 1024)? else {
            eprintln!("not tried: only root can mount a small disk");
            return Ok(());
        };
        let data = folder.path().join("data");
        symlink(disk.path(), &data)?;
        let (link, mut program) = half_made(&stage, &folder)?;
        disk.fill()?;
        link.set(Traffic::Pass);
        assert_eq!(program.wait(PATIENCE)?.code(), Some(1), "{}", program.text());
        program.wait_for_line("No space left on device", PATIENCE)?;
        // The disk was there before.
        ensure!(fs::read_dir(disk.path())?.next().is_none(), "something is left");
        fs::remove_file(&data)?;
        nothing_left(&stage, &folder)
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// Killed in the middle: no server starts from what is there, and the next run begins anew.
    fn a_clone_that_is_killed_is_begun_anew(major) {
        let stage = Stage::new(major)?;
        let folder = Folder::new()?;
        let (link, mut program) = half_made(&stage, &folder)?;
        program.kill9()?;
        let data = folder.path().join("data");
        ensure!(data.join(".pgherd-clone").exists() && !data.join("PG_VERSION").exists());
        assert_eq!(slots(&stage)?, "pgherd_berlin");
        link.set(Traffic::Pass);
        run(&mut clone(&stage, &folder, &[])?)?;
        drop(link);
        check(&stage, &folder)
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// Killed when the server has made the slot and nobody has heard of it.
    fn a_slot_that_was_just_made_is_not_left_behind(major) {
        let stage = Stage::new(major)?;
        let folder = Folder::new()?;
        let real = programs(major)?;
        let deaf = folder.path().join("deaf");
        fs::create_dir(&deaf)?;
        for program in ["pg_basebackup", "pg_receivewal"] {
            let path = real.join(program);
            let text = format!(
                "#!/bin/bash\nexec {} \"$@\" 2> >(grep --line-buffered -v 'created replication slot' >&2)\n",
                path.display()
            );
            fs::write(deaf.join(program), text)?;
            fs::set_permissions(deaf.join(program), fs::Permissions::from_mode(0o755))?;
        }
        let link = Link::to(stage.relay.port())?;
        link.split(2048);
        let relay = format!("127.0.0.1:{}", link.port());
        let mut command = clone_with(&deaf, "berlin", &stage, &folder)?;
        let mut program = Program::start(command.args(["--relay", &relay]))?;
        wait_until("the slot", PATIENCE, || {
            ensure!(program.is_running()?, "{}", program.text());
            Ok((slots(&stage)? == "pgherd_berlin").then_some(()))
        })?;
        link.set(Traffic::Stall);
        program.kill9()?;
        link.set(Traffic::Pass);
        run(&mut clone(&stage, &folder, &[])?)?;
        drop(link);
        check(&stage, &folder)?;

        // A slot that is not from here stays.
        stage.primary.sql("select pg_create_physical_replication_slot('pgherd_other', true)")?;
        let folder = Folder::new()?;
        let told = run_failing(&mut clone(&stage, &folder, &["--slot", "pgherd_other"])?)?;
        ensure!(told.contains("already"), "{told}");
        ensure!(slots(&stage)?.contains("pgherd_other"), "{}", slots(&stage)?);
        Ok(())
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// The same with a relay of its own, which ends with it.
    fn interrupted_without_a_running_relay(major) {
        let primary = Cluster::builder(major).start()?;
        fill(&primary)?;
        let link = Link::to(primary.port())?;
        let relay = Relay::start(binary(), link.port(), FILTER)?;
        let mut stage = Stage { primary, relay };
        stage.relay.stop()?;
        for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
            let folder = Folder::new()?;
            link.split(2048);
            let before = link.bytes_down();
            let mut program = Program::start(&mut clone(&stage, &folder, &[])?)?;
            wait_for_half(&stage, &folder, &mut program, || link.bytes_down() - before)?;
            link.set(Traffic::Stall);
            program.signal(signal)?;
            link.set(Traffic::Pass);
            let status = program.wait(PATIENCE)?;
            if signal != Signal::KILL {
                assert_eq!(status.code(), Some(1), "{}", program.text());
                nothing_left(&stage, &folder)?;
                continue;
            }
            let data = folder.path().join("data");
            ensure!(data.join(".pgherd-clone").exists() && !data.join("PG_VERSION").exists());
            run(&mut clone(&stage, &folder, &[])?)?;
            stage.relay.run()?;
            check(&stage, &folder)?;
        }
        Ok(())
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// Bytes, rate and time left, for somebody who watches.
    fn the_bar_moves_on_a_terminal(major) {
        let stage = Stage::new(major)?;
        let folder = Folder::new()?;
        let link = Link::to(stage.relay.port())?;
        // So that there is something to see.
        link.split(2048);
        let relay = format!("127.0.0.1:{}", link.port());
        let mut terminal = Terminal::start(&clone(&stage, &folder, &["--relay", &relay])?, "")?;
        wait_until("a part of the files", PATIENCE, || {
            Ok((link.bytes_down() > 2 << 20).then_some(()))
        })?;
        link.set(Traffic::Stall);
        // The time that is left is not told before some has passed since the beginning.
        std::thread::sleep(Duration::from_millis(2500));
        link.set(Traffic::Pass);
        ensure!(terminal.wait(PATIENCE)?.success(), "{}", terminal.text()?);
        let text = terminal.text()?;
        let mut shown: Vec<&str> = text
            .split(['\r', '\n'])
            .filter(|it| it.contains("%  ") && it.contains(" of ") && it.contains("iB/s"))
            .collect();
        shown.dedup();
        ensure!(shown.len() > 2 && shown.iter().any(|it| it.contains(" left")), "{text}");
        ensure!(text.contains("copied 3"), "{text}");
        check(&stage, &folder)
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// A server at work is spared: it sends slowly, and its checkpoint takes its time.
    fn asks_no_more_of_the_server_than_told(major) {
        let stage = Stage::new(major)?;
        let folder = Folder::new()?;
        for name in ["log_checkpoints", "log_replication_commands"] {
            stage.primary.sql(&format!("alter system set {name} = on"))?;
        }
        stage.primary.sql("select pg_reload_conf()")?;
        stage.primary.checkpoint()?;
        let refused = run_failing(&mut clone(&stage, &folder, &["--max-rate", "31k"])?)?;
        ensure!(refused.contains("a server takes 32k to 1024M"), "{refused}");
        let gently = ["--max-rate", "32M", "--checkpoint", "spread"];
        let told = partial::run(&mut clone(&stage, &folder, &gently)?)?;
        ensure!(told.contains("waiting for the server's checkpoint"), "{told}");
        let log = stage.primary.log();
        ensure!(log.contains("MAX_RATE 32768"), "{log}");
        ensure!(log.contains("checkpoint starting: force wait"), "{log}");
        check(&stage, &folder)
    }
}
