//! What control knows: the sites that are wanted and the instances that were seen.
//!
//! Invariant: everything here can be rebuilt from the state store and from what shims and edge answer;
//! nothing is decided here. One lock guards it, held for moments and never across an await.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use seaworthy_base::{Fault, InstanceId, ReleaseId, ServiceName, SiteName};
use seaworthy_edge::model::{EdgeStatus, Endpoints};
use seaworthy_manifest::site::{Process, ServiceKind, Site};
use seaworthy_runtime::model::{Phase, Status, User};
use serde::{Deserialize, Serialize};

use crate::decide::{Seen, Wanted};
use crate::edge_config;
use crate::specs::{self, Values};

/// A manifest that was made true, as the store keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Applied {
    /// The validated manifest.
    pub site: Site,
    /// The release its services run from.
    pub release: ReleaseId,
    /// Hash of each process service's specification, fixed when it was applied.
    pub hashes: BTreeMap<ServiceName, String>,
    /// Hash of the content of each service's folder.
    pub content: BTreeMap<ServiceName, String>,
}

/// A site.
#[derive(Debug)]
pub(crate) struct SiteState {
    /// Never reused.
    pub id: u64,
    /// Its folder.
    pub project: PathBuf,
    /// What it should be.
    pub applied: Applied,
    /// Whether it should run.
    pub running: bool,
    /// Hashes that failed to start, by service.
    pub rejected: BTreeMap<ServiceName, String>,
    /// What is wrong with the site as a whole.
    pub faults: Vec<Fault>,
    /// Values of its secrets.
    pub values: Values,
    /// Its system user, when we are root.
    pub user: Option<User>,
}

/// An instance.
#[derive(Debug)]
pub(crate) struct Instance {
    /// Hash of what it runs.
    pub hash: String,
    /// Its release.
    pub release: ReleaseId,
    /// Its run folder.
    pub run_dir: PathBuf,
    /// The last that its shim said.
    pub status: Option<Status>,
    /// Its shim lives.
    pub alive: bool,
    /// It is being taken out of service, since then.
    pub draining: Option<Instant>,
    /// The edge has nothing left to do with it.
    pub drained: bool,
    /// It was told to stop.
    pub stopping: bool,
    /// When we started or adopted it.
    pub since: Instant,
}

/// The last `up` of a site that was refused or taken back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Refused {
    /// Its folder.
    pub project: PathBuf,
    /// Why, with the command that tries again.
    pub fault: Fault,
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct World {
    /// Sites by name.
    pub sites: BTreeMap<SiteName, SiteState>,
    /// What was asked for and is not running; a site need not be among `sites` for it.
    pub refused: BTreeMap<SiteName, Refused>,
    /// What is wrong with the backups of each site, by what it is about.
    pub backups: BTreeMap<SiteName, BTreeMap<String, Fault>>,
    /// Instances.
    pub instances: BTreeMap<InstanceId, Instance>,
    /// The edge's last status.
    pub edge: EdgeStatus,
    /// Set while control ends.
    pub closing: bool,
    /// Counts passes of the reconciler, for those who wait for one.
    pub passes: u64,
}

impl World {
    /// The process services that should run, in the order of their sites.
    pub(crate) fn wanted(&self, cores: u16) -> Vec<Wanted> {
        let running = self.sites.iter().filter(|(_, site)| site.running && !self.closing);
        let services = running.flat_map(|(name, site)| {
            processes(&site.applied.site).map(move |(service, process)| Wanted {
                site: name.clone(),
                service: service.clone(),
                count: specs::count(process, cores),
                hash: site.applied.hashes.get(service).cloned().unwrap_or_default(),
                may_start: process.after.iter().all(|before| self.is_ready(name, before)),
                rejected: site.rejected.get(service).cloned(),
            })
        });
        services.collect()
    }

    /// What is wrong with a site as a whole, its last refused `up` included.
    pub(crate) fn site_faults(&self, name: &SiteName) -> Vec<Fault> {
        let own = self.sites.get(name).into_iter().flat_map(|site| &site.faults);
        let backups = self.backups.get(name).into_iter().flat_map(BTreeMap::values);
        own.chain(self.refused.get(name).map(|refused| &refused.fault))
            .chain(backups)
            .cloned()
            .collect()
    }

