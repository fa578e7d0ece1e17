//! What all threads share: counters, the instances' load, and the snapshot they serve from.
//!
//! A snapshot is immutable and swapped whole, for all threads at the same moment; instances keep their counters
//! across snapshots, because what is in flight does not end with a change of the configuration.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::time::Instant;

use crate::EdgeOptions;
use crate::access_log::AccessLog;
use crate::cache::Cache;
use crate::challenge::Tokens;
use crate::client_events::ClientEvents;
use crate::counter::Counter;
use crate::ending::Ending;
use crate::gate::Held;
use crate::instance::{Address, Instance, Load, Service};
use crate::model::{Config, EdgeStatus, Endpoint, EndpointState, Endpoints, InstanceLoad};
use crate::outgoing::{self, Calls, Outlets};
use crate::policy::auth::Passwords;
use crate::policy::clock::monotonic_ms;
use crate::policy::keys::ident;
use crate::policy::limit::Buckets;
use crate::policy::lockout::Lockouts;
use crate::route::{self, RouteError};
use crate::seats::Seats;
use crate::store::Stores;
use crate::table::Table;
use crate::tls::{Resolver, Settings};
use crate::upstream::{Breakers, Spill, sticky};

/// By the key of their endpoints.
pub(crate) type Services = FxHashMap<String, Arc<Service>>;

/// What is served.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) table: Arc<route::Table>,
    pub(crate) services: Arc<Services>,
    /// By where applications come in that call others.
    pub(crate) outlets: Arc<Outlets>,
}

/// What lives as long as the process.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) number: u32,
    pub(crate) resolver: Arc<Resolver>,
    pub(crate) challenges: Tokens,
    /// Requests that wait at the gate of a site.
    pub(crate) held: Arc<Held>,
    pub(crate) tls: Arc<Settings>,
    /// Whether HTTP/3 is served, so that clients may be told.
    pub(crate) speaks_http3: AtomicBool,
    pub(crate) log: AccessLog,
    /// Idle connections to instances that any thread may take.
    pub(crate) spill: Arc<Spill>,
    /// What all edges count in.
    pub(crate) counts: Arc<Table>,
    pub(crate) limits: Buckets,
    /// Where edges of several servers count together.
    pub(crate) stores: Stores,
    pub(crate) seats: Arc<Seats>,
    /// Connections of addresses that held too many.
    pub(crate) turned_away: AtomicU64,
    /// Connections that were ended early, since descriptors ran short.
    pub(crate) made_room: AtomicU64,
    /// Connections that were ended for a flood of frames.
    pub(crate) flooded: AtomicU64,
    /// A descriptor from here on says that they do.
    scarce: AtomicI32,
    pub(crate) lockouts: Arc<Lockouts>,
    pub(crate) passwords: Passwords,
    pub(crate) cache: Arc<Cache>,
    pub(crate) client_events: ClientEvents,
    pub(crate) connections: AtomicU64,
    pub(crate) requests: Counter,
    pub(crate) failed: AtomicU64,
    pub(crate) upgraded: AtomicU64,
    /// WebSockets and event streams that were told to come again.
    pub(crate) told: AtomicU64,
    /// Whether what lives long has to end with this process.
    pub(crate) ending: Ending,
    pub(crate) draining: AtomicBool,
    pub(crate) versions: Mutex<(u64, u64, u64)>,
    current: Mutex<Arc<Snapshot>>,
    /// How often it was swapped.
    swaps: Swaps,
    loads: Mutex<HashMap<(String, Address), Arc<Load>>>,
    /// Of routes and ways out that have one.
    pub(crate) breakers: Breakers,
    /// What is known of ways out over all snapshots.
    calls: Calls,
    signing: Mutex<sticky::Key>,
    epoch: Instant,
    /// When that was, on the clock that all edges share.
    epoch_ms: u64,
}

/// Threads look here before each request: a line of its own, which is written at swaps only.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Swaps(AtomicU64);

/// One of what a counter counts, also when its task panics.
#[derive(Debug)]
pub(crate) struct Counted {
    shared: Arc<Shared>,
    counter: fn(&Shared) -> &AtomicU64,
}

