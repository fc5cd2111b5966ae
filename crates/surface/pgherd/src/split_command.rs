//! `pgherd split`, `finish`, `undo` and `status`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use alarm::Code;
use anyhow::{Context as _, Result, bail, ensure};
use split::journal::Record;
use split::{Login, Options, Outcome, Owner, Plan, Split, Step};
use tasks::CancellationToken;

use crate::split_helper::{Helper, ask, plan_table};
use crate::split_options::{EndOptions, SplitCommand, SplitOptions, UndoOptions, Which};
use crate::{chain, fail, runtime};

/// What a run came to, for the exit status.
enum End {
    Good,
    /// Nothing failed, and nothing was done either.
    NotDone,
}

/// Runs one of the commands.
pub(crate) fn run(command: &crate::split_options::Split) -> ExitCode {
    telemetry::start_quietly(0);
    let helper = Helper::default();
    let ended = runtime::run(|stop| async {
        match &command.command {
            Some(SplitCommand::Finish(options)) => finish(options, &helper, stop).await,
            Some(SplitCommand::Undo(options)) => undo(options, &helper, stop).await,
            Some(SplitCommand::Status(which)) => status(which).await,
            None => begin(&command.begin, &helper, stop).await,
        }
    });
    helper.clear();
    match ended {
        Ok(End::Good) => ExitCode::SUCCESS,
        Ok(End::NotDone) => ExitCode::FAILURE,
        Err(error) => fail(Code::SplitStopped, chain(&error)),
    }
}

async fn begin(options: &SplitOptions, helper: &Helper, stop: CancellationToken) -> Result<End> {
    let state_dir = state_dir(&options.end.which)?;
    // Without a subcommand they are required.
    let target = absolute(options.target.as_deref().context("-D is missing")?)?;
    let port = options.port.context("--port is missing")?;
    let name = options.end.which.name.clone().map_or_else(|| name_of(&target), Ok)?;
    ensure!(is_name(&name), "--name {name:?}: use letters, digits, - and _, at most 40");
    if let Some(known) = split::summary(&state_dir, &name)?.filter(|it| !it.is_done(Step::Undone)) {
        ensure!(
            known.target == target && known.port == port,
            "there is a split {name:?} already, into {} on port {}; choose another --name",
            known.target.display(),
            known.port
        );
        if options.plan {
            bail!("this split was begun: see `pgherd split status`");
        }
        ensure_same_databases(&options.databases, &known, &name)?;
        let (source, _) = Login::parse(options.source.as_deref().unwrap_or_default())?;
        ensure!(
            source.is_same_way(&known.source),
            "the split {name:?} reaches its source with {}, and now it was {source}: say the same, or \
             go on with `pgherd split finish`",
            known.source
        );
        if !options.until_ready && !may_close(&known, &options.end)? {
            return Ok(End::NotDone);
        }
        eprintln!("continuing the split {name} where it stood");
        return go_on(&state_dir, &name, &options.end, options.until_ready, helper, stop).await;
    }
    let mut plan = Plan::make(checked(options, target, port)?).await?;
    plan.look_at_journals(&state_dir)?;
    print!("{}", plan_table(&plan));
    if !plan.is_good() {
        eprintln!("the split would fail: see what STOP says");
        return Ok(End::NotDone);
    }
    if options.plan {
        return Ok(End::Good);
    }
    let question = if options.until_ready {
        "Clone these databases? Nothing on the source changes until `pgherd split finish`."
    } else {
        "Move these databases? They take no writes for some seconds in the end."
    };
    if !options.end.yes && !ask(question)? {
        return Ok(End::NotDone);
    }
    let mut split = Split::begin(&plan, &state_dir, &name, helper, stop)?;
    carry(&mut split, &options.end, options.until_ready, helper).await
}

/// The options as the engine takes them.
fn checked(options: &SplitOptions, target: PathBuf, port: u16) -> Result<Options> {
    let (source, database) = Login::parse(options.source.as_deref().unwrap_or_default())?;
    let databases = split::patterns(options.databases.iter().map(String::as_str))?;
    let mut checked = Options {
        source,
        database,
        databases,
        owner: owner(options.owner.as_deref(), &target)?,
        target,
        port,
        bin_dir: options.bin_dir.as_deref().map(absolute).transpose()?,
        mapping: Vec::new(),
        pace: options.pace.of_split(),
    };
    for mapping in &options.tablespace_mapping {
        checked.map(mapping)?;
    }
    Ok(checked)
}

