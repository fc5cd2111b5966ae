//! Replication slots belong to the configuration under which they were made.

mod partial;

use anyhow::{Result, ensure};
use testkit::{Client, Standby, on_majors, run};

use partial::{FILTER, Folder, Stage, binary, verify};

/// Starts a stream from a slot as `name`; gives its first message, or the server's refusal.
fn stream(stage: &Stage, name: &str, slot: &str) -> Result<testkit::Answer> {
    let mut client = Client::replication(stage.relay.port(), name)?;
    let at = stage.primary.lsn()?.round_down(16 << 20);
    let answer =
        client.query(&format!("START_REPLICATION SLOT {slot} PHYSICAL {at} TIMELINE 1"))?;
    if answer.error.is_some() {
        // Refused, and nothing else happened.
        ensure!(answer.is_ready(), "{}", answer.tags);
        assert_eq!(client.query("IDENTIFY_SYSTEM")?.rows()?.len(), 1);
    }
    Ok(answer)
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// Under another configuration, or none, the slot is refused; also after the relay was killed.
    fn a_slot_is_refused_under_another_configuration(major) {
        let mut stage = Stage::new(major)?;
        let mut berlin = Client::replication(stage.relay.port(), "berlin")?;
        berlin.query("CREATE_REPLICATION_SLOT city PHYSICAL RESERVE_WAL")?.rows()?;
        // What fails changes nothing.
        let mut paris = Client::replication(stage.relay.port(), "paris")?;
        paris.query("CREATE_REPLICATION_SLOT city PHYSICAL")?.error("42710")?;
        drop((berlin, paris));
        stage.relay.kill9()?;
        stage.relay.run()?;
        for name in ["paris", "whole"] {
            let answer = stream(&stage, name, "city")?;
            let error = answer.error("55000")?;
            ensure!(error.message.contains("\"berlin\""), "{error:?}");
            ensure!(
                error.hint.as_deref().unwrap_or_default().contains("application_name"),
                "{error:?}"
            );
        }
        stream(&stage, "berlin", "city")?.rows()?;
        // One that the server made itself is anybody's.
        stage.primary.sql("select pg_create_physical_replication_slot('free', true)")?;
        stream(&stage, "paris", "free")?.rows()?;
        // Dropped and made anew, it is of whoever made it.
        let mut paris = Client::replication(stage.relay.port(), "paris")?;
        paris.query("DROP_REPLICATION_SLOT city WAIT")?.rows()?;
        paris.query("CREATE_REPLICATION_SLOT city PHYSICAL RESERVE_WAL")?.rows()?;
        stream(&stage, "berlin", "city")?.error("55000")?;
        stream(&stage, "paris", "city")?.rows()?;
        drop(paris);
        // A client without a filter takes it over, and gives it to all.
        let mut whole = Client::replication(stage.relay.port(), "whole")?;
        whole.query("DROP_REPLICATION_SLOT city WAIT")?.rows()?;
        whole.query("CREATE_REPLICATION_SLOT city PHYSICAL RESERVE_WAL")?.rows()?;
        stream(&stage, "berlin", "city")?.rows()?;
        Ok(())
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// The whole way: `pg_basebackup -C -S -R`, a standby that uses the slot, and one that may not.
    fn a_backup_makes_its_standbys_slot(major) {
        let stage = Stage::new(major)?;
        let folder = Folder::new()?;
        let data = stage.backup(&folder, &["-C", "-S", "city", "-R"])?;
        verify(&stage.primary, &data, &[])?;
        stage.check_files(&data)?;
        let written = std::fs::read_to_string(data.join("postgresql.auto.conf"))?;
        ensure!(written.contains("application_name=berlin"), "{written}");
        ensure!(written.contains("primary_slot_name = 'city'"), "{written}");
        let standby = Standby::from_backup(major, &data).start()?;
        stage.check_standby(&standby)?;
        let active = "select active from pg_replication_slots where slot_name = 'city'";
        assert_eq!(stage.primary.sql(active)?, "t");
        // As somebody else it gets nothing.
        let other =
            format!("host=127.0.0.1 port={} user=postgres application_name=paris", stage.relay.port());
        standby.sql(&format!("alter system set primary_conninfo = '{other}'"))?;
        standby.sql("select pg_reload_conf()")?;
        let refused = testkit::wait_until("the refusal", testkit::PATIENCE, || {
            Ok(standby
                .log()
                .lines()
                .find(|it| it.contains("belongs to configuration"))
                .map(str::to_owned))
        })?;
        ensure!(refused.contains("berlin"), "{refused}");
        Ok(())
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// Who starts over with a configuration starts over with its slots.
    fn forgetting_a_configuration_frees_its_slots(major) {
        let mut stage = Stage::new(major)?;
        assert!(FILTER.contains("berlin"));
        let mut berlin = Client::replication(stage.relay.port(), "berlin")?;
        berlin.query("CREATE_REPLICATION_SLOT city PHYSICAL RESERVE_WAL")?.rows()?;
        drop(berlin);
        stream(&stage, "berlin", "city")?.rows()?;
        stage.relay.stop()?;
        let config = stage.relay.config();
        run(std::process::Command::new(binary())
            .args(["relay", "forget", "berlin", "-c"])
            .arg(config))?;
        stage.relay.run()?;
        stream(&stage, "paris", "city")?.rows()?;
        Ok(())
    }
}
