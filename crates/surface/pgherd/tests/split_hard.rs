//! `pgherd split` of what is not everyday: names, tablespaces, many tables, large objects,
//! prepared transactions on both sides, a moved `postgres`.

mod splitting;

use std::os::unix::fs::symlink;

use anyhow::{Result, ensure};
use testkit::{Cluster, Disk, Install, Major, PATIENCE, Signal, on_majors, run, run_failing};

use splitting::Stage;
use splitting::held::held_in_the_cut;

/// Everything that a name may have.
const NAME: &str = r#"it's "ä ö", a \ b*?,{} ✓"#;
/// As `--databases` takes it.
const PATTERN: &str = r#"it's "ä ö"\, a \\ b\*\?\,{} ✓"#;

fn hard(major: Major) -> Result<Stage> {
    let source = Cluster::builder(major).set("wal_level", "logical").start()?;
    for name in ["fast", "slow", "other_only", "unused"] {
        source.create_tablespace(name)?;
    }
    let quoted = format!("\"{}\"", NAME.replace('"', "\"\""));
    source.sql(&format!("create database {quoted} tablespace fast"))?;
    source.sql("create database other tablespace other_only")?;
    source.sql("create database in_default")?;
    source.sql_in(
        NAME,
        "create table a tablespace slow as select g, md5(g::text) v from generate_series(1, 3000) g; \
         create index on a (v) tablespace pg_default; \
         create unlogged table u as select 1 x; \
         create materialized view m as select count(*) from a; \
         select lo_from_bytea(0, decode(repeat('ab', 100000), 'hex')); \
         create table \"T \"\"x\"\"\" (v text); analyze",
    )?;
    // Before there are prepared transactions: it would wait for them.
    for (database, slot) in [("other", "theirs"), (NAME, "ours")] {
        let make = format!("select pg_create_logical_replication_slot('{slot}', 'pgoutput')");
        source.sql_in(database, &make)?;
    }
    for (database, name) in [(NAME, "moves"), ("other", "stays")] {
        let subscribe = "connection 'host=127.0.0.1 port=1' publication p with (connect = false)";
        source.sql_in(database, &format!("create subscription {name} {subscribe}"))?;
    }
    for (database, gid) in [(NAME, "moved"), ("other", "stays"), ("in_default", "o''ther")] {
        source.session(database)?.query(&format!(
            "begin; create table prepared as select 1 x; prepare transaction '{gid}'"
        ))?;
    }
    source.sql_in("other", "create table o tablespace slow as select 1 x")?;
    source.sql_in(
        NAME,
        "do $$ begin for g in 1..250 loop \
         execute format('create table t%s (x) as select %s; alter table t%s add primary key (x)', g, g, g); \
         end loop; end $$",
    )?;
    let mut stage = Stage::of(source, PATTERN)?;
    for name in ["fast", "slow", "other_only", "unused"] {
        stage.map(name);
    }
    Ok(stage)
}

