//! What is on the primary, and what the standby should hold.

/// The configuration that the relay gets.
pub(crate) const CONFIGURATIONS: &str = r#"configurations:
  - berlin:
      match: {application_name: berlin}
      filter:
        include_databases: [orders, "tenant_eu_*"]
        exclude_tablespaces: [archive]
"#;

/// The `application_name` of the standby.
pub(crate) const STANDBY: &str = "berlin";
/// All databases.
pub(crate) const DATABASES: [&str; 3] = ["orders", "tenant_eu_1", "scratch"];
/// All tablespaces beside `pg_default`.
pub(crate) const TABLESPACES: [&str; 2] = ["fast", "archive"];
/// What is not part of the standby's base backup.
pub(crate) const EXCLUDED_DATABASE: &str = "scratch";
/// What is not part of the standby's base backup.
pub(crate) const EXCLUDED_TABLESPACE: &str = "archive";

/// A table of the primary.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table {
    pub(crate) database: &'static str,
    pub(crate) tablespace: &'static str,
    pub(crate) name: &'static str,
}

impl Table {
    const fn new(database: &'static str, tablespace: &'static str, name: &'static str) -> Self {
        Self { database, tablespace, name }
    }

    /// Whether the standby should have it.
    pub(crate) fn is_included(self) -> bool {
        self.database != EXCLUDED_DATABASE && self.tablespace != EXCLUDED_TABLESPACE
    }

    /// Makes it, with its index beside it.
    pub(crate) fn create(self) -> String {
        let Self { tablespace, name, .. } = self;
        format!(
            "create table {name} (id bigint generated always as identity \
             primary key using index tablespace {tablespace}, \
             customer int, amount numeric(12, 2), note text, \
             changed timestamptz default clock_timestamp()) tablespace {tablespace}"
        )
    }
}

/// Every table that is written and compared.
pub(crate) const TABLES: [Table; 7] = [
    Table::new("orders", "pg_default", "orders"),
    Table::new("orders", "fast", "open_orders"),
    Table::new("orders", "archive", "orders_2019"),
    Table::new("tenant_eu_1", "pg_default", "invoices"),
    Table::new("tenant_eu_1", "fast", "visits"),
    Table::new("scratch", "pg_default", "staging"),
    Table::new("scratch", "fast", "sorting"),
];
