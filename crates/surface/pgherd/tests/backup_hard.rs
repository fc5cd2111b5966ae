//! Filtered base backups where it is hard: things that change while the backup runs, standbys
//! as upstreams, later timelines, increments, tablespaces in place, and strange contents.

mod partial;

use std::fs;

use anyhow::{Result, ensure};
use testkit::{Client, Cluster, Install, Major, PATIENCE, Relay, Standby, on_majors, wait_until};

use partial::{FILTER, Folder, SECRET, Stage, binary, files_with, run, verify};

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// Databases that are created while the backup runs are in it or not by their names, be it
    /// that the backup meets their folders before their names are known.
    fn databases_that_come_while_it_runs(major) {
        let stage = Stage::new(major)?;
        let folder = Folder::new()?;
        // Both wait for their template, with the row in pg_database written or not.
        let data = std::thread::scope(|scope| -> Result<_> {
            let primary = &stage.primary;
            let load = scope.spawn(move || -> Result<()> {
                for number in 0..4 {
                    for name in ["keep", "drop"] {
                        primary.sql(&format!("create database {name}_{number} template {name}1"))?;
                    }
                }
                Ok(())
            });
            primary.sql("create database keep1 template keep")?;
            let data = stage.backup(&folder, &["-X", "stream", "-r", "20M"]);
            load.join().expect("no panic").ok();
            data
        });
        let data = data?;
        verify(&stage.primary, &data, &[])?;
        let standby = stage.check(&data)?;
        for row in stage.primary.sql("select oid || ' ' || datname from pg_database")?.lines() {
            let Some((oid, name)) = row.split_once(' ') else { continue };
            let there = standby.data().join("base").join(oid).exists();
            assert_eq!(there, !name.starts_with("drop"), "{name}");
        }
        Ok(())
    }
}

on_majors! {
    [v13 V13, v14 V14, v15 V15, v17 V17, v18 V18]
    /// From a standby, which was promoted before: its WAL has no switch at its end, and its
    /// timeline is the second. What a backup of that begins goes on along the third.
    fn from_a_standby_on_a_later_timeline(major) {
        let stage = Stage::new(major)?;
        let second = Standby::of(&stage.primary).start()?;
        second.wait_replayed(&stage.primary)?;
        second.promote()?;
        let third = Standby::of(&second).start()?;
        third.wait_replayed(&second)?;
        let relay = Relay::start(binary(), third.port(), FILTER)?;
        let folder = Folder::new()?;
        second.sql_in("drop1", &format!("insert into t select 0, '{SECRET}'"))?;
        third.wait_replayed(&second)?;
        let fetched = folder.plain(&third, relay.port(), &["-X", "fetch"])?;
        verify(&second, &fetched, &[])?;
        let leaks = files_with(&fetched, SECRET)?;
        ensure!(leaks.is_empty(), "{leaks:?}");
        let partial =
            Standby::from_backup(major, &fetched).via(relay.port()).name("berlin").start()?;
        second.sql_in("keep", "insert into t select 0, 'PUBLIC_'")?;
        partial.wait_replayed(&second)?;
        assert_eq!(partial.sql_in("keep", "select count(*) from t")?, "5001");
        drop(second);
        third.promote()?;
        third.sql_in("keep", "insert into t select 0, 'PUBLIC_'")?;
        partial.wait_replayed(&third)?;
        assert_eq!(partial.sql_in("keep", "select count(*) from t")?, "5002");
        Ok(())
    }
}

on_majors! {
    [v17 V17, v18 V18]
    /// A full backup and an increment, both partial, combine to a partial cluster.
    fn increments_combine(major) {
        let stage = Stage::with(major, &[("summarize_wal", "on")])?;
        let (first, second) = (Folder::new()?, Folder::new()?);
        let full = stage.backup(&first, &[])?;
        for database in ["keep", "drop1"] {
            let word = if database == "keep" { "PUBLIC_" } else { SECRET };
            let update = format!("update t set v = '{word}more' where g % 100 = 0; checkpoint");
            stage.primary.sql_in(database, &update)?;
        }
        stage.primary.sql("create database drop2 template drop1")?;
        let manifest = full.join("backup_manifest");
        let increment = format!("--incremental={}", manifest.display());
        let changed = stage.backup(&second, &[&increment])?;
        ensure!(files_with(&changed, "INCREMENTAL")?.iter().any(|it| it.ends_with("backup_manifest")));
        stage.check_files(&changed)?;
        verify(&stage.primary, &changed, &[])?;
        let whole = Folder::new()?;
        let data = whole.path().join("data");
        let install = Install::of(major)?;
        let mut command = install.client_command("pg_combinebackup")?;
        let (from, to) = (second.path().join("fast"), whole.path().join("fast"));
        command.arg("-T").arg(format!("{}={}", from.display(), to.display()));
        run(command.arg(&full).arg(&changed).arg("-o").arg(&data))?;
        testkit::give_to_servers(whole.path())?;
        verify(&stage.primary, &data, &[])?;
        let standby = stage.check(&data)?;
        assert_eq!(standby.sql_in("keep", "select count(*) from t where v = 'PUBLIC_more'")?, "50");
        Ok(())
    }
}

