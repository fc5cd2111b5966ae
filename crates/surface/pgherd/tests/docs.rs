//! What users read: links lead somewhere, examples are good, every alarm is explained.

mod sources;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use sources::{files, literals, pieces, plain, root, without_tests};

/// Pages that are not in `docs`.
const MARKDOWN: [&str; 2] = ["README.md", "CHANGELOG.md"];
fn pages() -> Result<Vec<PathBuf>> {
    let root = root()?;
    let mut pages: Vec<_> = MARKDOWN.iter().map(|name| root.join(name)).collect();
    pages.extend(files(&root.join("docs"), "md")?);
    pages.extend(files(&root.join("changelog.d"), "md")?);
    Ok(pages)
}

#[test]
fn links_lead_somewhere() -> Result<()> {
    let mut broken = Vec::new();
    let mut seen = 0;
    for page in pages()? {
        let text = fs::read_to_string(&page)?;
        for link in links(&text) {
            seen += 1;
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => page.clone(),
                path => page.parent().context("a page in no folder")?.join(path),
            };
            let found = target.exists()
                && (anchor.is_empty()
                    || anchors(&fs::read_to_string(&target)?).contains(&anchor.to_owned()));
            if !found {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    ensure!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
    ensure!(seen > 20, "only {seen} links were found");
    Ok(())
}

/// Targets of `[text](target)` that are not on other sites.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0));
    targets.filter(|target| !target.contains("://"))
}

/// What a page's headings are called in links.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| {
        let text = line.trim_start_matches('#').trim().to_lowercase();
        let kept = text.chars().filter(|it| it.is_alphanumeric() || matches!(it, ' ' | '-' | '_'));
        kept.map(|it| if it == ' ' { '-' } else { it }).collect()
    };
    headings.map(anchor).collect()
}

/// The site has what it lists.
#[test]
fn every_page_is_in_the_summary() -> Result<()> {
    let docs = root()?.join("docs");
    let summary = docs.join("SUMMARY.md");
    let listed = fs::read_to_string(&summary)?;
    let listed: Vec<_> = links(&listed).map(|link| docs.join(link)).collect();
    let pages = files(&docs, "md")?;
    let missing = pages.iter().filter(|page| **page != summary && !listed.contains(page));
    let missing: Vec<_> = missing.map(|page| page.display().to_string()).collect();
    ensure!(missing.is_empty(), "not in docs/SUMMARY.md:\n{}", missing.join("\n"));
    Ok(())
}

/// The map for developers has every crate.
#[test]
fn every_crate_is_on_the_map() -> Result<()> {
    let root = root()?;
    let text = fs::read_to_string(root.join("docs/internals.md"))?;
    let map = text.split("```text\n").nth(1).and_then(|map| map.split("```").next());
    let map = map.context("no map")?;
    let words: Vec<_> = map.split(|it: char| !it.is_alphanumeric() && it != '_').collect();
    let crates = files(&root.join("crates"), "toml")?;
    let crates = crates.iter().filter(|file| file.ends_with("Cargo.toml"));
    let names = crates.filter_map(|file| file.parent()?.file_name()?.to_str());
    let (known, missing): (Vec<_>, Vec<_>) = names.partition(|name| words.contains(name));
    ensure!(missing.is_empty(), "not on the map in docs/internals.md: {missing:?}");
    ensure!(known.len() > 15, "only {known:?} were found");
    Ok(())
}

/// The manual pages are not part of the site, so the first page has to lead to them.
#[test]
fn every_manual_page_is_linked() -> Result<()> {
    let docs = root()?.join("docs");
    let linked = fs::read_to_string(docs.join("README.md"))?;
    let linked: Vec<_> = links(&linked).map(|link| docs.join(link)).collect();
    let pages = files(&docs.join("man"), "1")?;
    ensure!(pages.len() >= 10, "only {} manual pages were found", pages.len());
    let missing = pages.iter().filter(|page| !linked.contains(page));
    let missing: Vec<_> = missing.map(|page| page.display().to_string()).collect();
    ensure!(missing.is_empty(), "not linked in docs/README.md:\n{}", missing.join("\n"));
    Ok(())
}

#[test]
fn yaml_examples_are_good_configurations() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut seen = 0;
    for page in pages()? {
        let text = fs::read_to_string(&page)?;
        for block in text.split("```yaml\n").skip(1) {
            let (yaml, _) = block.split_once("```").context("a block without an end")?;
            let file = folder.path().join("relay.yaml");
            fs::write(&file, yaml)?;
            let mut check = Command::new(env!("CARGO_BIN_EXE_pgherd"));
            let output = check.args(["relay", "--check", "-c"]).arg(&file).output()?;
            let complaint = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "{}:\n{yaml}\n{complaint}", page.display());
            seen += 1;
        }
    }
    ensure!(seen >= 4, "only {seen} examples were found");
    Ok(())
}

/// Every message of a `warn!` or `error!`, and every text of an error that one of them shows.
#[test]
fn every_alarm_is_explained() -> Result<()> {
    let root = root()?;
    let explained = plain(&fs::read_to_string(root.join("docs/guide/alarms.md"))?);
    let mut missing = Vec::new();
    let mut seen = 0;
    for layer in ["base", "engine", "surface"] {
        for file in files(&root.join("crates").join(layer), "rs")? {
            let path = file.to_string_lossy();
            // A bad configuration explains itself, with the line and a hint.
            if path.contains("/tests/") || path.contains("/base/config/") {
                continue;
            }
            for message in alarms(&fs::read_to_string(&file)?) {
                seen += 1;
                if !pieces(&message).all(|piece| explained.contains(&piece)) {
                    missing.push(format!("{}: {message}", file.display()));
                }
            }
        }
    }
    ensure!(missing.is_empty(), "not in docs/guide/alarms.md:\n{}", missing.join("\n"));
    ensure!(seen > 40, "only {seen} messages were found");
    Ok(())
}

/// The messages of a source file.
fn alarms(source: &str) -> Vec<String> {
    let code = without_tests(source);
    let mut messages = Vec::new();
    for (begin, end, last) in
        [("warn!(", ");", true), ("error!(", ");", true), ("#[error(", ")]", false)]
    {
        for rest in code.split(begin).skip(1) {
            let Some((inside, _)) = rest.split_once(end) else { continue };
            let mut literals = literals(inside).into_iter();
            // The message comes behind the fields of a log line, and first in an error.
            let message = if last { literals.next_back() } else { literals.next() };
            messages.extend(message);
        }
    }
    messages
}
