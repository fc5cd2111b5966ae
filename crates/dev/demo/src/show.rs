//! What the demo prints.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use comfy_table::{Cell, CellAlignment, Table, presets};

use crate::compare::{Part, Rows};
use crate::herd::{Progress, Story};
use crate::plan::EXCLUDED_DATABASE;

/// Where the demo prints to.
#[derive(Debug)]
pub(crate) struct Screen {
    /// A person looks on: colours, and a line that changes in place.
    live: bool,
}

impl Screen {
    /// Standard output.
    pub(crate) fn new() -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { live: io::stdout().is_terminal() && !plain }
    }

    pub(crate) fn title(&self, text: &str) {
        println!("\n{}\n", self.coloured("1", text));
    }

    /// A step that was done.
    pub(crate) fn step(&self, what: &str, text: &str) {
        println!("{} {what:<10}{text}", self.coloured("32", "✓"));
    }

    /// More about it.
    pub(crate) fn more(&self, text: &str) {
        println!("            {text}");
    }

    /// A file's text.
    pub(crate) fn quote(&self, text: &str) {
        for line in text.lines() {
            self.more(&format!("  {}", self.coloured("36", line)));
        }
    }

    /// How far the writing is; replaced by the next such line on a terminal.
    pub(crate) fn progress(&self, now: Progress, left: Duration) {
        if self.live {
            let text = progress_line(now);
            print!("\r\x1b[2K… {text}  {} s left", left.as_secs_f64().ceil());
            io::stdout().flush().ok();
        }
    }

    /// The last such line, which stays.
    pub(crate) fn progress_ended(&self, now: Progress) {
        let clear = if self.live { "\r\x1b[2K" } else { "" };
        println!("{clear}{} {:<10}{}", self.coloured("32", "✓"), "writing", progress_line(now));
    }

    /// The tables with what was found.
    pub(crate) fn results(&self, parts: &[Part], story: &Story, lag: Duration) {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header(["database", "tablespace", "primary", "standby", "rows"]);
        for part in parts {
            let bytes = |bytes: u64| {
                let text = if bytes == 0 { "–".to_owned() } else { size(bytes) };
                Cell::new(text).set_alignment(CellAlignment::Right)
            };
            table.add_row([
                Cell::new(part.table.database),
                Cell::new(part.table.tablespace),
                bytes(part.primary_bytes),
                bytes(part.standby_bytes),
                Cell::new(rows(part)),
            ]);
        }
        let mut drawn = table.to_string();
        for part in parts {
            // Coloured when everything has its place: the codes have no width.
            let text = rows(part);
            let code = match part.rows {
                _ if !part.is_as_planned() => "31",
                Rows::Equal(_) => "32",
                _ => "2",
            };
            drawn = drawn.replacen(
                &format!(" {text} "),
                &format!(" {} ", self.coloured(code, &text)),
                1,
            );
        }
        println!("\n{drawn}\n");
        let records = story.records_passed + story.records_replaced;
        for (name, value) in [
            ("WAL relayed", format!("{}, every byte at its place", size(story.wal_bytes))),
            (
                "records",
                format!(
                    "{}, of which {} ({}) are no-ops on the standby",
                    grouped(records),
                    grouped(story.records_replaced),
                    size(story.replaced_bytes),
                ),
            ),
            ("lag", format!("all was replayed {} ms after the last write", lag.as_millis())),
        ] {
            println!("  {name:<13}{value}");
        }
    }

    pub(crate) fn verdict(&self, good: bool, time: Duration) {
        let text = if good {
            let text = "the standby holds what it should, and nothing else";
            format!("{} {text}", self.coloured("32", "✓"))
        } else {
            self.coloured("31", "✗ the standby does not hold what it should")
        };
        println!("\n{text} ({} s)", time.as_secs());
    }

    /// What to do with servers that run on.
    pub(crate) fn kept(&self, commands: &[(&str, String)]) {
        println!("\nEverything is left running:\n");
        for (name, command) in commands {
            println!("  {name:<15}{}", self.coloured("36", command));
        }
        println!(
            "\nTry on the primary: create database tenant_eu_2, create database other, or writes to\n\
             database {EXCLUDED_DATABASE}. Then look for them on the standby, and at the relay's log."
        );
    }

    fn coloured(&self, code: &str, text: &str) -> String {
        if self.live { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn rows(part: &Part) -> String {
    let text = match &part.rows {
        Rows::Equal(rows) => format!("{} equal", grouped(*rows)),
        Rows::NotThere(reason) => format!("not there: {reason}"),
        Rows::Different(what) => format!("different: {what}"),
    };
    if part.is_as_planned() { text } else { format!("NOT AS PLANNED: {text}") }
}

fn progress_line(now: Progress) -> String {
    format!(
        "WAL {:>8}  relayed {:>8}  replayed {:>8}  lag {:>7}",
        size(now.written),
        size(now.relayed),
        size(now.replayed),
        size(now.written.saturating_sub(now.replayed)),
    )
}

/// Bytes as PostgreSQL counts them: 1 kB is 1024.
fn size(bytes: u64) -> String {
    const KB: u64 = 1024;
    const MB: u64 = KB * KB;
    match bytes {
        0..KB => format!("{bytes} B"),
        KB..MB => format!("{} kB", bytes / KB),
        _ => format!("{}.{} MB", bytes / MB, bytes % MB * 10 / MB),
    }
}

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
        for (bytes, text) in [(1023, "1023 B"), (1024, "1 kB"), (1_572_864, "1.5 MB")] {
            assert_eq!(size(bytes), text);
        }
    }
}
