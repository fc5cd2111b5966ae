//! How much a clone asks of the server at once: options of `pgherd clone` and `pgherd split`.

use clap::{Args, ValueEnum};

/// Least and most that a server takes for `MAX_RATE`, in kB a second (`basebackup.h`).
const RATE_MIN: u32 = 32;
const RATE_MAX: u32 = 1024 * 1024;

/// The options.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Pace {
    /// Have the server send at most RATE a second: kB, or MB with the suffix M; 32 to 1024M
    ///
    /// What the clone leaves out counts too, as the server sends it. WAL does not count.
    #[arg(short = 'r', long, value_name = "RATE", value_parser = rate)]
    max_rate: Option<u32>,
    /// Have the server make the checkpoint before the backup at once, or spread over time
    #[arg(long, value_name = "MODE", default_value = "fast")]
    checkpoint: Checkpoint,
}

/// Values of `--checkpoint`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Checkpoint {
    /// At once: the clone begins soon, and the server's disk is busy until then
    Fast,
    /// As its own ones are: the clone begins minutes later, depending on checkpoint_timeout
    Spread,
}

impl Pace {
    /// As a clone takes it.
    pub(crate) fn of_clone(self) -> clone::Pace {
        clone::Pace { max_rate_kb: self.max_rate, is_spread: self.is_spread() }
    }

    /// As a split takes it.
    pub(crate) fn of_split(self) -> split::Pace {
        split::Pace { max_rate_kb: self.max_rate, is_spread: self.is_spread() }
    }

    fn is_spread(self) -> bool {
        self.checkpoint == Checkpoint::Spread
    }
}

/// In kB a second, as `pg_basebackup` reads it.
fn rate(text: &str) -> Result<u32, String> {
    let (digits, unit) = match text.strip_suffix('M') {
        Some(digits) => (digits, 1024),
        None => (text.strip_suffix('k').unwrap_or(text), 1),
    };
    let number: u32 = digits.parse().map_err(|_bad| "write 2048, 2048k or 2M".to_owned())?;
    let rate = number.checked_mul(unit).filter(|rate| (RATE_MIN..=RATE_MAX).contains(rate));
    rate.ok_or_else(|| format!("a server takes {RATE_MIN}k to 1024M"))
}

#[cfg(test)]
mod tests {
    use super::rate;

    #[test]
    fn rates_are_those_that_a_server_takes() {
        assert_eq!(rate("32"), Ok(32));
        assert_eq!(rate("2048k"), Ok(2048));
        assert_eq!(rate("1024M"), Ok(1024 * 1024));
        for bad in ["", "M", "31", "1025M", "4194304M", "1.5M", "-64", "64 k", "64K"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }
}