impl Counted {
    fn new(shared: &Arc<Shared>, counter: fn(&Shared) -> &AtomicU64) -> Self {
        counter(shared).fetch_add(1, Ordering::Relaxed);
        Self { shared: Arc::clone(shared), counter }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.counter)(&self.shared).fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    pub(crate) fn new(options: &EdgeOptions) -> Self {
        let resolver = Arc::new(Resolver::default());
        let counts = Arc::new(Table::default());
        Self {
            number: options.number,
            tls: Arc::new(Settings::new(Arc::clone(&resolver), Arc::clone(&counts))),
            speaks_http3: AtomicBool::new(false),
            resolver,
            challenges: Tokens::default(),
            held: Arc::default(),
            log: AccessLog::new(&options.log_dir, options.threads),
            spill: Arc::default(),
            limits: Buckets::new(Arc::clone(&counts)),
            stores: Stores::default(),
            seats: Arc::default(),
            turned_away: AtomicU64::new(0),
            made_room: AtomicU64::new(0),
            flooded: AtomicU64::new(0),
            scarce: AtomicI32::new(i32::MAX),
            lockouts: Arc::new(Lockouts::open(&options.log_dir, Arc::clone(&counts))),
            passwords: Passwords::default(),
            cache: Arc::new(Cache::new()),
            client_events: ClientEvents::default(),
            connections: AtomicU64::new(0),
            requests: Counter::default(),
            failed: AtomicU64::new(0),
            upgraded: AtomicU64::new(0),
            told: AtomicU64::new(0),
            ending: Ending::default(),
            draining: AtomicBool::new(false),
            versions: Mutex::new((0, 0, 0)),
            current: Mutex::new(Arc::new(Snapshot::default())),
            swaps: Swaps::default(),
            loads: Mutex::new(HashMap::new()),
            breakers: Breakers::new(Arc::clone(&counts)),
            calls: Calls::default(),
            counts,
            signing: Mutex::new(sticky::Key(rand::random())),
            epoch: Instant::now(),
            epoch_ms: monotonic_ms(),
        }
    }

    /// So many files may be open: what is kept for connections to instances, files and answers is a sixteenth.
    pub(crate) fn allow_open_files(&self, most: u64) {
        let kept = (most / 16).clamp(32, 4096);
        let scarce = i32::try_from(most.saturating_sub(kept)).unwrap_or(i32::MAX);
        self.scarce.store(scarce, Ordering::Relaxed);
    }

    /// Whether a descriptor that was just given out tells that few are left: it is the lowest that was free.
    pub(crate) fn is_scarce(&self, descriptor: i32) -> bool {
        descriptor >= self.scarce.load(Ordering::Relaxed)
    }

    /// Counts a connection that was switched to another protocol until the guard is dropped.
    pub(crate) fn open_tunnel(self: &Arc<Self>) -> Counted {
        Counted::new(self, |shared| &shared.upgraded)
    }

    /// Counts a client's connection until the guard is dropped.
    pub(crate) fn open_connection(self: &Arc<Self>) -> Counted {
        Counted::new(self, |shared| &shared.connections)
    }

