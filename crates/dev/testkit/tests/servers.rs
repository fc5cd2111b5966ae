//! Servers of every major start, stop, and have standbys.

use testkit::{Auth, Cluster, PASSWORD, Standby, Stop};

testkit::on_each_major! {
    /// The life of a server.
    fn starts_stops_and_recovers(major) {
        let mut pg = Cluster::builder(major).set("work_mem", "5MB").start()?;
        let version = pg.sql("show server_version")?;
        assert!(version.starts_with(&format!("{major}.")), "{version}");
        assert_eq!(pg.sql("show work_mem; show fsync")?, "5MB\noff");
        pg.sql("create database d")?;
        pg.sql_in("d", "create table t as select 1 as a; insert into t values (2)")?;
        pg.kill9()?;
        assert!(!pg.is_running()?);
        pg.start()?;
        assert_eq!(pg.sql_in("d", "select * from t")?, "1\n2");
        pg.set("work_mem", "6MB")?;
        pg.wait_for("show work_mem", "6MB", testkit::PATIENCE)?;
        for how in [Stop::Smart, Stop::Fast, Stop::Immediate] {
            pg.stop(how)?;
            pg.start()?;
        }
        assert!(pg.log().contains("database system is ready"));
        Ok(())
    }

    /// A standby gets what the primary writes, in both kinds of tablespaces.
    fn standby_follows_with_tablespaces(major) {
        let primary = Cluster::builder(major).start()?;
        primary.create_tablespace("outside")?;
        primary.sql("create tablespace inside location ''")?;
        primary.sql("create table a(x int) tablespace outside; create table b(x int) tablespace inside")?;
        let standby = Standby::of(&primary).name("it's one").start()?;
        primary.sql("insert into a values (1); insert into b values (2)")?;
        primary.sql("create tablespace later location ''; create table c tablespace later as select 3 x")?;
        standby.wait_replayed(&primary)?;
        assert_eq!(standby.sql("table a; table b; table c")?, "1\n2\n3");
        assert_eq!(standby.receiver().as_deref(), Some("streaming"));
        assert_eq!(primary.sql("select application_name from pg_stat_replication")?, "it's one");
        standby.promote()?;
        standby.sql("insert into a values (4)")?;
        assert_eq!(primary.sql("table a")?, "1", "tablespaces are not shared");
        Ok(())
    }

    /// A standby without a database and a tablespace starts, and says so when asked for them.
    fn partial_standby_starts(major) {
        let primary = Cluster::builder(major).start()?;
        primary.sql("create database gone; create database here; create tablespace ts location ''")?;
        primary.create_tablespace("linked")?;
        primary.sql_in("here", "create table t tablespace ts as select 1 x; create table u tablespace linked as select 1 x")?;
        let standby = Standby::of(&primary)
            .without_database(primary.database_oid("gone")?)
            .without_tablespace(primary.tablespace_oid("ts")?)
            .without_tablespace(primary.tablespace_oid("linked")?)
            .start()?;
        standby.wait_replayed(&primary)?;
        let refused = standby.sql_in("gone", "select 1").unwrap_err();
        assert!(format!("{refused:#}").contains("subdirectory"), "{refused:#}");
        assert_eq!(standby.sql_in("here", "select 1")?, "1");
        assert!(standby.sql_in("here", "table t").is_err());
        Ok(())
    }
}

/// Over TCP a password is asked for, in each way.
#[test]
fn asks_for_a_password() -> anyhow::Result<()> {
    for auth in [Auth::Password, Auth::Md5, Auth::Scram] {
        let primary = Cluster::builder(testkit::Major::V15).auth(auth).start()?;
        let mut standby = Standby::of(&primary).prepare()?;
        standby.spawn()?;
        testkit::wait_until("the refusal", testkit::PATIENCE, || {
            Ok(standby.log().contains("no password supplied").then_some(()))
        })?;
        let conninfo = format!("host=127.0.0.1 port={} user=postgres", primary.port());
        standby.stop(Stop::Immediate)?;
        standby.set("primary_conninfo", &format!("{conninfo} password='{PASSWORD}'"))?;
        standby.start()?;
        standby.wait_streaming()?;
    }
    Ok(())
}

/// Segment sizes other than 16 MB, checksums, and system identifiers.
#[test]
fn is_made_as_asked() -> anyhow::Result<()> {
    let small = Cluster::builder(testkit::Major::V18).wal_segment_mb(1).data_checksums().start()?;
    assert_eq!(small.sql("show wal_segment_size; show data_checksums")?, "1MB\non");
    let fresh = Cluster::builder(testkit::Major::V18).fresh_initdb().start()?;
    let identifier = "select system_identifier from pg_control_system()";
    assert_ne!(small.sql(identifier)?, fresh.sql(identifier)?);
    let rich = Cluster::builder(testkit::Major::V15).lz4_and_zstd().start()?;
    assert_eq!(rich.sql("set wal_compression = zstd; show wal_compression")?, "zstd");
    Ok(())
}
