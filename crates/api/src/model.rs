//! The words of the control protocol.
//!
//! Every document that scripts may read carries `"v": 1`; fields are only ever added. Times are
//! RFC 3339 texts or milliseconds where the name ends in `_ms`, sizes are bytes.

mod by_hand;
mod releases;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use seaworthy_base::Fault;
use serde::{Deserialize, Serialize};

pub use by_hand::*;
pub use releases::*;

/// Version of the documents.
pub const VERSION: u32 = 1;

/// Who answers: enough to notice an old control process or one of another folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Version of the protocol.
    pub v: u32,
    /// Build of control: version and commit.
    pub build: String,
    /// Its process.
    pub pid: u32,
    /// Boot id of the kernel it runs under.
    pub boot_id: String,
    /// The state folder it owns.
    pub state: PathBuf,
    /// The program that it runs.
    #[serde(default)]
    pub program: PathBuf,
    /// Names this process among all control processes that ever were.
    #[serde(default)]
    pub identity: String,
}

/// `GET /v1/status`, `status --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlatformStatus {
    /// Version of the document.
    pub v: u32,
    /// The control process.
    pub control: ControlStatus,
    /// The edge process.
    pub edge: EdgeView,
    /// Every site.
    pub sites: Vec<SiteStatus>,
    /// Deployments that go on and have not begun to replace anything.
    #[serde(default)]
    pub deployments: Vec<GoingOn>,
    /// Guards that this kernel or host cannot give, in words.
    pub guards: Vec<String>,
    /// What is wrong with the platform itself.
    pub faults: Vec<Fault>,
}

/// The control process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlStatus {
    /// Its process.
    pub pid: u32,
    /// Its build.
    pub build: String,
    /// How long it has been running.
    pub uptime_ms: u64,
    /// The state folder.
    pub state: PathBuf,
    /// The process that starts control again when it dies, where there is one.
    pub keeper: Option<u32>,
}

/// The edge process.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EdgeView {
    /// Its process; none while there is nothing to serve.
    pub pid: Option<u32>,
    /// Addresses of plain HTTP.
    pub http: Vec<SocketAddr>,
    /// Addresses of HTTPS.
    pub https: Vec<SocketAddr>,
    /// Addresses of HTTP/3 (UDP).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub http3: Vec<SocketAddr>,
    /// Open client connections.
    pub connections: u64,
    /// Requests answered.
    pub requests: u64,
    /// Of these, answered with 5xx by the edge itself.
    pub failed: u64,
    /// Open WebSockets and other upgraded connections.
    pub upgraded: u64,
    /// WebSockets and event streams that were ended with 1001 or `retry:`, since their instance or edge went.
    #[serde(default)]
    pub told: u64,
    /// Connections of addresses that held as many as one may.
    #[serde(default)]
    pub turned_away: u64,
    /// Handshakes that asked for a server name that is none.
    #[serde(default)]
    pub misnamed: u64,
    /// Connections that were ended early, since open files ran short.
    #[serde(default)]
    pub made_room: u64,
    /// Connections over HTTP/2 or HTTP/3 that were ended for a flood.
    #[serde(default)]
    pub flooded: u64,
    /// Older edges that finish what they had begun.
    pub draining: Vec<u32>,
    /// What browsers told (`@client-events`), by site and type.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub client_events: BTreeMap<String, BTreeMap<String, EventView>>,
}

/// What browsers told of one type.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EventView {
    /// Events.
    pub count: u64,
    /// Of these, with a value.
    pub valued: u64,
    /// The sum of the values.
    pub sum: f64,
    /// Values by size: entry `i` counts those below 2^i that no earlier one does.
    pub buckets: Vec<u64>,
}

/// One site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SiteStatus {
    /// Its name.
    pub name: String,
    /// Its folder.
    pub project: PathBuf,
    /// The release that is wanted.
    pub release: Option<String>,
    /// Whether it should run.
    pub running: bool,
    /// Addresses for people, the canonical one first.
    pub urls: Vec<String>,
    /// Its services.
    pub services: Vec<ServiceStatus>,
    /// What is wrong with the site as a whole.
    pub faults: Vec<Fault>,
    /// A deployment that goes on.
    #[serde(default)]
    pub rollout: Option<RolloutView>,
    /// `held` or `maintenance`, when it is closed by hand.
    #[serde(default)]
    pub closed: Option<String>,
    /// Ways on which it calls others.
    #[serde(default)]
    pub outgoing: Vec<CallView>,
}

