//! What no other tool does: checks of the source tree, `cargo xtask layers` and `sizes`; packages
//! from a binary, `cargo xtask deb` and `tarball`; and `cargo xtask site` for links.

pub mod deb;
pub mod layers;
pub mod package;
pub mod site;
pub mod sizes;
