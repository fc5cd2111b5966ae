//! `pgherd split` while every database is written to.

mod splitting;

use anyhow::{Context as _, ensure};
use testkit::on_majors;

use splitting::load::{Writer, check};
use splitting::{SPLIT_LIMIT, Stage, start, whole};

/// What the guide promises, and what a machine that does other things at the same time may need.
const DOWNTIME_MAX_SECS: f64 = 3.0;

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// No acknowledged commit is lost, none is on both sides, and the databases that stay never
    /// notice. Both servers are whole afterwards.
    fn nothing_is_lost_under_load(major) {
        let stage = Stage::new(major)?;
        stage.source.sql("create table acks (worker int, n bigint)")?;
        let moved = [
            Writer::start(&stage, "orders", 1, "set synchronous_commit = on"),
            Writer::start(&stage, "orders", 2, "set synchronous_commit = off"),
            Writer::start(&stage, "tenant_eu_1", 3, "set synchronous_commit = on"),
        ];
        let others = [
            Writer::start(&stage, "stays", 4, "set synchronous_commit = on"),
            Writer::start(&stage, "postgres", 5, "set synchronous_commit = on"),
        ];
        for writer in &moved {
            writer.wait_for_more()?;
        }
        let mut split = start(&mut stage.split(&["--yes"]))?;
        let status = split.wait(SPLIT_LIMIT)?;
        ensure!(status.success(), "{}", split.text());
        for writer in moved.iter().chain(&others) {
            writer.wait_for_more()?;
        }
        for part in ["connect to: host=", "moved: orders, tenant_eu_1", "are as on the source"] {
            split.wait_for_line(part, SPLIT_LIMIT)?;
        }
        let printed = split.wait_for_line("write downtime: ", SPLIT_LIMIT)?;
        let told: f64 = printed.trim_start_matches("write downtime: ").trim_end_matches(" s").parse()?;
        for writer in moved {
            let database = writer.database.clone();
            let (worker, written) = writer.stop()?;
            ensure!(!written.old.is_empty() && !written.new.is_empty(), "{database}: no move");
            check(&stage, &database, worker, &written)?;
            let gap = written.gap.as_secs_f64();
            println!("{major} {database}: told {told:.3} s, seen {gap:.3} s");
            ensure!(gap < DOWNTIME_MAX_SECS && told < DOWNTIME_MAX_SECS, "told {told}, seen {gap}");
            // From the last acknowledgement to the first is longer than from closing to opening, but for
            // the time between opening and what is told.
            ensure!((told - gap).abs() < 1.5, "told {told}, seen {gap}");
        }
        for writer in others {
            let database = writer.database.clone();
            let (_, written) = writer.stop()?;
            ensure!(written.errors.is_empty(), "{database}: {:?}", written.errors.first());
            ensure!(written.new.is_empty(), "{database} moved");
            let last = written.old.last().context("nothing written")?;
            ensure!(written.old.len() == usize::try_from(*last)?, "{database} has holes");
        }
        stage.check_moved(&["orders", "tenant_eu_1"])?;
        whole::check(&stage)
    }
}
