//! A filtered standby of every major: what it holds, and that it goes on whatever happens.

use std::path::Path;

use testkit::{Cluster, Relay, Standby, on_each_major};

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pgherd"))
}

const WITHOUT_DROP: &str = "
configurations:
  - berlin:
      match: {application_name: berlin}
      filter: {exclude_databases: [\"drop*\"]}
";

on_each_major! {
    /// Scenario 1, and databases that come and go while streaming.
    fn excluded_databases_never_reach_the_standby(major) {
        let primary = Cluster::builder(major).start()?;
        primary.sql("create database keep")?;
        primary.sql("create database drop1")?;
        let dropped = primary.database_oid("drop1")?;
        let relay = Relay::start(binary(), primary.port(), WITHOUT_DROP)?;
        let standby = Standby::of(&primary)
            .without_database(dropped)
            .via(relay.port())
            .name("berlin")
            .start()?;
        standby.wait_streaming()?;
        let fill = "create table t as select g, repeat('x', 200) from generate_series(1, 20000) g";
        for database in ["keep", "drop1"] {
            primary.sql_in(database, fill)?;
        }
        primary.sql("create database drop2")?;
        primary.sql("create database keep2")?;
        primary.sql_in("drop2", fill)?;
        primary.sql_in("keep2", fill)?;
        standby.wait_replayed(&primary)?;
        for database in ["keep", "keep2"] {
            assert_eq!(standby.sql_in(database, "select count(*) from t")?, "20000");
        }
        for database in ["drop1", "drop2"] {
            let oid = primary.database_oid(database)?;
            let folder = standby.data().join("base").join(oid.to_string());
            assert!(!folder.exists(), "{database} left {} behind", folder.display());
            let error = standby.sql_in(database, "select 1").unwrap_err();
            assert!(format!("{error:#}").contains("does not exist"), "{error:#}");
        }
        primary.sql("drop database drop1")?;
        standby.wait_replayed(&primary)?;
        Ok(())
    }
}
