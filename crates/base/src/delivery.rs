//! How a route's requests reach the instances of its service: which one is chosen, when one is left out,
//! how long it may take, and what waits while none is there.
//!
//! Here for the reason that [`crate::policy`] is: the manifest says it and the edge does it. Invariant: an
//! absent field of an older sender is the default. Not here: what is demanded of a request.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ByteSize;
use crate::policy::Key;

/// All of it, for one route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Delivery {
    /// Which instance gets a request.
    pub balance: Balance,
    /// A visitor stays with an instance.
    pub sticky: bool,
    /// When an instance that fails is left out; none: never for failing, only for refusing connections.
    pub passive: Option<Passive>,
    /// What is sent a second time.
    pub retry: Retry,
    /// When a service that fails is left alone for a while.
    pub breaker: Option<Breaker>,
    /// What waits while no instance is ready.
    pub hold: Hold,
    /// For an instance to take a piece of the request; as long as `timeout.idle` when not said.
    pub send: Option<Duration>,
    /// For the request and its answer together.
    pub total: Option<Duration>,
}

impl Default for Delivery {
    fn default() -> Self {
        Self {
            balance: Balance::default(),
            sticky: false,
            passive: Some(Passive::default()),
            retry: Retry::default(),
            breaker: None,
            hold: Hold::default(),
            send: None,
            total: None,
        }
    }
}

/// `balance`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// Of two random ones the one whose recent answers took less time, times what it has to do.
    #[default]
    P2c,
    /// The one with the fewest requests under way.
    LeastConn,
    /// One after the other.
    RoundRobin,
    /// Always the same one for the same value, as long as it is there.
    Hash(Key),
}

/// `passive`: a failure is an answer that did not come, was no HTTP, or was cut off before its head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passive {
    /// So many failures …
    pub failures: u32,
    /// … within this time …
    pub within: Duration,
    /// … and it is left out for this long.
    pub out: Duration,
}

impl Default for Passive {
    fn default() -> Self {
        Self { failures: 3, within: Duration::from_secs(10), out: Duration::from_secs(30) }
    }
}

/// `retry`: only of what may be sent twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// Of one request, after the first time.
    pub times: u32,
}

impl Default for Retry {
    fn default() -> Self {
        Self { times: 2 }
    }
}

/// `breaker`: an error is a 5xx or no answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Breaker {
    /// So many of a thousand answers are errors …
    pub errors: u16,
    /// … within this time …
    pub over: Duration,
    /// … of so many answers at least …
    pub min_requests: u32,
    /// … and nothing is sent for this long.
    pub open: Duration,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            errors: 500,
            over: Duration::from_secs(10),
            min_requests: 20,
            open: Duration::from_secs(30),
        }
    }
}

/// `hold`: what waits while no instance is ready and one is on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// So many requests of a service at once …
    pub requests: u32,
    /// … whose heads and bodies, as far as they were read, are so large together …
    pub bytes: ByteSize,
    /// … each for this long.
    pub age: Duration,
}

impl Default for Hold {
    fn default() -> Self {
        Self { requests: 1000, bytes: ByteSize(64 << 20), age: Duration::from_secs(30) }
    }
}
