//! `[deploy]`: how a release takes the place of another, and when it is taken back.

use std::collections::BTreeMap;
use std::time::Duration;

use seaworthy_base::ByteSize;
use serde::{Deserialize, Serialize};

use super::Command;

/// `[deploy]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Deploy {
    /// `strategy`.
    pub strategy: Strategy,
    /// `checks`: the project's own, run in the new code before anything else.
    pub checks: Vec<Command>,
    /// `smoke`: requests through the real listener that the new release must answer well.
    pub smoke: Vec<Smoke>,
    /// `timeout`: how long the new instances may take to pass the gate.
    pub timeout: Duration,
    /// `build_timeout`: how long each command may take that checks, builds or migrates.
    #[serde(default = "build_timeout")]
    pub build_timeout: Duration,
    /// `build_memory`: what the commands of a deployment may use together, in bytes.
    #[serde(default)]
    pub build_memory: Option<ByteSize>,
    /// `build_cpu`: the same, in thousandths of a core.
    #[serde(default)]
    pub build_cpu: Option<u32>,
    /// `watch`: for how long the new release is compared with the old one, and by what.
    pub watch: Watch,
    /// `sockets`: for how long WebSockets and event streams may go on with instances that were replaced.
    #[serde(default = "sockets")]
    pub sockets: Duration,
    /// `keep`: releases kept besides the one in use.
    pub keep: u16,
    /// `pause`: wait for `promote` or `abort` before the switch.
    pub pause: bool,
    /// `canary`: the shares, in the order in which they are tried.
    pub canary: Canary,
}

/// Long enough that clients do not come back all at once, short enough that a release is over soon.
fn sockets() -> Duration {
    Duration::from_secs(30)
}

/// Longer than any build that somebody waits for.
fn build_timeout() -> Duration {
    Duration::from_secs(30 * 60)
}

impl Default for Deploy {
    fn default() -> Self {
        Self {
            strategy: Strategy::Rolling,
            checks: Vec::new(),
            smoke: Vec::new(),
            timeout: Duration::from_secs(300),
            build_timeout: build_timeout(),
            build_memory: None,
            build_cpu: None,
            watch: Watch::default(),
            sockets: sockets(),
            keep: 5,
            pause: false,
            canary: Canary::default(),
        }
    }
}

/// `deploy.strategy`: how a release takes the place of another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Slot by slot; the first one is tried before anybody is sent to it.
    #[default]
    Rolling,
    /// All of the new one beside all of the old one, then everybody at once.
    BlueGreen,
    /// Like blue-green, but first a growing share of the visitors.
    Canary,
    /// The old one ends before the new one starts; requests wait meanwhile.
    Recreate,
}

impl Strategy {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Rolling, Self::BlueGreen, Self::Canary, Self::Recreate];

    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Self::Rolling => "rolling",
            Self::BlueGreen => "blue-green",
            Self::Canary => "canary",
            Self::Recreate => "recreate",
        }
    }

    /// The one that is written so.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|strategy| strategy.word() == word)
    }
}

/// One entry of `deploy.smoke`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Smoke {
    /// `get`: the path, with a query where there is one.
    pub path: String,
    /// `host`: one of the site's; the first by default.
    pub host: Option<String>,
    /// `status`: what counts as good; 200 to 299 when empty.
    pub status: Vec<u16>,
    /// `headers`: sent along.
    pub headers: BTreeMap<String, String>,
    /// `body`: text that must stand in the answer.
    pub body: Option<String>,
}

/// `deploy.watch`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Watch {
    /// `for`: how long; zero for not at all.
    pub period: Duration,
    /// `errors`: so many points more errors than before are a breach, in ten-thousandths.
    pub errors: u16,
    /// `p95`: a breach above this, whatever it was before.
    pub p95: Option<Duration>,
    /// `logs`: whether error lines in the logs count.
    pub logs: bool,
}

impl Default for Watch {
    /// Half a minute shows what fails at once, and does not make people wait so long that they turn it off.
    fn default() -> Self {
        Self { period: Duration::from_secs(30), errors: 1000, p95: None, logs: true }
    }
}

/// `deploy.canary`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// `steps`: shares in ten-thousandths.
    pub steps: Vec<u16>,
    /// `for`: how long each is watched.
    pub period: Duration,
}

impl Default for Canary {
    fn default() -> Self {
        Self { steps: vec![500, 2500, 5000], period: Duration::from_secs(60) }
    }
}
