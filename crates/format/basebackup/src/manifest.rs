//! The backup manifest, filtered line by line as it passes.
//!
//! The server writes one line for each file, so nothing but the current line is kept. The
//! last line has the SHA-256 of everything before it, which is summed anew.

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::checksum::{Algorithm, hex};
use crate::{Place, Selection};

/// Longest line: a path has 1024 bytes, six times as many when escaped.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// What begins the list of files.
const FILES: &[u8] = b"\"Files\": [";
/// What ends it.
const FILES_END: &[u8] = b"],";
/// What begins the last line.
const CHECKSUM: &[u8] = b"\"Manifest-Checksum\"";

/// Why a manifest cannot be filtered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// A line without an end.
    #[error("line {line} of the backup manifest is longer than {LINE_BYTES_MAX} bytes")]
    TooLong {
        /// The line, from one.
        line: u64,
    },
    /// A line in the list of files that does not describe one.
    #[error("line {line} of the backup manifest does not describe a file: {reason}")]
    File {
        /// The line, from one.
        line: u64,
        /// What the parser of JSON says.
        reason: String,
    },
    /// The manifest ended before its checksum.
    #[error("the backup manifest ends after line {line}, without its checksum")]
    Incomplete {
        /// The last line, from one.
        line: u64,
    },
}

/// One line of the list of files; other fields pass as they are.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "Path")]
    path: Option<String>,
    #[serde(rename = "Encoded-Path")]
    encoded: Option<String>,
    #[serde(rename = "Size")]
    size: u64,
    #[serde(rename = "Last-Modified")]
    modified: String,
    #[serde(rename = "Checksum-Algorithm")]
    algorithm: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Head,
    Files,
    Tail,
    Done,
}

/// Filters one manifest.
#[derive(Debug)]
pub struct Manifest {
    part: Part,
    line: Vec<u8>,
    number: u64,
    /// An entry of the list was kept: the next one needs a comma before it.
    any: bool,
    sum: Sha256,
    /// What the tablespace map became, when it was changed.
    map: Option<Vec<u8>>,
}

impl Manifest {
    /// Begins a manifest; `map` is the new content of `tablespace_map`, when it was changed.
    #[must_use]
    pub fn new(map: Option<Vec<u8>>) -> Self {
        Self { part: Part::Head, line: Vec::new(), number: 0, any: false, sum: Sha256::new(), map }
    }

    /// Takes the next bytes, and appends to `out` what can go.
    ///
    /// # Errors
    ///
    /// [`ManifestError`]; the backup is of no use then.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        selection: &impl Selection,
        out: &mut Vec<u8>,
    ) -> Result<(), ManifestError> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            if self.line.len() > LINE_BYTES_MAX {
                return Err(ManifestError::TooLong { line: self.number + 1 });
            }
            if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                self.number += 1;
                self.take(&line, selection, out)?;
            }
        }
        Ok(())
    }

    /// Ends the manifest.
    ///
    /// # Errors
    ///
    /// [`ManifestError::Incomplete`] when its last line did not come.
    pub fn finish(self) -> Result<(), ManifestError> {
        if self.part == Part::Done && self.line.is_empty() {
            Ok(())
        } else {
            Err(ManifestError::Incomplete { line: self.number })
        }
    }

    fn take(
        &mut self,
        line: &[u8],
        selection: &impl Selection,
        out: &mut Vec<u8>,
    ) -> Result<(), ManifestError> {
        match self.part {
            Part::Head => {
                if line.starts_with(FILES) {
                    self.part = Part::Files;
                }
                self.emit(line, out);
            }
            Part::Files if line.starts_with(FILES_END) => {
                self.part = Part::Tail;
                if self.any {
                    self.emit(b"\n", out);
                }
                self.emit(line, out);
            }
            Part::Files if line.trim_ascii().is_empty() => {}
            Part::Files => self.file(line, selection, out)?,
            Part::Tail if line.starts_with(CHECKSUM) => {
                self.part = Part::Done;
                let sum = hex(&std::mem::take(&mut self.sum).finalize());
                out.extend_from_slice(CHECKSUM);
                out.extend_from_slice(format!(": \"{sum}\"}}\n").as_bytes());
            }
            Part::Tail | Part::Done => self.emit(line, out),
        }
        Ok(())
    }

    fn file(
        &mut self,
        line: &[u8],
        selection: &impl Selection,
        out: &mut Vec<u8>,
    ) -> Result<(), ManifestError> {
        let text = line.trim_ascii_end();
        let text = text.strip_suffix(b",").unwrap_or(text);
        let bad = |reason: String| ManifestError::File { line: self.number, reason };
        let entry: Entry = serde_json::from_slice(text).map_err(|error| bad(error.to_string()))?;
        let path = match (&entry.path, &entry.encoded) {
            (Some(path), _) => path.clone().into_bytes(),
            (None, Some(encoded)) => {
                unhex(encoded).ok_or_else(|| bad("a path that is not hexadecimal".into()))?
            }
            (None, None) => return Err(bad("no path".into())),
        };
        // A folder that was never met in an archive is not in the backup.
        if Place::Data.keeps(&path, selection) != Ok(true) {
            return Ok(());
        }
        let changed = match &self.map {
            Some(map) if path == b"tablespace_map" => Some(changed_entry(&entry, map)),
            _ => None,
        };
        if self.any {
            self.emit(b",\n", out);
        }
        self.any = true;
        self.emit(changed.as_ref().map_or(text, String::as_bytes), out);
        Ok(())
    }

    fn emit(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.sum.update(bytes);
        out.extend_from_slice(bytes);
    }
}

