//! Looks at the hosts, each by a task and a connection of its own, and moves the clients.

use std::sync::Arc;
use std::time::Duration;

use alarm::Code;
use config::Moving;
use pgnet::{DialError, Endpoint};
use pgproto::history::Past;
use pgtypes::Timeline;
use tasks::{CancellationToken, Group};
use tracing::{error, info, warn};

use super::choose::{Facts, Known, Seen, Unfit, check, choose};
use super::{HostStatus, Place, Upstream, UpstreamStatus, catalog_of};
use crate::ledger::LedgerError;
use crate::names::NamesError;

/// How long a host may take to answer, or to let the relay in.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the tasks may take to end once the relay stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// What was seen, and what was decided.
#[derive(Debug)]
pub(super) struct Board {
    known: Option<Known>,
    seen: Vec<Seen>,
    /// What sessions have learned of each host.
    learned: Vec<Option<Learned>>,
    unfit: Vec<Option<Unfit>>,
    current: Option<Current>,
    switches: u64,
}

/// What a host has told a session.
#[derive(Clone, Debug)]
struct Learned {
    timeline: Timeline,
    /// What that came out of, if it told.
    past: Option<Vec<Past>>,
}

/// The host that is followed.
#[derive(Debug)]
struct Current {
    host: usize,
    /// Clients may come. While they may not, those that are there stay: that a host cannot be
    /// looked at does not mean that it does not serve them.
    is_open: bool,
    moved: CancellationToken,
}

impl Board {
    pub(super) fn new(hosts: usize, known: Option<Known>) -> Self {
        let (seen, unfit) = (vec![Seen::NotYet; hosts], vec![Some(Unfit::NotYet); hosts]);
        Self { known, seen, learned: vec![None; hosts], unfit, current: None, switches: 0 }
    }

    /// Where clients are led now.
    pub(super) fn place(&self, hosts: &[Endpoint]) -> Option<Place> {
        let current = self.current.as_ref().filter(|current| current.is_open)?;
        let endpoint = hosts.get(current.host)?.clone();
        Some(Place { endpoint, moved: current.moved.clone() })
    }

    /// Each host that does not fit, and why.
    pub(super) fn reasons(&self, hosts: &[Endpoint]) -> Vec<(String, String)> {
        let unfit = hosts.iter().zip(&self.unfit);
        let unfit = unfit.filter_map(|(host, unfit)| Some((host, unfit.as_ref()?)));
        unfit.map(|(host, unfit)| (host.to_string(), unfit.to_string())).collect()
    }

    /// Whether clients were led to this timeline already.
    pub(super) fn knows(&self, timeline: Timeline) -> bool {
        let Some(known) = &self.known else { return false };
        // Whose number is known may still be another one.
        let is_told_apart = known.fork.is_some() || known.timeline <= Timeline(1);
        timeline < known.timeline || timeline == known.timeline && is_told_apart
    }

    pub(super) fn status(&self, hosts: &[Endpoint]) -> UpstreamStatus {
        let each = hosts.iter().zip(&self.seen).zip(&self.unfit);
        let each = each.map(|((host, seen), unfit)| {
            HostStatus::new(host.to_string(), seen, unfit.as_ref().map(Unfit::to_string))
        });
        UpstreamStatus {
            current: self.place(hosts).map(|place| place.endpoint.to_string()),
            switches: self.switches,
            hosts: each.collect(),
        }
    }
}

impl Upstream {
    /// Watches the hosts until `stop`; nothing to do where the upstream does not move.
    pub(crate) async fn watch(self: Arc<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        if !self.is_moving() {
            stop.cancelled().await;
            return Ok(());
        }
        let mut group = Group::new(stop);
        for (host, endpoint) in self.hosts.iter().cloned().enumerate() {
            let upstream = Arc::clone(&self);
            group.spawn("host", |stop| async move {
                tokio::select! {
                    () = upstream.watch_host(host, &endpoint) => {}
                    () = stop.cancelled() => {}
                }
                Ok(())
            });
        }
        group.finish(DRAIN_TIMEOUT).await
    }

