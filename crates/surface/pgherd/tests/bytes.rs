//! The bytes that come out: the same as direct without a filter, and the same however the
//! stream was cut on its way.

mod proof;

use pgtypes::Lsn;
use proof::receive::{Receiver, fill_segment, same_files, segment_bytes};
use proof::{FILTERED, Stretch, WITHOUT_DROP, binary, client, first_difference};
use testkit::{Cluster, Link, Relay, Workload, on_each_major, on_majors};

/// A server with databases `keep` and `drop1`, and where its next segment begins.
fn primary(builder: testkit::Builder) -> anyhow::Result<(Cluster, Lsn)> {
    let primary = builder.set("autovacuum", "off").start()?;
    primary.sql("create database keep")?;
    primary.sql("create database drop1")?;
    let start = primary.switch_wal()?;
    let segment = segment_bytes(&primary)?;
    let start =
        start.round_down(segment) + if start.0.is_multiple_of(segment) { 0 } else { segment };
    Ok((primary, start))
}

/// A bit of everything in both databases, at the same time.
fn work(primary: &Cluster, rows: u32, round: u32) -> anyhow::Result<Lsn> {
    std::thread::scope(|scope| {
        let keep = scope.spawn(|| Workload { rows, round }.run(primary, "keep"));
        Workload { rows, round }.run(primary, "drop1")?;
        keep.join().map_err(|_| anyhow::anyhow!("the workload panicked"))?
    })?;
    primary.lsn()
}

on_majors! {
    [v12 V12, v15 V15, v18 V18]
    /// Scenario 5: files of `pg_receivewal`, direct and through the relay, while it is written.
    fn without_a_filter_nothing_changes(major) {
        let (primary, start) = primary(Cluster::builder(major).wal_segment_mb(1))?;
        let relay = Relay::start(binary(), primary.port(), "")?;
        let listed = Relay::start(binary(), primary.port(), WITHOUT_DROP)?;
        work(&primary, 1000, 1)?;
        let end = fill_segment(&primary)?;
        let direct = Receiver::start(&primary, primary.port(), "direct", start, end)?.finish()?;
        for port in [relay.port(), listed.port()] {
            let through = Receiver::start(&primary, port, "through", start, end)?.finish()?;
            let files = same_files(direct.path(), through.path())?;
            assert!(files > 5, "{files} segments of 1 MB");
        }
        Ok(())
    }
}

on_majors! {
    [v13 V13, v17 V17]
    /// Scenario 7 over TCP: the upstream's bytes arrive in pieces of any size.
    fn pieces_of_any_size_give_the_same(major) {
        let (primary, start) = primary(Cluster::builder(major).wal_segment_mb(1))?;
        let end = work(&primary, 1000, 1)?;
        let link = Link::to(primary.port())?;
        let relay = Relay::start(binary(), link.port(), WITHOUT_DROP)?;
        let whole = client::read(relay.port(), FILTERED, start, end)?;
        let original = client::read(primary.port(), FILTERED, start, end)?;
        assert!(whole != original, "nothing was filtered");
        for (piece, length) in [(1, 400_000), (7, 1 << 20), (61, 2 << 20), (8191, u64::MAX)] {
            link.split(piece);
            let end = end.min(Lsn(start.0.saturating_add(length)));
            let cut = client::read(relay.port(), FILTERED, start, end)?;
            let same = Stretch { start, bytes: whole.get(start, end)?.to_vec() };
            assert_eq!(first_difference(&same, &cut), None, "in pieces of {piece}");
            assert_eq!(same.end(), cut.end());
        }
        Ok(())
    }
}

mod recorded {
    //! The rewriter itself, fed with WAL that a real server of each major wrote.

    use std::collections::BTreeSet;

    use pgtypes::{Oid, SegmentBytes};
    use wal::{Catalog, Entry, Event, Judge, Layout, Outcome, Place, Rewriter, Verdict};

    use super::*;

    /// Excludes one database.
    struct Without(u32);

    impl Judge for Without {
        fn place(&self, place: Place, _at: Lsn) -> Verdict {
            if place.database == Oid(self.0) { Verdict::Replace } else { Verdict::Pass }
        }

        fn catalog_file(&self, _relfilenumber: Oid) -> Option<Catalog> {
            None
        }
    }

    /// A generator of numbers that gives the same on every run.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % limit
        }

        /// A length from one byte to 128 kB, small ones as often as large ones.
        fn piece(&mut self) -> usize {
            let bits = self.below(18);
            usize::try_from(self.below(1 << bits) + 1).unwrap_or(1)
        }
    }

    struct Run {
        output: Vec<u8>,
        events: Vec<String>,
        replaced: u64,
        sizes: BTreeSet<usize>,
    }

    fn run(
        layout: Layout,
        wal: &Stretch,
        judge: &Without,
        mut piece: impl FnMut() -> usize,
    ) -> anyhow::Result<Run> {
        let mut rewriter = Rewriter::new(layout, wal.start, Entry::Raw);
        let (mut output, mut events, mut held) = (Vec::new(), Vec::new(), Vec::new());
        let mut sizes = BTreeSet::new();
        let mut rest = &wal.bytes[..];
        while !rest.is_empty() {
            let size = piece().min(rest.len());
            sizes.insert(size);
            let (now, later) = rest.split_at(size);
            rest = later;
            held.extend_from_slice(now);
            loop {
                let fed = rewriter.feed(&mut held, judge)?;
                output.extend(held.drain(..fed.done));
                match fed.outcome {
                    Outcome::Drained => break,
                    Outcome::Event(Event::Boundary(span)) => events.push(format!("{span:?}")),
                    Outcome::Event(event) => events.push(format!("{event:?}")),
                }
            }
            assert!(held.len() < wal::HELD_BYTES_MAX, "{} bytes are held back", held.len());
        }
        output.extend(held);
        Ok(Run { output, events, replaced: rewriter.stats().records_replaced, sizes })
    }

    on_each_major! {
        /// Scenario 7: cut anywhere, 1 byte to 128 kB, real WAL gives the same bytes.
        fn no_cut_shows_in_real_wal(major) {
            let settings = [("wal_level", "logical"), ("wal_compression", "on")];
            let builder = Cluster::builder(major).wal_segment_mb(1).set_all(&settings);
            let (primary, start) = primary(builder)?;
            let end = work(&primary, 1000, 1)?;
            let wal = client::read(primary.port(), "direct", start, end)?;
            let segment_bytes = SegmentBytes::from_show("1MB")?;
            let layout = Layout { major, segment_bytes };
            let judge = Without(primary.database_oid("drop1")?);

            let whole = run(layout, &wal, &judge, || 1 << 17)?;
            assert_eq!(whole.output.len(), wal.bytes.len());
            assert!(whole.replaced > 5000, "{} records were replaced", whole.replaced);
            for seed in [1, 77, 4242] {
                let mut dice = Dice(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(seed));
                let cut = run(layout, &wal, &judge, || dice.piece())?;
                assert!(cut.output == whole.output, "seed {seed}");
                assert_eq!(cut.events, whole.events, "seed {seed}");
                assert_eq!((cut.sizes.first(), cut.replaced), (Some(&1), whole.replaced));
                assert!(cut.sizes.last() > Some(&100_000), "pieces up to {:?}", cut.sizes.last());
            }
            // Every possible cut.
            let byte_by_byte = run(layout, &wal, &judge, || 1)?;
            assert!(byte_by_byte.output == whole.output);
            Ok(())
        }
    }
}
