//! Room on a file system.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::owner::existing;
use crate::{Error, io};

/// The file system where `path` is or will be: a number that tells it from others, and what may
/// still be written there, in bytes.
///
/// # Errors
///
/// What the system says.
pub fn room(path: &Path) -> Result<(u64, u64), Error> {
    let place = existing(path);
    let device = fs::metadata(place).map_err(io("look at", place))?.dev();
    let room = rustix::fs::statvfs(place).map_err(|error| io("look at", place)(error.into()))?;
    Ok((device, room.f_bavail.saturating_mul(room.f_frsize)))
}
