//! What control knows: the sites that are wanted and the instances that were seen.
//!
//! Invariant: everything here can be rebuilt from the state store and from what shims and edge answer;
//! nothing is decided here. One lock guards it, held for moments and never across an await.

mod rollout;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use seaworthy_base::{Fault, InstanceId, ReleaseId, ServiceName, SiteName};
use seaworthy_edge::model::{EdgeStatus, Endpoint, Endpoints, Gate};
use seaworthy_manifest::site::{PortUse, Process, Service, ServiceKind, Site};
use seaworthy_runtime::model::{Phase, Status, User};
use seaworthy_runtime::scale::Scale;
use serde::{Deserialize, Serialize};

use seaworthy_release::{Phase as RolloutPhase, Role, Side};

use crate::databases::Servers;
use crate::decide::{How, Seen, Wanted};
use crate::edge_config;
use crate::names::Names;
use crate::outgoing::{self, Stores};
use crate::specs::Values;

pub(crate) use rollout::Rollout;

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
    /// A release on its way to take the place of what is applied.
    pub rollout: Option<Rollout>,
    /// Held or under maintenance, by hand.
    pub gate: Option<Gate>,
    /// Numbers of instances, by hand.
    pub scale: BTreeMap<ServiceName, u16>,
    /// Services that have as many instances as the load asks for.
    pub auto: BTreeMap<ServiceName, Scale>,
    /// Everything ended and is starting again: requests wait for it.
    pub coming: bool,
}

/// What is kept of a site beside its manifest.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct More {
    /// A release on its way.
    pub rollout: Option<Rollout>,
    /// Held or under maintenance.
    pub gate: Option<Gate>,
    /// Numbers of instances.
    pub scale: BTreeMap<ServiceName, u16>,
    /// Numbers of instances that the load asked for.
    #[serde(default)]
    pub auto: BTreeMap<ServiceName, u16>,
}

impl SiteState {
    /// What is kept of it beside its manifest, as text; its rollout in the phase that is given, if one is.
    pub(crate) fn more(&self, phase: Option<RolloutPhase>) -> String {
        let at = |rollout: Rollout| Rollout { phase: phase.unwrap_or(rollout.phase), ..rollout };
        let more = More {
            rollout: self.rollout.clone().map(at),
            gate: self.gate.clone(),
            scale: self.scale.clone(),
            auto: self.auto.iter().map(|(name, scale)| (name.clone(), scale.count())).collect(),
        };
        serde_json::to_string(&more).unwrap_or_default()
    }
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
    /// What is wrong beside the services of each site (backups, certificates), by what it is about.
    pub notes: BTreeMap<SiteName, BTreeMap<String, Fault>>,
    /// Servers of managed databases.
    pub servers: Servers,
    /// Instances.
    pub instances: BTreeMap<InstanceId, Instance>,
    /// Why what is wanted could not be published since control started; until it could no edge is started, which would know
    /// nothing.
    pub unpublished: Option<Fault>,
    /// Redis servers, by label, whose URLs could not be read when control started, and whose they are.
    pub unread_stores: BTreeMap<String, SiteName>,
    /// Redis servers that edges count in: by `site/redis.X` host and port, or the socket.
    pub stores: Stores,
    /// Addresses of servers that somebody else runs, that applications call, and of stores.
    pub names: Names,
    /// The edge's last status.
    pub edge: EdgeStatus,
    /// Set while control ends.
    pub closing: bool,
    /// Counts passes of the reconciler, for those who wait for one.
    pub passes: u64,
}

impl World {
    /// The manifests of all sites that run: of what serves, and of what is to take its place.
    pub(crate) fn running_sites(&self) -> impl Iterator<Item = &Site> {
        let running = self.sites.values().filter(|site| site.running);
        running.flat_map(|state| state.sides().map(|(_, side)| &side.site))
    }

    /// The process services that should run, in the order of their sites.
    pub(crate) fn wanted(&self, cores: u16) -> Vec<Wanted> {
        let running = self.sites.iter().filter(|(_, site)| site.running && !self.closing);
        let services = running.flat_map(|(name, site)| {
            let all = site.programs().into_iter();
            all.map(move |service| self.wanted_service(name, site, service, cores))
        });
        services.chain(self.wanted_servers()).collect()
    }

