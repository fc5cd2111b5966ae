//! `sql` and `slot` of a configuration: what is passed on as it is, and what the relay does itself.

use crate::problem::Problems;
use crate::scalar::{shown, text};
use crate::section::Entry;
use crate::{Slot, Sql};

/// `sql`: refused unless the file says otherwise.
pub(crate) fn sql(entry: Option<Entry<'_>>, problems: &mut Problems<'_>) -> Option<Sql> {
    let known = [("refuse", Sql::Refuse), ("passthrough", Sql::Passthrough)];
    one_of(entry, "`sql`", &known, problems)
}

/// `slot`: the client's own unless the file says otherwise.
pub(crate) fn slot(entry: Option<Entry<'_>>, problems: &mut Problems<'_>) -> Option<Slot> {
    let known = [("passthrough", Slot::Passthrough), ("auto", Slot::Auto)];
    one_of(entry, "`slot`", &known, problems)
}

fn one_of<T: Copy + Default>(
    entry: Option<Entry<'_>>,
    key: &str,
    known: &[(&str, T); 2],
    problems: &mut Problems<'_>,
) -> Option<T> {
    let Some(entry) = entry else { return Some(T::default()) };
    let written = text(entry.value, key, problems)?;
    let found = known.iter().find(|(word, _)| *word == written);
    if found.is_none() {
        let [(one, _), (other, _)] = known;
        let message = format!("there is no value {} for {key}", shown(written));
        problems.add(&entry.value.span, message, format!("write `{one}` or `{other}`"));
    }
    found.map(|(_, value)| *value)
}
