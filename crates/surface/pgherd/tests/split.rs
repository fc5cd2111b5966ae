//! `pgherd split` in surroundings of all kinds.

mod splitting;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use testkit::{
    Auth, Authority, Cluster, Install, Major, PASSWORD, PATIENCE, Program, Standby, Stop,
    on_majors, run,
};

use splitting::planned::{finding, refused};
use splitting::{Stage, as_server};

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// As Debian installs it: the files of settings are elsewhere, and a base backup lacks them. And
    /// a password is asked for everywhere but on the socket.
    fn settings_outside_of_the_data_directory_and_a_password(major) {
        let mut source = Cluster::builder(major)
            .auth(Auth::Scram)
            .set("work_mem", "5MB")
            .set("archive_mode", "on")
            .set("archive_command", "/bin/true")
            .set("synchronous_standby_names", "")
            .start()?;
        source.sql("create database moves")?;
        source.sql_in("moves", "create table t as select 1 x")?;
        source.stop(Stop::Fast)?;
        let mut stage = Stage::of(source, "moves")?;
        let settings = stage.path("etc");
        fs::create_dir(&settings)?;
        for name in ["postgresql.conf", "testkit.conf", "pg_hba.conf", "pg_ident.conf"] {
            fs::rename(stage.source.data().join(name), settings.join(name))?;
        }
        let conf = settings.join("postgresql.conf");
        let data = stage.source.data();
        fs::write(
            &conf,
            fs::read_to_string(&conf)? + &format!("\ndata_directory = '{}'\n", data.display()),
        )?;
        fs::write(settings.join("pg_ident.conf"), "theirs root postgres\n")?;
        testkit::give_to_servers(&settings)?;
        // What somebody left behind where the server does not look: nobody would get in.
        fs::write(data.join("postgresql.conf"), "work_mem = '9MB'\n")?;
        fs::write(data.join("pg_hba.conf"), "local all all reject\n")?;
        testkit::give_to_servers(&data)?;
        let postgres = stage.source.install().server("postgres");
        let mut server = Program::start(
            as_server(&postgres, &settings)
                .arg("-D")
                .arg(&settings)
                .args(["-c", "max_connections=137"]),
        )?;
        server.wait_for_line("ready to accept connections", PATIENCE)?;
        stage.host = "127.0.0.1".into();
        let refused = run(stage.split(&["--plan"]).env("PGPASSWORD", "wrong"));
        ensure!(
            refused.is_err_and(|error| format!("{error:#}").contains("password")),
            "without a password"
        );
        let printed = run(stage.split(&["--yes"]).env("PGPASSWORD", PASSWORD))?;
        for part in ["outside of the data directory", "archiving is on"] {
            ensure!(printed.contains(part), "{printed}");
        }
        assert_eq!(stage.ask("moves", "select x from t")?, "1");
        for (name, value) in
            [("work_mem", "5MB"), ("archive_mode", "off"), ("fsync", "off"), ("max_connections", "137")]
        {
            assert_eq!(stage.ask("moves", &format!("show {name}"))?, value);
        }
        let rules = "select string_agg(concat_ws(' ', type, database, auth_method), ',' order by line_number) \
                     from pg_hba_file_rules";
        assert_eq!(
            stage.ask("moves", rules)?,
            "local {all} trust,local {replication} trust,\
            host {all} scram-sha-256,host {replication} scram-sha-256"
        );
        // The view came with 15, and nothing else tells.
        if major >= Major::V15 {
            let users = "select map_name || sys_name || pg_username from pg_ident_file_mappings";
            assert_eq!(stage.ask("moves", users)?, "theirsrootpostgres");
        }
        ensure!(secrets_left(&stage)?.is_empty(), "{:?}", secrets_left(&stage)?);
        server.signal(testkit::Signal::INT)?;
        server.wait(PATIENCE)?;
        Ok(())
    }
}