    /// Notes what is wrong with a site's backups, or that it no longer is.
    pub(crate) fn note_backup(&mut self, name: &SiteName, subject: &str, fault: Option<Fault>) {
        let known = self.backups.entry(name.clone()).or_default();
        match fault {
            Some(fault) => drop(known.insert(subject.to_owned(), fault)),
            None => drop(known.remove(subject)),
        }
    }

    /// Whether a service serves: a program with a ready instance, or anything that is none.
    fn is_ready(&self, site: &SiteName, service: &ServiceName) -> bool {
        let kind = self
            .sites
            .get(site)
            .and_then(|state| state.applied.site.services.get(service))
            .map(|service| &service.kind);
        !matches!(kind, Some(ServiceKind::Process(_)))
            || self
                .instances
                .iter()
                .any(|(id, one)| &id.site == site && &id.service == service && one.is_ready())
    }

    /// The instances as the decision sees them.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        let each = self.instances.iter().map(|(id, one)| Seen {
            id: id.clone(),
            hash: one.hash.clone(),
            alive: one.alive,
            ready: one.is_ready(),
            draining: one.draining.is_some(),
            drained: one.drained,
            stopping: one.stopping,
            wants_replacement: one.status.as_ref().is_some_and(|status| status.wants_replacement),
            failed_start: self.failed_start(id, one),
        });
        each.collect()
    }

    /// Whether an instance had its time to become ready and did not.
    pub(crate) fn failed_start(&self, id: &InstanceId, one: &Instance) -> bool {
        let start = self
            .sites
            .get(&id.site)
            .and_then(|site| site.applied.site.services.get(&id.service))
            .and_then(|service| match &service.kind {
                ServiceKind::Process(process) => Some(process.health.ready.start),
                _ => None,
            })
            .unwrap_or_default();
        let never_ready =
            one.status.as_ref().is_none_or(|status| !matches!(status.phase, Phase::Ready));
        let hopeless = one.status.as_ref().is_some_and(|status| {
            status.crash_loop
                || status.last_exit.as_ref().is_some_and(|exit| {
                    matches!(exit.reason, seaworthy_runtime::model::ExitReason::CouldNotExec(_))
                })
        });
        never_ready && (hopeless || one.since.elapsed() > start + std::time::Duration::from_secs(2))
    }

    /// The endpoints for the edge; version 0, to be set by who sends them.
    pub(crate) fn endpoints(&self) -> Endpoints {
        let mut all = BTreeMap::new();
        for (name, site) in self.sites.iter().filter(|(_, site)| site.running) {
            for (service, description) in &site.applied.site.services {
                match &description.kind {
                    ServiceKind::Upstreams(urls) => {
                        edge_config::add_upstreams(&mut all, name.as_str(), service.as_str(), urls);
                    }
                    ServiceKind::Process(_) => {
                        all.entry(edge_config::service_key(name.as_str(), service.as_str(), None))
                            .or_default();
                    }
                    ServiceKind::Static { .. } => {}
                }
            }
        }
        for (id, one) in self.instances.iter().filter(|(_, one)| one.alive) {
            let ports = self.port_names(id);
            if let Some(status) = &one.status {
                edge_config::add_instance(&mut all, status, &ports, one.draining.is_some());
            }
        }
        Endpoints { version: 0, services: all }
    }

    fn port_names(&self, id: &InstanceId) -> Vec<String> {
        let process =
            self.sites.get(&id.site).and_then(|site| site.applied.site.services.get(&id.service));
        match process.map(|service| &service.kind) {
            Some(ServiceKind::Process(process)) => match &process.port {
                seaworthy_manifest::site::PortUse::Environment(ports) => {
                    ports.iter().map(|(name, _)| name.clone()).collect()
                }
                seaworthy_manifest::site::PortUse::Fixed(_) => vec!["http".to_owned()],
            },
            _ => vec!["http".to_owned()],
        }
    }
}

impl Instance {
    /// Whether it may serve.
    pub(crate) fn is_ready(&self) -> bool {
        self.alive && self.status.as_ref().is_some_and(|status| status.phase == Phase::Ready)
    }
}

/// The process services of a manifest.
pub(crate) fn processes(site: &Site) -> impl Iterator<Item = (&ServiceName, &Process)> {
    site.services.iter().filter_map(|(name, service)| match &service.kind {
        ServiceKind::Process(process) => Some((name, &**process)),
        ServiceKind::Static { .. } | ServiceKind::Upstreams(_) => None,
    })
}
