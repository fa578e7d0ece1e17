//! What all threads share: counters, the instances' load, and the snapshot they serve from.
//!
//! A snapshot is immutable and swapped whole; instances keep their counters across snapshots, because
//! what is in flight does not end with a change of the configuration.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashMap;

use crate::EdgeOptions;
use crate::access_log::AccessLog;
use crate::cache::Cache;
use crate::challenge::Tokens;
use crate::counter::Counter;
use crate::ending::Ending;
use crate::model::{Config, EdgeStatus, EndpointState, Endpoints, InstanceLoad};
use crate::policy::auth::Passwords;
use crate::policy::limit::Buckets;
use crate::policy::lockout::Lockouts;
use crate::route::{RouteError, Table};
use crate::seats::Seats;
use crate::tls::{Resolver, Settings};
use crate::upstream::{Budget, Spill};

/// Counters of times: the last one is for everything from two minutes on.
const TIMES: usize = 28;

/// One place to send requests to.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) name: Arc<str>,
    pub(crate) address: SocketAddr,
    pub(crate) load: Arc<Load>,
}

/// What goes on with it, over all threads and snapshots.
#[derive(Debug, Default)]
pub(crate) struct Load {
    pub(crate) in_flight: Counter,
    pub(crate) pooled: Counter,
    /// WebSockets and other upgraded connections.
    pub(crate) tunnels: Counter,
    /// Taken out by the edge itself: it refused a connection.
    pub(crate) out: AtomicBool,
    /// Draining or gone: its pooled connections are to be closed.
    pub(crate) retired: AtomicBool,
    /// Whether what lives long on it has to end.
    pub(crate) ending: Ending,
    errors: AtomicU64,
    times: [AtomicU64; TIMES],
}

impl Load {
    /// Counts an answer, or that none came; so many microseconds after the request was sent.
    pub(crate) fn count(&self, failed: bool, micros: u64) {
        if failed {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        if let Some(times) = self.times.get(bucket.min(TIMES - 1)) {
            times.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The instances of one service.
#[derive(Debug, Default)]
pub(crate) struct Service {
    pub(crate) ready: Vec<Arc<Instance>>,
    /// Others are being started: requests may wait for them.
    pub(crate) starting: bool,
    pub(crate) budget: Budget,
}

/// What is served.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) table: Arc<Table>,
    pub(crate) services: Arc<FxHashMap<String, Arc<Service>>>,
}

/// What lives as long as the process.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) number: u32,
    pub(crate) resolver: Arc<Resolver>,
    pub(crate) challenges: Tokens,
    pub(crate) tls: Settings,
    pub(crate) log: AccessLog,
    /// Idle connections to instances that any thread may take.
    pub(crate) spill: Arc<Spill>,
    pub(crate) limits: Buckets,
    pub(crate) seats: Arc<Seats>,
    /// Connections of addresses that held too many.
    pub(crate) turned_away: AtomicU64,
    pub(crate) lockouts: Arc<Lockouts>,
    pub(crate) passwords: Passwords,
    pub(crate) cache: Arc<Cache>,
    pub(crate) connections: AtomicU64,
    pub(crate) requests: Counter,
    pub(crate) failed: AtomicU64,
    pub(crate) upgraded: AtomicU64,
    /// WebSockets and event streams that were told to come again.
    pub(crate) told: AtomicU64,
    /// Whether what lives long has to end with this process.
    pub(crate) ending: Ending,
    pub(crate) waiting: AtomicU32,
    pub(crate) draining: AtomicBool,
    pub(crate) versions: Mutex<(u64, u64, u64)>,
    current: Mutex<Arc<Snapshot>>,
    loads: Mutex<HashMap<(String, SocketAddr), Arc<Load>>>,
}

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
        Self {
            number: options.number,
            tls: Settings::new(Arc::clone(&resolver)),
            resolver,
            challenges: Tokens::default(),
            log: AccessLog::new(&options.log_dir, options.threads),
            spill: Arc::default(),
            limits: Buckets::new(),
            seats: Arc::default(),
            turned_away: AtomicU64::new(0),
            lockouts: Arc::new(Lockouts::open(&options.log_dir)),
            passwords: Passwords::default(),
            cache: Arc::new(Cache::new()),
            connections: AtomicU64::new(0),
            requests: Counter::default(),
            failed: AtomicU64::new(0),
            upgraded: AtomicU64::new(0),
            told: AtomicU64::new(0),
            ending: Ending::default(),
            waiting: AtomicU32::new(0),
            draining: AtomicBool::new(false),
            versions: Mutex::new((0, 0, 0)),
            current: Mutex::new(Arc::new(Snapshot::default())),
            loads: Mutex::new(HashMap::new()),
        }
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
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, snapshot: Snapshot) -> Arc<Snapshot> {
        let snapshot = Arc::new(snapshot);
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&snapshot);
        snapshot
    }

    /// A snapshot with these routes; nothing changes when they cannot be compiled.
    pub(crate) fn with_config(&self, config: &Config) -> Result<Arc<Snapshot>, RouteError> {
        let table = Arc::new(Table::build(config)?);
        Ok(self.replace(Snapshot { table, services: Arc::clone(&self.current().services) }))
    }

    /// A snapshot with these instances.
    pub(crate) fn with_endpoints(&self, endpoints: &Endpoints) -> Arc<Snapshot> {
        let mut loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        let mut services = FxHashMap::default();
        let mut living = Vec::new();
        for (key, list) in &endpoints.services {
            let mut service = Service::default();
            for endpoint in list {
                let place = (endpoint.instance.clone(), endpoint.address);
                match endpoint.state {
                    EndpointState::Ready => {
                        let load = Arc::clone(loads.entry(place.clone()).or_default());
                        load.retired.store(false, Ordering::Relaxed);
                        load.ending.take_back();
                        service.ready.push(Arc::new(Instance {
                            name: endpoint.instance.as_str().into(),
                            address: endpoint.address,
                            load,
                        }));
                        living.push(place);
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
        for (_, load) in loads.iter().filter(|(place, _)| !living.contains(place)) {
            load.retired.store(true, Ordering::Relaxed);
        }
        let idle = |load: &Load| {
            load.in_flight.get() == 0 && load.pooled.get() == 0 && load.tunnels.get() == 0
        };
        loads.retain(|place, load| living.contains(place) || !idle(load));
        drop(loads);
        self.replace(Snapshot {
            table: Arc::clone(&self.current().table),
            services: Arc::new(services),
        })
    }

    pub(crate) fn status(&self) -> EdgeStatus {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut instances: BTreeMap<String, InstanceLoad> = BTreeMap::new();
        for ((name, _), load) in self.loads.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let entry = instances.entry(name.clone()).or_default();
            entry.in_flight += load.in_flight.get();
            entry.pooled += load.pooled.get();
            entry.tunnels += load.tunnels.get();
            entry.errors += count(&load.errors);
            entry.times.resize(TIMES, 0);
            entry.times.iter_mut().zip(&load.times).for_each(|(sum, one)| *sum += count(one));
            entry.answered = entry.times.iter().sum();
            if load.out.load(Ordering::Relaxed) {
                entry.out = Some("it refused a connection".to_owned());
            }
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
            instances,
            draining: self.draining.load(Ordering::Relaxed),
        }
    }
}
