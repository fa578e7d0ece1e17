//! How instances are asked whether they are well, and who is told how the site is.
//!
//! Not here: what is made of the answers, which is the shim's and the edge's.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `health`: when an instance may serve, and when it must be restarted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// Not ready: out of rotation.
    pub ready: Probe,
    /// Not live: restarted. Without one the TCP connect of `ready`'s numbers.
    pub live: Probe,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// GET this path; without one a TCP connection is enough.
    pub path: Option<String>,
    /// Statuses that count as well; 200 to 299 when empty.
    pub status: Vec<u16>,
    /// Values that the JSON answer must hold, by dotted path.
    pub json: BTreeMap<String, serde_json::Value>,
    /// Headers to send.
    pub headers: BTreeMap<String, String>,
    /// How often.
    pub every: Duration,
    /// How long one may take.
    pub timeout: Duration,
    /// How many in a row count as failed.
    pub failures: u32,
    /// How long a new instance may take before failures count.
    pub start: Duration,
}

impl Default for Probe {
    /// Six seconds and three failures: a stalled database call blocks real applications for five.
    fn default() -> Self {
        Self {
            path: None,
            status: Vec::new(),
            json: BTreeMap::new(),
            headers: BTreeMap::new(),
            every: Duration::from_secs(10),
            timeout: Duration::from_secs(6),
            failures: 3,
            start: Duration::from_secs(40),
        }
    }
}

/// `health.key`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthKey {
    /// The header, in lower case.
    pub header: String,
    /// The name of the secret that is its value.
    pub secret: String,
}
