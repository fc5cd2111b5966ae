//! Synthetic WAL for tests and benchmarks: a builder, an independent reader, and a driver that
//! feeds a rewriter as a relay does.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(unreachable_pub, reason = "it is included as a module")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test that panics is a test that fails"
)]

pub mod build;
pub mod drive;
pub mod fuzz;
pub mod read;
pub mod scene;