    pub(crate) fn current(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot())
    }

    fn snapshot(&self) -> MutexGuard<'_, Arc<Snapshot>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often the snapshot was swapped.
    pub(crate) fn swaps(&self) -> u64 {
        self.swaps.0.load(Ordering::Acquire)
    }

    /// From here on every thread begins with this one.
    fn replace(&self, snapshot: Snapshot) {
        *self.snapshot() = Arc::new(snapshot);
        self.swaps.0.fetch_add(1, Ordering::Release);
    }

    /// What is made of routes, and of ways out.
    fn compiled(&self, config: &Config) -> Result<(Arc<route::Table>, Arc<Outlets>), RouteError> {
        let table = Arc::new(route::Table::build(config)?);
        let counted = (&self.breakers, &self.counts);
        let outlets = self.calls.build(config, &self.current().outlets, counted)?;
        Ok((table, Arc::new(outlets)))
    }

    /// Serves these routes; nothing changes when they cannot be compiled.
    pub(crate) fn with_config(&self, config: &Config) -> Result<(), RouteError> {
        let (table, outlets) = self.compiled(config)?;
        let services = Arc::clone(&self.current().services);
        self.replace(Snapshot { table, services, outlets });
        self.breakers.clean();
        Ok(())
    }

    /// Serves these routes from these instances; nothing changes when the routes cannot be compiled.
    pub(crate) fn with_both(
        &self,
        config: &Config,
        endpoints: &Endpoints,
    ) -> Result<(), RouteError> {
        let (table, outlets) = self.compiled(config)?;
        let services = self.services(endpoints);
        self.replace(Snapshot { table, services, outlets });
        self.breakers.clean();
        Ok(())
    }

    /// What cookies are signed with, and values hashed that all edges are to agree on.
    pub(crate) fn signing(&self) -> sticky::Key {
        *self.signing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the key that control gives to all edges.
    pub(crate) fn sign_with(&self, key: [u8; 16]) {
        *self.signing.lock().unwrap_or_else(PoisonError::into_inner) = sticky::Key(key);
    }

    /// For how long this edge has served.
    pub(crate) fn uptime(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// Milliseconds since the machine started, at a moment: the same for all edges.
    pub(crate) fn millis(&self, at: Instant) -> u64 {
        self.epoch_ms + at.saturating_duration_since(self.epoch).as_millis() as u64
    }

    /// Serves from these instances.
    pub(crate) fn with_endpoints(&self, endpoints: &Endpoints) {
        let services = self.services(endpoints);
        let before = self.current();
        let (table, outlets) = (Arc::clone(&before.table), Arc::clone(&before.outlets));
        self.replace(Snapshot { table, services, outlets });
    }

    /// The services with these instances, which are told that they are in use, or no longer.
    fn services(&self, endpoints: &Endpoints) -> Arc<Services> {
        let before = self.current();
        let now = self.millis(Instant::now());
        let mut loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        let mut services = FxHashMap::default();
        let mut living = HashSet::new();
        for (key, list) in &endpoints.services {
            let kept = before.services.get(key).map(|service| Arc::clone(&service.kept));
            let mut service = Service { kept: kept.unwrap_or_default(), ..Service::default() };
            for endpoint in list {
                let place = (endpoint.instance.clone(), address(endpoint));
                if let Some(why) = &endpoint.out {
                    service.missing.push((endpoint.instance.clone(), why.clone()));
                }
                match endpoint.state {
                    EndpointState::Ready => {
                        let load = loads.entry(place.clone()).or_insert_with(|| {
                            let load = Load::default();
                            load.retired.store(true, Ordering::Relaxed);
                            Arc::new(load)
                        });
                        load.ending.take_back();
                        if load.retired.swap(false, Ordering::Relaxed) {
                            load.health.begin(now);
                        }
                        service.ready.push(Arc::new(instance(key, endpoint, Arc::clone(load))));
                        living.insert(place);
                    }
                    EndpointState::Starting => service.starting = true,
                    EndpointState::Draining => {
                        let ending = endpoint.ends_ms.map(Duration::from_millis);
                        if let (Some(load), Some(within)) = (loads.get(&place), ending) {
                            load.ending.set(within);
                        }
                    }
                }
            }
            services.insert(key.clone(), Arc::new(service));
        }
        for (_, load) in loads.iter().filter(|(place, _)| !living.contains(*place)) {
            load.retired.store(true, Ordering::Relaxed);
        }
        loads.retain(|place, load| living.contains(place) || !load.is_idle());
        drop(loads);
        Arc::new(services)
    }

    /// Forgets what was counted: everything, open breakers too, or what belongs to an address, account or value. Of a
    /// whole site nothing is forgotten here: the table does not tell whose a key is.
    pub(crate) fn forget_counts(&self, site: Option<&str>, what: Option<&str>) {
        let Some(what) = what else {
            if site.is_none() {
                self.limits.clear();
                self.lockouts.forget_all();
                self.breakers.close();
            }
            return;
        };
        let snapshot = self.current();
        for (of, route) in snapshot.table.routes() {
            if site.is_some_and(|site| site != &*of.name) {
                continue;
            }
            route.policy.limits().iter().for_each(|limit| self.limits.forget(limit, what));
            let lockouts = &route.policy.lockouts;
            lockouts.iter().for_each(|lockout| self.lockouts.forget(lockout, what));
        }
    }

    pub(crate) fn status(&self) -> EdgeStatus {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut instances: BTreeMap<String, InstanceLoad> = BTreeMap::new();
        let now = self.millis(Instant::now());
        for ((name, _), load) in self.loads.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            load.tell(instances.entry(name.clone()).or_default(), now);
        }
        let (config, endpoints, keys) =
            *self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        EdgeStatus {
            config,
            endpoints,
            keys,
            connections: count(&self.connections),
            requests: self.requests.get(),
            failed: count(&self.failed),
            upgraded: count(&self.upgraded),
            told: count(&self.told),
            turned_away: count(&self.turned_away),
            misnamed: self.tls.misnamed(),
            made_room: count(&self.made_room),
            flooded: count(&self.flooded),
            instances,
            breakers: self.breakers.tell(now),
            stores: self.stores.tell(),
            outgoing: outgoing::tell(&self.current().outlets, now),
            client_events: self.client_events.tell(),
            draining: self.draining.load(Ordering::Relaxed),
        }
    }
}

fn address(endpoint: &Endpoint) -> Address {
    match &endpoint.socket {
        Some(path) => Address::Unix(path.clone()),
        None => Address::Tcp(endpoint.address),
    }
}

fn instance(service: &str, endpoint: &Endpoint, load: Arc<Load>) -> Instance {
    // A generation is another program in the same place.
    let place = endpoint.instance.split('@').next().unwrap_or_default();
    Instance {
        name: endpoint.instance.as_str().into(),
        address: address(endpoint),
        http2: endpoint.http2,
        proxy_header: endpoint.proxy_header,
        tag: ident(service, place),
        check: endpoint.check.clone().map(Arc::new),
        load,
    }
}
