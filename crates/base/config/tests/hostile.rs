//! Input that nobody should write: refused, in time, and without a panic.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests, outside of #[test]"
)]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use config::{Overrides, Place, from_text, load};
use proptest::prelude::*;

/// The one message of a file that is refused as a whole, and its place.
fn refused_file(path: &Path) -> (Place, String) {
    let error = load(path, &Overrides::default()).unwrap_err();
    assert_eq!(error.problems.len(), 1, "{error}");
    (error.problems[0].place, error.to_string())
}

#[test]
fn files_that_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let (place, message) = refused_file(&dir.path().join("none.yaml"));
    assert_eq!(place, Place::File);
    assert!(message.contains("none.yaml: cannot read the file"), "{message}");
    assert!(message.contains("--config"), "{message}");
    let (place, message) = refused_file(dir.path());
    assert_eq!(place, Place::File);
    assert!(message.contains("name a file in this folder"), "{message}");
}

#[test]
fn a_file_that_is_not_utf8() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("latin1.yaml");
    fs::write(&path, b"upstream: {}\n# caf\xe9\n").unwrap();
    let (place, message) = refused_file(&path);
    assert_eq!(place, Place::Line { line: 2, column: 6 });
    assert!(message.contains("not UTF-8"), "{message}");
}

#[test]
fn a_file_of_5_mb() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.yaml");
    fs::write(&path, "# é\n".repeat(1_000_000)).unwrap();
    let (place, message) = refused_file(&path);
    assert_eq!(place, Place::File);
    assert!(message.contains("larger than 1048576 bytes"), "{message}");
    let endless = Path::new("/dev/zero");
    assert!(refused_file(endless).1.contains("larger than"));
}

/// Each line repeats the one before it ten times.
fn bomb(repeat: &str) -> String {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..14 {
        let items = vec![repeat.replace('N', &(level - 1).to_string()); 10].join(", ");
        writeln!(text, "a{level}: &a{level} [{items}]").unwrap();
    }
    text + "upstream: {}\n"
}

#[test]
fn what_costs_much_is_refused_soon() {
    let mut chain = "a0: &a0 [x]\n".to_owned();
    for level in 1..30_000 {
        writeln!(chain, "a{level}: &a{level} [*a{}]", level - 1).unwrap();
    }
    let unknown: String = (0..80_000).map(|number| format!("key{number}: 1\n")).collect();
    let long_line = format!("{{{}}}", "unknown_key: 1, ".repeat(60_000));
    let twice = "strict: 1\n".repeat(90_000);
    let list = format!("upstream: {{}}\nlisten: [{}]", "'127.0.0.1:1', ".repeat(60_000));
    let many = "- a: {}\n".repeat(100_000);
    for (name, text) in [
        ("bomb", bomb("*aN")),
        ("chain", chain),
        ("brackets", "[".repeat(1 << 20)),
        ("braces", "{a: ".repeat(200_000)),
        ("dashes", "- ".repeat(1 << 19)),
        ("questions", "? ".repeat(1 << 19)),
        ("unknown", unknown),
        ("long line", long_line),
        ("twice", twice),
        ("list", list),
        ("many", format!("upstream: {{}}\nconfigurations:\n{many}")),
        ("commas", format!("[{}", ",".repeat(1 << 19))),
        ("quotes", format!("a: \"{}", "\n".repeat(1 << 19))),
        ("anchors", "&a ".repeat(1 << 18)),
        ("scalars", "a\n".repeat(1 << 19)),
        ("percent", "%a\n".repeat(1 << 18)),
        ("documents", "---\n".repeat(1 << 18)),
    ] {
        let start = Instant::now();
        let error = from_text("f", &text, &Overrides::default()).expect_err(name);
        assert!(!error.problems.is_empty() && error.problems.len() <= 100, "{name}");
        assert!(error.render(false).len() < 200_000, "{name}");
        // Without optimisation and on a busy machine; what is quadratic takes minutes.
        assert!(start.elapsed() < Duration::from_secs(20), "{name}: {:?}", start.elapsed());
    }
}

#[test]
fn an_alias_bomb_is_named_as_such() {
    let error = from_text("f", &bomb("*aN"), &Overrides::default()).unwrap_err();
    assert!(error.to_string().contains("more than 250000 values"), "{error}");
}

#[test]
fn too_deep_is_refused() {
    let text = format!("upstream: {}{}\n", "[".repeat(20), "]".repeat(20));
    assert!(from_text("f", &text, &Overrides::default()).is_err());
}

/// Pieces that make a file which is nearly right, one after each bar.
const PIECES: &str = "upstream:|master:|listen:|configurations:|match:|filter:|source:|\
                      include_databases:|exclude_databases:|limits:|port:|host:|catalog:|\
                      password:|\n|\n  |\n    | |- |[|]|{|}|,|\"|'|&a |*a |!t |~|1|70000|true|a|ü|\
                      \t|>\n|? |: |#|---\n|%|\r\n|\u{feff}|\0|\\";

fn piece() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(PIECES.split('|').collect::<Vec<_>>())
}

fn never_panics(text: &str) {
    if let Err(error) = from_text("f", text, &Overrides::default()) {
        assert!(!error.problems.is_empty(), "refused without a reason: {text:?}");
        assert!(!error.to_string().is_empty() && !error.render(true).is_empty());
        for problem in &error.problems {
            assert!(!problem.message.is_empty() && !problem.hint.is_empty(), "{problem:?}");
            if let Place::Line { line, column } = problem.place {
                assert!(line >= 1 && line <= text.lines().count().max(1) + 1, "{problem:?}");
                assert!(column >= 1, "{problem:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn nearly_right_files_never_panic(pieces in proptest::collection::vec(piece(), 0..40)) {
        never_panics(&pieces.concat());
    }

    #[test]
    fn any_text_never_panics(text in "(?s).{0,200}") {
        never_panics(&text);
    }
}

proptest! {
    #[test]
    fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, &bytes).unwrap();
        if let Err(error) = load(&path, &Overrides::default()) {
            assert!(!error.problems.is_empty() && !error.render(false).is_empty());
        }
    }
}
