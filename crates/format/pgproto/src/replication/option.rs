//! Names, strings and option lists of commands.

use std::fmt;

/// An option with its value; `generic_option` of `repl_gram.y`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenericOption {
    /// Its name in lower case, unless it was quoted.
    pub name: String,
    /// Its value; many options mean `true` when they have none.
    pub value: Option<OptionValue>,
}

/// The value of an option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OptionValue {
    /// A string, or a bare word in lower case.
    Text(String),
    /// A number.
    Number(u32),
}

impl GenericOption {
    /// An option without a value.
    pub(super) fn bare(name: &str) -> Self {
        Self { name: name.to_owned(), value: None }
    }

    /// An option whose value is text.
    pub(super) fn text(name: &str, value: impl Into<String>) -> Self {
        Self { name: name.to_owned(), value: Some(OptionValue::Text(value.into())) }
    }

    /// An option whose value is a number.
    pub(super) fn number(name: &str, value: u32) -> Self {
        Self { name: name.to_owned(), value: Some(OptionValue::Number(value)) }
    }

    /// The value as a boolean, as `defGetBoolean` (define.c) reads it; `None` when it is not one.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match &self.value {
            None | Some(OptionValue::Number(1)) => Some(true),
            Some(OptionValue::Number(0)) => Some(false),
            Some(OptionValue::Number(_)) => None,
            Some(OptionValue::Text(text)) => {
                let is = |words: [&str; 2]| words.iter().any(|w| text.eq_ignore_ascii_case(w));
                if is(["true", "on"]) { Some(true) } else { is(["false", "off"]).then_some(false) }
            }
        }
    }

    /// The value as text, when it is text.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            Some(OptionValue::Text(text)) => Some(text),
            _ => None,
        }
    }
}

impl fmt::Display for GenericOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Name(&self.name).fmt(f)?;
        match &self.value {
            None => Ok(()),
            Some(OptionValue::Text(text)) => write!(f, " {}", Literal(text)),
            Some(OptionValue::Number(number)) => write!(f, " {number}"),
        }
    }
}

/// A name in double quotes.
///
/// No server up to 18 reads a quote inside a name, so that no such name is ever parsed. It
/// is doubled for one that a program made: the server then refuses the command.
pub(super) struct Name<'a>(pub(super) &'a str);

/// A string in single quotes.
pub(super) struct Literal<'a>(pub(super) &'a str);

/// Options in parentheses with a space before them; nothing when there are none.
pub(super) struct List<'a>(pub(super) &'a [GenericOption]);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        quoted(f, '"', self.0)
    }
}

impl fmt::Display for Literal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        quoted(f, '\'', self.0)
    }
}

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, option) in self.0.iter().enumerate() {
            write!(f, "{}{option}", if number == 0 { " (" } else { ", " })?;
        }
        f.write_str(if self.0.is_empty() { "" } else { ")" })
    }
}

fn quoted(f: &mut fmt::Formatter<'_>, quote: char, text: &str) -> fmt::Result {
    fmt::Write::write_char(f, quote)?;
    for character in text.chars() {
        if character == quote {
            fmt::Write::write_char(f, quote)?;
        }
        fmt::Write::write_char(f, character)?;
    }
    fmt::Write::write_char(f, quote)
}
