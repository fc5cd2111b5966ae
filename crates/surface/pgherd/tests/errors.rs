//! Codes of errors: the registry, the sources and the pages know the same ones, and what the
//! program prints has them.

mod sources;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use alarm::Code;
use anyhow::{Context, Result, ensure};
use testkit::{Client, PATIENCE, Port, Relay};

use sources::{files, literals, pieces, plain, root, without_tests};

/// What every page tells.
const SECTIONS: [&str; 3] = ["\n## What it means\n", "\n## What is lost\n", "\n## What to do\n"];

/// An `error!` of the sources.
struct Logged {
    place: String,
    /// As the sources name it.
    code: Option<String>,
    message: String,
}

/// Every `error!`, and every name of a code that the sources mention.
fn sources() -> Result<(Vec<Logged>, BTreeSet<String>)> {
    let (mut logged, mut named) = (Vec::new(), BTreeSet::new());
    for layer in ["base", "engine", "surface"] {
        for file in files(&root()?.join("crates").join(layer), "rs")? {
            let path = file.to_string_lossy();
            if path.contains("/tests/") || path.contains("/base/alarm/") {
                continue;
            }
            let text = fs::read_to_string(&file)?;
            let code = without_tests(&text);
            named.extend(code.split("Code::").skip(1).map(word));
            for rest in code.split("error!(").skip(1) {
                let (inside, _) = rest.split_once(");").context("an error! without an end")?;
                logged.push(Logged {
                    place: file.display().to_string(),
                    code: inside.split_once("code = %Code::").map(|(_, rest)| word(rest)),
                    message: literals(inside).pop().unwrap_or_default(),
                });
            }
            ensure!(!code.contains("eprintln!(\"error:"), "{path}: use `fail`, with a code");
        }
    }
    Ok((logged, named))
}

/// The identifier at the beginning.
fn word(text: &str) -> String {
    text.chars().take_while(|it| it.is_alphanumeric() || *it == '_').collect()
}

/// The pages by code.
fn pages() -> Result<BTreeMap<String, String>> {
    let mut pages = BTreeMap::new();
    for file in files(&root()?.join("docs/errors"), "md")? {
        let name = file.file_stem().context("no name")?.to_string_lossy().into_owned();
        pages.insert(name, fs::read_to_string(&file)?);
    }
    Ok(pages)
}

#[test]
fn every_error_has_a_code_and_every_code_an_error() -> Result<()> {
    let registry: BTreeMap<_, _> = Code::ALL.iter().map(|(code, name)| (*name, code)).collect();
    let (logged, named) = sources()?;
    let pages = pages()?;
    let mut problems = Vec::new();
    for Logged { place, code, message } in &logged {
        let known = code.as_deref().and_then(|name| registry.get(name));
        let Some(code) = known else {
            let need = "needs `code = %Code::…`, from crates/base/alarm";
            problems.push(format!("{place}: error! {message:?} {need}"));
            continue;
        };
        let page = pages.get(&code.to_string()).map(|page| plain(page)).unwrap_or_default();
        if !pieces(message).all(|piece| page.contains(&piece)) {
            problems.push(format!("docs/errors/{code}.md does not show {message:?}"));
        }
    }
    for name in registry.keys().filter(|name| !named.contains(**name)) {
        problems.push(format!("nothing uses Code::{name}"));
    }
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    ensure!(logged.len() > 10, "only {} errors were found", logged.len());
    Ok(())
}

