//! Writes to every table of the primary for a while, and a line that shows what becomes of it.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::herd::{Herd, Progress};
use crate::interrupt::Interrupt;
use crate::plan::{DATABASES, TABLES, Table};
use crate::show::Screen;

/// Rows of one insert.
const ROWS: u32 = 400;
/// Between two statements of a writer: the demo should not fill a disk.
const PAUSE: Duration = Duration::from_millis(10);
/// Between two looks at the progress.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Writes for `time`.
pub(crate) fn run(
    herd: &Herd,
    time: Duration,
    screen: &Screen,
    interrupt: &Interrupt,
) -> Result<()> {
    let until = Instant::now() + time;
    let mut session = herd.primary.session("postgres")?;
    let before = Progress::ask(&mut session)?;
    thread::scope(|scope| {
        let writers = DATABASES.map(|database| {
            scope.spawn(move || write(herd, database, until, interrupt).context(database))
        });
        while Instant::now() < until {
            interrupt.sleep(LOOK_INTERVAL)?;
            let left = until.saturating_duration_since(Instant::now());
            screen.progress(Progress::ask(&mut session)?.since(before), left);
        }
        for writer in writers {
            writer.join().map_err(|_panic| anyhow::anyhow!("a writer broke off"))??;
        }
        screen.progress_ended(Progress::ask(&mut session)?.since(before));
        Ok(())
    })
}

/// Inserts, updates and deletes in every table of a database, in turn.
fn write(herd: &Herd, database: &str, until: Instant, interrupt: &Interrupt) -> Result<()> {
    let mut session = herd.primary.session(database)?;
    let tables: Vec<_> = TABLES.iter().filter(|table| table.database == database).collect();
    // Each kind of statement at least once, however short the time is.
    for (round, table) in tables.iter().cycle().enumerate() {
        if interrupt.happened() || (Instant::now() >= until && round >= 3 * tables.len()) {
            break;
        }
        session.query(&statement(**table, round / tables.len()))?;
        thread::sleep(PAUSE);
    }
    Ok(())
}

fn statement(table: Table, round: usize) -> String {
    let name = table.name;
    match round % 5 {
        3 => format!("update {name} set amount = amount * 1.1 where id % 50 = {}", round % 50),
        4 => format!("delete from {name} where id % 97 = {}", round % 97),
        _ => format!(
            "insert into {name} (customer, amount, note) \
             select random() * 1000, random() * 100, repeat(md5(random()::text), 4) \
             from generate_series(1, {ROWS})"
        ),
    }
}
