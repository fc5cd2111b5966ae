//! The dashboard and the alert rules ask for metrics and labels that the relay exports, and the
//! dashboard leaves none out.
//!
//! `http.rs` holds the list of names against what a running relay answers.

mod sources;

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use api::metrics::METRICS;
use serde_json::Value;

use sources::root;

const PREFIX: &str = "pgherd_relay_";
/// Labels that Prometheus adds.
const ADDED: [&str; 1] = ["instance"];

/// The metrics that an expression names, each with the labels behind it.
fn named(expression: &str) -> Vec<(&str, Vec<&str>)> {
    let starts = expression.match_indices(PREFIX).filter_map(|(at, _)| expression.get(at..));
    let named = starts.map(|rest| {
        let end = rest.find(|it: char| !it.is_ascii_alphanumeric() && it != '_');
        let (name, rest) = rest.split_at(end.unwrap_or(rest.len()));
        let inside = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        let labels = inside.map_or("", |(labels, _)| labels).split(',');
        let labels = labels.filter_map(|it| Some(it.split_once('=')?.0.trim()));
        (name, labels.collect())
    });
    named.collect()
}

/// What is wrong with an expression; the metrics in it are added to `seen`.
fn problems(expression: &str, seen: &mut BTreeSet<String>) -> Vec<String> {
    let mut problems = Vec::new();
    let named = named(expression);
    let mut exported: Vec<&str> = ADDED.to_vec();
    for (name, labels) in named {
        let Some(metric) = METRICS.iter().find(|metric| metric.name == name) else {
            problems.push(format!("{name} is not exported"));
            continue;
        };
        seen.insert(name.to_owned());
        exported.extend(metric.labels);
        let unknown = labels.iter().filter(|it| !metric.labels.contains(it) && !ADDED.contains(it));
        problems.extend(unknown.map(|it| format!("{name} has no label {it}")));
    }
    for by in expression.split("by (").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0)) {
        let unknown = by.split(',').map(str::trim).filter(|it| !exported.contains(it));
        problems.extend(unknown.map(|it| format!("{expression}: by {it}")));
    }
    problems
}

#[test]
fn alert_rules_ask_for_what_is_exported() -> Result<()> {
    let rules = fs::read_to_string(root()?.join("monitoring/alerts.yaml"))?;
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for rule in rules.split("- alert: ").skip(1) {
        let (_, rest) = rule.split_once("expr:").context("a rule without an expression")?;
        let (expression, rest) = rest.split_once("labels:").context("a rule without labels")?;
        found.extend(problems(expression, &mut seen));
        let labels: BTreeSet<_> = METRICS
            .iter()
            .filter(|metric| expression.contains(metric.name))
            .flat_map(|metric| metric.labels)
            .chain(&ADDED)
            .collect();
        for label in rest.split("$labels.").skip(1) {
            let label = label.split(|it: char| !it.is_ascii_alphanumeric()).next().unwrap_or("");
            ensure!(labels.contains(&label), "{rule}: no label {label}");
        }
        for code in rest.split("PGH").skip(1).filter_map(|rest| rest.get(..4)) {
            let page = root()?.join(format!("docs/errors/PGH{code}.md"));
            ensure!(page.exists(), "{rule}: no page PGH{code}");
        }
    }
    ensure!(found.is_empty(), "{}", found.join("\n"));
    ensure!(seen.len() > 5, "only {seen:?}");
    Ok(())
}

#[test]
fn the_dashboard_shows_all_that_is_exported() -> Result<()> {
    let text = fs::read_to_string(root()?.join("monitoring/grafana-dashboard.json"))?;
    let dashboard: Value = serde_json::from_str(&text)?;
    let panels = dashboard.get("panels").and_then(Value::as_array).context("no panels")?;
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for panel in panels {
        let targets = panel.get("targets").and_then(Value::as_array).context("no targets")?;
        for target in targets {
            let text = |name| target.get(name).and_then(Value::as_str).unwrap_or_default();
            found.extend(problems(text("expr"), &mut seen));
            let labels: Vec<_> = named(text("expr"))
                .iter()
                .filter_map(|(name, _)| METRICS.iter().find(|it| it.name == *name))
                .flat_map(|metric| metric.labels)
                .chain(&ADDED)
                .collect();
            for label in text("legendFormat").split("{{").skip(1) {
                let label = label.split("}}").next().unwrap_or_default();
                ensure!(labels.contains(&&label), "{}: no label {label}", text("expr"));
            }
        }
    }
    let missing = METRICS.iter().filter(|metric| !seen.contains(metric.name));
    found.extend(missing.map(|metric| format!("{} is not shown", metric.name)));
    ensure!(found.is_empty(), "{}", found.join("\n"));
    Ok(())
}
