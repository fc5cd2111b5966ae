//! libpq's part of the environment.

use std::ffi::OsString;

/// Names of the variables that libpq may read: all that begin with `PG`. A program that is run
/// for a connection of ours shall not have what somebody meant for another one.
pub fn libpq_variables() -> impl Iterator<Item = OsString> {
    let names = std::env::vars_os().map(|(name, _)| name);
    names.filter(|name| name.as_encoded_bytes().starts_with(b"PG"))
}
