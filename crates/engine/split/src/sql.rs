//! Names and texts inside of SQL, of connection strings and of files of settings.

/// A name in double quotes.
pub(crate) fn name(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// A text in single quotes, whatever `standard_conforming_strings` says.
pub(crate) fn text(text: &str) -> String {
    format!("E'{}'", text.replace('\\', r"\\").replace('\'', "''"))
}

/// A value in a file of settings (`guc-file.l`).
pub(crate) fn setting(value: &str) -> String {
    format!("'{}'", value.replace('\\', r"\\").replace('\'', "''"))
}

/// A connection string for libpq.
pub(crate) fn conninfo(pairs: &[(&str, &str)]) -> String {
    let pair = |(key, value): &(&str, &str)| {
        format!("{key}='{}'", value.replace('\\', r"\\").replace('\'', r"\'"))
    };
    pairs.iter().map(pair).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_inside_quotes() {
        assert_eq!(name(r#"a"b"#), r#""a""b""#);
        assert_eq!(text(r"o'b\"), r"E'o''b\\'");
        let info = conninfo(&[("user", r"o'b\")]);
        assert_eq!(info, r"user='o\'b\\'");
        assert_eq!(setting(&info), r"'user=''o\\''b\\\\'''");
    }
}