    async fn watch_host(&self, host: usize, endpoint: &Endpoint) {
        let Some(moving) = &self.settings.moving else { return };
        let mut user = self.user.subscribe();
        loop {
            // The sender lives as long as the upstream: this cannot fail.
            let Ok(user) = user.wait_for(Option::is_some).await.map(|user| user.clone()) else {
                return;
            };
            let mut catalog =
                catalog_of(&self.settings, endpoint, user.as_deref().unwrap_or_default());
            // The host itself is asked, wherever names come from.
            catalog.endpoint = endpoint.clone();
            catalog.dial_timeout = PATIENCE;
            let saw = |facts| self.saw(moving, host, Seen::Facts(facts));
            let error = catalog.watch(moving.watch_interval, PATIENCE, &saw).await;
            let before = self.board().last_facts(host);
            self.saw(moving, host, seen_of(&error, before));
            tokio::time::sleep(moving.watch_interval).await;
        }
    }

    /// Takes note of what was seen of a host, and does what follows from it.
    fn saw(&self, moving: &Moving, host: usize, seen: Seen) {
        let mut board = self.board();
        let seen = board.with_learned(host, seen);
        let is_settled = board.current.as_ref().is_some_and(|current| current.is_open);
        let Some(slot) = board.seen.get_mut(host) else { return };
        if *slot == seen && is_settled {
            return;
        }
        *slot = seen;
        self.decide(moving, &mut board);
    }

    /// Does what follows from what was seen.
    fn decide(&self, moving: &Moving, board: &mut Board) {
        match self.judge(moving, board) {
            Some(chosen) => self.follow(board, chosen),
            None => self.follow_none(board),
        }
        // What was fit may have become old with that.
        self.judge(moving, board);
        self.changed.send_replace(());
    }

    fn judge(&self, moving: &Moving, board: &mut Board) -> Option<usize> {
        let current = board.current.as_ref().map(|current| current.host);
        let choice = choose(moving.target, board.known.as_ref(), current, &board.seen);
        self.tell(board, &choice.unfit);
        board.unfit = choice.unfit;
        choice.chosen
    }

    /// Whether a session may go on with the server that it has got, which said this of itself
    /// over the session's own connection: it may be newer than the last look.
    pub(crate) fn admit(&self, host: &Endpoint, facts: &Facts) -> Result<(), Unfit> {
        let Some(moving) = &self.settings.moving else { return Ok(()) };
        let mut board = self.board();
        board.learn(self.hosts.iter().position(|it| it == host), facts);
        let checked = check(moving.target, board.known.as_ref(), facts);
        if matches!(checked, Err(Unfit::OtherBranch { .. })) {
            // No look shows that: others would be led there too.
            self.decide(moving, &mut board);
        }
        checked?;
        let before = board.known.clone();
        self.know(&mut board, facts).map_err(|error| Unfit::Gone(error.to_string()))?;
        if board.known != before {
            // What was fit may have become old with that.
            self.decide(moving, &mut board);
        }
        Ok(())
    }

    /// Keeps which cluster and timeline clients are led to; on disk when this returns.
    fn know(&self, board: &mut Board, facts: &Facts) -> Result<(), LedgerError> {
        let system_identifier = facts.system_identifier.clone();
        let before = board.known.as_ref().filter(|known| known.timeline == facts.timeline);
        let fork = facts.past.as_ref().and_then(|past| past.last()).copied();
        let fork = fork.or_else(|| before.and_then(|known| known.fork));
        let known = Known { system_identifier, timeline: facts.timeline, fork };
        if board.known.as_ref() == Some(&known) {
            return Ok(());
        }
        if let Err(error) = self.kept.save(&known) {
            error!(code = %Code::UpstreamNotKept, %error, "no client is led to the upstream: its timeline cannot be kept");
            return Err(error);
        }
        board.known = Some(known);
        Ok(())
    }

