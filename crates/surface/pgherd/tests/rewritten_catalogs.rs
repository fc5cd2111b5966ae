//! Names are read from the WAL also after `pg_database` and `pg_tablespace` were rewritten, and
//! when a new row comes within the image of its page.

mod stage;

use anyhow::Result;
use stage::{absent, berlin, calm, fill, no_tablespace, sound, standby_without};
use testkit::{Cluster, Major, Stop, on_majors, same_contents};

const FILTER: &str = "exclude_databases: [\"drop*\"], exclude_tablespaces: [\"cold*\"]";

on_majors! {
    [v12 V12, v14 V14, v16 V16, v18 V18]
    /// Page images as they are.
    fn vacuum_full_of_the_shared_catalogs(major) {
        rewrite(&Cluster::builder(major).start()?, true)
    }
}

#[test]
fn in_page_images_compressed_with_pglz() -> Result<()> {
    for major in [Major::V12, Major::V18] {
        if testkit::private::wanted(major)? {
            rewrite(&Cluster::builder(major).set("wal_compression", "on").start()?, false)?;
        }
    }
    Ok(())
}

#[test]
fn in_page_images_compressed_with_lz4() -> Result<()> {
    let primary = Cluster::builder(Major::V15).lz4_and_zstd().set("wal_compression", "lz4");
    rewrite(&primary.start()?, false)
}

#[test]
fn in_page_images_compressed_with_zstd() -> Result<()> {
    let primary = Cluster::builder(Major::V15).lz4_and_zstd().set("wal_compression", "zstd");
    rewrite(&primary.start()?, false)
}

fn rewrite(primary: &Cluster, restart: bool) -> Result<()> {
    primary.sql("create database keep; create database drop1")?;
    // Enough rows for a page image to have something to compress.
    for number in 0..4 {
        primary.sql(&format!("create tablespace t{number} location ''"))?;
    }
    let mut relay = berlin(primary, FILTER)?;
    let mut standby = standby_without(primary, &relay, &["drop1"], &[])?;
    let mut number = 1;
    for rewritten in [false, true, true] {
        if rewritten {
            primary.sql("vacuum full pg_database; vacuum full pg_tablespace")?;
            primary.sql_in("drop1", "vacuum full pg_class; vacuum full pg_index")?;
        }
        for image in [false, true] {
            number += 1;
            for name in [format!("drop{number}"), format!("keep{number}")] {
                if image {
                    primary.checkpoint()?;
                }
                primary.sql(&format!("create database {name}"))?;
                fill(primary, &name, "t")?;
            }
            for name in [format!("cold{number}"), format!("hot{number}")] {
                if image {
                    primary.checkpoint()?;
                }
                primary.sql(&format!("create tablespace {name} location ''"))?;
                primary.sql_in(
                    "keep",
                    &format!("create table {name} tablespace {name} as select 1"),
                )?;
            }
        }
        if restart && rewritten {
            relay.kill9()?;
            relay.run()?;
            standby.stop(Stop::Immediate)?;
            standby.start()?;
        }
    }
    standby.wait_replayed(primary)?;
    for number in 2..=number {
        absent(&standby, primary, &format!("drop{number}"))?;
        same_contents(primary, &standby, &format!("keep{number}"))?;
        no_tablespace(&standby, primary, &format!("cold{number}"))?;
        assert_eq!(standby.sql_in("keep", &format!("table hot{number}"))?, "1");
    }
    let asked = relay.program()?.text().contains("asking the catalog");
    assert!(!asked, "a name was not read from the WAL");
    sound(&standby, &[])?;
    calm(&mut relay, &[])
}
