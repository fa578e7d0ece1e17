//! What to do next so that what runs becomes what is wanted: a pure decision, made again after every change.
//!
//! Invariants (property-tested): a ready instance is never taken away before its replacement is ready
//! or nobody wants the service any more; at most one instance of a service is being replaced at a time;
//! an instance is stopped only after the edge said that nothing is under way to it; a specification
//! that was rejected is not tried again. Not here: how any of it is done; `reconcile` performs it.

use seaworthy_base::{InstanceId, ServiceName, SiteName};

/// A service as it should run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Its site.
    pub site: SiteName,
    /// Its name.
    pub service: ServiceName,
    /// How many instances.
    pub count: u16,
    /// Hash of the specification that each of them should run.
    pub hash: String,
    /// Whether everything it starts after is ready.
    pub may_start: bool,
    /// A hash that failed and is not to be launched as a replacement.
    pub rejected: Option<String>,
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
    /// Start a new generation in this slot.
    Launch(SiteName, ServiceName, u16),
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
        } else if !wanted.iter().any(|service| service.holds(&instance.id)) {
            actions.push(Action::Drain(instance.id.clone()));
        }
    }
    for service in wanted {
        decide_service(service, seen, &mut actions);
    }
    actions
}

impl Wanted {
    fn holds(&self, id: &InstanceId) -> bool {
        self.site == id.site && self.service == id.service && id.slot < self.count
    }
}

fn decide_service(service: &Wanted, seen: &[Seen], actions: &mut Vec<Action>) {
    let in_slot = |slot: u16| -> Vec<&Seen> {
        let mut all: Vec<&Seen> = seen
            .iter()
            .filter(|one| {
                one.alive && !one.draining && service.holds(&one.id) && one.id.slot == slot
            })
            .collect();
        all.sort_by_key(|one| one.id.generation);
        all
    };
    let mut replacing = (0..service.count).any(|slot| in_slot(slot).len() > 1);
    for slot in 0..service.count {
        let instances = in_slot(slot);
        let Some(newest) = instances.last() else {
            if service.may_start {
                actions.push(Action::Launch(service.site.clone(), service.service.clone(), slot));
            }
            continue;
        };
        let older = &instances[..instances.len() - 1];
        if !older.is_empty() && newest.failed_start && !newest.ready {
            actions.push(Action::Reject(newest.id.clone()));
        } else if !older.is_empty() && newest.ready {
            actions.extend(older.iter().map(|one| Action::Drain(one.id.clone())));
        } else if older.is_empty() && service.replaces(newest) && !replacing {
            replacing = true;
            actions.push(Action::Launch(service.site.clone(), service.service.clone(), slot));
        }
    }
}

impl Wanted {
    fn replaces(&self, newest: &Seen) -> bool {
        let outdated = newest.hash != self.hash && self.rejected.as_ref() != Some(&self.hash);
        outdated || (newest.wants_replacement && newest.ready)
    }
}

#[cfg(test)]
mod tests;
