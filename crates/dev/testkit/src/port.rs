//! Ports that tests in other processes do not take meanwhile.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::net::TcpListener;

use anyhow::{Context, Result, bail};

/// Below the range from which the kernel takes ports for outgoing connections, so that a port is
/// still free when a server is started on it again.
const FIRST: u16 = 15_000;
const COUNT: u16 = 16_000;
const TRIES: u16 = 200;

/// A TCP port of 127.0.0.1 that is ours until this is dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Finds a port that nobody listens on and no other test has reserved.
    ///
    /// # Errors
    ///
    /// When none is found, or the folder for the locks cannot be written.
    pub fn reserve() -> Result<Self> {
        let owner = rustix::process::geteuid().as_raw();
        let folder = std::env::temp_dir().join(format!("pgherd-ports-{owner}"));
        fs::create_dir_all(&folder).context("make the folder for port locks")?;
        let start = RandomState::new().hash_one(std::process::id());
        for offset in 0..TRIES {
            let place = (start.wrapping_add(u64::from(offset))) % u64::from(COUNT);
            let number = FIRST + u16::try_from(place)?;
            let path = folder.join(number.to_string());
            let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
            let ours = lock.try_lock().is_ok();
            if ours && TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Ok(Self { number, _lock: lock });
            }
        }
        bail!("no free port found in {TRIES} tries")
    }

    /// The number.
    #[must_use]
    pub const fn number(&self) -> u16 {
        self.number
    }
}
