//! No source file of more than 600 lines, tests not counted.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// More lines than this hold a second idea.
const LINES_MAX: usize = 600;
/// From here on a file is worth a look.
const LINES_TO_ASK: usize = 400;

/// Looks at every Rust file below `crates/`.
///
/// # Errors
///
/// When the tree cannot be read.
pub fn check() -> Result<Vec<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(3).context("no root")?;
    let mut files = Vec::new();
    collect(&root.join("crates"), &mut files)?;
    files.sort();
    let mut problems = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file)?;
        let lines = lines_without_tests(&text);
        let name = file.strip_prefix(root).unwrap_or(&file).display();
        if lines > LINES_MAX {
            problems
                .push(format!("{name} has {lines} lines without tests, {LINES_MAX} is the most"));
        } else if lines > LINES_TO_ASK {
            eprintln!("note: {name} has {lines} lines: what second idea lives in it?");
        }
    }
    Ok(problems)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            // Tests are read one at a time and may be long.
            if !matches!(name.as_str(), "tests" | "target") {
                collect(&path, files)?;
            }
        } else if name.ends_with(".rs") && name != "tests.rs" {
            files.push(path);
        }
    }
    Ok(())
}

/// Lines up to the module of tests at the end of the file.
fn lines_without_tests(text: &str) -> usize {
    let mut pairs = text.lines().zip(text.lines().skip(1));
    let end = pairs.position(|(attribute, item)| {
        attribute == "#[cfg(test)]" && item.starts_with("mod ") && item.ends_with('{')
    });
    end.unwrap_or_else(|| text.lines().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_not_counted() {
        assert_eq!(lines_without_tests("a\nb\n#[cfg(test)]\nmod tests {\n}\n"), 2);
        assert_eq!(lines_without_tests("#[cfg(test)]\nmod tests;\na\n"), 3);
        assert_eq!(lines_without_tests(""), 0);
    }
}