/// A thousand tables with a row each.
fn make_tables(source: &Cluster, database: &str, first: u32) -> Result<()> {
    let last = first + 999;
    source.sql_in(
        database,
        &format!(
            "do $$ begin for g in {first}..{last} loop \
             execute format('create table t%s (x) as select %s; alter table t%s add primary key (x)', \
             g, g, g); end loop; end $$"
        ),
    )?;
    Ok(())
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    fn moves_what_is_not_everyday(major) {
        let stage = hard(major)?;
        let printed = stage.split_now()?;
        for part in ["unlogged", "prepared transactions", "ours of moved databases do not go along", "subscriptions", "dropped tablespace other_only", "rows of 253 tables"] {
            ensure!(printed.contains(part), "no {part:?} in\n{printed}");
        }
        // Every one of them, and they are locked in portions.
        let indexes = "select count(*) from pg_index i join pg_class c on c.oid = indexrelid \
                       where relam = 403 and relkind = 'i' and relpersistence = 'p'";
        let indexes = format!("{} indexes", stage.ask(NAME, indexes)?);
        ensure!(printed.contains(&indexes), "no {indexes} in\n{printed}");
        assert_eq!(stage.ask(NAME, "select count(*) from a")?, "3000");
        assert_eq!(stage.ask(NAME, "select * from m")?, "3000");
        assert_eq!(stage.ask(NAME, "select count(*) from u")?, "0");
        assert_eq!(stage.ask(NAME, "select sum(length(lo_get(oid))) from pg_largeobject_metadata")?, "100000");
        for (server, subscriptions) in [(stage.source.session("postgres")?, "moves,stays"), (stage.target(NAME)?, "moves")] {
            let mut server = server;
            let known = "select string_agg(subname, ',' order by subname) from pg_subscription";
            assert_eq!(server.query(known)?, subscriptions);
            let origins = server.query("select count(*) from pg_replication_origin")?;
            assert_eq!(origins, subscriptions.split(',').count().to_string());
        }
        // In progress before, and finished where the database is now.
        assert_eq!(stage.ask(NAME, "select gid from pg_prepared_xacts")?, "moved");
        stage.target(NAME)?.query("commit prepared 'moved'")?;
        assert_eq!(stage.ask(NAME, "select x from prepared")?, "1");
        // The others are as they were.
        let theirs = "select string_agg(gid, ',' order by gid) from pg_prepared_xacts";
        assert_eq!(stage.source.sql(theirs)?, "moved,o'ther,stays");
        stage.source.session("other")?.query("commit prepared 'stays'")?;
        let spaces = "select string_agg(spcname, ',' order by spcname) from pg_tablespace";
        assert_eq!(stage.ask("postgres", spaces)?, "fast,pg_default,pg_global,slow,unused");
        assert_eq!(stage.source.sql(spaces)?, "fast,other_only,pg_default,pg_global,slow,unused");
        let slots = "select string_agg(slot_name, ',' order by slot_name) from pg_replication_slots";
        assert_eq!(stage.source.sql(slots)?, "ours,theirs");
        assert_eq!(stage.ask("postgres", slots)?, "");
        Ok(())
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// Tables that nobody has analyzed are on the new server; the others keep what is known of them.
    fn statistics_that_are_missing_are_made(major) {
        let stage = Stage::with(major, &[("autovacuum", "off")])?;
        stage.source.sql_in(
            "orders",
            "create table known as select 1 x; analyze known; insert into known values (2); \
             create schema \"S \"\"\"; create table \"S \"\"\".\"T '\" as select 1 x; \
             create materialized view m as select 1 x; \
             create table parted (x int) partition by list (x); \
             create table one partition of parted for values in (1); insert into parted values (1)",
        )?;
        let analyzed = "select coalesce(string_agg(distinct relname, ',' order by relname), '') \
                        from pg_class join pg_statistic on starelid = pg_class.oid where starelid > 16383";
        assert_eq!(stage.source.sql_in("orders", analyzed)?, "known");
        assert_eq!(stage.source.sql_in("tenant_eu_1", analyzed)?, "");
        let printed = stage.split_now()?;
        assert_eq!(stage.ask("orders", analyzed)?, "T ',known,m,one,parted,t");
        assert_eq!(stage.ask("tenant_eu_1", analyzed)?, "t");
        let known = "select reltuples from pg_class where relname = 'known'";
        assert_eq!(stage.ask("orders", known)?, "1");
        // Everything that there is was looked at.
        let catalogs = "select count(*) from pg_class \
                        where relkind in ('r', 't') and oid < 16384 and relpersistence = 'p'";
        let catalogs = stage.ask("orders", catalogs)?;
        ensure!(catalogs.parse::<u32>()? > 50, "{catalogs} catalogs");
        let told = if major < Major::V14 { "can be read" } else { "are sound" };
        let told = format!("indexes are sound, {catalogs} catalogs {told}");
        assert_eq!(printed.matches(&told).count(), 2, "no {told:?} for both in {printed}");
        Ok(())
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// A database that takes no connections goes along, and takes none anywhere.
    fn a_closed_database_stays_closed(major) {
        let stage = Stage::new(major)?;
        stage.source.sql("alter database tenant_eu_1 allow_connections false")?;
        let open = "select string_agg(datname, ',' order by datname) from pg_database \
                    where datallowconn and not datistemplate";
        let before = stage.source.sql(open)?;
        let plan = run(&mut stage.split(&["--plan"]))?;
        ensure!(plan.contains("tenant_eu_1 takes no connections"), "{plan}");
        stage.ready()?;
        // Interrupted before the promotion.
        let (stuck, mut split) = held_in_the_cut(&stage)?;
        assert_eq!(stage.source.sql(open)?, "postgres,stays");
        split.signal(Signal::INT)?;
        ensure!(!split.wait(PATIENCE)?.success(), "{}", split.text());
        assert_eq!(stage.source.sql(open)?, before);
        stuck.go_on()?;
        run(&mut stage.then("finish", &["--yes"]))?;
        assert_eq!(stage.ask("orders", open)?, "orders,postgres");
        assert_eq!(stage.source.sql(open)?, "postgres,stays");
        let there = "select count(*) from pg_database where datname = 'tenant_eu_1'";
        assert_eq!(stage.ask("orders", there)?, "1");
        // It has what it had.
        stage.ask("orders", "alter database tenant_eu_1 allow_connections true")?;
        assert_eq!(stage.ask("tenant_eu_1", "select count(*) from t")?, "2000");
        run(&mut stage.then("undo", &["--yes"]))?;
        assert_eq!(stage.source.sql(open)?, before);
        Ok(())
    }
}

on_majors! {
    [v12 V12, v13 V13, v15 V15, v17 V17, v18 V18]
    /// A source whose tools' own database goes: both sides have one afterwards.
    fn postgres_itself_moves(major) {
        let source = Cluster::builder(major).start()?;
        source.sql("create table here as select 1 x; create database stays")?;
        let stage = Stage::of(source, "postgres")?;
        stage.split_now()?;
        assert_eq!(stage.ask("postgres", "select x from here")?, "1");
        let databases = "select string_agg(datname, ',' order by datname) from pg_database";
        assert_eq!(stage.ask("postgres", databases)?, "postgres,template0,template1");
        assert_eq!(stage.source.sql_in("stays", databases)?, "postgres,stays,template0,template1");
        run(&mut stage.then("undo", &["--yes"]))?;
        assert_eq!(stage.source.sql("select x from here")?, "1");
        Ok(())
    }
}

/// Whether the plan has these findings, by what they are about and a part of them.
fn stops(plan: &str, findings: &[(&str, &str)]) -> Result<()> {
    for (about, part) in findings {
        let found = plan
            .lines()
            .any(|it| it.starts_with("STOP") && it.contains(about) && it.contains(part));
        ensure!(found, "no {about}: {part} in\n{plan}");
    }
    Ok(())
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// The same of what a server, its extensions and the disk lack.
    fn the_plan_stops_where_something_is_missing(major) {
        let source = Cluster::builder(major)
            .set_all(&[("wal_level", "minimal"), ("max_wal_senders", "0")])
            .set("max_replication_slots", "0")
            .start()?;
        source.sql("create database a; create role plain login; alter database template1 allow_connections false")?;
        source.sql_in(
            "a",
            "create function f() returns language_handler language c \
             as '$libdir/plpgsql', 'plpgsql_call_handler'",
        )?;
        source.sql_in("a", "update pg_proc set probin = '$libdir/nowhere' where proname = 'f'")?;
        let mut stage = Stage::of(source, "a")?;
        stage.user = "plain".into();
        let disk = Disk::mount(1024)?;
        if let Some(disk) = &disk {
            symlink(disk.path(), stage.data())?;
        }
        let refused = stage.split(&["--plan"]).output()?;
        ensure!(refused.status.code() == Some(1));
        let printed = String::from_utf8(refused.stdout)?;
        let findings = [
            ("wal_level", "minimal: set it to replica"),
            ("walsenders", "0 free, 2 needed"),
            ("slots", "none free"),
            ("role", "a superuser is needed"),
            ("template1", "takes no connections"),
            ("libraries", "$libdir/nowhere"),
        ];
        stops(&printed, &findings)?;
        if disk.is_some() {
            stops(&printed, &[("disk", "1.0 MB free")])?;
        }
        // Programs of another major are none.
        let postgres = stage.path("bin/postgres");
        std::fs::remove_file(&postgres)?;
        symlink(Install::of(Major::V14)?.server("postgres"), &postgres)?;
        let refused = stage.split(&["--plan"]).output()?;
        let other = format!("the source is PostgreSQL {major}");
        stops(&String::from_utf8(refused.stdout)?, &[("programs", other.as_str())])
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// Each of these would fail later, and is found before anything is done.
    fn the_plan_stops_what_would_fail(major) {
        let source = Cluster::builder(major).set("max_wal_senders", "1").start()?;
        source.sql("create database a; create role plain login")?;
        source.create_tablespace("here")?;
        let mut stage = Stage::of(source, "a,missing,template1")?;
        let taken = std::net::TcpListener::bind(("127.0.0.1", stage.port()))?;
        std::fs::create_dir_all(stage.data().join("something"))?;
        let refused = stage.split(&["--plan"]).output()?;
        ensure!(refused.status.code() == Some(1));
        let printed = String::from_utf8(refused.stdout)?;
        stops(
            &printed,
            &[
                ("databases", "\"missing\""),
                ("databases", "template1 is on every server"),
                ("walsenders", "1 free, 2 needed"),
                ("target", "is not empty"),
                ("tablespaces", "--tablespace-mapping"),
                ("port", "in use"),
            ],
        )?;
        drop(taken);
        std::fs::remove_dir_all(stage.data())?;
        stage.map("here");
        stage.databases = "a".into();
        stage.source.set("max_wal_senders", "5")?;
        stage.source.restart()?;
        let printed = run(&mut stage.split(&["--plan"]))?;
        ensure!(!printed.contains("STOP"), "{printed}");
        ensure!(!stage.data().exists() && stage.journal().is_empty(), "a plan does nothing");
        // Nobody is asked where nobody is, and nothing is done.
        let refused = run_failing(&mut stage.split(&[]))?;
        ensure!(refused.contains("--yes"), "{refused}");
        ensure!(!stage.data().exists() && stage.journal().is_empty());
        Ok(())
    }
}

on_majors! {
    ignore = "takes a minute each, because every file is synced: `make test-big`";
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// Locks, counting and dropping have to come in portions.
    fn ten_thousand_tables_move(major) {
        let source = Cluster::builder(major).set("autovacuum", "off").start()?;
        for database in ["many", "stays"] {
            source.sql(&format!("create database {database}"))?;
        }
        for thousand in 0..10 {
            make_tables(&source, "many", thousand * 1000)?;
        }
        let stage = Stage::of(source, "many")?;
        let printed = stage.split_now()?;
        ensure!(printed.contains("rows of 10000 tables are as on the source"), "{printed}");
        assert_eq!(stage.ask("many", "select x from t9999")?, "9999");
        stage.check_moved(&["many"])
    }
}
