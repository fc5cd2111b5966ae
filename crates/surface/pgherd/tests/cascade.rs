//! Standbys of filtered standbys, relays behind relays, and what a filter is when a standby is
//! promoted.

mod stage;

use anyhow::Result;
use stage::{absent, berlin, binary, calm, fill, serve, sound, standby_without};
use testkit::{Cluster, Major, PATIENCE, Relay, Standby, same_contents};

/// Scenario 35: a standby of the filtered standby has the same; one behind a second relay has
/// less.
#[test]
fn behind_a_filtered_standby() -> Result<()> {
    let primary = Cluster::builder(Major::V17).start()?;
    primary.sql("create database keep; create database drop1; create database late1")?;
    let mut relay = berlin(&primary, "exclude_databases: [\"drop*\"]")?;
    let standby = standby_without(&primary, &relay, &["drop1"], &[])?;
    standby.wait_replayed(&primary)?;
    let same = Standby::of(&standby).start()?;
    let list = serve(&[("paris", "exclude_databases: [\"late*\", \"drop*\"]")]);
    let mut second = Relay::start(binary(), standby.port(), &list)?;
    let late = primary.database_oid("late1")?;
    let less = Standby::of(&standby).via(second.port()).name("paris").without_database(late);
    let less = less.start()?;
    primary.sql("create database keep2; create database drop2; create database late2")?;
    for database in ["keep", "keep2", "drop1", "drop2", "late1", "late2"] {
        fill(&primary, database, "t")?;
    }
    for standby in [&standby, &same, &less] {
        standby.wait_replayed(&primary)?;
        for database in ["keep", "keep2"] {
            same_contents(&primary, standby, database)?;
        }
        for database in ["drop1", "drop2"] {
            absent(standby, &primary, database)?;
        }
        sound(standby, &[])?;
    }
    for database in ["late1", "late2"] {
        same_contents(&primary, &same, database)?;
        absent(&less, &primary, database)?;
    }
    // The standby in the middle becomes the primary: all goes on, each with its part.
    standby.promote()?;
    standby.sql("create database late3; create database keep3")?;
    fill(&standby, "late3", "t")?;
    fill(&standby, "keep3", "t")?;
    for behind in [&same, &less] {
        behind.wait_replayed(&standby)?;
        same_contents(&standby, behind, "keep3")?;
        sound(behind, &[])?;
    }
    same_contents(&standby, &same, "late3")?;
    absent(&less, &standby, "late3")?;
    calm(&mut relay, &[])?;
    second.wait_for_line("streaming with a filter", PATIENCE)?;
    calm(&mut second, &[])
}

/// A relay whose upstream is another relay; each has a filter. Names come from a server.
#[test]
fn two_relays_in_a_row() -> Result<()> {
    let primary = Cluster::builder(Major::V15).start()?;
    primary.sql("create database keep; create database drop1; create database late1")?;
    let list = serve(&[("berlin", "exclude_databases: [\"drop*\"]")]);
    let mut first = Relay::start(binary(), primary.port(), &list)?;
    let list = serve(&[("berlin", "exclude_databases: [\"late*\"]")]);
    let mut second = Relay::prepare(binary(), first.port(), &list)?;
    let server = format!("host: 127.0.0.1, port: {}", primary.port());
    stage::with_catalog(&second, &server)?;
    second.run()?;
    let standby = standby_without(&primary, &second, &["drop1", "late1"], &[])?;
    primary.sql("create database keep2; create database drop2; create database late2")?;
    for database in ["keep", "keep2", "drop1", "drop2", "late1", "late2"] {
        fill(&primary, database, "t")?;
    }
    standby.wait_replayed(&primary)?;
    for database in ["keep", "keep2"] {
        same_contents(&primary, &standby, database)?;
    }
    for database in ["drop1", "drop2", "late1", "late2"] {
        absent(&standby, &primary, database)?;
    }
    sound(&standby, &[])?;
    calm(&mut first, &[])?;
    calm(&mut second, &[])
}