    /// The servers that should run: those of sites that run or are about to, and of those of which a program is left.
    fn wanted_servers(&self) -> impl Iterator<Item = Wanted> {
        let all = self.servers.iter().filter(|_| !self.closing);
        all.flat_map(move |(site, servers)| {
            let ends = self.sites.get(site).is_none_or(|state| !state.running);
            let needed = ends
                && self.instances.iter().any(|(id, one)| {
                    &id.site == site && one.alive && !servers.contains_key(&id.service)
                });
            let wanted = servers.iter().filter(move |(_, server)| server.wanted || needed);
            wanted.map(|(service, server)| Wanted {
                site: site.clone(),
                service: service.clone(),
                how: How::Alone { hash: server.hash.clone() },
            })
        })
    }

    /// Whether an instance of that specification of a server takes logins.
    pub(crate) fn serves(&self, site: &SiteName, service: &ServiceName) -> bool {
        let server = self.servers.get(site).and_then(|all| all.get(service));
        server.is_some_and(|server| {
            self.instances.iter().any(|(id, one)| {
                &id.site == site
                    && &id.service == service
                    && one.hash == server.hash
                    && one.draining.is_none()
                    && one.is_ready()
            })
        })
    }

    /// Whether an instance is a managed database's server.
    pub(crate) fn is_server(&self, id: &InstanceId) -> bool {
        self.servers.get(&id.site).is_some_and(|all| all.contains_key(&id.service))
    }

    /// Whether all servers of a site take logins.
    fn servers_are_ready(&self, site: &SiteName) -> bool {
        let all = self.servers.get(site).into_iter().flatten();
        all.filter(|(_, server)| server.wanted).all(|(service, _)| self.serves(site, service))
    }

    fn wanted_service(
        &self,
        name: &SiteName,
        site: &SiteState,
        service: &ServiceName,
        cores: u16,
    ) -> Wanted {
        let on = |side: Side| site.sides().find(|(which, _)| *which == side).map(|(_, one)| one);
        let process = |side: Side| {
            on(side).and_then(|one| processes(&one.site).find(|(known, _)| *known == service))
        };
        let hash = |side: Side| on(side).and_then(|one| one.hashes.get(service)).cloned();
        let servers = self.servers_are_ready(name);
        let may_start = |side: Side| {
            servers
                && process(side).is_some_and(|(_, process)| {
                    process.after.iter().all(|before| self.is_ready(name, before))
                })
        };
        let how = match self.view(name, service, cores) {
            Some(view) => How::Rollout {
                view,
                now: hash(Side::Now).map(|hash| (hash, may_start(Side::Now))),
                next: hash(Side::Next).map(|hash| (hash, may_start(Side::Next))),
            },
            None => How::Steady {
                // While both releases are there, nobody goes who serves one of them.
                count: [Side::Now, Side::Next]
                    .into_iter()
                    .filter_map(|side| Some(site.count(service, process(side)?.1, cores)))
                    .max()
                    .unwrap_or(0),
                hash: hash(Side::Now).unwrap_or_default(),
                may_start: may_start(Side::Now),
                rejected: site.rejected.get(service).cloned(),
            },
        };
        Wanted { site: name.clone(), service: service.clone(), how }
    }

    /// What is wrong with a site as a whole, its last refused `up` included.
    pub(crate) fn site_faults(&self, name: &SiteName) -> Vec<Fault> {
        let own = self.sites.get(name).into_iter().flat_map(|site| &site.faults);
        let notes = self.notes.get(name).into_iter().flat_map(BTreeMap::values);
        own.chain(self.refused.get(name).map(|refused| &refused.fault))
            .chain(notes)
            .cloned()
            .collect()
    }

    /// Notes what is wrong with a site beside its services, or that it no longer is.
    pub(crate) fn note(&mut self, name: &SiteName, subject: &str, fault: Option<Fault>) {
        let known = self.notes.entry(name.clone()).or_default();
        match fault {
            Some(fault) => drop(known.insert(subject.to_owned(), fault)),
            None => drop(known.remove(subject)),
        }
    }

    /// Whether a service serves: a program with a ready instance, or anything that is none.
    fn is_ready(&self, site: &SiteName, service: &ServiceName) -> bool {
        let state = self.sites.get(site);
        !state.is_some_and(|state| state.programs().contains(service))
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
            .described(id, one)
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
        never_ready && (hopeless || one.since.elapsed() > start + Duration::from_secs(2))
    }

