//! Which host is followed: a decision about what the hosts said, without any I/O.

use std::fmt;

use config::Target;
use pgproto::history::Past;
use pgtypes::Timeline;

/// What a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It takes writes.
    Primary,
    /// It is in recovery.
    Standby,
}

impl Role {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Standby => "standby",
        }
    }
}

/// What a host says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Primary or standby.
    pub role: Role,
    /// Which cluster it is.
    pub system_identifier: String,
    /// Where its newest WAL is; a standby may tell one that it has left already.
    pub timeline: Timeline,
    /// What that timeline came out of, oldest first, once a session has asked.
    pub past: Option<Vec<Past>>,
}

/// What is known of the upstream, over restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) system_identifier: String,
    /// The newest timeline that clients were led to.
    pub(super) timeline: Timeline,
    /// Where it left its parent: tells it from another one of this number.
    pub(super) fork: Option<Past>,
}

/// The last that was seen of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Nobody has asked yet.
    NotYet,
    /// It answered.
    Facts(Facts),
    /// It is there and does not let the relay look; what it said before.
    Refused { reason: String, before: Option<Facts> },
    /// It cannot be reached, or it is starting or stopping.
    Gone { reason: String },
}

/// Why a host is not followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    NotYet,
    Gone(String),
    OtherCluster { known: String, found: String },
    OldTimeline { served: Timeline, found: Timeline },
    OtherBranch { timeline: Timeline, past: Vec<Past>, known: Timeline, fork: Option<Past> },
    Role(Role),
}

impl Unfit {
    /// Whether the host itself said so: then nobody may go on streaming from it.
    pub(super) const fn is_certain(&self) -> bool {
        !matches!(self, Self::NotYet | Self::Gone(_))
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotYet => f.write_str("has not been asked yet"),
            Self::Gone(reason) => f.write_str(reason),
            Self::OtherCluster { known, found } => {
                write!(f, "is cluster {found}, and the upstream is cluster {known}")
            }
            Self::OldTimeline { served, found } => write!(
                f,
                "is on timeline {found}, and clients were led to timeline {served} already"
            ),
            Self::OtherBranch { timeline, past, known, fork } => {
                write!(f, "is on timeline {timeline}")?;
                for past in past.iter().rev() {
                    write!(f, ", which left timeline {} at {}", past.timeline, past.until)?;
                }
                write!(f, "; clients were led to timeline {known}")?;
                match fork {
                    Some(fork) => {
                        write!(f, ", which left timeline {} at {}", fork.timeline, fork.until)
                    }
                    None => Ok(()),
                }
            }
            Self::Role(role) => write!(f, "is a {}", role.word()),
        }
    }
}

/// The decision, and why the others are not it.
pub(super) struct Choice {
    pub(super) chosen: Option<usize>,
    /// One for each host; nothing where it fits.
    pub(super) unfit: Vec<Option<Unfit>>,
}

/// Chooses among `seen`; `current` is the host that is followed now.
///
/// The newest timeline wins, then the wanted role, then the current host, then the first.
pub(super) fn choose(
    target: Target,
    known: Option<&Known>,
    current: Option<usize>,
    seen: &[Seen],
) -> Choice {
    let judge = |(host, seen): (usize, &Seen)| judge(target, known, current == Some(host), seen);
    let judged: Vec<_> = seen.iter().enumerate().map(judge).collect();
    let fits = judged.iter().enumerate().filter_map(|(host, it)| Some((host, it.as_ref().ok()?)));
    let best = fits.max_by_key(|(host, facts)| {
        let preferred = target != Target::PreferStandby || facts.role == Role::Standby;
        (facts.timeline, preferred, current == Some(*host), std::cmp::Reverse(*host))
    });
    // Before all have been asked nobody knows which of them is the newest.
    let is_early = current.is_none() && seen.contains(&Seen::NotYet);
    let chosen = best.map(|(host, _)| host).filter(|_| !is_early);
    Choice { chosen, unfit: judged.into_iter().map(Result::err).collect() }
}

