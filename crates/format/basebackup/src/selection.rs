//! Which files of a data directory belong to what is left out.

use pgtypes::Oid;

/// Says what a backup holds.
pub trait Selection {
    /// Whether files of `database` in `tablespace` belong in the backup; [`Oid::INVALID`] as
    /// the database asks about the tablespace as a whole. `None` when that has to be found out.
    fn holds(&self, tablespace: Oid, database: Oid) -> Option<bool>;
}

/// A folder of which a [`Selection`] does not know yet whether it belongs in the backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undecided {
    /// The tablespace.
    pub tablespace: Oid,
    /// The database; [`Oid::INVALID`] for the tablespace as a whole.
    pub database: Oid,
}

/// Where the names in an archive begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The data directory; the manifest names files from there too.
    Data,
    /// A tablespace, behind `pg_tblspc/OID/`.
    Tablespace(Oid),
}

impl Place {
    /// Whether a file or folder belongs in the backup.
    ///
    /// Only the folders of databases and tablespaces are judged; everything else is the
    /// cluster's. Names are as in the archive: `base/5/1259`, `PG_15_202209061/5/1259`.
    ///
    /// # Errors
    ///
    /// [`Undecided`]: the selection has to learn of that folder first.
    pub fn keeps(self, name: &[u8], selection: &impl Selection) -> Result<bool, Undecided> {
        let mut parts = name.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
        match self {
            Self::Tablespace(oid) => keeps_in_tablespace(oid, parts, selection),
            Self::Data => match parts.next() {
                Some(b"base") => {
                    let database = parts.next().and_then(oid_of);
                    database.map_or(Ok(true), |oid| ask(Oid::PG_DEFAULT, oid, selection))
                }
                Some(b"pg_tblspc") => {
                    let tablespace = parts.next().and_then(oid_of);
                    tablespace.map_or(Ok(true), |oid| keeps_in_tablespace(oid, parts, selection))
                }
                _ => Ok(true),
            },
        }
    }
}

/// Behind the tablespace: a folder for the version, then one for each database.
fn keeps_in_tablespace<'a>(
    tablespace: Oid,
    mut parts: impl Iterator<Item = &'a [u8]>,
    selection: &impl Selection,
) -> Result<bool, Undecided> {
    parts.next();
    let database = parts.next().and_then(oid_of).unwrap_or(Oid::INVALID);
    ask(tablespace, database, selection)
}

fn ask(tablespace: Oid, database: Oid, selection: &impl Selection) -> Result<bool, Undecided> {
    selection.holds(tablespace, database).ok_or(Undecided { tablespace, database })
}

fn oid_of(part: &[u8]) -> Option<Oid> {
    let text = str::from_utf8(part).ok()?;
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok().map(Oid)).flatten()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Leaves one database and one tablespace out.
    pub(crate) struct Without(pub(crate) u32, pub(crate) u32);

    impl Selection for Without {
        fn holds(&self, tablespace: Oid, database: Oid) -> Option<bool> {
            Some(database != Oid(self.0) && tablespace != Oid(self.1))
        }
    }

    #[test]
    fn only_folders_of_databases_and_tablespaces_are_judged() {
        let without = Without(5, 77);
        for (name, kept) in [
            ("base", true),
            ("base/", true),
            ("base/5", false),
            ("base/5/1259", false),
            ("base/5/INCREMENTAL.1259", false),
            ("base/55/1259", true),
            ("base/pgsql_tmp", true),
            ("global/5", true),
            ("pg_wal/000000010000000000000005", true),
            ("pg_tblspc", true),
            ("pg_tblspc/77", false),
            ("pg_tblspc/77/PG_15_202209061/6/1", false),
            ("pg_tblspc/78", true),
            ("pg_tblspc/78/PG_15_202209061", true),
            ("pg_tblspc/78/PG_15_202209061/5", false),
            ("pg_tblspc/78/PG_15_202209061/6/5", true),
            ("5", true),
            ("", true),
        ] {
            assert_eq!(Place::Data.keeps(name.as_bytes(), &without), Ok(kept), "{name}");
        }
        let place = Place::Tablespace(Oid(78));
        assert_eq!(place.keeps(b"PG_15_202209061", &without), Ok(true));
        assert_eq!(place.keeps(b"PG_15_202209061/5/1259", &without), Ok(false));
        assert_eq!(place.keeps(b"PG_15_202209061/6/5", &without), Ok(true));
        let left_out = Place::Tablespace(Oid(77));
        assert_eq!(left_out.keeps(b"PG_15_202209061/6/5", &without), Ok(false));
    }
}
