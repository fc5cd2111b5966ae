//! `pg_basebackup` through the relay, for a client without a filter: plain and tar, with the WAL
//! streamed or fetched, with its manifest; what comes out is a server (scenario 22).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;
use testkit::{Cluster, Major, Relay, Standby, on_majors, run, same_contents};

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pgherd"))
}

/// A primary with a tablespace, a relay, and a place for a backup.
struct Scene {
    primary: Cluster,
    relay: Relay,
    folder: TempDir,
}

impl Scene {
    fn new(major: Major, settings: &[(&str, &str)]) -> Result<Self> {
        let primary = Cluster::builder(major).set_all(settings).start()?;
        primary.create_tablespace("fast")?;
        primary.sql(
            "create table t as select g, md5(g::text) x from generate_series(1, 20000) g; \
             create table f tablespace fast as select * from t",
        )?;
        let relay = Relay::start(binary(), primary.port(), "")?;
        Ok(Self { primary, relay, folder: tempfile::tempdir()? })
    }

    fn place(&self) -> PathBuf {
        self.folder.path().join("backup")
    }

    fn pg_basebackup(&self, wal: &str) -> Result<Command> {
        let mut backup = self.primary.client("pg_basebackup", self.relay.port())?;
        backup.args(["-c", "fast", "--no-sync", "-X", wal, "-D"]).arg(self.place());
        Ok(backup)
    }

    /// Where the tablespace goes, which on one machine cannot stay where it was.
    fn mapping(&self) -> String {
        let from = self.primary.tablespaces_dir().join("fast");
        format!("-T{}={}", from.display(), self.folder.path().join("fast").display())
    }

    fn verify(&self) -> Result<()> {
        let mut verify = self.primary.client("pg_verifybackup", self.relay.port())?;
        // A client that is newer than the server cannot read its WAL.
        verify.arg("-n").arg(self.place());
        run(&mut verify).map(drop)
    }

    /// Starts what was backed up as a standby behind the relay, and compares.
    fn start(&self) -> Result<()> {
        give_tablespace(&self.folder.path().join("fast"))?;
        let standby = Standby::from_backup(self.primary.major(), &self.place())
            .via(self.relay.port())
            .start()?;
        self.primary.sql("insert into t select 0, 'later'; insert into f select 0, 'later'")?;
        standby.wait_replayed(&self.primary)?;
        same_contents(&self.primary, &standby, "postgres")
    }
}

/// Under root the servers run as another user, who has to get at the tablespace.
fn give_tablespace(folder: &Path) -> Result<()> {
    if folder.exists() && fs::read_to_string("/etc/passwd")?.contains("postgres:") {
        let parent = folder.parent().context("no parent")?;
        run(Command::new("chmod").arg("755").arg(parent))?;
        // Without root it is ours already, and stays so.
        run(Command::new("chown").args(["-R", "postgres"]).arg(folder)).ok();
    }
    Ok(())
}

on_majors! {
    [v12 V12, v13 V13, v15 V15, v18 V18]
    fn plain_with_streamed_wal(major) {
        let scene = Scene::new(major, &[])?;
        run(scene.pg_basebackup("stream")?.args(["-Fp", "-P", &scene.mapping()]))?;
        if major >= Major::V13 {
            scene.verify()?;
        }
        scene.start()
    }
}

on_majors! {
    [v14 V14, v17 V17]
    fn plain_with_fetched_wal(major) {
        let scene = Scene::new(major, &[])?;
        run(scene.pg_basebackup("fetch")?.args(["-Fp", &scene.mapping()]))?;
        scene.verify()?;
        scene.start()
    }
}

