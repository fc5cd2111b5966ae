//! The workload runs everywhere, reaches a standby whole, and `pg_waldump` reads what it wrote.

use std::collections::BTreeSet;

use testkit::{Cluster, Install, Standby, Workload, amcheck, same_contents, waldump};

testkit::on_each_major! {
    /// The same contents, through every kind of index, on both sides.
    fn reaches_a_standby(major) {
        let primary = Cluster::builder(major).set("wal_level", "logical").start()?;
        primary.sql("create database d")?;
        let standby = Standby::of(&primary).start()?;
        let from = primary.switch_wal()?;
        let work = Workload { rows: 1000, round: 1 };
        work.run(&primary, "d")?;
        amcheck(&primary, "d")?;
        let to = primary.lsn()?;
        standby.wait_replayed(&primary)?;
        same_contents(&primary, &standby, "d")?;
        assert_eq!(work.probe(&primary, "d")?, work.probe(&standby, "d")?);
        amcheck(&standby, "d")?;

        if Install::has_clients(major) {
            let records = waldump(major, &primary.wal_dir(), from.round_down(16 << 20), to)?;
            let bytes: u64 = records.iter().map(|record| u64::from(record.len_tot)).sum();
            assert!(bytes > 1 << 20, "{bytes} bytes of records up to {to}");
            assert!(records.windows(2).all(|pair| pair[1].prev == pair[0].lsn));
            let rmgrs: BTreeSet<_> = records.iter().map(|record| record.rmgr.as_str()).collect();
            for rmgr in [
                "XLOG", "Transaction", "Storage", "Standby", "Heap2", "Heap", "Btree", "Hash", "Gin",
                "Gist", "Sequence", "SPGist", "BRIN", "Generic", "LogicalMessage",
            ] {
                assert!(rmgrs.contains(rmgr), "no record of {rmgr} in {rmgrs:?}");
            }
            let database = primary.database_oid("d")?;
            let mut locators = records.iter().flat_map(testkit::Record::locators);
            assert!(locators.any(|locator| locator.database == database));
        }
        Ok(())
    }
}

/// Differences are found and named.
#[test]
fn differences_are_named() -> anyhow::Result<()> {
    let primary = Cluster::builder(testkit::Major::V15).start()?;
    primary.sql("create table same as select 1 x; create table other as select 1 x")?;
    let mut standby = Standby::of(&primary).start()?;
    standby.promote()?;
    same_contents(&primary, &standby, "postgres")?;
    standby.sql("update other set x = 2")?;
    let error = same_contents(&primary, &standby, "postgres").unwrap_err().to_string();
    assert!(error.contains("public.other") && !error.contains("public.same"), "{error}");
    standby.stop(testkit::Stop::Fast)
}
