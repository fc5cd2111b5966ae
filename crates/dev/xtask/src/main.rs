//! `cargo xtask`; see the library.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use xtask::{deb, layers, package, site, sizes};

const USAGE: &str = "usage: cargo xtask layers | sizes | site FOLDER
       cargo xtask deb BINARY OUT [quick]
       cargo xtask tarball BINARY OUT";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let found = match arguments.as_slice() {
        ["layers"] => layers::check(),
        ["sizes"] => sizes::check(),
        ["site", folder] => site::check(Path::new(folder)),
        ["deb", binary, out] => made(binary, out, |binary, out| deb::build(binary, out, false)),
        ["deb", binary, out, "quick"] => made(binary, out, |it, out| deb::build(it, out, true)),
        ["tarball", binary, out] => made(binary, out, package::tarball),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match found {
        Ok(problems) if problems.is_empty() => ExitCode::SUCCESS,
        Ok(problems) => {
            for problem in problems {
                eprintln!("error: {problem}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Makes a file of `binary` in the folder `out`, and tells its name.
fn made(
    binary: &str,
    out: &str,
    make: impl FnOnce(&Path, &Path) -> Result<PathBuf>,
) -> Result<Vec<String>> {
    std::fs::create_dir_all(out)?;
    let binary = Path::new(binary).canonicalize().with_context(|| binary.to_owned())?;
    let out = Path::new(out).canonicalize().with_context(|| out.to_owned())?;
    println!("{}", make(&binary, &out)?.display());
    Ok(Vec::new())
}
