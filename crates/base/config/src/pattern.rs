//! Globs over the names of databases and tablespaces.

use std::fmt;

/// A name, or a glob: `*` is any run of characters, `?` is one character, and a
/// backslash makes the next character plain.
///
/// A character is one UTF-8 character; in a name that is not UTF-8, each byte that does
/// not belong to one counts as a character. The whole name has to match, case counts.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Pattern {
    tokens: Vec<Token>,
    /// The name itself, when nothing in the pattern is a wildcard.
    plain: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Token {
    Char(char),
    One,
    Run,
}

impl Pattern {
    /// Reads a pattern; `None` when it is empty. A backslash at the end stands for itself.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let mut tokens = Vec::new();
        let mut chars = text.chars();
        while let Some(char) = chars.next() {
            match char {
                '*' if tokens.last() == Some(&Token::Run) => {}
                '*' => tokens.push(Token::Run),
                '?' => tokens.push(Token::One),
                '\\' => tokens.push(Token::Char(chars.next().unwrap_or('\\'))),
                plain => tokens.push(Token::Char(plain)),
            }
        }
        let plain = tokens.iter().map(|token| match token {
            Token::Char(char) => Some(*char),
            Token::One | Token::Run => None,
        });
        let plain = plain.collect();
        (!tokens.is_empty()).then_some(Self { plain, tokens })
    }

    /// Is this a plain name, without wildcards?
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.plain.is_some()
    }

    /// The name, when [`Self::is_plain`]: with its backslashes taken away.
    #[must_use]
    pub fn plain(&self) -> Option<&str> {
        self.plain.as_deref()
    }

    /// Does the whole of `name` match?
    ///
    /// Cost: at most the length of the pattern times the length of the name. Only the
    /// last `*` is ever tried again, because an earlier one has nothing to gain.
    #[must_use]
    pub fn matches(&self, name: &[u8]) -> bool {
        if let Some(plain) = &self.plain {
            return plain.as_bytes() == name;
        }
        let name = characters(name);
        let (mut at, mut token) = (0, 0);
        let mut retry: Option<(usize, usize)> = None; // (name, pattern) behind the last `*`
        loop {
            match (self.tokens.get(token), name.get(at)) {
                (None, None) => return true,
                (Some(Token::Run), _) => {
                    token += 1;
                    retry = Some((at, token));
                    continue;
                }
                (Some(Token::One), Some(_)) => {
                    (at, token) = (at + 1, token + 1);
                    continue;
                }
                (Some(Token::Char(want)), Some(Some(have))) if want == have => {
                    (at, token) = (at + 1, token + 1);
                    continue;
                }
                _ => {}
            }
            match retry {
                Some((start, behind)) if start < name.len() => {
                    retry = Some((start + 1, behind));
                    (at, token) = (start + 1, behind);
                }
                _ => return false,
            }
        }
    }
}

/// The characters of a name; `None` is a byte that belongs to none.
fn characters(name: &[u8]) -> Vec<Option<char>> {
    let mut characters = Vec::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        characters.extend(chunk.valid().chars().map(Some));
        characters.extend(chunk.invalid().iter().map(|_| None));
    }
    characters
}

/// The pattern in one form, whichever of the equal ways it was written in.
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;

        for token in &self.tokens {
            match token {
                Token::Run => f.write_char('*')?,
                Token::One => f.write_char('?')?,
                Token::Char(char @ ('*' | '?' | '\\')) => write!(f, "\\{char}")?,
                Token::Char(char) => f.write_char(*char)?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pattern").field(&self.to_string()).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Pattern::new(pattern).unwrap().matches(name.as_bytes())
    }

    #[test]
    fn wildcards_and_plain_characters() {
        for (pattern, name, expected) in [
            ("orders", "orders", true),
            ("orders", "Orders", false),
            ("orders", "orders2", false),
            ("tenant_eu_*", "tenant_eu_", true),
            ("tenant_eu_*", "tenant_eu_7", true),
            ("tenant_eu_*", "tenant_us_7", false),
            ("*", "", true),
            ("*a*b", "xaxbxb", true),
            ("*a*b", "xaxbx", false),
            ("a?c", "aéc", true),
            ("a??c", "aéc", false),
            (r"a\*", "a*", true),
            (r"a\*", "ab", false),
            (r"\?\\", r"?\", true),
            (r"a\", r"a\", true),
            (r"\a", "a", true),
            ("[ab]", "a", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} against {name}");
        }
    }

    #[test]
    fn bytes_that_are_not_utf8_are_characters_of_their_own() {
        let latin1 = b"caf\xe9";
        assert!(Pattern::new("caf?").unwrap().matches(latin1));
        assert!(Pattern::new("*").unwrap().matches(latin1));
        assert!(!Pattern::new("café").unwrap().matches(latin1));
    }

    #[test]
    fn equal_patterns_are_shown_equal() {
        for (text, shown) in [(r"\a**b", "a*b"), (r"\*\?\\", r"\*\?\\"), (r"x\", r"x\\")] {
            assert_eq!(Pattern::new(text).unwrap().to_string(), shown);
        }
        assert_eq!(Pattern::new(r"\a**"), Pattern::new("a*"));
        assert_eq!(Pattern::new(r"a\*").unwrap().plain(), Some("a*"));
        assert!(!Pattern::new("a*").unwrap().is_plain());
        assert_eq!(Pattern::new(""), None);
    }

    #[test]
    fn many_stars_are_no_danger() {
        let name = "a".repeat(10_000);
        assert!(!matches(&format!("{}b", "*a".repeat(200)), &name));
    }

    /// The meaning of a glob, written for clarity and not for speed.
    fn reference(tokens: &[Token], name: &[Option<char>]) -> bool {
        match (tokens.split_first(), name.split_first()) {
            (None, rest) => rest.is_none(),
            (Some((Token::Run, behind)), _) => {
                (0..=name.len()).any(|skip| reference(behind, &name[skip..]))
            }
            (Some((Token::One, behind)), Some((_, rest))) => reference(behind, rest),
            (Some((Token::Char(want), behind)), Some((have, rest))) => {
                Some(*want) == *have && reference(behind, rest)
            }
            (Some(_), None) => false,
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_reference(pattern in r"[ab*?\\é]{1,8}", name in "[abé*?\\\\]{0,10}") {
            let pattern = Pattern::new(&pattern).unwrap();
            prop_assert_eq!(
                pattern.matches(name.as_bytes()),
                reference(&pattern.tokens, &characters(name.as_bytes())),
            );
        }

        #[test]
        fn any_bytes_agree_with_the_reference(
            pattern in r"[ab*?]{1,6}",
            name in proptest::collection::vec(prop_oneof![Just(b'a'), any::<u8>()], 0..10),
        ) {
            let pattern = Pattern::new(&pattern).unwrap();
            prop_assert_eq!(
                pattern.matches(&name),
                reference(&pattern.tokens, &characters(&name)),
            );
        }

        #[test]
        fn reading_what_is_shown_gives_the_same(text in r"[ab*?\\é]{1,12}") {
            let pattern = Pattern::new(&text).unwrap();
            prop_assert_eq!(Pattern::new(&pattern.to_string()), Some(pattern));
        }
    }
}
