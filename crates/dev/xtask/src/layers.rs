//! Which crate may depend on which: the folders below `crates/` are layers.
//!
//! A crate depends on its own layer and those below it: format, base, engine, surface. Engine
//! crates do not know each other. Crates of `dev` may use anything, and others may use them only
//! in tests. Crates of `format` do no I/O, so they must not depend on what does.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// Lowest first.
const LAYERS: [&str; 4] = ["format", "base", "engine", "surface"];
const DEV: &str = "dev";
const ENGINE: &str = "engine";
const FORMAT: &str = "format";
/// What brings I/O, a clock or a runtime.
const NOT_IN_FORMAT: [&str; 5] = ["mio", "rustix", "socket2", "tokio", "tracing-subscriber"];

/// The part of `cargo metadata` that is looked at.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
}

impl Package {
    /// The folder above the crate's own.
    fn layer(&self) -> Option<&str> {
        Path::new(&self.manifest_path).parent()?.parent()?.file_name()?.to_str()
    }
}

/// Looks at the whole workspace; gives the edges that are not allowed.
///
/// # Errors
///
/// When the tree cannot be read.
pub fn check() -> Result<Vec<String>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .output()
        .context("run cargo metadata")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Metadata =
        serde_json::from_slice(&output.stdout).context("read cargo metadata")?;
    Ok(problems(&metadata.packages))
}

fn problems(packages: &[Package]) -> Vec<String> {
    let layers: BTreeMap<&str, &str> = packages
        .iter()
        .filter_map(|package| Some((package.name.as_str(), package.layer()?)))
        .collect();
    let mut problems = Vec::new();
    for package in packages {
        let layer = package.layer().unwrap_or_default();
        if layer != DEV && !LAYERS.contains(&layer) {
            problems.push(format!("{} is in {layer:?}, which is no layer", package.name));
            continue;
        }
        for dependency in &package.dependencies {
            let other = layers.get(dependency.name.as_str()).copied();
            let only_tests = dependency.kind.as_deref() == Some("dev");
            if let Some(reason) = refusal(layer, &dependency.name, other, only_tests) {
                problems.push(format!(
                    "{} ({layer}) must not depend on {} ({}): {reason}",
                    package.name,
                    dependency.name,
                    other.unwrap_or("not ours")
                ));
            }
        }
    }
    problems
}

/// Why a crate of `layer` must not depend on `name` of layer `other`.
fn refusal(layer: &str, name: &str, other: Option<&str>, only_tests: bool) -> Option<&'static str> {
    let height = |layer: &str| LAYERS.iter().position(|known| *known == layer);
    match other {
        _ if layer == DEV => None,
        None if layer == FORMAT && !only_tests && NOT_IN_FORMAT.contains(&name) => {
            Some("format does no I/O")
        }
        None => None,
        Some(DEV) if only_tests => None,
        Some(DEV) => Some("dev is for tests only"),
        Some(ENGINE) if layer == ENGINE => Some("engine crates do not know each other"),
        Some(other) if height(other) > height(layer) => Some("that layer is above"),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_refuses_and_allows() {
        let refused = |layer, other, only_tests| refusal(layer, "x", Some(other), only_tests);
        assert_eq!(refused("format", "base", false), Some("that layer is above"));
        assert_eq!(refused("format", "base", true), Some("that layer is above"));
        assert_eq!(
            refused("engine", "engine", false),
            Some("engine crates do not know each other")
        );
        assert_eq!(refused("surface", "dev", false), Some("dev is for tests only"));
        assert_eq!(refusal("format", "tokio", None, false), Some("format does no I/O"));
        for (layer, other, only_tests) in [
            ("format", "format", false),
            ("engine", "base", false),
            ("surface", "engine", false),
            ("engine", "dev", true),
            ("dev", "surface", false),
            ("dev", "dev", false),
        ] {
            assert_eq!(refused(layer, other, only_tests), None, "{layer} on {other}");
        }
        assert_eq!(refusal("format", "tokio", None, true), None);
        assert_eq!(refusal("base", "tokio", None, false), None);
    }

    #[test]
    fn an_edge_is_named() {
        let package = |name: &str, layer: &str, dependencies| Package {
            name: name.into(),
            manifest_path: format!("/x/crates/{layer}/{name}/Cargo.toml"),
            dependencies,
        };
        let relay = Dependency { name: "relay".into(), kind: None };
        let packages = [package("wal", "format", vec![relay]), package("relay", "engine", vec![])];
        assert_eq!(
            problems(&packages),
            ["wal (format) must not depend on relay (engine): that layer is above"]
        );
        let lost = [package("wal", "elsewhere", vec![])];
        assert_eq!(problems(&lost), ["wal is in \"elsewhere\", which is no layer"]);
    }
}
