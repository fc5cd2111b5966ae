//! Base backups as bytes, filtered as they pass.
//!
//! [`Archive`] follows one tar archive of `BASE_BACKUP` in pieces of any size and leaves
//! members out; [`Manifest`] does the same with the backup manifest and puts its checksum
//! right; [`map`] takes tablespaces out of `tablespace_map`. What stays is told by a
//! [`Selection`].
//!
//! # Where the truth comes from
//!
//! `basebackup.c`, `tar.c` and `backup_manifest.c` of PostgreSQL 12 to 18.
//!
//! # What it does not do
//!
//! No I/O and no protocol. Segments of WAL inside an archive are handed to the caller, who
//! has the rewriter for them.

mod archive;
pub mod checksum;
mod manifest;
pub mod map;
mod selection;
mod tar;

pub use archive::{Archive, ArchiveError, Fed, Piece};
pub use manifest::{Manifest, ManifestError};
pub use selection::{Place, Selection, Undecided};
