//! Short questions and commands that many tests need.

use std::fs;

use anyhow::{Context, Result};
use pgtypes::Lsn;

use crate::cluster::Cluster;
use crate::user;

impl Cluster {
    /// The end of the WAL: what is flushed on a primary, what is replayed on a standby.
    ///
    /// # Errors
    ///
    /// When the server does not answer.
    pub fn lsn(&self) -> Result<Lsn> {
        let answer = self.session("postgres")?.query(
            "select case when pg_is_in_recovery() then coalesce(pg_last_wal_replay_lsn(), '0/0') \
             else pg_current_wal_flush_lsn() end",
        )?;
        Ok(answer.parse()?)
    }

    /// Where the next record will begin.
    ///
    /// # Errors
    ///
    /// When the server does not answer, or is a standby.
    pub fn insert_lsn(&self) -> Result<Lsn> {
        let answer = self.session("postgres")?.query("select pg_current_wal_insert_lsn()")?;
        Ok(answer.parse()?)
    }

    /// Writes a checkpoint.
    ///
    /// # Errors
    ///
    /// The server's.
    pub fn checkpoint(&self) -> Result<()> {
        self.session("postgres")?.query("checkpoint")?;
        Ok(())
    }

    /// Goes on in a new WAL segment; gives the end of the switch record.
    ///
    /// # Errors
    ///
    /// The server's.
    pub fn switch_wal(&self) -> Result<Lsn> {
        Ok(self.session("postgres")?.query("select pg_switch_wal()")?.parse()?)
    }

    /// OID of a database.
    ///
    /// # Errors
    ///
    /// When there is none of that name.
    pub fn database_oid(&self, name: &str) -> Result<u32> {
        let oid = self.sql(&format!("select oid from pg_database where datname = '{name}'"))?;
        oid.parse().with_context(|| format!("no database {name:?}"))
    }

    /// OID of a tablespace.
    ///
    /// # Errors
    ///
    /// When there is none of that name.
    pub fn tablespace_oid(&self, name: &str) -> Result<u32> {
        let oid = self.sql(&format!("select oid from pg_tablespace where spcname = '{name}'"))?;
        oid.parse().with_context(|| format!("no tablespace {name:?}"))
    }

    /// Makes a tablespace in a folder of this cluster, outside of the data directory.
    ///
    /// A standby that redoes this uses the same folder: on one machine that is right only for
    /// tablespaces that it got with its base backup; for others use `location ''`.
    ///
    /// # Errors
    ///
    /// The server's.
    pub fn create_tablespace(&self, name: &str) -> Result<()> {
        let place = self.tablespaces_dir().join(name);
        fs::create_dir_all(&place)?;
        user::give(&place)?;
        self.sql(&format!("create tablespace \"{name}\" location '{}'", place.display()))?;
        Ok(())
    }
}
