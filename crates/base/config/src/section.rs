//! A mapping with a fixed set of keys: finds them, and says what does not belong there.

use std::rc::Rc;

use crate::keys::{Key, SECTIONS};
use crate::problem::Problems;
use crate::scalar::{shown, wrong_type};
use crate::secrets::PASSWORD_KEYS;
use crate::tree::{Node, Value};

/// Longest key for which a similar one is looked for, in bytes.
const SIMILAR_BYTES_MAX: usize = 40;

/// A key that was found, and its value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'n> {
    pub(crate) key: &'n Node,
    pub(crate) value: &'n Node,
}

/// The values of `keys` in `node`, in the order of `keys`.
///
/// Notes unknown keys, keys given twice, and that `node` is no mapping at all.
pub(crate) fn section<'n, const N: usize>(
    node: &'n Node,
    keys: &[Key; N],
    problems: &mut Problems<'_>,
) -> [Option<Entry<'n>>; N] {
    let mut found = [None; N];
    let Value::Map(pairs) = &node.value else {
        let names = names(keys).join(", ");
        wrong_type(node, "a mapping", format!("the keys here are {names}"), problems);
        return found;
    };
    for (key, value) in pairs {
        let Some((name, _)) = key_text(key, problems) else { continue };
        let position =
            keys.iter().position(|known| known.name == name || known.alias == Some(name));
        let Some((slot, known)) = position.and_then(|at| found.get_mut(at).zip(keys.get(at)))
        else {
            unknown(key, name, keys, problems);
            continue;
        };
        if slot.is_some() {
            let message = match known.alias {
                Some(alias) => {
                    format!(
                        "`{}` and its other name `{alias}` are one key, given twice",
                        known.name
                    )
                }
                None => format!("`{name}` is given twice"),
            };
            problems.add(&key.span, message, "keep one of the two");
            continue;
        }
        *slot = Some(Entry { key, value });
    }
    found
}

/// The text of a key, and whether it is plain.
pub(crate) fn key_text<'n>(
    key: &'n Rc<Node>,
    problems: &mut Problems<'_>,
) -> Option<(&'n str, bool)> {
    match &key.value {
        Value::Text { text, plain } => Some((text, *plain)),
        Value::List(_) | Value::Map(_) => {
            wrong_type(key, "text as a key", "write `key: value`", problems);
            None
        }
    }
}

fn unknown(key: &Node, name: &str, keys: &[Key], problems: &mut Problems<'_>) {
    let lower = name.to_ascii_lowercase().replace('-', "_");
    let many = problems.are_many();
    let hint = if PASSWORD_KEYS.contains(&lower.as_str()) {
        "no password belongs in this file: name a password file with `passfile` under \
         `upstream`, `catalog`, or set PGPASSWORD"
            .to_owned()
    } else if let Some(place) = elsewhere(name) {
        format!("`{name}` belongs in {place}; check the indentation")
    } else if let Some(similar) = (!many).then(|| similar(&lower, keys)).flatten() {
        format!("did you mean `{similar}`?")
    } else {
        format!("the keys here are {}", names(keys).join(", "))
    };
    problems.add(&key.span, format!("unknown key {}", shown(name)), hint);
}

/// The section that does have this key.
fn elsewhere(name: &str) -> Option<&'static str> {
    let has = |keys: &[Key]| keys.iter().any(|key| key.name == name || key.alias == Some(name));
    SECTIONS.iter().find(|(_, keys)| has(keys)).map(|(place, _)| *place)
}

fn names(keys: &[Key]) -> Vec<&'static str> {
    keys.iter().map(|key| key.name).collect()
}

/// The key that `name` was probably meant to be.
fn similar(name: &str, keys: &[Key]) -> Option<&'static str> {
    if name.len() > SIMILAR_BYTES_MAX {
        return None;
    }
    keys.iter()
        .flat_map(|key| [Some(key.name), key.alias])
        .flatten()
        .map(|known| (distance(name, known), known))
        .filter(|(distance, known)| *distance <= 1 + known.len() / 5)
        .min()
        .map(|(_, known)| known)
}

/// Slips of the keyboard between two words: letters added, dropped, changed, or two
/// neighbours swapped (optimal string alignment).
fn distance(from: &str, to: &str) -> usize {
    let to = to.as_bytes();
    let mut above: Vec<usize> = (0..=to.len()).collect();
    let mut two_above = Vec::new();
    let mut before = None;
    for (number, have) in (1..).zip(from.bytes()) {
        let mut row = vec![number];
        for (at, want) in to.iter().enumerate() {
            let cell = |row: &[usize], at: usize| row.get(at).copied().unwrap_or(usize::MAX - 1);
            let changed = cell(&above, at) + usize::from(have != *want);
            let mut best = changed.min(cell(&above, at + 1) + 1).min(cell(&row, at) + 1);
            let left = at.checked_sub(1);
            if before == Some(*want) && left.and_then(|left| to.get(left)) == Some(&have) {
                best = best.min(left.map_or(best, |left| cell(&two_above, left) + 1));
            }
            row.push(best);
        }
        two_above = std::mem::replace(&mut above, row);
        before = Some(have);
    }
    above.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{FILTER, RELAY};

    #[test]
    fn distances() {
        for (from, to, expected) in [
            ("", "", 0),
            ("a", "", 1),
            ("", "ab", 2),
            ("kitten", "sitting", 3),
            ("prot", "port", 1),
            ("ab", "ba", 1),
        ] {
            assert_eq!(distance(from, to), expected, "{from} to {to}");
        }
    }

    #[test]
    fn similar_keys() {
        for (name, expected) in [
            ("include_database", Some("include_databases")),
            ("exclude_databses", Some("exclude_databases")),
            ("databases", None),
        ] {
            assert_eq!(similar(name, &FILTER), expected, "{name}");
        }
        assert_eq!(similar("masters", &RELAY), Some("master"));
    }
}