#[test]
fn every_code_has_a_page_and_every_page_a_code() -> Result<()> {
    let mut pages = pages()?;
    let index = pages.remove("README").context("docs/errors/README.md")?;
    let alarms = fs::read_to_string(root()?.join("docs/guide/alarms.md"))?;
    let mut problems = Vec::new();
    for (code, name) in Code::ALL {
        let Some(page) = pages.remove(&code.to_string()) else {
            problems.push(format!("docs/errors/{code}.md is missing, for Code::{name}"));
            continue;
        };
        let title = page.lines().next().and_then(|line| line.strip_prefix(&format!("# {code}: ")));
        let title = title.unwrap_or_default();
        if !index.contains(&format!("| [{code}]({code}.md) | {title} |")) {
            problems.push(format!("docs/errors/README.md has no line with {code} and {title:?}"));
        }
        for section in SECTIONS.iter().filter(|section| !page.contains(**section)) {
            problems.push(format!("docs/errors/{code}.md has no section {:?}", section.trim()));
        }
        // What only a command prints, to whoever started it, is not in the log.
        let is_printed = page.contains(&format!("`error[{code}]: …`"));
        if !is_printed && !alarms.contains(&format!("{code}.md")) {
            problems.push(format!("docs/guide/alarms.md does not link {code}"));
        }
    }
    problems.extend(pages.keys().map(|name| format!("docs/errors/{name}.md has no code")));
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(())
}

/// One that the log has, as text and as JSON.
#[test]
fn a_line_of_the_log_has_its_code() -> Result<()> {
    let nobody = Port::reserve()?;
    for (format, code) in [("text", " code=PGH0301 "), ("json", "\"code\":\"PGH0301\"")] {
        let binary = Path::new(env!("CARGO_BIN_EXE_pgherd"));
        let mut relay = Relay::start(binary, nobody.number(), &format!("log_format: {format}"))?;
        Client::connect(relay.port())?.start(&[("user", "x"), ("replication", "true")])?;
        relay.wait_for_line(code, PATIENCE)?;
    }
    Ok(())
}

#[test]
fn the_last_words_of_a_command_have_their_code() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("relay.yaml");
    let state = folder.path().join("state");
    let common = format!("upstream: {{host: localhost}}\nstate_dir: {}", state.display());
    let clone = ["clone", "-c", "relay.yaml", "--as", "", "-D", "clone"];
    for (yaml, arguments, words, status) in [
        ("lisen: []", &["relay", "-c", "relay.yaml"][..], "error[PGH0001]: unknown key", 78),
        ("", &["relay", "--prot", "1"], "error[PGH0002]: unexpected argument", 64),
        ("", &["relay", "forget", "-c", "relay.yaml", "x"], "error[PGH0004]: nothing is known", 1),
        ("", &["split", "status", "--name", "x"], "error[PGH0006]: there is no split", 1),
        ("", &clone, "error[PGH0005]: --as needs a name", 1),
    ] {
        fs::write(&file, format!("{common}\n{yaml}\n"))?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgherd"));
        command.args(arguments).current_dir(folder.path());
        let output = command.env("XDG_STATE_HOME", folder.path()).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(said.contains(words), "{arguments:?} said {said}");
        ensure!(output.status.code() == Some(status), "{arguments:?}: {}", output.status);
    }
    Ok(())
}

/// As systemd starts a service: every line tells its priority, and leaves the time to the journal.
/// A stream that is not the journal's gets neither.
#[test]
fn the_journal_is_told_the_priority_of_each_line() -> Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("relay.yaml");
    let (port, state) = (taken.local_addr()?.port(), folder.path().display());
    fs::write(
        &config,
        format!("listen: [\"127.0.0.1:{port}\"]\nupstream: {{}}\nstate_dir: {state}\n"),
    )?;
    let printed = |to_journal: bool| -> Result<String> {
        let path = folder.path().join("stderr");
        let stderr = fs::File::create(&path)?;
        let about = stderr.metadata()?;
        let inode = if to_journal { about.ino() } else { about.ino() + 1 };
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgherd"));
        command
            .args(["relay", "-c"])
            .arg(&config)
            .env("JOURNAL_STREAM", format!("{}:{inode}", about.dev()));
        ensure!(!command.stderr(stderr).status()?.success(), "the port is taken");
        Ok(fs::read_to_string(path)?)
    };
    let journal = printed(true)?;
    let line = journal.lines().find(|line| line.contains("PGH0003"));
    let line = line.with_context(|| format!("no such line: {journal}"))?;
    ensure!(line.starts_with("<3>ERROR "), "{line}");
    ensure!(journal.lines().all(|line| line.starts_with('<')), "{journal}");
    let other = printed(false)?;
    ensure!(other.starts_with("20") && other.contains("ERROR"), "{other}");
    Ok(())
}