on_majors! {
    [v13 V13, v15 V15, v16 V16, v17 V17, v18 V18]
    /// Tablespaces inside the data directory, which up to 15 are no tablespaces to a backup.
    fn tablespaces_in_place(major) {
        let primary = Cluster::builder(major).start()?;
        for name in ["inside", "archive"] {
            let create = format!("create tablespace {name} location ''");
            primary.sql(&format!("set allow_in_place_tablespaces = on; {create}")).or_else(|_| primary.sql(&create))?;
        }
        primary.sql("create database keep")?;
        primary.sql("create database drop1 tablespace inside")?;
        primary.sql_in(
            "keep",
            &format!(
                "create table i tablespace inside as select 1 n; \
                 create table a tablespace archive as select '{SECRET}' || g from generate_series(1, 99) g"
            ),
        )?;
        let fill = format!("create table t as select '{SECRET}' || g from generate_series(1, 99) g");
        primary.sql_in("drop1", &fill)?;
        let relay = Relay::start(binary(), primary.port(), FILTER)?;
        let folder = Folder::new()?;
        let data = folder.plain(&primary, relay.port(), &["-X", "fetch"])?;
        verify(&primary, &data, &[])?;
        let leaks = files_with(&data, SECRET)?;
        ensure!(leaks.is_empty(), "{leaks:?}");
        let archive = primary.tablespace_oid("archive")?;
        ensure!(!data.join(format!("pg_tblspc/{archive}")).exists());
        let standby = Standby::from_backup(major, &data).via(relay.port()).name("berlin").start()?;
        primary.sql_in("keep", "insert into i values (2)")?;
        standby.wait_replayed(&primary)?;
        assert_eq!(standby.sql_in("keep", "select sum(n) from i")?, "3");
        Ok(())
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// Names that need quotes, in every script; unlogged tables, large objects, a thousand
    /// relations, and a prepared transaction.
    fn strange_names_and_contents(major) {
        let stage = Stage::new(major)?;
        let names = ["keep \"it\" 'all'", "Größe ñ 数据", "drop \"this\" 'one'", "drop ж"];
        for (number, name) in names.into_iter().enumerate() {
            let quoted = name.replace('"', "\"\"");
            stage.primary.sql(&format!("create database \"{quoted}\""))?;
            let word = if name.starts_with("drop") { SECRET } else { "PUBLIC_" };
            stage.primary.sql_in(
                name,
                &format!(
                    "create table t as select '{word}' || g v from generate_series(1, 99) g; \
                     create unlogged table u as select * from t; \
                     select lo_from_bytea(0, '{word}');"
                ),
            )?;
            stage.primary.sql_in(
                name,
                &format!("begin; insert into t values ('{word}'); prepare transaction '{number}'"),
            )?;
        }
        stage.primary.sql_in(
            "keep",
            "do $$ begin for n in 1..1000 loop execute format('create table many_%s (n int)', n); \
             end loop; end $$",
        )?;
        let folder = Folder::new()?;
        let data = stage.backup(&folder, &["-X", "fetch"])?;
        verify(&stage.primary, &data, &[])?;
        let standby = stage.check(&data)?;
        for name in names {
            let count = standby.sql_in(name, "select count(*) from t");
            if name.starts_with("drop") {
                ensure!(count.is_err(), "{name} is there");
                continue;
            }
            assert_eq!(count?, "99", "{name}");
            assert_eq!(standby.sql_in(name, "select count(*) from pg_largeobject")?, "1");
        }
        let many = "select count(*) from pg_class where relname like 'many%'";
        assert_eq!(standby.sql_in("keep", many)?, "1000");
        Ok(())
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// Where `pg_default` is left out only what has another home stays, and the templates.
    fn without_the_default_tablespace(major) {
        let primary = Cluster::builder(major).start()?;
        primary.create_tablespace("fast")?;
        primary.sql("create database home tablespace fast")?;
        primary.sql("create database away")?;
        primary.sql_in("home", "create table t as select 1 n")?;
        primary.sql_in("away", &format!("create table t as select '{SECRET}'"))?;
        let filter = "configurations: [{berlin: {match: {application_name: berlin}, \
                      filter: {exclude_tablespaces: [pg_default]}}}]";
        let relay = Relay::start(binary(), primary.port(), filter)?;
        let folder = Folder::new()?;
        let data = folder.plain(&primary, relay.port(), &[])?;
        verify(&primary, &data, &[])?;
        let left: Vec<_> =
            fs::read_dir(data.join("base"))?.flatten().map(|it| it.file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
        let standby = Standby::from_backup(major, &data).via(relay.port()).name("berlin");
        let standby = standby.set("logging_collector", "off").prepare()?;
        drop(standby);
        Ok(())
    }
}

on_majors! {
    [v13 V13, v18 V18]
    /// A client that goes away in the middle of a backup does not leave the server copying.
    fn a_client_that_leaves_ends_the_backup(major) {
        let stage = Stage::new(major)?;
        let mut client = Client::replication(stage.relay.port(), "berlin")?;
        client.send_query(if major < Major::V15 {
            "BASE_BACKUP FAST MAX_RATE 1024"
        } else {
            "BASE_BACKUP (CHECKPOINT 'fast', MAX_RATE 1024)"
        })?;
        while client.message()?.is_some_and(|it| it.tag != b'd') {}
        drop(client);
        wait_until("the end of the backup", PATIENCE, || {
            let count = stage.primary.sql("select count(*) from pg_stat_progress_basebackup")?;
            Ok((count == "0").then_some(()))
        })
    }
}
