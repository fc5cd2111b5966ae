//! Keeps an event on its line.

use std::io::{self, Write};

/// What begins a colour; inside of values `tracing_subscriber` escapes it itself.
const ESCAPE: u8 = 0x1b;

/// Takes one event a write, and writes control characters in it as `\n` or `\u{1}`.
#[derive(Debug)]
pub(crate) struct OneLine<W> {
    writer: W,
    /// Stands before each event.
    prefix: &'static str,
}

impl<W> OneLine<W> {
    pub(crate) const fn new(writer: W, prefix: &'static str) -> Self {
        Self { writer, prefix }
    }
}

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let line = event.strip_suffix(b"\n").unwrap_or(event);
        if self.prefix.is_empty() && !line.iter().copied().any(is_escaped) {
            self.writer.write_all(event)?;
            return Ok(event.len());
        }
        let mut escaped = Vec::with_capacity(event.len() + 16);
        escaped.extend_from_slice(self.prefix.as_bytes());
        for byte in line {
            if is_escaped(*byte) {
                escaped.extend(char::from(*byte).escape_default().map(|c| c as u8));
            } else {
                escaped.push(*byte);
            }
        }
        escaped.push(b'\n');
        self.writer.write_all(&escaped)?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

const fn is_escaped(byte: u8) -> bool {
    byte.is_ascii_control() && byte != ESCAPE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_stays_one_line() {
        for (event, line) in [
            (&b"INFO fine \xc3\xbc\n"[..], &b"INFO fine \xc3\xbc\n"[..]),
            (b"a\nERROR x\r\n", b"a\\nERROR x\\r\n"),
            (b"bell \x07 colour \x1b[32m\n", b"bell \\u{7} colour \x1b[32m\n"),
        ] {
            let mut written = OneLine::new(Vec::new(), "");
            written.write_all(event).unwrap();
            assert_eq!(written.writer.escape_ascii().to_string(), line.escape_ascii().to_string());
        }
    }

    #[test]
    fn the_journal_learns_the_level() {
        let mut written = OneLine::new(Vec::new(), "<4>");
        written.write_all(b" WARN careful\n").unwrap();
        assert_eq!(written.writer.escape_ascii().to_string(), "<4> WARN careful\\n");
    }
}
