//! `[outgoing.X]`: how the application's calls to somebody else's server are made.
//!
//! Here for the reason that [`crate::policy`] is: the manifest says it and the edge does it. Not here: where the
//! application finds its way out, which control decides.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Rate;
use crate::delivery::Breaker;

/// Rules of one way out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outgoing {
    /// Its name.
    pub name: String,
    /// Whose server it is.
    pub to: Target,
    /// So many calls at once; as many as like when absent.
    pub concurrency: Option<u32>,
    /// So many calls begin within each stretch of time; as many as like when absent.
    pub rate: Option<Rate>,
    /// When the other side is left alone for a while.
    pub breaker: Option<Breaker>,
    /// Which calls are made again.
    pub retry: Again,
    /// What waits for its turn.
    pub hold: Wait,
    /// To connect, and for the handshake.
    pub connect: Duration,
    /// From the end of a call to the head of its answer.
    pub response: Duration,
    /// Between two pieces of a body, either way.
    pub idle: Duration,
    /// For a call and its whole answer, waiting and further tries included.
    pub total: Option<Duration>,
}

/// An origin (RFC 6454).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// `https`.
    pub tls: bool,
    /// Name or address, an IPv6 address in brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// What stands behind it in the application's address, without a slash at its end.
    pub path: String,
}

impl Target {
    /// Host, with its port where that is not the usual one.
    pub fn authority(&self) -> String {
        let usual = if self.tls { 443 } else { 80 };
        if self.port == usual { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }

    /// Scheme, host and port.
    pub fn origin(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}

/// `retry`: only of calls that may be made twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Again {
    /// Of one call, after the first time.
    pub times: u32,
    /// Statuses after which it is made again; no answer at all always is a reason.
    pub statuses: Vec<u16>,
}

impl Default for Again {
    /// What says of itself that it is only for now.
    fn default() -> Self {
        Self { times: 2, statuses: vec![429, 503] }
    }
}

/// `hold`: calls that wait for their turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// So many at once …
    pub calls: u32,
    /// … each for this long.
    pub age: Duration,
}

impl Default for Wait {
    fn default() -> Self {
        Self { calls: 1000, age: Duration::from_secs(30) }
    }
}
