//! `pgherd split`: a whole move, the plan, and what is there afterwards.

mod splitting;

use anyhow::ensure;
use testkit::on_majors;

use splitting::Stage;

on_majors! {
    [v13 V13, v15 V15, v17 V17, v18 V18]
    /// Databases go, the others stay; both sides are whole.
    fn moves_databases(major) {
        let stage = Stage::new(major)?;
        let printed = stage.split_now()?;
        for part in ["write downtime: ", "connect to: host=", "moved: orders, tenant_eu_1", "are as on the source"] {
            ensure!(printed.contains(part), "no {part:?} in\n{printed}");
        }
        stage.check_moved(&["orders", "tenant_eu_1"])?;
        assert_eq!(stage.ask("orders", "select count(*), sum(g) from t")?, "2000|2001000");
        assert_eq!(stage.source.sql_in("stays", "select count(*) from t")?, "2000");
        Ok(())
    }
}
