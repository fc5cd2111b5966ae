//! Small files that survive a crash.
//!
//! Three forms: a [`Document`] that is replaced as a whole, a [`Journal`] that only grows
//! until it is compacted, and a [`Lock`] that ends with the process that holds it. All
//! carry a CRC-32C a line, so that a torn or damaged file is found and never believed. Files that
//! others read, as settings of a server, are written by [`replace()`].
//!
//! # What it does not do
//!
//! It knows nothing of what the texts mean, and it is for kilobytes: everything is read
//! and written whole, with blocking calls.

mod document;
mod journal;
mod lock;
mod replace;

use std::io;
use std::path::{Path, PathBuf};

pub use document::Document;
pub use journal::Journal;
pub use lock::Lock;
pub use replace::replace;

/// What went wrong with a file, and where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried: a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The content is not what was written.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: &'static str,
    },
    /// Another process holds the lock.
    #[error("{path} is in use by another process")]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}

/// `text` behind its checksum: `crc32c=1234abcd text`.
fn seal(text: &str) -> String {
    format!("crc32c={:08x} {text}", crc32c::crc32c(text.as_bytes()))
}

/// The text of a sealed line, when its checksum is right.
fn unseal(line: &str) -> Option<&str> {
    let (sum, text) = line.strip_prefix("crc32c=")?.split_at_checked(8)?;
    let text = text.strip_prefix(' ')?;
    let sum = u32::from_str_radix(sum, 16).ok()?;
    (sum == crc32c::crc32c(text.as_bytes())).then_some(text)
}
