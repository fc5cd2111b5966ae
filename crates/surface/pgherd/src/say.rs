//! Printing for which it does not matter whether anybody reads.
//!
//! The macros of the standard library panic when a pipe is closed, as behind `| head`, or a
//! terminal is gone; no split may end in its cut for that. Here are macros of the same names, which
//! `main.rs` declares before all other modules: no call can be forgotten. What could not be printed
//! is dropped.
//!
//! A command that does nothing but answer a question uses [`answer`], which tells when the answer
//! did not arrive.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write as _};

macro_rules! print {
    ($($text:tt)+) => { $crate::say::out(format_args!($($text)+)) };
}
macro_rules! println {
    ($($text:tt)+) => { $crate::say::out(format_args!("{}\n", format_args!($($text)+))) };
}
macro_rules! eprint {
    ($($text:tt)+) => { $crate::say::err(format_args!($($text)+)) };
}
macro_rules! eprintln {
    ($($text:tt)+) => { $crate::say::err(format_args!("{}\n", format_args!($($text)+))) };
}

/// For `print!` and `println!`.
pub(crate) fn out(text: Arguments<'_>) {
    let mut stdout = io::stdout().lock();
    stdout.write_fmt(text).and_then(|()| stdout.flush()).ok();
}

/// For `eprint!` and `eprintln!`.
pub(crate) fn err(text: Arguments<'_>) {
    io::stderr().lock().write_fmt(text).ok();
}

/// Prints an answer; `false` when whoever asked has gone, and wants no more of it.
///
/// # Errors
///
/// What the system says: a full disk, say.
pub(crate) fn answer(text: &str) -> io::Result<bool> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}
