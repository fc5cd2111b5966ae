//! Links of the built site lead to pages and headings that are there.
//!
//! The links of the Markdown files are checked by a test; this finds what building them breaks.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::package::files;

/// Pages that mdBook makes for itself; their links are relative to elsewhere.
const NOT_PAGES: [&str; 3] = ["404.html", "print.html", "toc.html"];

/// Looks at every page below `folder`.
///
/// # Errors
///
/// When a page cannot be read, or there are none.
pub fn check(folder: &Path) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let mut seen = 0;
    for page in files(folder)? {
        let name = page.file_name().unwrap_or_default().to_string_lossy();
        if !name.ends_with(".html") || NOT_PAGES.contains(&name.as_ref()) {
            continue;
        }
        let text = fs::read_to_string(&page)?;
        for link in links(&text) {
            seen += 1;
            if !leads_somewhere(&page, &text, link)? {
                problems.push(format!("{}: {link}", page.display()));
            }
        }
    }
    ensure!(seen > 0, "no links below {}", folder.display());
    Ok(problems)
}

/// What the page links and loads from the site itself.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let after = |mark| text.split(mark).skip(1);
    let links = after(" href=\"").chain(after(" src=\""));
    let links = links.filter_map(|rest| Some(rest.split_once('"')?.0));
    links.filter(|link| !link.contains("://") && !link.starts_with("data:"))
}

fn leads_somewhere(page: &Path, text: &str, link: &str) -> Result<bool> {
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = page.parent().context("a page in no folder")?.join(path);
    let has = |text: &str| anchor.is_empty() || text.contains(&format!("id=\"{anchor}\""));
    Ok(match path {
        "" => has(text),
        _ if anchor.is_empty() => target.is_file(),
        _ => target.is_file() && has(&fs::read_to_string(target)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_link_is_found() -> Result<()> {
        let folder = std::env::temp_dir().join(format!("pgherd-site-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let page = "<a href=\"b.html#x\"> <a href=\"b.html#y\"> <a href=\"#z\"> \
                    <img src=\"c.png\"> <a href=\"https://x\">";
        fs::write(folder.join("a.html"), page)?;
        fs::write(folder.join("b.html"), "<h2 id=\"x\">")?;
        let found = check(&folder)?;
        fs::remove_dir_all(&folder)?;
        let found: Vec<_> = found.iter().filter_map(|it| Some(it.rsplit_once(": ")?.1)).collect();
        assert_eq!(found, ["b.html#y", "#z", "c.png"]);
        Ok(())
    }
}
