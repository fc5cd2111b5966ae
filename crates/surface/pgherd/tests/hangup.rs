//! A terminal that hangs up, and a pipe that nobody reads any more: no command panics for them, and
//! what was begun is ended well.

mod cloning;
mod partial;
mod splitting;
mod web;

use std::fs;
use std::io::Write as _;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result, ensure};
use testkit::{Major, PATIENCE, Signal, Traffic, run, wait_until};

use cloning::{check, clone, half_made, half_made_by, nothing_left};
use partial::{Folder, binary};
use splitting::SPLIT_LIMIT;
use splitting::held::held_in_the_cut;
use web::Web;

/// Runs a command whose output and whose complaints nobody reads.
fn unread(command: &mut Command) -> Result<ExitStatus> {
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn()?;
    let ended = wait_until("the end", SPLIT_LIMIT, || Ok(child.try_wait()?));
    if ended.is_err() {
        child.kill()?;
        child.wait()?;
    }
    ended
}

#[test]
fn a_terminal_that_hangs_up_in_the_cut_opens_the_source_again() -> Result<()> {
    let stage = splitting::Stage::new(Major::V17)?;
    stage.ready()?;
    let (stuck, mut split) = held_in_the_cut(&stage)?;
    split.signal(Signal::HUP)?;
    assert_eq!(split.wait(SPLIT_LIMIT)?.code(), Some(1), "{}", split.text());
    split.wait_for_line("open on the source again", PATIENCE)?;
    stuck.go_on()?;
    for database in ["orders", "tenant_eu_1"] {
        stage.source.sql_in(database, "insert into t values (9999, 'after')")?;
    }
    run(&mut stage.then("finish", &["--yes"]))?;
    stage.check_moved(&["orders", "tenant_eu_1"])
}

#[test]
fn a_clone_whose_terminal_hangs_up_leaves_nothing() -> Result<()> {
    let stage = partial::Stage::new(Major::V17)?;
    let folder = Folder::new()?;
    let (link, mut program) = half_made(&stage, &folder)?;
    program.signal(Signal::HUP)?;
    link.set(Traffic::Pass);
    assert_eq!(program.wait(PATIENCE)?.code(), Some(1), "{}", program.text());
    ensure!(program.text().contains("stopped"), "{}", program.text());
    nothing_left(&stage, &folder)?;

    // Who said beforehand that nothing hangs up is believed.
    let nohup = |command: Command| {
        let mut nohup = Command::new("nohup");
        nohup.arg(command.get_program()).args(command.get_args()).env_clear();
        nohup.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        nohup
    };
    let (link, mut program) = half_made_by(&stage, &folder, nohup)?;
    program.signal(Signal::HUP)?;
    link.set(Traffic::Pass);
    ensure!(program.wait(PATIENCE)?.success(), "{}", program.text());
    check(&stage, &folder)
}

#[test]
fn a_split_that_nobody_reads_about_is_finished() -> Result<()> {
    let stage = splitting::Stage::new(Major::V17)?;
    ensure!(unread(&mut stage.split(&["--plan"]))?.success());
    ensure!(unread(&mut stage.split(&["--yes", "--until-ready"]))?.success());
    ensure!(unread(&mut stage.then("status", &[]))?.success());
    // Nobody says yes.
    assert_eq!(unread(&mut stage.then("finish", &[]))?.code(), Some(1));
    ensure!(unread(&mut stage.then("finish", &["--yes"]))?.success());
    stage.check_moved(&["orders", "tenant_eu_1"])
}

#[test]
fn a_clone_that_nobody_reads_about_is_made() -> Result<()> {
    let stage = partial::Stage::new(Major::V17)?;
    let folder = Folder::new()?;
    ensure!(unread(&mut clone(&stage, &folder, &["--dry-run"])?)?.success());
    ensure!(unread(&mut clone(&stage, &folder, &["-vv"])?)?.success());
    check(&stage, &folder)
}

#[test]
fn answers_that_nobody_reads() -> Result<()> {
    let web = Web::new()?;
    let relay = web.relay(1, "")?;
    let config = relay.config().display().to_string();
    for (line, status) in [
        (&["--help"][..], 0),
        (&["--version"], 0),
        (&["completions", "bash"], 0),
        (&["--nonsense"], 64),
        (&["relay", "--check", "-c", &config], 0),
        (&["relay", "--check", "-c", "/nonexistent"], 78),
        (&["relay", "forget", "nobody", "-c", &config], 1),
        (&["relay", "clients", "-c", &config], 0),
        (&["relay", "databases", "--json", "-c", &config], 0),
        (&["relay", "status", "-c", &config], 0),
        // With nobody to show it to, there is no use in going on.
        (&["relay", "status", "--watch", "-c", &config], 0),
    ] {
        let ended = unread(Command::new(binary()).args(line))?;
        assert_eq!(ended.code(), Some(status), "{line:?}");
    }
    // An answer that does not fit anywhere is not lost in silence.
    let mut command = Command::new(binary());
    command.args(["relay", "status", "-c", &config]);
    let full = fs::File::options().write(true).open("/dev/full")?;
    let output = command.stdout(full).stderr(Stdio::piped()).spawn()?.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1) && text.contains("No space left"), "{text}");
    Ok(())
}

/// At once, and not with the next answer. A terminal that hangs up has no other answer either.
#[test]
fn a_question_can_be_left_with_ctrl_c() -> Result<()> {
    let stage = splitting::Stage::new(Major::V17)?;
    stage.ready()?;
    let finish = stage.then("finish", &[]);
    let shown = stage.path("shown");
    let words = std::iter::once(finish.get_program()).chain(finish.get_args());
    let words = words.map(|it| it.to_string_lossy()).collect::<Vec<_>>();
    // A shell in between would have a status of its own.
    let line = format!("exec {}", words.join(" "));
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--flush", "--command", &line]).arg(&shown).env_clear();
    script.envs(finish.get_envs().filter_map(|(name, value)| Some((name, value?))));
    script.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut program = script.spawn()?;
    let mut keyboard = program.stdin.take().context("a keyboard")?;
    let ended = wait_until("the question", PATIENCE, || {
        let text = fs::read_to_string(&shown).unwrap_or_default();
        Ok(text.contains("[y/N]").then_some(()))
    })
    .and_then(|()| {
        keyboard.write_all(b"\x03")?;
        wait_until("the end", PATIENCE, || Ok(program.try_wait()?))
    });
    // Without a keyboard it ends in any case.
    drop(keyboard);
    program.wait()?;
    assert_eq!(ended?.code(), Some(1), "{}", fs::read_to_string(&shown)?);
    stage.source.sql_in("orders", "insert into t values (1, 'still open')")?;
    Ok(())
}
