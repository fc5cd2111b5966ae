//! Filters a directory of WAL segment files into another directory.
//!
//! ```text
//! cargo run -p wal --example filter -- pg_wal filtered --major 15 --exclude-db 16384
//! ```
//!
//! `--exclude-name NAME` excludes databases and tablespaces that are created with this name,
//! `--exclude-tablespace OID` a tablespace. Compare `pg_waldump` of both directories.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, bail};
use pgtypes::{Lsn, Major, Oid, SegmentBytes};
use wal::{Catalog, Entry, Event, Judge, Layout, Outcome, Place, Rewriter, Verdict};

/// Bytes that are fed at once, as a walsender would send them.
const MESSAGE_BYTES: usize = 128 << 10;

#[derive(Debug)]
struct Filter {
    databases: BTreeSet<Oid>,
    tablespaces: BTreeSet<Oid>,
    names: BTreeSet<Vec<u8>>,
    files: BTreeMap<Oid, Catalog>,
}

impl Judge for Filter {
    fn place(&self, place: Place, _at: Lsn) -> Verdict {
        let excluded = self.databases.contains(&place.database)
            || self.tablespaces.contains(&place.tablespace);
        if excluded { Verdict::Replace } else { Verdict::Pass }
    }

    fn catalog_file(&self, relfilenumber: Oid) -> Option<Catalog> {
        self.files.get(&relfilenumber).copied()
    }
}

impl Filter {
    fn hear(&mut self, event: &Event) {
        match event {
            Event::DatabaseRow { oid, name, .. } if self.names.contains(name) => {
                self.databases.insert(*oid);
            }
            Event::TablespaceRow { oid, name, .. } if self.names.contains(name) => {
                self.tablespaces.insert(*oid);
            }
            Event::DatabaseCreate { database, source: Some(source), .. }
                if self.databases.contains(&source.database) =>
            {
                self.databases.insert(*database);
            }
            Event::Relmap { database, tablespace, .. } => {
                self.files = [(*database, Catalog::Database), (*tablespace, Catalog::Tablespace)]
                    .into_iter()
                    .collect();
            }
            _ => {}
        }
    }
}

struct Job {
    from: PathBuf,
    to: PathBuf,
    major: Major,
    filter: Filter,
}

fn job() -> anyhow::Result<Job> {
    let mut plain = vec![];
    let mut major = Major::V15;
    let mut filter = Filter {
        databases: BTreeSet::new(),
        tablespaces: BTreeSet::new(),
        names: BTreeSet::new(),
        files: [(Oid::PG_DATABASE, Catalog::Database), (Oid::PG_TABLESPACE, Catalog::Tablespace)]
            .into(),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if !word.starts_with("--") {
            plain.push(PathBuf::from(word));
            continue;
        }
        let value = words.next().with_context(|| format!("read the value of {word}"))?;
        match word.as_str() {
            "--major" => major = Major::from_server_version(&value)?,
            "--exclude-db" => _ = filter.databases.insert(Oid(value.parse()?)),
            "--exclude-tablespace" => _ = filter.tablespaces.insert(Oid(value.parse()?)),
            "--exclude-name" => _ = filter.names.insert(value.into_bytes()),
            _ => bail!("{word} is unknown"),
        }
    }
    let [from, to] = plain.try_into().ok().context("read two directories")?;
    Ok(Job { from, to, major, filter })
}

/// Segment files by name, and their contents in one piece.
fn segments(from: &PathBuf) -> anyhow::Result<(Vec<String>, Vec<u8>)> {
    let mut names = vec![];
    for entry in fs::read_dir(from).context("read the directory")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            names.push(name);
        }
    }
    names.sort();
    let mut bytes = vec![];
    for name in &names {
        bytes.extend(fs::read(from.join(name)).with_context(|| format!("read {name}"))?);
    }
    Ok((names, bytes))
}

fn main() -> anyhow::Result<()> {
    let Job { from, to, major, mut filter } = job()?;
    let (names, mut bytes) = segments(&from)?;
    let segment_bytes = bytes.len() / names.len().max(1);
    let segment_bytes = SegmentBytes::new(u32::try_from(segment_bytes)?)?;
    // xlp_pageaddr of the first page
    let start = bytes.get(8..).and_then(|rest| rest.first_chunk::<8>()).context("read a page")?;
    let start = Lsn(u64::from_le_bytes(*start));
    let layout = Layout { major, segment_bytes };
    let mut rewriter = Rewriter::new(layout, start, Entry::Unknown);

    let began = Instant::now();
    let (mut done, mut end) = (0, 0);
    'all: while end < bytes.len() {
        end = (end + MESSAGE_BYTES).min(bytes.len());
        loop {
            let fed = match rewriter.feed(bytes.get_mut(done..end).unwrap_or_default(), &filter) {
                Ok(fed) => fed,
                Err(error) => {
                    println!("ends at {}: {error}", rewriter.position());
                    break 'all;
                }
            };
            done += fed.done;
            match fed.outcome {
                Outcome::Drained => break,
                Outcome::Event(Event::NeedsLookBack { .. }) => {
                    rewriter = Rewriter::new(layout, start, Entry::Raw);
                }
                Outcome::Event(event) => {
                    println!("{event:?}");
                    filter.hear(&event);
                }
            }
        }
    }
    println!("{:?} in {:?}", rewriter.stats(), began.elapsed());
    fs::create_dir_all(&to).context("create the directory")?;
    let segment_bytes = usize::try_from(segment_bytes.bytes())?;
    for (name, segment) in names.iter().zip(bytes.chunks(segment_bytes)) {
        fs::write(to.join(name), segment).with_context(|| format!("write {name}"))?;
    }
    Ok(())
}