/// What a host that fits said, or why it does not.
fn judge(
    target: Target,
    known: Option<&Known>,
    is_current: bool,
    seen: &Seen,
) -> Result<Facts, Unfit> {
    let facts = match seen {
        Seen::NotYet => return Err(Unfit::NotYet),
        Seen::Gone { reason } => return Err(Unfit::Gone(reason.clone())),
        Seen::Facts(facts) => facts,
        // Full, or the relay's own password is not right any more: it is what it was.
        Seen::Refused { before: Some(facts), .. } if is_current => facts,
        Seen::Refused { reason, .. } => return Err(Unfit::Gone(reason.clone())),
    };
    check(target, known, facts).map(|()| facts.clone())
}

/// Whether a server that says this of itself may be followed.
pub(super) fn check(target: Target, known: Option<&Known>, facts: &Facts) -> Result<(), Unfit> {
    if let Some(known) = known {
        if known.system_identifier != facts.system_identifier {
            let known = known.system_identifier.clone();
            return Err(Unfit::OtherCluster { known, found: facts.system_identifier.clone() });
        }
        if facts.timeline < known.timeline {
            return Err(Unfit::OldTimeline { served: known.timeline, found: facts.timeline });
        }
        if let Some(past) = &facts.past
            && !comes_from(known, facts.timeline, past)
        {
            let (timeline, past) = (facts.timeline, past.clone());
            let (known, fork) = (known.timeline, known.fork);
            return Err(Unfit::OtherBranch { timeline, past, known, fork });
        }
    }
    match (target, facts.role) {
        (Target::Primary, Role::Standby) | (Target::Standby, Role::Primary) => {
            Err(Unfit::Role(facts.role))
        }
        _ => Ok(()),
    }
}

/// Whether a timeline that came out of `past` is the known one, or came out of that.
fn comes_from(known: &Known, timeline: Timeline, past: &[Past]) -> bool {
    let leads_there =
        timeline == known.timeline || past.iter().any(|it| it.timeline == known.timeline);
    leads_there && known.fork.is_none_or(|fork| past.contains(&fork))
}

#[cfg(test)]
mod tests {
    use pgtypes::Lsn;

    use super::*;

    fn facts(role: Role, system: &str, timeline: u32) -> Seen {
        let timeline = Timeline(timeline);
        Seen::Facts(Facts { role, system_identifier: system.to_owned(), timeline, past: None })
    }

    fn primary(timeline: u32) -> Seen {
        facts(Role::Primary, "7", timeline)
    }

    fn standby(timeline: u32) -> Seen {
        facts(Role::Standby, "7", timeline)
    }

    fn gone() -> Seen {
        Seen::Gone { reason: "nobody there".into() }
    }

    fn known(timeline: u32) -> Known {
        Known { system_identifier: "7".into(), timeline: Timeline(timeline), fork: None }
    }

    #[test]
    fn each_target_has_its_host() {
        use Target::{Any, PreferStandby, Primary, Standby};
        let known = known(1);
        for (target, current, seen, expected) in [
            (Primary, None, vec![standby(1), primary(1)], Some(1)),
            (Primary, None, vec![standby(1), gone()], None),
            (Standby, None, vec![primary(1), standby(1), standby(1)], Some(1)),
            (Standby, Some(2), vec![primary(1), standby(1), standby(1)], Some(2)),
            (Standby, None, vec![primary(1), gone()], None),
            (PreferStandby, Some(0), vec![primary(1), standby(1)], Some(1)),
            (PreferStandby, None, vec![primary(1), gone()], Some(0)),
            (Any, None, vec![gone(), standby(1), primary(1)], Some(1)),
            (Any, Some(2), vec![standby(1), standby(1), primary(1)], Some(2)),
            // The newest timeline wins over the current host.
            (Primary, Some(0), vec![primary(1), primary(2)], Some(1)),
            (Standby, Some(0), vec![standby(1), standby(2)], Some(1)),
            (PreferStandby, None, vec![standby(1), primary(2)], Some(1)),
        ] {
            let choice = choose(target, Some(&known), current, &seen);
            assert_eq!(choice.chosen, expected, "{target:?} {current:?} {seen:?}");
        }
    }