/// The line of the tablespace map for its new content.
fn changed_entry(entry: &Entry, map: &[u8]) -> String {
    debug_assert!(entry.size >= map.len() as u64, "filtering only takes lines out");
    let mut line = format!(
        "{{ \"Path\": \"tablespace_map\", \"Size\": {}, \"Last-Modified\": {:?}",
        map.len(),
        entry.modified
    );
    if let Some((name, algorithm)) =
        entry.algorithm.as_deref().and_then(|name| Some((name, Algorithm::named(name)?)))
    {
        let sum = algorithm.of(map);
        line.push_str(&format!(", \"Checksum-Algorithm\": \"{name}\", \"Checksum\": \"{sum}\""));
    }
    line.push_str(" }");
    line
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|it| u8::try_from(it).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let byte = |[high, low]: &[u8; 2]| Some(digit(*high)? << 4 | digit(*low)?);
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selection::tests::Without;

    const HEAD: &str = "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [";
    const TAIL: &str = "\n],\n\"WAL-Ranges\": [\n{ \"Timeline\": 1, \"Start-LSN\": \"0/2000028\", \
                        \"End-LSN\": \"0/2000100\" }\n],\n";

    fn entry(path: &str) -> String {
        format!(
            "{{ \"Path\": \"{path}\", \"Size\": 9, \"Last-Modified\": \"2026-11-21 00:18:16 GMT\", \
             \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"839206e3\" }}"
        )
    }

    fn manifest(entries: &[String]) -> String {
        // As the server writes it: a line break before the first file, and a comma before others.
        let first = if entries.is_empty() { "" } else { "\n" };
        let body = format!("{HEAD}{first}{}{TAIL}", entries.join(",\n"));
        let sum = hex(&Sha256::digest(body.as_bytes()));
        format!("{body}\"Manifest-Checksum\": \"{sum}\"}}\n")
    }

    fn filtered(text: &str, map: Option<&[u8]>, step: usize) -> String {
        let mut manifest = Manifest::new(map.map(<[u8]>::to_vec));
        let mut out = Vec::new();
        for piece in text.as_bytes().chunks(step) {
            manifest.feed(piece, &Without(5, 77), &mut out).unwrap();
        }
        manifest.finish().unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn leaves_lines_out_and_sums_the_rest() {
        let kept = [entry("backup_label"), entry("base/1/1259"), entry("global/pg_control")];
        let mut all = kept.to_vec();
        all.insert(1, entry("base/5/1259"));
        all.push(entry("base/5/2"));
        all.push(entry("pg_tblspc/77/PG_15_202209061/1/9"));
        for step in [1, 7, 100, 100_000] {
            assert_eq!(filtered(&manifest(&all), None, step), manifest(&kept), "step {step}");
        }
        assert_eq!(filtered(&manifest(&[]), None, 50), manifest(&[]));
    }

    #[test]
    fn paths_that_are_not_utf8_are_read_too() {
        let encoded =
            entry("x").replace("\"Path\": \"x\"", "\"Encoded-Path\": \"626173652f352fff\"");
        assert_eq!(filtered(&manifest(&[encoded]), None, 9), manifest(&[]));
    }

    #[test]
    fn the_tablespace_map_gets_its_new_size_and_sum() {
        let map = b"123456789";
        let all = [entry("tablespace_map").replace("\"Size\": 9", "\"Size\": 90")];
        let text = filtered(&manifest(&all), Some(map), 1000);
        assert_eq!(text, manifest(&[entry("tablespace_map")]));
    }

    #[test]
    fn a_cut_manifest_is_not_taken_for_a_whole_one() {
        let text = manifest(&[entry("a")]);
        let mut cut = Manifest::new(None);
        let mut out = Vec::new();
        cut.feed(&text.as_bytes()[..text.len() - 1], &Without(5, 77), &mut out).unwrap();
        assert!(matches!(cut.finish(), Err(ManifestError::Incomplete { .. })));
    }
}
