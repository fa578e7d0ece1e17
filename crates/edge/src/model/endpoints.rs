//! Where the instances are: what changes with every start and stop.
//!
//! Invariant: an older edge reads what a newer control says, so that what was added has a default and means nothing new
//! to what was there. Not here: what the edge makes of them ([`crate::instance`]).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where the instances are. Sent whole, to every living edge.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// Grows with each change.
    pub version: u64,
    /// Instances by `site/service` or `site/service:port`.
    pub services: BTreeMap<String, Vec<Endpoint>>,
}

/// One place that a service can be reached at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// `site/service/slot@generation`, or the URL of an upstream that somebody else runs.
    pub instance: String,
    /// Its address; meaningless where it has a socket.
    pub address: SocketAddr,
    /// Its Unix socket.
    #[serde(default)]
    pub socket: Option<PathBuf>,
    /// It speaks HTTP/2 without TLS.
    #[serde(default)]
    pub http2: bool,
    /// Each connection to it begins with a PROXY header.
    #[serde(default)]
    pub proxy_header: bool,
    /// The edge asks it whether it is well.
    #[serde(default)]
    pub check: Option<Check>,
    /// Whether new requests go there.
    pub state: EndpointState,
    /// Draining: within so many milliseconds WebSockets and event streams on it are ended, spread over that
    /// time; they go on when absent.
    #[serde(default)]
    pub ends_ms: Option<u64>,
    /// It should take requests and does not: why. One that is given up stands here as draining.
    #[serde(default)]
    pub out: Option<String>,
}

impl Endpoint {
    /// One at an address, to which new requests go.
    pub fn ready(instance: String, address: SocketAddr) -> Self {
        Self {
            instance,
            address,
            socket: None,
            http2: false,
            proxy_header: false,
            check: None,
            state: EndpointState::Ready,
            ends_ms: None,
            out: None,
        }
    }
}

/// How an instance is asked whether it is well.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// GET this path; a connection is enough without one.
    pub path: Option<String>,
    /// Statuses that are good; 200 to 299 when empty.
    pub status: Vec<u16>,
    /// Values that the JSON answer must hold, by dotted path.
    pub json: BTreeMap<String, serde_json::Value>,
    /// Headers to send.
    pub headers: Vec<(String, String)>,
    /// Milliseconds between two.
    pub every_ms: u64,
    /// Milliseconds that one may take.
    pub timeout_ms: u64,
    /// So many failures in a row take it out.
    pub failures: u32,
}

/// Whether an endpoint takes requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointState {
    /// Takes requests.
    Ready,
    /// Is being started or not ready: requests wait for it when no other is ready.
    Starting,
    /// Takes no new requests; pooled connections to it are closed, those in flight finish.
    Draining,
}
