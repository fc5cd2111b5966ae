//! What of the source has to be as it was when the split began.

use std::path::Path;

use crate::error::Side;
use crate::server::Session;
use crate::split::Split;
use crate::{Error, Helper};

const DATA_DIRECTORY: &str = "select current_setting('data_directory')";
const LOCATIONS: &str =
    "select spcname::text, pg_tablespace_location(oid) from pg_tablespace where oid > 16383";

impl<H: Helper> Split<'_, H> {
    /// A tablespace that was made since the split began is at the same path on both sides. On one
    /// machine that is the same folder, and each server would write the other one's files.
    pub(crate) async fn check_tablespaces(&self, source: &Session) -> Result<(), Error> {
        let record = &self.journal.record;
        let data: String = source.one("look for the data directory", DATA_DIRECTORY, &[]).await?;
        let is_here = Path::new(&data).join("postmaster.pid").exists();
        for row in source.rows("list tablespaces", LOCATIONS, &[]).await? {
            let (name, location): (String, String) =
                (source.value(&row, 0)?, source.value(&row, 1)?);
            let location = Path::new(&location);
            let is_known = record.unmapped.iter().any(|it| it == location)
                || record.mapping.iter().any(|(old, _)| old == location);
            if is_here && location.is_absolute() && !is_known {
                return Err(Error::unfit(format!(
                    "tablespace {name} was made since the split began, and both servers would share \
                     its folder {}: undo the split and begin anew",
                    location.display()
                )));
            }
        }
        Ok(())
    }

    /// The names and OIDs of what is moved have to be what they were.
    pub(crate) async fn check_names(&self, source: &Session) -> Result<(), Error> {
        let identifier: i64 = source
            .one("identify", "select system_identifier from pg_control_system()", &[])
            .await?;
        if identifier != self.journal.record.system_identifier {
            return Err(Error::unfit("another server is where the source was"));
        }
        let standby: bool = source.one("identify", "select pg_is_in_recovery()", &[]).await?;
        if standby {
            return Err(Error::unfit("the source has become a standby"));
        }
        let oids = self.journal.record.oids();
        let sql = "select oid, datname::text from pg_database where oid = any($1)";
        let rows = source.rows("list databases", sql, &[&oids]).await?;
        for database in &self.journal.record.databases {
            let mut name = None;
            for row in &rows {
                if source.value::<u32>(row, 0)? == database.oid {
                    name = Some(source.value::<String>(row, 1)?);
                }
            }
            if name.as_deref() != Some(&database.name) {
                return Err(Error::unfit(format!(
                    "database {} was {} on the {} since the split began: undo it and begin anew",
                    database.name,
                    name.map_or("dropped".to_owned(), |name| format!("renamed to {name}")),
                    Side::Source,
                )));
            }
        }
        Ok(())
    }
}