    #[test]
    fn an_old_timeline_and_another_cluster_are_never_taken() {
        let seen = [primary(1), facts(Role::Primary, "8", 9)];
        let choice = choose(Target::Any, Some(&known(2)), Some(0), &seen);
        assert_eq!(choice.chosen, None);
        let [Some(old), Some(other)] = choice.unfit.as_slice() else { panic!("one fits") };
        assert!(matches!(old, Unfit::OldTimeline { .. }) && old.is_certain());
        assert!(matches!(other, Unfit::OtherCluster { .. }) && other.is_certain());
        assert!(other.to_string().contains("cluster 8"), "{other}");
    }

    #[test]
    fn only_what_came_out_of_the_served_timeline_is_taken() {
        let past = |timeline, until| Past { timeline: Timeline(timeline), until: Lsn(until) };
        let promoted = |timeline, past: Option<Vec<Past>>| {
            let (role, system_identifier) = (Role::Primary, "7".to_owned());
            Seen::Facts(Facts { role, system_identifier, timeline: Timeline(timeline), past })
        };
        let served = Known { fork: Some(past(1, 10)), ..known(2) };
        let choose = |known, seen: &[Seen]| choose(Target::Primary, Some(known), Some(0), seen);
        let other = promoted(2, Some(vec![past(1, 9)]));
        let choice = choose(&served, &[other.clone(), promoted(2, Some(vec![past(1, 10)]))]);
        assert_eq!(choice.chosen, Some(1));
        let [Some(unfit), None] = choice.unfit.as_slice() else { panic!("{:?}", choice.unfit) };
        assert!(matches!(unfit, Unfit::OtherBranch { .. }) && unfit.is_certain());
        let text = unfit.to_string();
        assert!(text.contains("left timeline 1 at 0/9;") && text.contains("at 0/A"), "{text}");
        // Newer ones of the other branch, and of one that was left even before.
        for pasts in [vec![past(1, 9), past(2, 20)], vec![past(1, 10)], vec![]] {
            let seen = [promoted(3, Some(pasts.clone()))];
            assert_eq!(choose(&served, &seen).chosen, None, "{pasts:?}");
        }
        // Nobody has asked yet, or it is right.
        let good = vec![past(1, 10), past(2, 20)];
        for seen in [promoted(2, None), promoted(3, None), promoted(3, Some(good))] {
            assert_eq!(choose(&served, std::slice::from_ref(&seen)).chosen, Some(0), "{seen:?}");
        }
        // Clients were led to timeline 2 before anybody asked where it came from.
        assert_eq!(choose(&known(2), &[other]).chosen, Some(0));
    }

    #[test]
    fn nothing_is_chosen_before_all_were_asked_and_then_all_may_be() {
        let choose = |current, seen: &[Seen]| choose(Target::Primary, None, current, seen).chosen;
        assert_eq!(choose(None, &[primary(1), Seen::NotYet]), None);
        assert_eq!(choose(Some(0), &[primary(1), Seen::NotYet]), Some(0));
        assert_eq!(choose(None, &[primary(1), gone()]), Some(0));
    }

    #[test]
    fn the_current_host_may_keep_silent() {
        let before = Some(Facts {
            role: Role::Primary,
            system_identifier: "7".into(),
            timeline: Timeline(1),
            past: None,
        });
        let seen = [Seen::Refused { reason: "full".into(), before }];
        let chosen = |current| choose(Target::Primary, Some(&known(1)), current, &seen).chosen;
        assert_eq!(chosen(Some(0)), Some(0));
        assert_eq!(chosen(None), None);
    }
}
