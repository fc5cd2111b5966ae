//! What a standby gets, by the names of databases and tablespaces.

use crate::Pattern;

/// Databases that no filter touches: `CREATE DATABASE` copies them.
pub(crate) const TEMPLATE_DATABASES: [&str; 2] = ["template0", "template1"];
/// The tablespace of the shared catalogs, which every standby needs.
pub(crate) const GLOBAL_TABLESPACE: &str = "pg_global";
/// Tablespaces that pass an include list without being named.
const BUILTIN_TABLESPACES: [&str; 2] = ["pg_default", GLOBAL_TABLESPACE];

/// What the name in a filter is the name of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A database.
    Database,
    /// A tablespace.
    Tablespace,
}

/// Lists of names; a record passes if all include lists match and no exclude list does.
///
/// An include list that was left out (`None`) matches everything. A list that is there
/// holds at least one pattern.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only these databases, and the templates.
    pub include_databases: Option<Vec<Pattern>>,
    /// Not these databases.
    pub exclude_databases: Option<Vec<Pattern>>,
    /// Only these tablespaces, and `pg_default` and `pg_global`.
    pub include_tablespaces: Option<Vec<Pattern>>,
    /// Not these tablespaces.
    pub exclude_tablespaces: Option<Vec<Pattern>>,
}

fn listed(list: Option<&Vec<Pattern>>, name: &[u8]) -> Option<bool> {
    list.map(|patterns| patterns.iter().any(|pattern| pattern.matches(name)))
}

impl Filter {
    /// Does a database of this name pass? `template0` and `template1` always do.
    #[must_use]
    pub fn database(&self, name: &[u8]) -> bool {
        if TEMPLATE_DATABASES.iter().any(|template| template.as_bytes() == name) {
            return true;
        }
        listed(self.include_databases.as_ref(), name).unwrap_or(true)
            && !listed(self.exclude_databases.as_ref(), name).unwrap_or(false)
    }

    /// Does a tablespace of this name pass? `pg_global` always does; `pg_default` needs
    /// no include, but can be excluded.
    #[must_use]
    pub fn tablespace(&self, name: &[u8]) -> bool {
        if name == GLOBAL_TABLESPACE.as_bytes() {
            return true;
        }
        let builtin = BUILTIN_TABLESPACES.iter().any(|builtin| builtin.as_bytes() == name);
        (builtin || listed(self.include_tablespaces.as_ref(), name).unwrap_or(true))
            && !listed(self.exclude_tablespaces.as_ref(), name).unwrap_or(false)
    }

    /// The filter as text that is equal for equal filters, to be kept and compared later.
    ///
    /// One line per list: its key and its patterns, each in double quotes, sorted and
    /// each once. The order in the file and superfluous backslashes make no difference.
    #[must_use]
    pub fn canonical(&self) -> String {
        let mut text = String::new();
        for (key, list) in self.lists() {
            let Some(patterns) = list else { continue };
            let mut patterns: Vec<_> = patterns.iter().map(quoted).collect();
            patterns.sort_unstable();
            patterns.dedup();
            text.push_str(key);
            text.push_str(": ");
            text.push_str(&patterns.join(" "));
            text.push('\n');
        }
        text
    }

    /// Every pattern with what it names, for telling which ones match nothing.
    pub fn patterns(&self) -> impl Iterator<Item = (Kind, &Pattern)> {
        let kinds = [Kind::Database, Kind::Database, Kind::Tablespace, Kind::Tablespace];
        kinds.into_iter().zip(self.lists()).flat_map(|(kind, (_, list))| {
            list.into_iter().flatten().map(move |pattern| (kind, pattern))
        })
    }

    fn lists(&self) -> [(&'static str, Option<&Vec<Pattern>>); 4] {
        [
            ("include_databases", self.include_databases.as_ref()),
            ("exclude_databases", self.exclude_databases.as_ref()),
            ("include_tablespaces", self.include_tablespaces.as_ref()),
            ("exclude_tablespaces", self.exclude_tablespaces.as_ref()),
        ]
    }
}

/// The pattern in double quotes. Our own escapes: those of `Debug` may change with Rust.
fn quoted(pattern: &Pattern) -> String {
    let mut text = String::from('"');
    for char in pattern.to_string().chars() {
        match char {
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            char => text.push(char),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(patterns: &[&str]) -> Option<Vec<Pattern>> {
        Some(patterns.iter().map(|text| Pattern::new(text).unwrap()).collect())
    }

    #[test]
    fn all_includes_and_no_exclude() {
        let filter = Filter {
            include_databases: list(&["orders", "tenant_*"]),
            exclude_databases: list(&["tenant_us_*"]),
            ..Filter::default()
        };
        for (name, passes) in [
            ("orders", true),
            ("tenant_eu_1", true),
            ("tenant_us_1", false),
            ("postgres", false),
            ("template0", true),
            ("template1", true),
            ("template2", false),
        ] {
            assert_eq!(filter.database(name.as_bytes()), passes, "{name}");
        }
        assert!(filter.tablespace(b"anything"));
    }

    #[test]
    fn no_glob_excludes_what_cannot_be_excluded() {
        let filter = Filter {
            exclude_databases: list(&["*"]),
            exclude_tablespaces: list(&["*"]),
            ..Filter::default()
        };
        assert!(filter.database(b"template0") && filter.database(b"template1"));
        assert!(!filter.database(b"postgres"));
        assert!(filter.tablespace(b"pg_global"));
        assert!(!filter.tablespace(b"pg_default"));
    }

    #[test]
    fn builtin_tablespaces_need_no_include() {
        let filter = Filter { include_tablespaces: list(&["fast"]), ..Filter::default() };
        assert!(filter.tablespace(b"pg_default") && filter.tablespace(b"pg_global"));
        assert!(filter.tablespace(b"fast") && !filter.tablespace(b"slow"));
        let filter = Filter { exclude_tablespaces: list(&["pg_default"]), ..filter };
        assert!(!filter.tablespace(b"pg_default"));
    }

    #[test]
    fn canonical_is_equal_for_equal_filters() {
        let one = Filter { include_databases: list(&["b", r"\a", "b"]), ..Filter::default() };
        let two = Filter { include_databases: list(&["a", "b"]), ..Filter::default() };
        assert_eq!(one.canonical(), "include_databases: \"a\" \"b\"\n");
        assert_eq!(one.canonical(), two.canonical());
        let three = Filter { exclude_databases: list(&["a", "b"]), ..Filter::default() };
        assert_ne!(two.canonical(), three.canonical());
        let odd = Filter { exclude_databases: list(&["x\"\ny", r"\"]), ..Filter::default() };
        assert_eq!(odd.canonical(), "exclude_databases: \"\\\\\" \"x\\\"\\ny\"\n");
    }

    #[test]
    fn patterns_know_their_kind() {
        let filter = Filter {
            exclude_databases: list(&["scratch"]),
            include_tablespaces: list(&["fast", "f*"]),
            ..Filter::default()
        };
        let seen: Vec<_> =
            filter.patterns().map(|(kind, pattern)| (kind, pattern.to_string())).collect();
        assert_eq!(
            seen,
            [
                (Kind::Database, "scratch".to_owned()),
                (Kind::Tablespace, "fast".to_owned()),
                (Kind::Tablespace, "f*".to_owned()),
            ]
        );
    }
}