    /// The description of what an instance runs.
    fn described(&self, id: &InstanceId, one: &Instance) -> Option<&Service> {
        let state = self.sites.get(&id.site)?;
        state.described(&id.service, &one.hash).map(|(_, _, service)| service)
    }

    /// The endpoints for the edge; version 0, to be set by who sends them.
    pub(crate) fn endpoints(&self, cores: u16) -> Endpoints {
        let mut all: BTreeMap<String, Vec<Endpoint>> = BTreeMap::new();
        outgoing::add_stores(&mut all, &self.stores, &self.names.known);
        for (name, site) in self.sites.iter().filter(|(_, site)| site.running) {
            for (_, applied) in site.sides() {
                outgoing::add_endpoints(&mut all, &applied.site, &self.names.known);
                for (service, description) in &applied.site.services {
                    let key = edge_config::service_key(name.as_str(), service.as_str(), None);
                    match &description.kind {
                        ServiceKind::Upstreams(urls) if !all.contains_key(&key) => {
                            edge_config::add_upstreams(
                                &mut all,
                                key,
                                urls,
                                description,
                                &self.names.known,
                            );
                        }
                        ServiceKind::Process(_) => drop(all.entry(key).or_default()),
                        _ => {}
                    }
                }
            }
        }
        for (id, one) in self.instances.iter().filter(|(id, one)| one.alive && !self.is_server(id))
        {
            let Some(status) = &one.status else { continue };
            let use_ = match self.role(id, &one.hash, cores) {
                _ if one.draining.is_some() => {
                    edge_config::Use::Ending(self.sockets_end(id, cores).as_millis() as u64)
                }
                Role::Serve => edge_config::Use::Serve,
                Role::Candidate => edge_config::Use::Candidate,
                Role::Standby => edge_config::Use::Over,
            };
            let http2 = self.described(id, one).is_some_and(|service| service.http2);
            let ports = self.port_names(id, one);
            let late = self.failed_start(id, one);
            edge_config::add_instance(&mut all, status, (&ports, http2, late), use_);
        }
        self.let_requests_wait(&mut all, cores);
        self.stand_in(&mut all);
        Endpoints { version: 0, services: all }
    }

    /// How long WebSockets and event streams on an instance that drains may go on. A site that goes down ends
    /// them at once, and so does a release that another one has to wait for.
    pub(crate) fn sockets_end(&self, id: &InstanceId, cores: u16) -> Duration {
        let exclusive = self.view(&id.site, &id.service, cores).is_some_and(|view| view.exclusive);
        match self.sites.get(&id.site) {
            Some(site) if site.running && !exclusive => site.serving().site.deploy.sockets,
            _ => Duration::ZERO,
        }
    }

    /// Between the end of an old release and the start of a new one requests wait for an instance.
    fn let_requests_wait(&self, all: &mut BTreeMap<String, Vec<Endpoint>>, cores: u16) {
        for (name, site) in self.sites.iter().filter(|(_, site)| site.running) {
            for service in site.programs() {
                let exclusive = self.view(name, service, cores).is_some_and(|view| view.exclusive);
                let between = exclusive || site.coming;
                let key = edge_config::service_key(name.as_str(), service.as_str(), None);
                if let (true, Some(endpoints)) = (between, all.get_mut(&key)) {
                    endpoints.push(edge_config::expected(name.as_str(), service.as_str()));
                }
            }
        }
    }

    /// Routes and endpoints reach the edge one after the other: whoever is still sent to a release that is
    /// tried, when nothing of it serves (any more), gets what everybody gets.
    fn stand_in(&self, all: &mut BTreeMap<String, Vec<Endpoint>>) {
        for (name, site) in self.sites.iter().filter(|(_, site)| site.running) {
            let trying = |rollout: &Rollout| matches!(rollout.phase, RolloutPhase::Start { .. });
            if site.rollout.as_ref().is_none_or(trying) {
                continue;
            }
            for service in site.programs().into_iter().filter(|service| site.changes(service)) {
                edge_config::stand_in(all, name.as_str(), service.as_str());
            }
        }
    }

    fn port_names(&self, id: &InstanceId, one: &Instance) -> Vec<String> {
        match self.described(id, one).map(|service| &service.kind) {
            Some(ServiceKind::Process(process)) => match &process.port {
                PortUse::Environment(ports) => ports.iter().map(|(name, _)| name.clone()).collect(),
                PortUse::Fixed(_) | PortUse::Socket(_) => vec!["http".to_owned()],
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
