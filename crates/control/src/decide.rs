//! What to do next so that what runs becomes what is wanted: a pure decision, made again after every change.
//!
//! Invariants (property-tested): a ready instance is never taken away before its replacement is ready
//! or nobody wants the service any more; at most one instance of a service is being replaced at a time;
//! an instance is stopped only after the edge said that nothing is under way to it; a specification
//! that was rejected is not tried again. And by example: what was launched for something that is not wanted any
//! more replaces nothing that is. Not here: how any of it is done; `reconcile` performs it.

use seaworthy_base::{InstanceId, ServiceName, SiteName};
use seaworthy_release::{Side, View, Want};

/// A service as it should run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Its site.
    pub site: SiteName,
    /// Its name.
    pub service: ServiceName,
    /// What of it.
    pub how: How,
}

/// What of a service should run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum How {
    /// One specification; what runs another one is replaced, one instance after another.
    Steady {
        /// How many instances.
        count: u16,
        /// Hash of the specification that each of them should run.
        hash: String,
        /// Whether everything it starts after is ready.
        may_start: bool,
        /// A hash that failed and is not to be launched as a replacement.
        rejected: Option<String>,
    },
    /// One instance that shares its data with no other: the old one is gone before the new one starts.
    Alone {
        /// Hash of its specification.
        hash: String,
    },
    /// Two of them side by side, each by its hash and whether everything it starts after is ready.
    Rollout {
        /// Where the rollout is.
        view: View,
        /// The old one.
        now: Option<(String, bool)>,
        /// The new one.
        next: Option<(String, bool)>,
    },
}

/// An instance as it was last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Which one.
    pub id: InstanceId,
    /// Hash of what it runs.
    pub hash: String,
    /// Its shim lives.
    pub alive: bool,
    /// It may serve.
    pub ready: bool,
    /// It is being taken out of service.
    pub draining: bool,
    /// Every edge says that nothing is under way to it and nothing pooled (or its deadline passed).
    pub drained: bool,
    /// It was told to stop.
    pub stopping: bool,
    /// It asks to be replaced (memory).
    pub wants_replacement: bool,
    /// It had its time to become ready and did not.
    pub failed_start: bool,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start a new generation in this slot, with the specification of this hash.
    Launch(SiteName, ServiceName, u16, String),
    /// Take it out of rotation.
    Drain(InstanceId),
    /// End it.
    Stop(InstanceId),
    /// Its shim is gone: clean up after it.
    Forget(InstanceId),
    /// A replacement did not come up: give it up and keep what runs.
    Reject(InstanceId),
}

/// Decides for all services at once.
pub(crate) fn decide(wanted: &[Wanted], seen: &[Seen]) -> Vec<Action> {
    let mut actions = Vec::new();
    for instance in seen.iter().filter(|instance| !instance.alive) {
        actions.push(Action::Forget(instance.id.clone()));
    }
    for instance in seen.iter().filter(|instance| instance.alive) {
        if instance.draining {
            if instance.drained && !instance.stopping {
                actions.push(Action::Stop(instance.id.clone()));
            }
        } else if !wanted.iter().any(|service| service.decides(&instance.id)) {
            actions.push(Action::Drain(instance.id.clone()));
        }
    }
    for service in wanted {
        let own: Vec<&Seen> = seen
            .iter()
            .filter(|one| one.alive && !one.draining && service.decides(&one.id))
            .collect();
        match &service.how {
            How::Steady { count, hash, may_start, rejected } => {
                let steady = Steady {
                    count: *count,
                    hash,
                    may_start: *may_start,
                    rejected: rejected.as_deref(),
                };
                decide_steady(service, &steady, &own, &mut actions);
            }
            How::Alone { hash } => decide_alone(service, hash, seen, &mut actions),
            How::Rollout { view, now, next } => {
                for (side, hash) in [(Side::Now, now), (Side::Next, next)] {
                    if let Some((hash, may_start)) = hash {
                        let side = OneSide { view, side, hash, may_start: *may_start };
                        decide_side(service, &side, &own, &mut actions);
                    }
                }
                let known = |one: &&&Seen| {
                    [now, next].into_iter().flatten().any(|(hash, _)| *hash == one.hash)
                };
                let foreign = own.iter().filter(|one| !known(one));
                actions.extend(foreign.map(|one| Action::Drain(one.id.clone())));
            }
        }
    }
    actions
}

