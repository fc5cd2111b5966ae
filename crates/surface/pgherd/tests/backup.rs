//! `pg_basebackup` through the relay, of a client with a filter.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use testkit::{Cluster, Install, Relay, Standby, on_majors};

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pgherd"))
}

const FILTER: &str = "
configurations:
  - berlin:
      match: {application_name: berlin}
      filter: {exclude_databases: [\"drop*\"], exclude_tablespaces: [archive]}
";

/// A primary with a database to keep and one to leave out, in two tablespaces.
fn primary(major: testkit::Major) -> Result<Cluster> {
    let primary = Cluster::builder(major).set("max_prepared_transactions", "10").start()?;
    primary.create_tablespace("fast")?;
    primary.create_tablespace("archive")?;
    let fill = "create table t as select g, repeat('x', 200) from generate_series(1, 20000) g; \
                create table f tablespace fast as select * from t; \
                create table a tablespace archive as select * from t;";
    for database in ["keep", "drop1"] {
        primary.sql(&format!("create database {database}"))?;
        primary.sql_in(database, fill)?;
    }
    Ok(primary)
}

/// Runs a client program of this major, and gives what it printed.
fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    ensure!(output.status.success(), "{command:?}: {}\n{text}", output.status);
    Ok(text)
}

/// `pg_basebackup` through the relay, as `berlin`, with the tablespaces inside `folder`.
fn pg_basebackup(primary: &Cluster, port: u16, folder: &Path, more: &[&str]) -> Result<PathBuf> {
    let install = Install::of(primary.major())?;
    let data = folder.join("data");
    let mut command = install.client_command("pg_basebackup")?;
    command
        .arg("-d")
        .arg(format!("host=127.0.0.1 port={port} user=postgres application_name=berlin"));
    command.arg("-D").arg(&data).args(["-c", "fast"]).args(more);
    if !more.contains(&"-Ft") {
        for name in ["fast", "archive"] {
            let oid = primary.tablespace_oid(name)?;
            let old = primary.sql(&format!("select pg_tablespace_location({oid})"))?;
            command.arg("-T").arg(format!("{old}={}", folder.join(name).display()));
        }
    }
    run(&mut command)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    testkit::give_to_servers(folder)?;
    Ok(data)
}

on_majors! {
    [v13 V13, v15 V15, v16 V16, v17 V17, v18 V18]
    /// Plain format with WAL streamed beside it: verified, without the excluded parts, and a
    /// standby that follows the filtered stream.
    fn a_partial_standby_from_a_backup(major) {
        let primary = primary(major)?;
        let relay = Relay::start(binary(), primary.port(), FILTER)?;
        let folder = tempfile::tempdir()?;
        let data = pg_basebackup(&primary, relay.port(), folder.path(), &["-X", "stream"])?;
        let dropped = primary.database_oid("drop1")?;
        let archive = primary.tablespace_oid("archive")?;
        ensure!(!data.join(format!("base/{dropped}")).exists());
        ensure!(!data.join(format!("pg_tblspc/{archive}")).exists());
        ensure!(fs::read_dir(folder.path().join("archive")).is_err(), "an empty folder was made");
        let install = Install::of(major)?;
        run(install.client_command("pg_verifybackup")?.arg(&data))?;
        let standby =
            Standby::from_backup(major, &data).via(relay.port()).name("berlin").start()?;
        primary.sql_in("keep", "insert into t select * from t")?;
        primary.sql_in("drop1", "insert into t select * from t")?;
        standby.wait_replayed(&primary)?;
        assert_eq!(standby.sql_in("keep", "select count(*) from t")?, "40000");
        assert_eq!(standby.sql_in("keep", "select count(*) from f")?, "20000");
        let error = standby.sql_in("drop1", "select 1").unwrap_err();
        ensure!(format!("{error:#}").contains("does not exist"), "{error:#}");
        Ok(())
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// The WAL inside the backup is filtered too.
    fn wal_fetched_into_the_backup_is_filtered(major) {
        let primary = primary(major)?;
        let relay = Relay::start(binary(), primary.port(), FILTER)?;
        let folder = tempfile::tempdir()?;
        let load = std::thread::scope(|scope| -> Result<PathBuf> {
            let load = scope.spawn(|| {
                for _ in 0..5 {
                    primary.sql_in("drop1", "update t set repeat = 'SECRET_' || g")?;
                    primary.sql_in("keep", "update t set repeat = 'PUBLIC_' || g")?;
                }
                anyhow::Ok(())
            });
            let data = pg_basebackup(&primary, relay.port(), folder.path(), &["-X", "fetch"])?;
            load.join().expect("the load does not panic")?;
            Ok(data)
        });
        let data = load?;
        let install = Install::of(major)?;
        run(install.client_command("pg_verifybackup")?.arg(&data))?;
        for segment in fs::read_dir(data.join("pg_wal"))? {
            let path = segment?.path();
            if path.is_file() {
                let found = fs::read(&path)?.windows(7).filter(|it| it == b"SECRET_").count();
                ensure!(found == 0, "{found} excluded rows in {}", path.display());
            }
        }
        let standby =
            Standby::from_backup(major, &data).via(relay.port()).name("berlin").start()?;
        standby.wait_replayed(&primary)?;
        assert_eq!(standby.sql_in("keep", "select count(*) from t where repeat like 'PUB%'")?, "20000");
        Ok(())
    }
}