    /// Leads clients to a host. Which cluster it is, is on disk before; that its timeline is a new one
    /// counts once a session has asked where it came from ([`Self::admit`]).
    fn follow(&self, board: &mut Board, host: usize) {
        let Some(facts) = board.last_facts(host) else { return };
        if board.known.is_none() && self.know(board, &facts).is_err() {
            return self.follow_none(board);
        }
        match &mut board.current {
            Some(current) if current.host == host => {
                if !current.is_open {
                    info!(host = %self.name(host), "the upstream is back");
                }
                current.is_open = true;
                return;
            }
            Some(current) => {
                info!(
                    from = %self.name(current.host),
                    to = %self.name(host),
                    role = facts.role.word(),
                    timeline = %facts.timeline,
                    "the upstream moved; its clients are led there",
                );
                current.moved.cancel();
                board.switches += 1;
            }
            None => info!(
                host = %self.name(host),
                role = facts.role.word(),
                timeline = %facts.timeline,
                "the upstream was found",
            ),
        }
        let moved = CancellationToken::new();
        board.current = Some(Current { host, is_open: true, moved });
    }

    /// No host fits: clients wait. Those at a host that is certainly wrong have to leave it.
    fn follow_none(&self, board: &mut Board) {
        let Some(current) = &mut board.current else { return };
        let unfit = board.unfit.get(current.host).and_then(Option::as_ref);
        let reason = unfit.map(Unfit::to_string).unwrap_or_default();
        if current.is_open {
            warn!(host = %self.name(current.host), reason, "no host of the upstream fits now");
        }
        current.is_open = false;
        if unfit.is_some_and(Unfit::is_certain) {
            current.moved.cancel();
            board.current = None;
        }
    }

    /// Tells of hosts that are not followed for another reason than before.
    fn tell(&self, board: &Board, unfit: &[Option<Unfit>]) {
        for (host, (before, now)) in board.unfit.iter().zip(unfit).enumerate() {
            if before == now {
                continue;
            }
            let host = self.name(host);
            match now {
                Some(reason @ Unfit::OtherCluster { .. }) => {
                    error!(code = %Code::OtherCluster, %host, %reason, "a host of the upstream is of another cluster: refused");
                }
                Some(reason @ Unfit::OldTimeline { .. }) => {
                    warn!(%host, %reason, "a host of the upstream stayed behind: not taken");
                }
                Some(reason @ Unfit::OtherBranch { .. }) => {
                    error!(code = %Code::OtherFork, %host, %reason, "a host of the upstream was promoted beside the one that clients were led to: refused");
                }
                Some(Unfit::NotYet) | None => {}
                Some(reason) => info!(%host, %reason, "a host of the upstream does not fit"),
            }
        }
    }

    fn name(&self, host: usize) -> String {
        self.hosts.get(host).map(Endpoint::to_string).unwrap_or_default()
    }
}

impl Board {
    /// What a look at a host does not tell, or tells late: what sessions have learned. A host that
    /// goes may come back as another one.
    fn with_learned(&mut self, host: usize, mut seen: Seen) -> Seen {
        let Some(slot) = self.learned.get_mut(host) else { return seen };
        match &mut seen {
            Seen::Facts(facts) | Seen::Refused { before: Some(facts), .. } => {
                match slot.as_ref().filter(|it| it.timeline >= facts.timeline) {
                    Some(Learned { timeline, past }) => {
                        facts.timeline = *timeline;
                        facts.past.clone_from(past);
                    }
                    None => facts.past = None,
                }
            }
            Seen::Gone { .. } => *slot = None,
            Seen::NotYet | Seen::Refused { before: None, .. } => {}
        }
        seen
    }

    /// Notes what a session has been told by its server.
    fn learn(&mut self, host: Option<usize>, told: &Facts) {
        let Some(host) = host else { return };
        let Some(slot) = self.learned.get_mut(host) else { return };
        if slot.as_ref().is_none_or(|it| it.timeline <= told.timeline) {
            *slot = Some(Learned { timeline: told.timeline, past: told.past.clone() });
        }
        let Some(seen) = self.seen.get(host).cloned() else { return };
        let seen = self.with_learned(host, seen);
        if let Some(slot) = self.seen.get_mut(host) {
            *slot = seen;
        }
    }

