//! The rewriter alone: runs `cargo bench -p wal --bench rewriter` and judges its figures.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::report::{Bar, Report, Samples};
use crate::{Bench, cargo, target_dir};

/// GB/s, in each case.
const BAR: Bar = Bar::AtLeast(2.0);

pub(crate) fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut command = cargo(&["bench", "--locked", "--package", "wal", "--bench", "rewriter"]);
    command.args(bench.quick.then_some(["--", "--quick"]).into_iter().flatten());
    ensure!(command.status()?.success(), "the benchmark of the rewriter failed");
    for mean in [96, 3_500] {
        for case in ["all passed", "half replaced"] {
            let samples = gigabytes_a_second(&format!("{case}/{mean}"))?;
            let value = format!("{:.2} GB/s", samples.median());
            report.add(&format!("rewriter, {mean} B, {case}"), &value, &samples, BAR);
        }
    }
    Ok(())
}

/// What criterion measured, from the files that it leaves.
fn gigabytes_a_second(case: &str) -> Result<Samples> {
    let folder = target_dir()?.join("criterion/rewriter").join(case).join("new");
    let read = |name: &str| -> Result<Value> {
        let path = folder.join(name);
        let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(serde_json::from_slice(&text)?)
    };
    let bytes = read("benchmark.json")?;
    let bytes = bytes.pointer("/throughput/Bytes").and_then(Value::as_f64);
    let bytes = bytes.context("criterion knows no bytes")?;
    let samples = read("sample.json")?;
    let numbers = |name: &str| -> Result<Vec<f64>> {
        let list = samples.get(name).and_then(Value::as_array).context("no samples")?;
        Ok(list.iter().filter_map(Value::as_f64).collect())
    };
    let (rounds, nanoseconds) = (numbers("iters")?, numbers("times")?);
    let speeds = rounds.iter().zip(&nanoseconds).map(|(rounds, time)| bytes * rounds / time);
    Ok(Samples::new(speeds))
}
