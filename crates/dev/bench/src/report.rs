//! Figures, their bars, and the table in which they are printed.

use std::fmt;
use std::fs;

use anyhow::Result;

/// A bar that a figure has to reach, or stay below.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bar {
    /// This much or more.
    AtLeast(f64),
    /// This much or less.
    AtMost(f64),
    /// For comparison only.
    None,
}

/// What was measured, over several rounds.
#[derive(Clone, Debug)]
pub(crate) struct Samples(Vec<f64>);

/// Collects figures; prints each at once and all of them in the end.
#[derive(Debug)]
pub(crate) struct Report {
    rows: Vec<String>,
    missed: Vec<String>,
}

impl Samples {
    pub(crate) fn new(samples: impl IntoIterator<Item = f64>) -> Self {
        let mut samples: Vec<_> = samples.into_iter().collect();
        samples.sort_by(f64::total_cmp);
        Self(samples)
    }

    /// The value below which this share of the samples lies.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let last = self.0.len().saturating_sub(1);
        // Ranks are far below 2^52, and not negative.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank")]
        let rank = (share * last as f64).round() as usize;
        self.0.get(rank).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    fn lowest(&self) -> f64 {
        self.quantile(0.0)
    }

    fn highest(&self) -> f64 {
        self.quantile(1.0)
    }
}

impl Bar {
    fn is_met_by(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bar) => value >= bar,
            Self::AtMost(bar) => value <= bar,
            Self::None => true,
        }
    }
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(bar) => write!(f, ">= {bar}"),
            Self::AtMost(bar) => write!(f, "<= {bar}"),
            Self::None => Ok(()),
        }
    }
}

impl Report {
    pub(crate) fn new() -> Result<Self> {
        println!("machine: {}\n", machine()?);
        Ok(Self { rows: Vec::new(), missed: Vec::new() })
    }

    /// Adds a figure: `value` is what was measured, `judged` (with its lowest and highest) is
    /// what is held against the bar.
    pub(crate) fn add(&mut self, what: &str, value: &str, judged: &Samples, bar: Bar) {
        let median = judged.median();
        let verdict = match bar {
            Bar::None => "",
            _ if bar.is_met_by(median) => "met",
            _ => "**MISSED**",
        };
        let row = format!(
            "| {what} | {value} | {median:.3} | {:.3} to {:.3} | {bar} | {verdict} |",
            judged.lowest(),
            judged.highest(),
        );
        println!("{row}");
        self.rows.push(row);
        if !bar.is_met_by(median) {
            self.missed.push(format!("{what}: {median:.3}, the bar is {bar}"));
        }
    }

    /// Prints the table, and what was missed.
    pub(crate) fn finish(self) -> Result<()> {
        println!("\nmachine after: {}\n", machine()?);
        println!("| what | measured (median) | judged | range | bar | |");
        println!("|---|---|---|---|---|---|");
        println!("{}", self.rows.join("\n"));
        for missed in self.missed {
            println!("\n!!! MISSED !!! {missed}");
        }
        Ok(())
    }
}

/// What it runs on, and how busy that is.
fn machine() -> Result<String> {
    let processors = fs::read_to_string("/proc/cpuinfo")?;
    let model = processors.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.unwrap_or("unknown processor").trim_start_matches(['\t', ' ', ':']);
    let cores = std::thread::available_parallelism()?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let load = fs::read_to_string("/proc/loadavg")?;
    let load: Vec<_> = load.split_whitespace().take(3).collect();
    Ok(format!("{cores} x {model}, Linux {}, load {}", kernel.trim(), load.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_sorted_samples() {
        let samples = Samples::new([5.0, 1.0, 3.0, 2.0, 4.0]);
        assert_eq!([samples.lowest(), samples.median(), samples.highest()], [1.0, 3.0, 5.0]);
        assert!(Samples::new([]).median().is_nan());
    }

    #[test]
    fn what_could_not_be_measured_meets_no_bar() {
        assert!(!Bar::AtLeast(1.0).is_met_by(f64::NAN));
        assert!(!Bar::AtMost(1.0).is_met_by(f64::NAN));
        assert!(Bar::AtLeast(1.0).is_met_by(1.0) && Bar::AtMost(1.0).is_met_by(1.0));
    }
}