    pub(super) fn last_facts(&self, host: usize) -> Option<Facts> {
        match self.seen.get(host)? {
            Seen::Facts(facts) => Some(facts.clone()),
            Seen::Refused { before, .. } => before.clone(),
            Seen::NotYet | Seen::Gone { .. } => None,
        }
    }
}

/// What an error tells of the host.
fn seen_of(error: &NamesError, before: Option<Facts>) -> Seen {
    let reason = match error {
        NamesError::Dial(DialError::Refused { source, .. }) => {
            format!("cannot be reached: {source}")
        }
        NamesError::Dial(DialError::TimedOut { waited, .. }) => {
            format!("does not answer within {} s", waited.as_secs_f32())
        }
        NamesError::TimedOut => "does not answer any more".to_owned(),
        NamesError::Server { source, .. } => {
            // Class 57: it is starting, or stopping.
            let code = source.as_db_error().map(|it| it.code().code().to_owned());
            if code.is_some_and(|code| !code.starts_with("57")) {
                return Seen::Refused { reason: format!("does not tell: {error}"), before };
            }
            error.to_string()
        }
        other => return Seen::Refused { reason: format!("cannot be asked: {other}"), before },
    };
    Seen::Gone { reason }
}

#[cfg(test)]
mod tests {
    use pgtypes::Lsn;

    use super::super::choose::Role;
    use super::*;

    fn told(timeline: u32, past: &[(u32, u64)]) -> Facts {
        let past =
            past.iter().map(|(parent, at)| Past { timeline: Timeline(*parent), until: Lsn(*at) });
        Facts {
            role: Role::Standby,
            system_identifier: "7".into(),
            timeline: Timeline(timeline),
            past: Some(past.collect()),
        }
    }

    fn look(timeline: u32) -> Seen {
        Seen::Facts(Facts { past: None, ..told(timeline, &[]) })
    }

    #[test]
    fn a_look_does_not_take_back_what_a_session_was_told() {
        let mut board = Board::new(2, None);
        board.seen = vec![look(1), look(1)];
        board.learn(Some(0), &told(2, &[(1, 5)]));
        assert_eq!(board.seen, [Seen::Facts(told(2, &[(1, 5)])), look(1)]);
        // A role without privileges sees the old timeline of a standby for a while.
        assert_eq!(board.with_learned(0, look(1)), Seen::Facts(told(2, &[(1, 5)])));
        assert_eq!(board.with_learned(0, look(2)), Seen::Facts(told(2, &[(1, 5)])));
        assert_eq!(board.with_learned(0, look(3)), look(3), "nobody has asked where it came from");
        board.learn(Some(0), &told(1, &[]));
        assert_eq!(board.with_learned(0, look(2)), Seen::Facts(told(2, &[(1, 5)])), "it was late");
        let gone = Seen::Gone { reason: "away".into() };
        assert_eq!(board.with_learned(0, gone.clone()), gone);
        assert_eq!(board.with_learned(0, look(2)), look(2), "it may be another one now");
    }

    #[test]
    fn a_timeline_is_known_once_it_can_be_told_apart() {
        let known = |timeline, fork| {
            let timeline = Timeline(timeline);
            Board::new(1, Some(Known { system_identifier: "7".into(), timeline, fork }))
        };
        let fork = Some(Past { timeline: Timeline(1), until: Lsn(5) });
        for (board, knows) in [
            (known(1, None), [true, false, false]),
            (known(2, None), [true, false, false]),
            (known(2, fork), [true, true, false]),
            (Board::new(1, None), [false, false, false]),
        ] {
            assert_eq!([1, 2, 3].map(|it| board.knows(Timeline(it))), knows, "{:?}", board.known);
        }
    }
}
