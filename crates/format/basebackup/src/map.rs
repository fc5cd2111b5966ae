//! `tablespace_map`: a line for each tablespace, its OID and where it lies.

use pgtypes::Oid;

use crate::Selection;

/// Longest map that is read: thousands of tablespaces with the longest paths.
pub const BYTES_MAX: u64 = 16 << 20;

/// The map without the tablespaces that are left out.
///
/// Line breaks and backslashes inside a path stand behind a backslash and do not end a line.
/// Nothing left gives nothing at all: servers of 12 and 13 refuse an empty line.
#[must_use]
pub fn filter(map: &[u8], selection: &impl Selection) -> Vec<u8> {
    let mut kept = Vec::with_capacity(map.len());
    for line in lines(map) {
        let digits = line.split(|byte| *byte == b' ').next().unwrap_or_default();
        let oid = str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).map(Oid);
        // What nobody knows is not in the backup either.
        if oid.is_none_or(|oid| selection.holds(oid, Oid::INVALID) == Some(true)) {
            kept.extend_from_slice(line);
        }
    }
    kept
}

/// Lines with their ends.
fn lines(map: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = map;
    std::iter::from_fn(move || {
        let mut escaped = false;
        let end = rest.iter().position(|byte| {
            let ends = *byte == b'\n' && !escaped;
            escaped = *byte == b'\\' && !escaped;
            ends
        });
        let (line, more) = rest.split_at(end.map_or(rest.len(), |end| end + 1));
        rest = more;
        (!line.is_empty()).then_some(line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selection::tests::Without;

    #[test]
    fn takes_lines_out_whole() {
        let map = b"16390 /a\n77 /b\\\nc\\\\\n16391 /d\n";
        assert_eq!(filter(map, &Without(5, 77)), b"16390 /a\n16391 /d\n");
        assert_eq!(filter(b"77 /b\n", &Without(5, 77)), b"");
        assert_eq!(filter(map, &Without(5, 1)), map);
        assert_eq!(filter(b"", &Without(5, 1)), b"");
    }
}
