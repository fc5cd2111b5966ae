//! Keeps passwords out of messages.
//!
//! A configuration has no place for passwords, but people put them there, and a message
//! that shows the line would carry one into a log. The text is looked at and not the
//! tree, because a file that is not YAML has none.

/// Words in front of a colon or an equals sign that say that a secret follows.
pub(crate) const PASSWORD_KEYS: [&str; 4] = ["password", "passwd", "pass", "pgpassword"];

/// The text with everything that may be a password replaced by as many stars.
pub(crate) fn hidden(source: &str) -> String {
    source.split_inclusive('\n').map(hidden_line).collect()
}

fn hidden_line(line: &str) -> String {
    let (mut from, mut until) = (line.len(), line.len());
    let lower = line.to_ascii_lowercase();
    for key in PASSWORD_KEYS {
        for (at, _) in lower.match_indices(key) {
            let rest = lower.get(at + key.len()..).unwrap_or_default();
            let value = rest.trim_start_matches(['"', '\'', ' ']).strip_prefix([':', '=']);
            if let Some(value) = value {
                from = from.min(line.len() - value.len());
            }
        }
    }
    if from == line.len() {
        // postgres://user:password@host
        if let Some(at) = line.find("://")
            && let Some(end) = line.rfind('@').filter(|end| *end > at)
        {
            (from, until) = (at + 3, end);
        }
    }
    let mut shown = String::with_capacity(line.len());
    for (at, char) in line.char_indices() {
        match char {
            ' ' | '\n' | '\r' => shown.push(char),
            // As many bytes as before, because places count bytes.
            _ if (from..until).contains(&at) => {
                shown.extend(std::iter::repeat_n('*', char.len_utf8()));
            }
            _ => shown.push(char),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_password_keys_are_hidden() {
        for (line, shown) in [
            ("  password: s3cret\n", "  password: ******\n"),
            ("{user: a, \"PassWord\" : é}", "{user: a, \"PassWord\" : ***"),
            ("host=a password=b", "host=a password=*"),
            ("h: postgres://u:p@host/x", "h: postgres://***@host/x"),
            ("passfile: ~/.pgpass", "passfile: ~/.pgpass"),
            ("  passfile: ~/.pgpass # pass\n", "  passfile: ~/.pgpass # pass\n"),
        ] {
            assert_eq!(hidden(line), shown);
        }
    }
}
