//! The source tree as tests of it see it: files, and the messages in them.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A piece of a message that is shorter says nothing.
const PIECE_CHARS_MIN: usize = 8;

/// The root of the source tree.
pub(crate) fn root() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(3);
    Ok(root.context("the crate is not in the workspace")?.to_owned())
}

/// All files below `folder` whose name ends in `.extension`.
pub(crate) fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path, extension)?);
        } else if path.extension().is_some_and(|it| it == extension) {
            found.push(path);
        }
    }
    Ok(found)
}

/// A source file up to its own tests.
pub(crate) fn without_tests(source: &str) -> &str {
    source.split("#[cfg(test)]\nmod tests").next().unwrap_or_default()
}

/// The string literals of a piece of Rust, with line continuations joined.
pub(crate) fn literals(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut chars = code.chars();
    while chars.by_ref().any(|it| it == '"') {
        let mut literal = String::new();
        while let Some(char) = chars.next() {
            match char {
                '"' => break,
                '\\' => literal.extend(chars.next()),
                char => literal.push(char),
            }
        }
        found.push(plain(&literal));
    }
    found
}

/// Without what marks up, and with single spaces.
pub(crate) fn plain(text: &str) -> String {
    let text = text.replace('`', "");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The parts of a message between its placeholders.
pub(crate) fn pieces(message: &str) -> impl Iterator<Item = String> {
    let parts = message.split('{').enumerate().map(|(place, part)| match place {
        0 => part,
        _ => part.split_once('}').map_or("", |(_, rest)| rest),
    });
    parts.map(|part| part.trim().to_owned()).filter(|part| part.len() >= PIECE_CHARS_MIN)
}