impl Wanted {
    fn decides(&self, id: &InstanceId) -> bool {
        self.site == id.site && self.service == id.service
    }

    fn launch(&self, slot: u16, hash: &str) -> Action {
        Action::Launch(self.site.clone(), self.service.clone(), slot, hash.to_owned())
    }
}

/// Until nothing of the old one is left, draining or not, nothing new starts.
fn decide_alone(service: &Wanted, hash: &str, seen: &[Seen], actions: &mut Vec<Action>) {
    let mut own = seen.iter().filter(|one| one.alive && service.decides(&one.id)).peekable();
    if own.peek().is_none() {
        actions.push(service.launch(0, hash));
    }
    let leaves = |one: &&Seen| !one.draining && (one.hash != hash || one.wants_replacement);
    actions.extend(own.filter(leaves).map(|one| Action::Drain(one.id.clone())));
}

/// The instances of a slot, the oldest first.
fn in_slot<'a>(own: &[&'a Seen], slot: u16) -> Vec<&'a Seen> {
    let mut all: Vec<&Seen> = own.iter().copied().filter(|one| one.id.slot == slot).collect();
    all.sort_by_key(|one| one.id.generation);
    all
}

/// [`How::Steady`], borrowed.
struct Steady<'a> {
    count: u16,
    hash: &'a str,
    may_start: bool,
    rejected: Option<&'a str>,
}

fn decide_steady(service: &Wanted, steady: &Steady<'_>, own: &[&Seen], actions: &mut Vec<Action>) {
    let surplus = own.iter().filter(|one| one.id.slot >= steady.count);
    actions.extend(surplus.map(|one| Action::Drain(one.id.clone())));
    let mut replacing = (0..steady.count).any(|slot| in_slot(own, slot).len() > 1);
    for slot in 0..steady.count {
        let instances = in_slot(own, slot);
        let Some(newest) = instances.last() else {
            if steady.may_start {
                actions.push(service.launch(slot, steady.hash));
            }
            continue;
        };
        let older = &instances[..instances.len() - 1];
        let serves = |one: &&Seen| one.ready && one.hash == steady.hash;
        if newest.hash != steady.hash && older.iter().any(serves) {
            // It was launched for something that is not wanted any more, such as a release that was given up meanwhile.
            actions.push(Action::Drain(newest.id.clone()));
        } else if !older.is_empty() && newest.failed_start && !newest.ready {
            actions.push(Action::Reject(newest.id.clone()));
        } else if !older.is_empty() && newest.ready {
            actions.extend(older.iter().map(|one| Action::Drain(one.id.clone())));
        } else if older.is_empty() && steady.replaces(newest) && !replacing {
            replacing = true;
            actions.push(service.launch(slot, steady.hash));
        }
    }
}

impl Steady<'_> {
    fn replaces(&self, newest: &Seen) -> bool {
        let outdated = newest.hash != self.hash && self.rejected != Some(self.hash);
        outdated || (newest.wants_replacement && newest.ready)
    }
}

/// One of the two releases of a rollout.
struct OneSide<'a> {
    view: &'a View,
    side: Side,
    hash: &'a str,
    may_start: bool,
}

fn decide_side(service: &Wanted, side: &OneSide<'_>, own: &[&Seen], actions: &mut Vec<Action>) {
    let own: Vec<&Seen> = own.iter().copied().filter(|one| one.hash == side.hash).collect();
    let most = own.iter().map(|one| one.id.slot + 1).max().unwrap_or(0);
    for slot in 0..most.max(side.view.now).max(side.view.next) {
        let instances = in_slot(&own, slot);
        match (side.view.want(side.side, slot), instances.last()) {
            (Want::Nothing, _) => {
                actions.extend(instances.iter().map(|one| Action::Drain(one.id.clone())));
            }
            (Want::Run, None) if side.may_start => actions.push(service.launch(slot, side.hash)),
            (_, Some(newest)) if newest.ready => {
                let older = &instances[..instances.len() - 1];
                actions.extend(older.iter().map(|one| Action::Drain(one.id.clone())));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