on_majors! {
    [v13 V13, v16 V16]
    /// Unpacked by hand, as an administrator does it.
    fn tar_with_streamed_wal(major) {
        let scene = Scene::new(major, &[])?;
        run(scene.pg_basebackup("stream")?.arg("-Ft"))?;
        let packed = scene.folder.path().join("packed");
        fs::rename(scene.place(), &packed)?;
        let unpack = |file: &Path, to: &Path| -> Result<()> {
            fs::create_dir_all(to)?;
            run(Command::new("tar").arg("-xf").arg(file).arg("-C").arg(to)).map(drop)
        };
        unpack(&packed.join("base.tar"), &scene.place())?;
        unpack(&packed.join("pg_wal.tar"), &scene.place().join("pg_wal"))?;
        let oid = scene.primary.tablespace_oid("fast")?;
        let fast = scene.folder.path().join("fast");
        unpack(&packed.join(format!("{oid}.tar")), &fast)?;
        fs::write(scene.place().join("tablespace_map"), format!("{oid} {}\n", fast.display()))?;
        run(Command::new("chmod").arg("700").arg(scene.place()))?;
        fs::copy(packed.join("backup_manifest"), scene.place().join("backup_manifest"))?;
        scene.start()
    }
}

/// Tar on standard output, compressed by the server, at a rate: options that only newer servers know.
#[test]
fn tar_on_stdout_with_compression_and_a_rate() -> Result<()> {
    let scene = Scene::new(Major::V15, &[])?;
    scene.primary.sql("drop table f; drop tablespace fast")?;
    let mut backup = scene.primary.client("pg_basebackup", scene.relay.port())?;
    backup.args([
        "-c",
        "fast",
        "-Ft",
        "-X",
        "fetch",
        "-D",
        "-",
        "-Z",
        "server-gzip:1",
        "-r",
        "90M",
    ]);
    backup.arg("--no-manifest");
    let output = backup.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(output.stdout.get(..2), Some(&[0x1f, 0x8b][..]), "no gzip");
    assert!(output.stdout.len() > 1 << 20);
    Ok(())
}

/// The manifest of the last backup goes up, and only what has changed comes down.
#[test]
fn an_incremental_backup() -> Result<()> {
    let scene = Scene::new(Major::V18, &[("summarize_wal", "on")])?;
    let full = scene.folder.path().join("full");
    run(scene.pg_basebackup("stream")?.args(["-Fp", &scene.mapping()]))?;
    fs::rename(scene.place(), &full)?;
    fs::rename(scene.folder.path().join("fast"), scene.folder.path().join("fast_full"))?;
    scene.primary.sql("update t set x = 'changed' where g < 10")?;
    let mut incremental = scene.pg_basebackup("stream")?;
    incremental.args(["-Fp", &scene.mapping()]);
    run(incremental.arg(format!("--incremental={}", full.join("backup_manifest").display())))?;
    scene.verify()?;
    let changed = fs::read_dir(scene.place().join("base/5"))?;
    let names = changed.flatten().map(|file| file.file_name().to_string_lossy().into_owned());
    assert!(names.filter(|name| name.starts_with("INCREMENTAL.")).count() > 10);
    Ok(())
}

/// The client goes in the middle: the server's side is free again at once.
#[test]
fn a_backup_that_is_given_up_leaves_nothing_behind() -> Result<()> {
    let mut scene = Scene::new(Major::V17, &[])?;
    let files = scene.relay.program()?.open_files()?;
    let mut client = testkit::Client::replication(scene.relay.port(), "gone")?;
    client.send_query("BASE_BACKUP (CHECKPOINT 'fast', MAX_RATE 1024)")?;
    while client.message()?.context("hung up")?.tag != b'd' {}
    drop(client);
    let senders = "select count(*) from pg_stat_activity where backend_type = 'walsender'";
    scene.primary.wait_for(senders, "0", testkit::PATIENCE)?;
    let program = scene.relay.program()?;
    testkit::wait_until("the files", testkit::PATIENCE, || {
        Ok((program.open_files()? <= files).then_some(()))
    })?;
    let peak = program.peak_own_kb()?;
    // Without the program's file; see `hostile.rs`.
    assert!(peak < (8 << 10) + 512, "{peak} kB at the peak");
    Ok(())
}
