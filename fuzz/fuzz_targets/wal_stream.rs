//! The rewriter against bytes that libFuzzer makes up; see `crates/format/wal/tests/support`.
#![no_main]

#[path = "../../crates/format/wal/tests/support/mod.rs"]
mod support;

libfuzzer_sys::fuzz_target!(|data: &[u8]| support::fuzz::fuzz(data));
