//! Servers from the programs of a distribution, with nothing of the cache.

use std::path::Path;

use testkit::{Cluster, Install, Major};

#[test]
fn a_server_starts_from_the_programs_in_a_folder() -> anyhow::Result<()> {
    let programs = Install::in_folder(Path::new("/usr/lib/postgresql/15/bin"))?;
    assert_eq!(programs.major(), Major::V15);
    assert!(programs.client("pg_waldump")?.starts_with("/usr/lib/postgresql/15/bin"));
    let cluster = Cluster::builder(programs.major()).programs(programs).fresh_initdb().start()?;
    assert_eq!(cluster.sql("select 1")?, "1");
    Ok(())
}

#[test]
fn a_folder_without_a_server_is_refused() {
    let error = Install::in_folder(Path::new("/usr/bin")).unwrap_err();
    assert!(format!("{error:#}").contains("/usr/bin/postgres"), "{error:#}");
}
