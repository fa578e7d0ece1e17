//! What the edge tells of itself: connections, instances, breakers, lockouts, what browsers counted.
//!
//! Invariant: nothing of a person and no secret stands here. Not here: what it is told.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Who is locked out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockedOut {
    /// The site.
    pub site: String,
    /// The rule, by the routes that it stands on.
    pub rule: String,
    /// An address or network, or `account` and a digest.
    pub what: String,
    /// Seconds that are left.
    pub left: u64,
}

/// How the edge is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EdgeStatus {
    /// Version of the routes in use by every thread.
    pub config: u64,
    /// Version of the endpoints in use by every thread.
    pub endpoints: u64,
    /// Version of the keys in use by every thread.
    pub keys: u64,
    /// Open client connections.
    pub connections: u64,
    /// Requests answered since it started.
    pub requests: u64,
    /// Of these, answered with 5xx by the edge itself.
    pub failed: u64,
    /// Open upgraded connections (WebSockets).
    pub upgraded: u64,
    /// WebSockets and event streams that were ended with 1001 or `retry:` so far.
    #[serde(default)]
    pub told: u64,
    /// Connections of addresses that held too many.
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
    /// Circuit breakers that opened, or watch.
    #[serde(default)]
    pub breakers: Vec<BreakerState>,
    /// Ways on which applications call others.
    #[serde(default)]
    pub outgoing: Vec<CallState>,
    /// Where edges of several servers count together.
    #[serde(default)]
    pub stores: Vec<StoreState>,
    /// What browsers told, by site and type.
    #[serde(default)]
    pub client_events: BTreeMap<String, BTreeMap<String, EventCount>>,
    /// By instance: what is under way.
    pub instances: BTreeMap<String, InstanceLoad>,
    /// Whether it is draining.
    pub draining: bool,
}

/// What browsers told of one type.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EventCount {
    /// Events.
    pub count: u64,
    /// Of these, with a value.
    pub valued: u64,
    /// The sum of the values.
    pub sum: f64,
    /// Values by size: entry `i` counts those below 2^i that no earlier one does.
    pub buckets: Vec<u64>,
}

/// A circuit breaker of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerState {
    /// `site/service`.
    pub service: String,
    /// Milliseconds until it lets something through; none while it is closed.
    pub opens_in: Option<u64>,
    /// How often it has opened.
    pub trips: u64,
}

/// A Redis that edges of several servers count in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreState {
    /// `site/redis.X`.
    pub label: String,
    /// Why it is gone, if it is: then each edge counts for itself.
    pub gone: Option<String>,
    /// Questions that it did not answer.
    pub missed: u64,
}

/// A way on which an application calls somebody else's server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallState {
    /// The application's site.
    pub site: String,
    /// Its name in the manifest.
    pub name: String,
    /// Whose server it is: an origin.
    pub to: String,
    /// Calls that were made, further tries not counted.
    pub calls: u64,
    /// Of these, answered with 5xx or not at all.
    pub errors: u64,
    /// Further tries.
    pub retries: u64,
    /// Calls that the edge refused: they waited too long, too many waited, or the breaker was open.
    pub refused: u64,
    /// Calls under way.
    pub active: u64,
    /// Calls that wait for their turn.
    pub waiting: u64,
    /// Milliseconds until the breaker lets something through.
    pub open_for: Option<u64>,
    /// Milliseconds for which the other side asked to be left alone (`Retry-After`).
    pub paused_for: Option<u64>,
    /// Why the last call that failed did.
    pub last_error: Option<String>,
}

/// What goes on between the edge and one instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceLoad {
    /// Requests sent and not yet answered whole.
    pub in_flight: u64,
    /// Connections kept open for reuse.
    pub pooled: u64,
    /// WebSockets and other upgraded connections to it.
    #[serde(default)]
    pub tunnels: u64,
    /// Taken out of rotation by the edge itself, with the reason.
    pub out: Option<String>,
    /// Requests that it answered, or should have, since this edge knows it.
    #[serde(default)]
    pub answered: u64,
    /// Of these, answered with 5xx or not at all.
    #[serde(default)]
    pub errors: u64,
    /// Requests by the time to the head of the answer: entry `i` counts those below 2^i microseconds.
    #[serde(default)]
    pub times: Vec<u64>,
}