/// As root: who is told, or owns the folder, or else `postgres`.
fn owner(name: Option<&str>, target: &Path) -> Result<Option<Owner>> {
    let chosen = match clone::Owner::choose(name, target) {
        Err(clone::Error::Root) if name.is_none() => clone::Owner::choose(Some("postgres"), target),
        chosen => chosen,
    };
    let chosen = chosen.context("whose shall the new server be? See --owner")?;
    Ok(chosen.map(|it| Owner { uid: it.uid, gid: it.gid, home: it.home }))
}

async fn finish(options: &EndOptions, helper: &Helper, stop: CancellationToken) -> Result<End> {
    let state_dir = state_dir(&options.which)?;
    let name = chosen(&state_dir, &options.which)?;
    if let Some(record) = split::summary(&state_dir, &name)?
        && !may_close(&record, options)?
    {
        return Ok(End::NotDone);
    }
    go_on(&state_dir, &name, options, false, helper, stop).await
}

/// Whether somebody wants the databases closed on the source, or they have been already.
fn may_close(record: &Record, options: &EndOptions) -> Result<bool> {
    let question = format!("Move {} now? Writing stops for some seconds.", record.names());
    Ok(record.is_begun(Step::SourceClosed) || options.yes || ask(&question)?)
}

/// What a split moves was decided when it began. Other databases would be another split.
fn ensure_same_databases(asked: &[String], known: &Record, name: &str) -> Result<()> {
    let patterns = split::patterns(asked.iter().map(String::as_str))?;
    let is_moved = |database: &str| known.databases.iter().any(|it| it.name == database);
    let covered =
        known.databases.iter().all(|it| patterns.iter().any(|one| one.matches(it.name.as_bytes())));
    ensure!(
        covered && patterns.iter().filter_map(|it| it.plain()).all(is_moved),
        "the split {name:?} moves {}: name these, or choose another --name",
        known.names()
    );
    Ok(())
}

async fn go_on(
    state_dir: &Path,
    name: &str,
    options: &EndOptions,
    until_ready: bool,
    helper: &Helper,
    stop: CancellationToken,
) -> Result<End> {
    let split = Split::open(state_dir, name, helper, stop)?;
    let mut split = split.with_context(|| format!("there is no split {name:?}"))?;
    carry(&mut split, options, until_ready, helper).await
}

/// Carries it out, and tells what there is now.
async fn carry(
    split: &mut Split<'_, Helper>,
    options: &EndOptions,
    until_ready: bool,
    helper: &Helper,
) -> Result<End> {
    if options.skip_checks {
        split.skip_checks();
    }
    split.set_cut_timeout(Duration::from_secs(options.cut_timeout));
    match split.run(until_ready).await {
        Ok(Outcome::Ready) => {
            println!("ready: the new server follows; `pgherd split finish` moves the databases,");
            println!("`pgherd split undo` removes it again");
            return Ok(End::Good);
        }
        Ok(Outcome::Finished) => {}
        Err(error) => {
            helper.clear();
            eprintln!("hint: {}", hint(split, &error));
            return Err(error.into());
        }
    }
    let record = split.record();
    println!("moved: {}", record.names());
    if let Some(millis) = record.downtime_millis {
        println!("write downtime: {}.{:03} s", millis / 1000, millis % 1000);
    }
    println!("connect to: {}", split.connection_string());
    if options.drop_source {
        split.drop_source().await?;
    } else if !split.record().is_done(Step::SourceDropped) {
        println!(
            "the databases are closed on the source: `pgherd split finish --drop-source` drops them,"
        );
        println!("`pgherd split undo` opens them and gives up what is written on the new server");
    }
    Ok(End::Good)
}

