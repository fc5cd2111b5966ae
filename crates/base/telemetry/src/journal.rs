//! Whether the log goes to the journal of systemd, and how it learns the level of a line.
//!
//! See `sd-daemon(3)`: a line may begin with its priority, and `$JOURNAL_STREAM` names the device
//! and inode of the stream that a service was given.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use tracing::Level;

/// Whether standard error is the journal's stream.
pub(crate) fn is_there() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let ours = fs::metadata("/proc/self/fd/2").map(|it| (it.dev(), it.ino()));
    ours.is_ok_and(|ours| parse(&stream) == Some(ours))
}

fn parse(stream: &str) -> Option<(u64, u64)> {
    let (device, inode) = stream.split_once(':')?;
    Some((device.parse().ok()?, inode.parse().ok()?))
}

/// The priority of syslog for a level.
pub(crate) const fn priority(level: &Level) -> &'static str {
    match *level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        _ => "<7>",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_systemd_writes() {
        assert_eq!(parse("8:12345"), Some((8, 12345)));
        for text in ["", "8", "8:", "a:b", "8:1:2"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
