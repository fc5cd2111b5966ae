//! What exists on the primary, and what the filter made of it when it came.

/// Text in every row of an excluded database, and nowhere else.
pub(crate) const MARKER: &str = "Zz-must-never-leave-zZ";

/// The relay's configurations.
pub(crate) const CONFIGURATION: &str = "
configurations:
  - berlin:
      match: {application_name: berlin}
      filter: {exclude_databases: [\"drop*\"], exclude_tablespaces: [\"archive*\"]}
  - everybody: {}
";

/// A database that is there.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    pub(crate) name: String,
    /// Decided by its first name; renaming changes nothing.
    pub(crate) included: bool,
}

impl Database {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), included: !name.starts_with("drop") }
    }

    /// What is written into its rows.
    pub(crate) const fn text(&self) -> &'static str {
        if self.included { "everybody may see this" } else { MARKER }
    }
}