/// A way on which a site calls somebody else's server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallView {
    /// Its name in the manifest.
    pub name: String,
    /// Whose server it is: an origin.
    pub to: String,
    /// Calls that were made since the edge began.
    pub calls: u64,
    /// Of these, answered with 5xx or not at all.
    pub errors: u64,
    /// Further tries.
    pub retries: u64,
    /// Calls that were refused here.
    pub refused: u64,
    /// Calls under way.
    pub active: u64,
    /// Calls that wait for their turn.
    pub waiting: u64,
    /// Milliseconds for which the circuit breaker stays open.
    pub open_ms: Option<u64>,
    /// Milliseconds for which the other side asked to be left alone.
    pub paused_ms: Option<u64>,
    /// Why the last call that failed did.
    pub last_error: Option<String>,
}

/// One service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// `process`, `static` or `upstreams`.
    pub kind: String,
    /// How many instances should run.
    pub wanted: u16,
    /// How many are ready.
    pub ready: u16,
    /// Why so many are wanted, where it is not the manifest's number: `by hand`, or what the load asked for.
    #[serde(default)]
    pub scale: Option<String>,
    /// The instances, old generations that still drain included.
    pub instances: Vec<InstanceView>,
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceView {
    /// `site/service/slot@generation`.
    pub id: String,
    /// `starting`, `ready`, `unready`, `backoff`, `stopping`, `stopped`, `draining` or `lost`.
    pub state: String,
    /// The program's process.
    pub pid: Option<u32>,
    /// The shim's process.
    pub shim_pid: Option<u32>,
    /// Where it listens, by port name.
    pub listening: BTreeMap<String, SocketAddr>,
    /// Milliseconds since its last start.
    pub uptime_ms: Option<u64>,
    /// Starts after the first.
    pub restarts: u32,
    /// Memory of its whole tree.
    pub memory: Option<u64>,
    /// CPU time of its whole tree.
    pub cpu_ms: Option<u64>,
    /// How it last ended, in words.
    pub last_exit: Option<String>,
    /// Log lines that could not be written.
    pub log_dropped: u64,
    /// Requests under way at the edge.
    pub in_flight: u64,
    /// What is wrong, with evidence and the next command.
    pub fault: Option<Fault>,
}

/// `POST /v1/down`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DownRequest {
    /// Which site; all of them, and the platform itself, when absent.
    pub site: Option<String>,
}

/// `POST /v1/restart`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartRequest {
    /// `site`, `site/service`, `site/service/slot`, or `edge`.
    pub target: String,
}

/// `GET /v1/limits`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsView {
    /// Version of the document.
    pub v: u32,
    /// Who is locked out.
    pub lockouts: Vec<LockoutView>,
}

/// Who is locked out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockoutView {
    /// The site.
    pub site: String,
    /// The rule, by the routes that it stands on.
    pub rule: String,
    /// An address or network, or `account` and a digest.
    pub what: String,
    /// Seconds that are left.
    pub left_seconds: u64,
}

/// `POST /v1/limits/clear`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClearRequest {
    /// Of this site only.
    pub site: Option<String>,
    /// An address, an account, or what the list shows; everything when absent.
    pub what: Option<String>,
}

/// `POST /v1/cache/purge`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PurgeRequest {
    /// Of this site.
    pub site: String,
    /// Path, or pattern with `*`; everything when absent.
    pub path: Option<String>,
}

/// What was cleared or purged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cleared {
    /// How many there were.
    pub count: u64,
}

/// `POST /v1/explain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExplainRequest {
    /// One request, by its id.
    Request(String),
    /// One instance, service or site: `site`, `site/service`, `site/service/slot`.
    Instance(String),
}

/// What can be said about a request or an instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// Version of the document.
    pub v: u32,
    /// What it is about.
    pub subject: String,
    /// The answer in one sentence.
    pub summary: String,
    /// Facts, name and value, in the order to show them.
    pub facts: Vec<(String, String)>,
    /// What was seen: events, log lines.
    pub evidence: Vec<String>,
    /// What to type next.
    pub next: Vec<String>,
}
