//! Single values: text, numbers, truth values, lengths of time.

use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::Duration;

use crate::problem::Problems;
use crate::tree::{Node, Value};

/// Longest text that a message repeats, in characters.
const SHOWN_CHARS_MAX: usize = 60;

/// A text from the file for a message: quoted, escaped, and not too long.
pub(crate) fn shown(text: &str) -> String {
    if text.chars().count() > SHOWN_CHARS_MAX {
        let start: String = text.chars().take(SHOWN_CHARS_MAX).collect();
        return format!("{start:?} …");
    }
    format!("{text:?}")
}

/// Notes that a value is of another type than the one that it has to have.
pub(crate) fn wrong_type(
    node: &Node,
    expected: &str,
    hint: impl Into<String>,
    problems: &mut Problems<'_>,
) {
    let found = match &node.value {
        _ if node.is_null() => "nothing",
        Value::Text { plain: true, text } if text.parse::<f64>().is_ok() => "a number",
        Value::Text { .. } => "text",
        Value::List(_) => "a list",
        Value::Map(_) => "a mapping",
    };
    problems.add(&node.span, format!("expected {expected}, found {found}"), hint);
}

/// Any scalar as text: a name may look like a number.
///
/// Notes lists and mappings, nothing, an empty text, and a text with a NUL, which no
/// name in PostgreSQL can have.
pub(crate) fn text<'n>(node: &'n Node, what: &str, problems: &mut Problems<'_>) -> Option<&'n str> {
    match &node.value {
        Value::Text { text, plain: false } if text.is_empty() => {
            problems.add(&node.span, format!("{what} is empty"), "write a name, or leave it out");
            None
        }
        Value::Text { text, .. } if text.contains('\0') => {
            let message = format!("{what} has a NUL character in it");
            problems.add(&node.span, message, "remove the NUL");
            None
        }
        Value::Text { text, .. } if !node.is_null() => Some(text),
        _ if node.is_null() => {
            let hint = "write a value behind the colon, or leave the key out; quote a name \
                        that reads `null` or `~`";
            wrong_type(node, "text", hint, problems);
            None
        }
        _ => {
            wrong_type(node, "text", format!("{what} is one text"), problems);
            None
        }
    }
}

/// A whole number inside `range`; quotes around it do not matter.
pub(crate) fn number(
    node: &Node,
    what: &str,
    range: RangeInclusive<u32>,
    problems: &mut Problems<'_>,
) -> Option<u32> {
    let hint = format!("write a number from {} to {}", range.start(), range.end());
    let Some(digits) = number_text(node) else {
        wrong_type(node, "a whole number", hint, problems);
        return None;
    };
    let number = digits.parse().ok().filter(|number| range.contains(number));
    if number.is_none() {
        let message =
            format!("{what} {digits} is out of range ({} to {})", range.start(), range.end());
        problems.add(&node.span, message, hint);
    }
    number
}

/// The digits, when the value is a number without a fraction.
fn number_text(node: &Node) -> Option<&str> {
    let Value::Text { text, .. } = &node.value else { return None };
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    (number && digits.len() <= 20).then_some(text)
}

/// A port.
pub(crate) fn port(node: &Node, problems: &mut Problems<'_>) -> Option<u16> {
    let port = number(node, "port", 1..=u32::from(u16::MAX), problems)?;
    u16::try_from(port).ok()
}

/// `true` or `false`.
pub(crate) fn boolean(node: &Node, problems: &mut Problems<'_>) -> Option<bool> {
    let value = match &node.value {
        Value::Text { text, plain: true } => match text.as_str() {
            "true" | "True" | "TRUE" => Some(true),
            "false" | "False" | "FALSE" => Some(false),
            _ => None,
        },
        _ => None,
    };
    if value.is_none() {
        wrong_type(node, "true or false", "write `true` or `false`, without quotes", problems);
    }
    value
}

/// The items of a list.
pub(crate) fn list<'n>(
    node: &'n Node,
    example: &str,
    problems: &mut Problems<'_>,
) -> Option<&'n [Rc<Node>]> {
    match &node.value {
        Value::List(items) => Some(items),
        Value::Text { .. } | Value::Map(_) => {
            wrong_type(node, "a list", format!("write a list, as in {example}"), problems);
            None
        }
    }
}

/// Units that PostgreSQL knows for times, longest name first where one begins another.
const UNITS: [(&str, Duration); 6] = [
    ("us", Duration::from_micros(1)),
    ("ms", Duration::from_millis(1)),
    ("min", Duration::from_secs(60)),
    ("s", Duration::from_secs(1)),
    ("h", Duration::from_secs(3_600)),
    ("d", Duration::from_secs(86_400)),
];

/// A length of time with its unit, as PostgreSQL writes it: `30s`, `5min`, `100ms`.
///
/// A bare number is refused, because PostgreSQL counts it in seconds for
/// `authentication_timeout` and in milliseconds for `wal_sender_timeout`. Only 0 needs
/// no unit.
pub(crate) fn duration(
    node: &Node,
    range: &RangeInclusive<Duration>,
    limits: &str,
    problems: &mut Problems<'_>,
) -> Option<Duration> {
    let Value::Text { text, .. } = &node.value else {
        wrong_type(node, "a time", "write it as in 30s or 5min", problems);
        return None;
    };
    let text = text.trim();
    let end = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at_checked(end).unwrap_or((text, ""));
    let unit = unit.trim_start();
    let scale = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale);
    let scale = match digits.parse::<u32>() {
        Ok(0) if unit.is_empty() => Some(Duration::ZERO),
        Ok(_) => scale,
        Err(_) => None,
    };
    let Some(scale) = scale else {
        let hint = "write a whole number and a unit: 100ms, 30s, 5min, 1h (us, ms, s, min, h, d)";
        problems.add(&node.span, format!("{} is not a time with its unit", shown(text)), hint);
        return None;
    };
    let time = digits.parse().ok().and_then(|count| scale.checked_mul(count));
    let time = time.filter(|time| range.contains(time));
    if time.is_none() {
        let message = format!("{} is out of range ({limits})", shown(text));
        problems.add(&node.span, message, format!("write a time of {limits}"));
    }
    time
}