/// What to do after a failure.
fn hint(split: &Split<'_, Helper>, error: &split::Error) -> &'static str {
    let record = split.record();
    if matches!(error, split::Error::Damaged(_)) {
        "`pgherd split undo` gives the databases back to the source, where they are as they were; \
         `pgherd split finish --skip-checks` keeps what is there"
    } else if record.is_done(Step::Undone) {
        "nothing is left to do; a new split may have its name"
    } else if record.is_begun(Step::Undone) {
        "`pgherd split undo` goes on with undoing"
    } else if record.is_begun(Step::Checked) && !record.is_done(Step::Checked) {
        "the databases work on the new server, and the check of them did not come to its end: `pgherd split \
         finish` checks again, `pgherd split undo` gives them back to the source, where they are as they were"
    } else if record.is_done(Step::Opened) {
        "the databases work on the new server; `pgherd split finish` goes on"
    } else if record.is_begun(Step::Promoted) {
        "the databases are closed on both sides; `pgherd split finish` goes on, `pgherd split undo` goes back"
    } else if record.is_begun(Step::SourceClosed) {
        "the databases are closed on the source, which could not be told to open them: when it can be \
         reached again, `pgherd split finish` goes on, `pgherd split undo` opens them"
    } else {
        "the source is as it was; `pgherd split finish` goes on, `pgherd split undo` removes the new server"
    }
}

async fn undo(options: &UndoOptions, helper: &Helper, stop: CancellationToken) -> Result<End> {
    let state_dir = state_dir(&options.which)?;
    let name = chosen(&state_dir, &options.which)?;
    let split = Split::open(&state_dir, &name, helper, stop)?;
    let mut split = split.with_context(|| format!("there is no split {name:?}"))?;
    let question = if split.undo_loses_writes() {
        "Go back? What was written on the new server since the split is NOT on the source."
    } else {
        "Go back? The new server is removed."
    };
    if !options.yes && !ask(question)? {
        return Ok(End::NotDone);
    }
    if split.record().is_done(Step::Undone) {
        println!("it was undone before");
    }
    split.undo().await?;
    Ok(End::Good)
}

async fn status(which: &Which) -> Result<End> {
    let state_dir = state_dir(which)?;
    let names = match &which.name {
        Some(name) => vec![name.clone()],
        None => split::names_in(&state_dir)?,
    };
    let mut end = End::Good;
    for name in names {
        let record = match split::summary(&state_dir, &name) {
            Ok(record) => record.with_context(|| format!("there is no split {name:?}"))?,
            // The others are worth knowing.
            Err(error) => {
                println!("{name}: {error}");
                end = End::NotDone;
                continue;
            }
        };
        let last = record.last().map_or("begun", Step::told);
        println!(
            "{name}: {last}; {} to {}, port {}",
            record.names(),
            record.target.display(),
            record.port
        );
        if record.is_begun(Step::SourceClosed)
            && !record.is_done(Step::Opened)
            && !record.is_begun(Step::Undone)
        {
            println!(
                "    closed on the source, and not open on the new server yet: a cut is under way, or was \
                 broken off; `pgherd split finish` goes on, `pgherd split undo` opens them on the source"
            );
        }
        match split::lag(&record).await {
            Ok(None) => {}
            Ok(Some(lag)) => println!("    {lag}"),
            Err(error) => println!("    cannot tell how far it is behind: {error}"),
        }
    }
    Ok(end)
}

/// The split that is meant.
fn chosen(state_dir: &Path, which: &Which) -> Result<String> {
    if let Some(name) = &which.name {
        return Ok(name.clone());
    }
    let mut names = split::names_in(state_dir)?;
    // One that cannot be read is not skipped in silence.
    let mut keep = |is_over: &dyn Fn(&Record) -> bool| {
        names.retain(|name| {
            split::summary(state_dir, name)
                .map_or(true, |it| it.is_some_and(|record| !is_over(&record)))
        });
        names.len()
    };
    if keep(&|record| record.is_done(Step::Undone)) > 1 {
        keep(&|record| record.is_done(Step::SourceDropped));
    }
    match names.as_slice() {
        [] => bail!("there is no split in {}", state_dir.display()),
        [name] => Ok(name.clone()),
        names => bail!("which one? --name {}", names.join(", --name ")),
    }
}

fn state_dir(which: &Which) -> Result<PathBuf> {
    match &which.state_dir {
        Some(folder) => absolute(folder),
        None => config::state_dir().context("no folder for the journal: set HOME or --state-dir"),
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(path).with_context(|| format!("find {}", path.display()))?;
    // It is written into settings and a journal, which are text.
    ensure!(path.to_str().is_some(), "{} is not UTF-8", path.display());
    Ok(path)
}

/// A name after the last part of the target.
fn name_of(target: &Path) -> Result<String> {
    let last = target.file_name().context("-D: the root of the file system")?.to_string_lossy();
    let plain = |char: char| if char.is_ascii_alphanumeric() || char == '-' { char } else { '_' };
    Ok(last.chars().take(40).map(plain).collect())
}

/// Whether it suits a folder, and an `application_name`.
fn is_name(name: &str) -> bool {
    let plain = |char: char| char.is_ascii_alphanumeric() || "-_".contains(char);
    (1..=40).contains(&name.len()) && name.chars().all(plain)
}
