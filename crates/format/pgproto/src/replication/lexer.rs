//! Cuts a command into words, as `repl_scanner.l` does.

use pgtypes::Lsn;

use super::{GrammarError, NAME_BYTES_MAX};

/// Words that are not names unless they are quoted, in capitals only.
pub(super) const KEYWORDS: [&str; 21] = [
    "ALTER_REPLICATION_SLOT",
    "BASE_BACKUP",
    "CREATE_REPLICATION_SLOT",
    "DROP_REPLICATION_SLOT",
    "EXPORT_SNAPSHOT",
    "IDENTIFY_SYSTEM",
    "LOGICAL",
    "NOEXPORT_SNAPSHOT",
    "PHYSICAL",
    "READ_REPLICATION_SLOT",
    "RESERVE_WAL",
    "SHOW",
    "SLOT",
    "START_REPLICATION",
    "TEMPORARY",
    "TIMELINE",
    "TIMELINE_HISTORY",
    "TWO_PHASE",
    "UPLOAD_MANIFEST",
    "USE_SNAPSHOT",
    "WAIT",
];

/// A word of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// One of [`KEYWORDS`].
    Keyword(&'static str),
    /// A name: folded to lower case, or quoted.
    Name(String),
    /// A string.
    Literal(String),
    /// A number.
    Number(u32),
    /// A position.
    Location(Lsn),
    /// Any other byte.
    Mark(u8),
    /// Nothing is left.
    End,
}

/// Takes words off the front of a text.
pub(super) struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(super) const fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    /// Steps over blanks; the offset of the next word.
    pub(super) fn skip_blanks(&mut self) -> usize {
        self.at += run(self.rest(), |byte| byte.is_ascii_whitespace() || byte == 0x0B);
        self.at
    }

    /// The next word as it was written, when it is a bare one; it is not taken.
    pub(super) fn bare_word(&self) -> &'a [u8] {
        let starts = self.rest().first().copied().is_some_and(starts_name);
        let bytes = if starts { run(self.rest(), continues_name) } else { 0 };
        self.rest().get(..bytes).unwrap_or_default()
    }

    /// Takes the next word; blanks before it have been skipped.
    pub(super) fn token(&mut self) -> Result<Token, GrammarError> {
        let at = self.at;
        let Some(&first) = self.rest().first() else {
            return Ok(Token::End);
        };
        match first {
            b'\'' => self.quoted(b'\'').map(Token::Literal),
            b'"' => self.quoted(b'"').map(|name| Token::Name(cut(name))),
            _ if first.is_ascii_hexdigit() && self.location_bytes().is_some() => self.location(),
            _ if first.is_ascii_digit() => {
                let digits = self.take(run(self.rest(), |byte| byte.is_ascii_digit()));
                let number = std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok());
                number.map(Token::Number).ok_or(GrammarError::Number { at })
            }
            _ if starts_name(first) => {
                let word = self.take(self.bare_word().len());
                if let Some(keyword) = KEYWORDS.iter().find(|known| known.as_bytes() == word) {
                    return Ok(Token::Keyword(keyword));
                }
                let name = String::from_utf8(word.to_ascii_lowercase());
                name.map(|name| Token::Name(cut(name))).map_err(|_| GrammarError::Encoding { at })
            }
            _ => {
                self.at += 1;
                Ok(Token::Mark(first))
            }
        }
    }

    fn rest(&self) -> &'a [u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn take(&mut self, bytes: usize) -> &'a [u8] {
        let taken = self.rest().get(..bytes).unwrap_or_default();
        self.at += taken.len();
        taken
    }

    /// What stands between quotes; only a single quote can be doubled inside.
    fn quoted(&mut self, quote: u8) -> Result<String, GrammarError> {
        let at = self.at;
        let mut bytes = Vec::new();
        self.at += 1;
        loop {
            bytes.extend_from_slice(self.take(run(self.rest(), |byte| byte != quote)));
            match self.rest() {
                [] => return Err(GrammarError::Unterminated { at }),
                [b'\'', b'\'', ..] => {
                    bytes.push(quote);
                    self.at += 2;
                }
                _ => break,
            }
        }
        self.at += 1;
        String::from_utf8(bytes).map_err(|_| GrammarError::Encoding { at })
    }

    /// Lengths of the two halves, when the next word is a position.
    fn location_bytes(&self) -> Option<(usize, usize)> {
        let is_digit = |byte: u8| byte.is_ascii_hexdigit();
        let high = run(self.rest(), is_digit);
        let low = self.rest().get(high..)?.strip_prefix(b"/")?;
        let low = run(low, is_digit);
        (low > 0).then_some((high, low))
    }

    fn location(&mut self) -> Result<Token, GrammarError> {
        let at = self.at;
        let (high, low) = self.location_bytes().unwrap_or_default();
        let high = half(self.take(high));
        self.at += 1;
        let low = half(self.take(low));
        let location = high.zip(low).map(|(high, low)| Lsn(high << 32 | low));
        location.map(Token::Location).ok_or(GrammarError::Location { at })
    }
}

fn run(bytes: &[u8], belongs: impl Fn(u8) -> bool) -> usize {
    bytes.iter().take_while(|byte| belongs(**byte)).count()
}

const fn starts_name(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

const fn continues_name(byte: u8) -> bool {
    starts_name(byte) || byte.is_ascii_digit() || byte == b'$'
}

/// A half of a position; zeros before it do not count.
fn half(digits: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(digits).ok()?;
    u32::from_str_radix(digits, 16).ok().map(u64::from)
}

/// A name cut to what a server keeps of it, between two characters.
fn cut(mut name: String) -> String {
    let end = (0..=NAME_BYTES_MAX).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
    if name.len() > NAME_BYTES_MAX {
        name.truncate(end);
    }
    name
}
