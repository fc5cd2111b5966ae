//! The `replication` parameter: a boolean, or the word `database`.

/// What kind of session a startup packet asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replication {
    /// An ordinary session.
    No,
    /// Physical replication, with no database.
    Physical,
    /// Replication commands and SQL, in a database.
    Database,
    /// A value that the server refuses (22023).
    Invalid,
}

impl Replication {
    /// Judges the values in the order in which they came.
    ///
    /// As in the server each value overrides the one before, but that a database was asked
    /// for is not forgotten.
    pub(super) fn of<'a>(values: impl Iterator<Item = &'a [u8]>) -> Self {
        let (mut replicates, mut in_database) = (false, false);
        for value in values {
            if value == b"database" {
                (replicates, in_database) = (true, true);
            } else if let Some(yes) = parse_bool(value) {
                replicates = yes;
            } else {
                return Self::Invalid;
            }
        }
        match (replicates, in_database) {
            (false, _) => Self::No,
            (true, false) => Self::Physical,
            (true, true) => Self::Database,
        }
    }
}

/// A boolean as the server reads one; mirrors `parse_bool_with_len` (bool.c).
///
/// Any prefix of `true`, `false`, `yes` and `no` counts in either case; `on` and `off` need
/// two letters, because one would not tell them apart.
pub(crate) fn parse_bool(text: &[u8]) -> Option<bool> {
    const WORDS: [(&[u8], usize, bool); 8] = [
        (b"true", 1, true),
        (b"false", 1, false),
        (b"yes", 1, true),
        (b"no", 1, false),
        (b"on", 2, true),
        (b"off", 2, false),
        (b"1", 1, true),
        (b"0", 1, false),
    ];
    let is = |word: &[u8], least: usize| {
        let head = word.get(..text.len());
        text.len() >= least && head.is_some_and(|head| head.eq_ignore_ascii_case(text))
    };
    WORDS.iter().find(|(word, least, _)| is(word, *least)).map(|(.., value)| *value)
}
