//! `pg_basebackup` through the relay, of a client with a filter: every form that it knows.

mod partial;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use testkit::{Client, Major, on_majors};

use partial::{FILTER, Folder, SECRET, Stage, files_with, pg_basebackup, run, verify};

on_majors! {
    [v12 V12, v13 V13, v15 V15, v16 V16, v17 V17, v18 V18]
    /// Plain format with WAL streamed beside it: verified, without the excluded parts, and a
    /// standby that follows the filtered stream.
    fn a_partial_standby_from_a_backup(major) {
        let stage = Stage::new(major)?;
        let folder = Folder::new()?;
        let progress = stage.backup(&folder, &["-X", "stream", "-P"])?;
        ensure!(!folder.path().join("archive").exists(), "an empty folder was made");
        verify(&stage.primary, &progress, &[])?;
        stage.check(&progress)?;
        Ok(())
    }
}

on_majors! {
    [v12 V12, v13 V13, v14 V14, v15 V15, v17 V17, v18 V18]
    /// The WAL inside the backup is filtered too, in tar format as well.
    fn wal_fetched_into_the_backup_is_filtered(major) {
        let stage = Stage::new(major)?;
        let folder = Folder::new()?;
        let (ready, load) = std::sync::mpsc::channel();
        let data = std::thread::scope(|scope| {
            let primary = &stage.primary;
            scope.spawn(move || {
                for database in ["drop1", "keep"].into_iter().cycle() {
                    let word = if database == "keep" { "PUBLIC_" } else { SECRET };
                    let update = format!("update t set v = '{word}' || g where g % 3 = 0");
                    if ready.send(primary.sql_in(database, &update)).is_err() {
                        break;
                    }
                }
            });
            load.recv()??;
            let data = folder.tar(primary, stage.relay.port(), &["-X", "fetch"]);
            load.try_iter().collect::<Result<Vec<_>>>()?;
            drop(load);
            data
        })?;
        verify(&stage.primary, &data, &[])?;
        let standby = stage.check(&data)?;
        assert_eq!(standby.sql_in("keep", "select count(*) from t where v like 'PUB%'")?, "5000");
        Ok(())
    }
}

