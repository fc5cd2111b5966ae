//! Base backups and their standbys with TLS on both sides of the relay.

mod partial;

use anyhow::ensure;
use partial::{Folder, Stage, binary, fill, verify};
use testkit::{Authority, Cluster, Relay, on_majors, run_failing, same_contents};

on_majors! {
    [v13 V13, v17 V17]
    fn a_backup_and_its_standby_with_tls_on_both_sides(major) {
        let authority = Authority::new("pgherd test authority")?;
        let server = authority.sign_for_server("primary", &["127.0.0.1"])?;
        let own = authority.sign("relay", "relay", &["127.0.0.1"])?;
        // The standby's server reads it too.
        let folder = Folder::new()?;
        let ca = folder.path().join("ca.crt");
        std::fs::copy(authority.cert(), &ca)?;
        let primary = Cluster::builder(major)
            .set("ssl", "on")
            .set("ssl_cert_file", &server.cert.display().to_string())
            .set("ssl_key_file", &server.key.display().to_string())
            .start()?;
        fill(&primary)?;
        let upstream = format!(
            "host: 127.0.0.1, port: {}, sslmode: verify-full, sslrootcert: {}",
            primary.port(),
            ca.display()
        );
        let settings = format!(
            "tls: {{cert: {}, key: {}}}\nconfigurations:\n\
             - berlin: {{match: {{application_name: berlin}}, require_tls: true, \
             filter: {{exclude_databases: [\"drop*\"], exclude_tablespaces: [archive]}}}}\n\
             - whole: {{require_tls: true}}",
            own.cert.display(),
            own.key.display()
        );
        let mut relay = Relay::prepare_upstream(binary(), &upstream, &settings)?;
        relay.run()?;
        let stage = Stage { primary, relay };
        // Up to 14 libpq looks for host names only, not for addresses.
        let tls = format!("sslmode=verify-ca sslrootcert={}", ca.display());
        let conninfo = |name: &str| {
            let port = stage.relay.port();
            format!("host=127.0.0.1 port={port} user=postgres application_name={name} {tls}")
        };

        let packed = Folder::new()?;
        let berlin = conninfo("berlin");
        let more = ["-X", "fetch", "-d", berlin.as_str()];
        let data = packed.tar(&stage.primary, stage.relay.port(), &more)?;
        verify(&stage.primary, &data, &[])?;
        stage.check_files(&data)?;

        let more = ["-X", "stream", "-d", berlin.as_str()];
        let data = stage.backup(&folder, &more)?;
        verify(&stage.primary, &data, &[])?;
        stage.check_files(&data)?;
        let standby = stage.standby_as(&data, "berlin", &tls)?;
        stage.check_standby(&standby)?;
        let plain = "select count(*) from pg_stat_ssl join pg_stat_replication using (pid) where not ssl";
        ensure!(stage.primary.sql(plain)? == "0");

        let whole = Folder::new()?;
        let name = conninfo("whole");
        let more = ["-X", "stream", "-d", name.as_str()];
        let data = whole.tar(&stage.primary, stage.relay.port(), &more)?;
        verify(&stage.primary, &data, &[])?;
        let standby = stage.standby_as(&data, "whole", &tls)?;
        stage.primary.sql_in("drop1", "create table seen_by_all as select 1 n")?;
        standby.wait_replayed(&stage.primary)?;
        for database in ["drop1", "keep"] {
            same_contents(&stage.primary, &standby, database)?;
        }

        // Without TLS nobody gets one.
        let open = name.replace("verify-ca", "disable");
        let mut refused = partial::pg_basebackup(&stage.primary, stage.relay.port(), &folder.path().join("no"))?;
        let said = run_failing(refused.args(["-d", &open]))?;
        ensure!(said.contains("TLS"), "{said}");
        Ok(())
    }
}