/// Files outside of the servers that have the password in clear.
fn secrets_left(stage: &Stage) -> Result<Vec<PathBuf>> {
    let output = Command::new("grep").arg("-rlF").arg(PASSWORD).arg(stage.path("")).output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().map(PathBuf::from).collect())
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// What the plan tells of a server with a standby, and of others that cannot be split.
    fn the_plan_knows_standbys_roles_and_rules(major) {
        let mut stage = Stage::new(major)?;
        let standby = Standby::of(&stage.source).name("munich").start()?;
        standby.wait_streaming()?;
        stage.source.set("synchronous_standby_names", "munich")?;
        stage.source.sql("select pg_reload_conf()")?;
        stage.source.sql("create role one; create role two login; create role pg2")?;
        let roles = stage.source.sql("select count(*) from pg_roles where oid > 16383")?;
        assert_eq!(roles, "3");
        let plan = run(&mut stage.split(&["--plan"]))?;
        for (weight, about, text) in [
            ("OK", "standbys", "munich stay with the source"),
            ("WARN", "settings", "synchronous_standby_names will be empty"),
            // `postgres` too.
            ("OK", "role", "4 roles go along"),
            ("OK", "goes", "orders, tenant_eu_1"),
            ("OK", "stays", "postgres, stays"),
            ("OK", "connection", "on this machine"),
        ] {
            finding(&plan, weight, about, text)?;
        }
        ensure!(!plan.contains("STOP"), "{plan}");

        // The standby itself is no source.
        let source = std::mem::replace(&mut stage.source, standby.into_cluster());
        stage.host = stage.source.socket_dir().display().to_string();
        finding(&refused(&stage)?, "STOP", "server", "it is a standby")?;
        stage.source = source;
        stage.host = stage.source.socket_dir().display().to_string();

        // Nobody may replicate: neither backup nor standby would get in.
        fs::write(stage.source.data().join("pg_hba.conf"), "local all all trust\n")?;
        stage.source.sql("select pg_reload_conf()")?;
        finding(&refused(&stage)?, "STOP", "pg_hba.conf", "no rule for the database \"replication\"")?;
        ensure!(!stage.data().exists() && stage.journal().is_empty(), "a plan does nothing");
        Ok(())
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// What the source names of its own machine and is not here, is told before anything is copied.
    fn the_plan_knows_what_the_machine_lacks(major) {
        let authority = Authority::new("pgherd test authority")?;
        let server = authority.sign_for_server("primary", &["127.0.0.1"])?;
        let (cert, key) = (server.cert.display().to_string(), server.key.display().to_string());
        let settings = [
            ("ssl", "on"),
            ("ssl_cert_file", cert.as_str()),
            ("ssl_key_file", &key),
            // TEST-NET-1, RFC 5737; the source starts all the same.
            ("listen_addresses", "127.0.0.1, 192.0.2.7"),
            ("session_preload_libraries", "auto_explain"),
        ];
        let stage = Stage::with(major, &settings)?;
        let plan = run(&mut stage.split(&["--plan"]))?;
        finding(
            &plan,
            "WARN",
            "settings",
            "listen_addresses: 192.0.2.7 not of this machine; the others",
        )?;
        finding(&plan, "OK", "libraries", "auto_explain")?;
        ensure!(!plan.contains("ssl_") && !plan.contains("unix_socket"), "{plan}");

        // A database that lets nobody in takes as much room as when it did.
        let needed = |plan: &str| -> Result<f64> {
            let line = plan.lines().find(|line| line.contains(" needed, ")).context("no disk")?;
            let (before, _) = line.split_once(" needed, ").context("no number")?;
            let number = before.rsplit(' ').nth(1).context("no number")?;
            ensure!(before.ends_with(" MB"), "{line}");
            Ok(number.parse()?)
        };
        stage.source.sql_in(
            "tenant_eu_1",
            "create table large (v text); alter table large alter v set storage external; \
             insert into large select repeat(md5(g::text), 250) from generate_series(1, 5000) g",
        )?;
        let open = needed(&run(&mut stage.split(&["--plan"]))?)?;
        stage.source.sql("alter database tenant_eu_1 allow_connections false")?;
        let closed = needed(&run(&mut stage.split(&["--plan"]))?)?;
        ensure!((open - closed).abs() < 15.0, "{open} MB open, {closed} MB closed");

        fs::rename(&server.cert, server.cert.with_extension("away"))?;
        let plan = refused(&stage)?;
        let missing = format!("ssl_cert_file is {cert}, which is not here");
        finding(&plan, "STOP", "settings", &missing)?;
        ensure!(!stage.data().exists() && stage.journal().is_empty(), "a plan does nothing");
        Ok(())
    }
}

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// `pg_upgrade --check` looks at every database of the new server.
    fn the_target_can_be_upgraded(major) {
        let stage = Stage::new(major)?;
        stage.split_now()?;
        let has_checksums = stage.ask("orders", "show data_checksums")? == "on";
        let bin = stage.path("bin");
        for program in ["pg_controldata", "pg_resetwal"] {
            symlink(stage.source.install().client(program)?, bin.join(program))?;
        }
        let folder = stage.path("upgrade");
        let as_server = |program: &Path| as_server(program, &folder);
        fs::create_dir(&folder)?;
        let new_bin = Install::of(Major::V18)?.of_one_build(&folder)?;
        testkit::give_to_servers(&folder)?;
        let data = stage.data();
        run(as_server(&bin.join("pg_ctl")).arg("stop").arg("-D").arg(&data).args(["-m", "fast", "-s"]))?;
        let new = folder.join("data");
        let mut initdb = as_server(&new_bin.join("initdb"));
        initdb.arg("-D").arg(&new).args(["-U", "postgres", "-A", "trust", "-E", "UTF8"]);
        initdb.args(["--locale=C", "--no-sync"]);
        if !has_checksums {
            initdb.arg("--no-data-checksums");
        }
        run(&mut initdb)?;
        let mut upgrade = as_server(&new_bin.join("pg_upgrade"));
        upgrade.arg("--check").arg("-b").arg(&bin).arg("-B").arg(new_bin);
        upgrade.arg("-d").arg(&data).arg("-D").arg(&new).args(["-U", "postgres"]);
        let printed = run(&mut upgrade)?;
        ensure!(printed.contains("Clusters are compatible"), "{printed}");
        Ok(())
    }
}