on_majors! {
    [v13 V13, v15 V15, v16 V16, v17 V17, v18 V18]
    /// Each algorithm for the manifest, and none, with and without a tablespace map.
    fn manifests_of_every_kind_are_verified(major) {
        let stage = Stage::new(major)?;
        for sums in ["NONE", "CRC32C", "SHA224", "SHA256", "SHA384", "SHA512"] {
            let folder = Folder::new()?;
            let sums = format!("--manifest-checksums={sums}");
            let more = ["-X", "none", sums.as_str()];
            let data = folder.tar(&stage.primary, stage.relay.port(), &more)?;
            verify(&stage.primary, &data, &["-n"])?;
        }
        let folder = Folder::new()?;
        let data = stage.backup(&folder, &["-X", "none", "--no-manifest"])?;
        ensure!(!data.join("backup_manifest").exists());
        stage.check_files(&data)
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// What is packed at the client, at a limited rate, shows a progress that ends at 100 %.
    fn packed_limited_and_with_progress(major) {
        let stage = Stage::new(major)?;
        let folder = Folder::new()?;
        let gzip = if major < Major::V15 { "--compress=1" } else { "--compress=client-gzip:1" };
        let data = folder.tar(&stage.primary, stage.relay.port(), &[gzip])?;
        verify(&stage.primary, &data, &[])?;
        stage.check_files(&data)?;
        let others: &[&str] = if major < Major::V15 { &[] } else { &["lz4", "zstd"] };
        for method in others {
            let packed = folder.path().join(method);
            let mut command = pg_basebackup(&stage.primary, stage.relay.port(), &packed)?;
            run(command.args(["-Ft", "-Xnone"]).arg(format!("--compress=client-{method}")))?;
            if major >= Major::V18 {
                verify(&stage.primary, &packed, &["-n"])?;
            }
        }
        limited(&stage, &folder.path().join("limited"))
    }
}

fn limited(stage: &Stage, packed: &Path) -> Result<()> {
    let started = Instant::now();
    let mut command = pg_basebackup(&stage.primary, stage.relay.port(), packed)?;
    let printed = run(command.args(["-Ft", "-X", "none", "-P", "-r", "32M"]))?;
    let mut bytes = 0;
    for entry in fs::read_dir(packed)? {
        bytes += entry?.metadata()?.len();
    }
    let at_least = Duration::from_millis(bytes * 1000 / (32 << 20) * 8 / 10);
    ensure!(started.elapsed() > at_least, "{bytes} bytes in {:?}", started.elapsed());
    // The last line: 31254/31254 kB (100%), 2/2 tablespaces
    let last = printed.split(['\r', '\n']).rfind(|line| line.contains('%'));
    let last = last.with_context(|| printed.clone())?.trim();
    let number = |text: &str| text.trim().parse::<u64>().with_context(|| last.to_owned());
    let (done, rest) = last.split_once('/').with_context(|| last.to_owned())?;
    let (done, total) = (number(done)?, number(rest.split(' ').next().unwrap_or_default())?);
    ensure!((97..=101).contains(&(done * 100 / total)), "{last}");
    ensure!((90..=110).contains(&(total * 1024 * 100 / bytes)), "{last}; in truth {bytes} bytes");
    Ok(())
}

on_majors! {
    [v15 V15, v17 V17, v18 V18]
    /// What the relay does not see it does not promise; the connection goes on.
    fn what_cannot_be_filtered_is_refused(major) {
        let stage = Stage::new(major)?;
        let mut client = Client::replication(stage.relay.port(), "berlin")?;
        for (command, hint) in [
            ("BASE_BACKUP (COMPRESSION 'gzip')", "client-gzip"),
            ("BASE_BACKUP (COMPRESSION 'lz4', COMPRESSION_DETAIL '1')", "client-lz4"),
            ("BASE_BACKUP (TARGET 'server', TARGET_DETAIL '/tmp/x')", "--target"),
            ("BASE_BACKUP (TARGET 'blackhole')", "--target"),
        ] {
            let answer = client.query(command)?;
            let error = answer.error("0A000")?;
            ensure!(error.hint.as_deref().unwrap_or_default().contains(hint), "{error:?}");
            ensure!(answer.is_ready(), "{command}: {}", answer.tags);
        }
        assert_eq!(client.query("IDENTIFY_SYSTEM")?.rows()?.len(), 1);
        // Others get what the server gives them.
        let mut whole = Client::replication(stage.relay.port(), "whole")?;
        whole.query("BASE_BACKUP (TARGET 'blackhole', CHECKPOINT 'fast')")?.rows()?;
        Ok(())
    }
}

/// Messages of a backup that breaks off are passed on, and the connection can go on.
#[test]
fn the_servers_own_refusal_is_passed_on() -> Result<()> {
    let stage = Stage::new(Major::V17)?;
    let mut client = Client::replication(stage.relay.port(), "berlin")?;
    client.query("BASE_BACKUP (CHECKPOINT 'sometimes')")?.error("42601")?;
    client.query("BASE_BACKUP (INCREMENTAL)")?.error("55000")?;
    assert_eq!(client.query("IDENTIFY_SYSTEM")?.rows()?.len(), 1);
    Ok(())
}

/// Written into the filter's own words: the test would pass with a filter that does nothing.
#[test]
fn an_unfiltered_backup_has_the_excluded_rows() -> Result<()> {
    let stage = Stage::new(Major::V16)?;
    assert!(FILTER.contains("whole"));
    let folder = Folder::new()?;
    let data = folder.path().join("packed");
    let mut command = pg_basebackup(&stage.primary, stage.relay.port(), &data)?;
    let conninfo =
        format!("host=127.0.0.1 port={} user=postgres application_name=whole", stage.relay.port());
    run(command.args(["-Ft", "-X", "none", "-d", &conninfo]))?;
    ensure!(!files_with(&data, SECRET)?.is_empty());
    Ok(())
}
