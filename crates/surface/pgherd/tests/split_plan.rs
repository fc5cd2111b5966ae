//! What the plan of `pgherd split` finds before anything is done, and what the command line refuses.

mod splitting;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use testkit::{Cluster, on_majors, run};

use splitting::Stage;
use splitting::planned::{finding, stopped};

/// A source with the tablespace `fast`.
fn stage(major: testkit::Major) -> Result<Stage> {
    let source = Cluster::start_with(major, &[])?;
    source.sql("create database moves")?;
    source.create_tablespace("fast")?;
    source.sql_in("moves", "create table t tablespace fast as select 1 x")?;
    Stage::of(source, "moves")
}

/// `pgherd split` with this `-D`.
fn into(stage: &Stage, target: &Path, more: &[&str]) -> Command {
    stage.split_into(&target.to_string_lossy(), stage.port(), &stage.databases, more)
}

/// `-T`, from a tablespace of the source.
fn mapping(stage: &Stage, name: &str, new: &Path) -> String {
    format!("{}={}", stage.source.tablespaces_dir().join(name).display(), new.display())
}

fn owner_of(folder: &Path) -> Result<(u32, u32)> {
    let found = fs::metadata(folder)?;
    Ok((found.uid(), found.gid()))
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// A backup, an upgrade or `rm -r` of one would hit the other.
    fn folders_are_not_inside_each_other(major) {
        let stage = stage(major)?;
        stage.source.create_tablespace("slow")?;
        let (data, fast) = (stage.source.data(), stage.source.tablespaces_dir().join("fast"));
        let (at_fast, at_slow) = (stage.path("fast"), stage.path("slow"));
        let plan = |target: &Path, news: &[(&str, &Path)]| {
            let mappings: Vec<_> = news.iter().map(|(old, new)| mapping(&stage, old, new)).collect();
            let mut options = vec!["--plan"];
            options.extend(mappings.iter().flat_map(|it| ["-T", it.as_str()]));
            into(&stage, target, &options)
        };
        let usual: &[(&str, &Path)] = &[("fast", &at_fast), ("slow", &at_slow)];
        let good = run(&mut plan(&stage.data(), usual))?;
        finding(&good, "OK", "tablespaces", &format!("{}: tablespace fast", at_fast.display()))?;
        ensure!(!good.contains("STOP"), "{good}");

        // A link leads there as well.
        let link = stage.path("link");
        symlink(&data, &link)?;
        for (target, inside) in
            [(data.join("new"), &data), (link.join("new"), &data), (fast.join("new"), &fast)]
        {
            let plan = stopped(&mut plan(&target, usual))?;
            let inside = fs::canonicalize(inside)?;
            let text = format!("is inside {}, where the files of a server are", inside.display());
            finding(&plan, "STOP", "target", &text)?;
        }
        let new = data.join("base/new");
        let inside = stopped(&mut plan(&stage.data(), &[("fast", &new), ("slow", &at_slow)]))?;
        finding(&inside, "STOP", "tablespaces", "where the files of a server are")?;

        for (fast, slow, text) in [
            (&stage.data().join("fast"), &at_slow, "new, the data directory: choose a folder outside"),
            (&stage.data(), &at_slow, "for tablespace fast is that of the data directory too"),
            (&at_slow, &at_slow, "for tablespace slow is that of tablespace fast too"),
            (&at_fast, &at_fast.join("slow"), "fast, tablespace fast: choose a folder outside"),
            (&stage.path(""), &at_slow, "is not empty"),
        ] {
            let plan = stopped(&mut plan(&stage.data(), &[("fast", fast), ("slow", slow)]))?;
            finding(&plan, "STOP", "tablespaces", text)?;
        }
        let twice = stopped(&mut plan(&stage.data(), &[usual, &[("fast", &stage.path("x"))]].concat()))?;
        finding(&twice, "STOP", "tablespaces", &format!("{} is mapped twice", fast.display()))?;
        // The data directory itself inside of a tablespace's.
        let around = stage.path("around");
        let inside = stopped(&mut plan(&around.join("new"), &[("fast", &around), ("slow", &at_slow)]))?;
        finding(&inside, "STOP", "tablespaces", "around, tablespace fast: choose a folder outside")?;
        ensure!(!stage.data().exists() && stage.journal().is_empty(), "a plan does nothing");
        Ok(())
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// Where the owner of the new server does not get in, nothing is cloned.
    fn the_owner_has_to_get_into_the_folders(major) {
        let stage = stage(major)?;
        let fast = mapping(&stage, "fast", &stage.path("fast"));
        let is_root = rustix::process::geteuid().is_root();
        // As somebody who may write into one folder only; without root it is who runs this.
        let own = stage.path("own");
        fs::create_dir(&own)?;
        testkit::give_to_servers(&own)?;
        // Where anybody gets to it, wherever it was built.
        let binary = stage.path("pgherd");
        if is_root {
            fs::copy(env!("CARGO_BIN_EXE_pgherd"), &binary)?;
        }
        let as_user = |command: Command| {
            if !is_root {
                return Ok(command);
            }
            let mut own_command = Command::new(&binary);
            own_command.env_clear().args(command.get_args());
            own_command.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
            let (uid, gid) = owner_of(&own)?;
            own_command.env("HOME", &own).uid(uid).gid(gid);
            Ok::<_, anyhow::Error>(own_command)
        };
        let own_fast = mapping(&stage, "fast", &own.join("a/b/fast"));
        // The folders above that of a tablespace are made, too.
        let good = ["--plan", "-T", &own_fast];
        let plan = run(&mut as_user(into(&stage, &own.join("new"), &good))?)?;
        ensure!(!plan.contains("STOP"), "{plan}");
        let refused = |target: &str, text: &str| {
            let command = into(&stage, Path::new(target), &good);
            finding(&stopped(&mut as_user(command)?)?, "STOP", "target", text)
        };
        refused("/etc/new", "/etc cannot be written by ")?;
        refused("/nope/x", "/ cannot be written by ")?;
        let command = into(&stage, &own.join("new"), &[&good[..], &["--state-dir", "/etc/new"]].concat());
        finding(&stopped(&mut as_user(command)?)?, "STOP", "journal", "/etc cannot be written by ")?;
        let no_fast = mapping(&stage, "fast", Path::new("/nope/fast"));
        let command = into(&stage, &own.join("new"), &["--plan", "-T", &no_fast]);
        let plan = stopped(&mut as_user(command)?)?;
        finding(&plan, "STOP", "tablespaces", "/ cannot be written by ")?;

        // A file system of theirs, in a folder where they may not write.
        let moves = || -> Result<()> {
            let mount = stage.path("other");
            fs::create_dir(&mount)?;
            testkit::give_to_servers(&mount)?;
            let more = ["--yes", "--name", "mount", "-T", &own_fast];
            let moved = run(&mut as_user(into(&stage, &mount, &more))?)?;
            ensure!(moved.contains("connect to: "), "{moved}");
            Ok(())
        };
        if !is_root {
            return moves();
        }
        // What belongs to somebody else: a server would not start there.
        let other = own.join("other");
        fs::create_dir(&other)?;
        fs::set_permissions(&other, fs::Permissions::from_mode(0o777))?;
        let command = into(&stage, &other, &good);
        finding(&stopped(&mut as_user(command)?)?, "STOP", "target", "belongs to somebody else")?;
        // Root makes a folder anywhere and gives it away: but for one above it, and a link.
        let plan = |target: &Path, fast: &str| into(&stage, target, &["--plan", "-T", fast]);
        let usual = run(&mut plan(&stage.data(), &fast))?;
        ensure!(!usual.contains("STOP"), "{usual}");
        let closed = stage.path("closed");
        fs::create_dir(&closed)?;
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700))?;
        symlink(&closed, stage.path("link"))?;
        for (target, text) in [
            (stage.path("not/there"), "not is not there: make it, and let "),
            (closed.join("new"), "closed cannot be entered by "),
            (stage.path("link"), "link belongs to somebody else: give it to "),
        ] {
            finding(&stopped(&mut plan(&target, &fast))?, "STOP", "target", text)?;
        }
        let (uid, gid) = owner_of(&own)?;
        chown(&closed, Some(uid), Some(gid))?;
        let given = run(&mut plan(&stage.path("link"), &fast))?;
        ensure!(!given.contains("STOP"), "{given}");
        let refused = stopped(&mut plan(&stage.data(), &mapping(&stage, "fast", &stage.path("not/there"))))?;
        finding(&refused, "STOP", "tablespaces", "not is not there: make it, and let ")?;
        moves()
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// Names are shown as they were typed, and what cannot go is not said to go.
    fn names_of_databases_are_shown_as_typed(major) {
        let mut stage = Stage::of(Cluster::start_with(major, &[])?, "template1,ü\"*\\*,a\\,b")?;
        let plan = stopped(&mut stage.split(&["--plan"]))?;
        finding(&plan, "STOP", "databases", "template1 is on every server and cannot be moved")?;
        finding(&plan, "STOP", "databases", "no database matches \"ü\"*\\*\"")?;
        finding(&plan, "STOP", "databases", "no database matches \"a\\,b\"")?;
        ensure!(!plan.contains("goes"), "{plan}");
        stage.source.sql("create database moves")?;
        stage.databases = "template1,moves".to_owned();
        let plan = stopped(&mut stage.split(&["--plan"]))?;
        finding(&plan, "OK", "goes", "moves (")?;
        Ok(())
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// A journal of another split tells what it moves, and where to.
    fn two_splits_do_not_move_the_same(major) {
        let stage = stage(major)?;
        let fast = mapping(&stage, "fast", &stage.path("fast"));
        run(&mut stage.split(&["--yes", "--until-ready", "--name", "first", "-T", &fast]))?;
        let second = mapping(&stage, "fast", &stage.path("second/fast"));
        fs::create_dir(stage.path("second"))?;
        let plan = stopped(&mut into(&stage, &stage.path("second/new"), &["--plan", "-T", &second]))?;
        finding(&plan, "STOP", "databases", "moves is moved by the split first already: go on with")?;
        finding(&plan, "STOP", "port", "is that of the split first; choose another")?;
        ensure!(plan.matches("STOP").count() == 3, "and that the port is in use: {plan}");
        run(&mut stage.then("undo", &["--yes"]))?;
        run(&mut into(&stage, &stage.path("second/new"), &["--plan", "-T", &second]))?;
        Ok(())
    }
}

/// `pgherd split --plan` that reaches no server; gives status and complaint.
fn refusal(source: &str, port: &str) -> Result<(Option<i32>, String)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgherd"));
    command.env_clear().env("HOME", "/nonexistent").args(["split", "--plan", "--source", source]);
    command.args(["--databases", "a", "-D", "/nonexistent/new", "--port", port]);
    let output = command.output()?;
    Ok((output.status.code(), String::from_utf8(output.stderr)?))
}

#[test]
fn what_cannot_be_read_says_what_to_write() -> Result<()> {
    for port in ["0", "65536"] {
        let (status, told) = refusal("host=h user=u", port)?;
        ensure!(status == Some(64) && told.contains("1..=65535"), "{status:?} {told}");
    }
    let (_, told) = refusal("blah", "5433")?;
    ensure!(told.contains("not a connection string: write key=value …"), "{told}");
    let (_, told) = refusal("host=h user=u sslcert=/c", "5433")?;
    ensure!(told.contains("name the file of its key with sslkey"), "{told}");
    Ok(())
}
