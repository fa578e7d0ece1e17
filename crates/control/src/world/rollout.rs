//! A rollout in the world: which instance belongs to which release, and what each of them is for.
//!
//! An instance belongs to a release by the hash of its specification, nothing else: after a crash the
//! same follows from the store and from what shims answer. Invariant: a service whose specification is the
//! same in both releases takes no part in a rollout, except in one that ends everything before it.

use std::collections::BTreeSet;

use seaworthy_base::{InstanceId, ServiceName, SiteName};
use seaworthy_manifest::site::{Instances, Process, Service, ServiceKind};
use seaworthy_release::{Phase, Role, Side, Strategy, View};
use serde::{Deserialize, Serialize};

use super::{Applied, Instance, SiteState, World, processes};
use crate::specs::{self, Values};

/// A release on its way to take the place of another.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Rollout {
    /// The deployment it belongs to.
    pub deployment: u64,
    /// What is to be true at its end.
    pub next: Applied,
    /// How.
    pub strategy: Strategy,
    /// Where it is.
    pub phase: Phase,
    /// Names it in visitors' cookies.
    pub id: String,
    /// Leads to the new release before the switch.
    pub key: String,
    /// Old instances kept after their slot was switched.
    pub warm: u16,
    /// Whether everything ends before it, whatever is the same in both releases: the databases change.
    #[serde(default)]
    pub everything: bool,
    /// Values of the new release's secrets; found anew by the next control.
    #[serde(skip)]
    pub values: Values,
}

impl Rollout {
    /// Whether the two releases must not run at the same time.
    pub(crate) fn exclusive(&self) -> bool {
        self.strategy == Strategy::Recreate
    }

    /// Whether the new release's routes are those that serve.
    pub(crate) fn switched(&self) -> bool {
        self.phase == Phase::Switched
    }
}

impl SiteState {
    /// What serves: the new release from the switch on.
    pub(crate) fn serving(&self) -> &Applied {
        match &self.rollout {
            Some(rollout) if rollout.switched() => &rollout.next,
            _ => &self.applied,
        }
    }

    /// Values of the secrets of the release that serves: what it needs before the rollout is over, too.
    pub(crate) fn serving_values(&self) -> &Values {
        match &self.rollout {
            Some(rollout) if rollout.switched() => &rollout.values,
            _ => &self.values,
        }
    }

    /// Both releases of a rollout, the one that serves before the switch first.
    pub(crate) fn sides(&self) -> impl Iterator<Item = (Side, &Applied)> {
        let next = self.rollout.as_ref().map(|rollout| (Side::Next, &rollout.next));
        std::iter::once((Side::Now, &self.applied)).chain(next)
    }

    /// The programs of both releases.
    pub(crate) fn programs(&self) -> BTreeSet<&ServiceName> {
        self.sides().flat_map(|(_, side)| processes(&side.site).map(|(name, _)| name)).collect()
    }

    /// Whether a program takes part in the rollout: it differs between the two.
    pub(crate) fn changes(&self, service: &ServiceName) -> bool {
        self.rollout.as_ref().is_some_and(|rollout| {
            rollout.everything
                || self.applied.hashes.get(service) != rollout.next.hashes.get(service)
        })
    }

    /// The description that an instance with this hash runs by.
    pub(crate) fn described(
        &self,
        service: &ServiceName,
        hash: &str,
    ) -> Option<(Side, &Applied, &Service)> {
        let of = |side: &Applied| side.hashes.get(service).is_some_and(|known| known == hash);
        let (side, applied) = self
            .sides()
            .find(|(_, side)| of(side))
            .or_else(|| self.sides().find(|(_, side)| side.site.services.contains_key(service)))?;
        Some((side, applied, applied.site.services.get(service)?))
    }

    /// How many instances a program should have: what was said by hand, what the load asked for, or the
    /// manifest's number.
    pub(crate) fn count(&self, service: &ServiceName, process: &Process, cores: u16) -> u16 {
        let by_hand = self.scale.get(service).copied();
        let by_load = || match (process.instances, self.auto.get(service)) {
            (Instances::Auto(auto), Some(scale)) => scale.count().clamp(auto.min, auto.max),
            _ => specs::count(process, cores),
        };
        by_hand.unwrap_or_else(by_load)
    }

    fn count_on(&self, side: Side, service: &ServiceName, cores: u16) -> u16 {
        let applied = self.sides().find(|(which, _)| *which == side).map(|(_, applied)| applied);
        let found = applied.and_then(|applied| applied.site.services.get(service));
        match found.map(|service| &service.kind) {
            Some(ServiceKind::Process(process)) => self.count(service, process, cores),
            _ => 0,
        }
    }
}

impl World {
    /// A program in the middle of a rollout; none when it takes no part in one.
    pub(crate) fn view(&self, site: &SiteName, service: &ServiceName, cores: u16) -> Option<View> {
        let state = self.sites.get(site)?;
        let rollout = state.rollout.as_ref().filter(|_| state.changes(service))?;
        let next_hash = rollout.next.hashes.get(service);
        let now_hash = state.applied.hashes.get(service);
        let own: Vec<(&InstanceId, &Instance)> = self
            .instances
            .iter()
            .filter(|(id, one)| &id.site == site && &id.service == service && one.alive)
            .collect();
        let lives = |hash: Option<&String>| own.iter().any(|(_, one)| Some(&one.hash) == hash);
        let ready = |slot: u16| {
            own.iter().any(|(id, one)| {
                Some(&one.hash) == next_hash
                    && id.slot == slot
                    && one.draining.is_none()
                    && one.is_ready()
            })
        };
        let next = state.count_on(Side::Next, service, cores);
        Some(View {
            phase: rollout.phase,
            exclusive: rollout.exclusive(),
            now: state.count_on(Side::Now, service, cores),
            next,
            leading: (0..next).take_while(|slot| ready(*slot)).count() as u16,
            warm: rollout.warm,
            now_lives: lives(now_hash),
            next_lives: lives(next_hash),
        })
    }

    /// What an instance is for.
    pub(crate) fn role(&self, id: &InstanceId, hash: &str, cores: u16) -> Role {
        let Some(view) = self.view(&id.site, &id.service, cores) else { return Role::Serve };
        view.role(self.side(id, hash), id.slot)
    }

    /// To which release of a rollout an instance belongs; what belongs to neither counts as old.
    pub(crate) fn side(&self, id: &InstanceId, hash: &str) -> Side {
        let state = self.sites.get(&id.site);
        let next = state
            .and_then(|state| state.rollout.as_ref())
            .and_then(|rollout| rollout.next.hashes.get(&id.service).filter(|next| *next == hash));
        if next.is_some() { Side::Next } else { Side::Now }
    }
}
