//! Words about what is done by hand: gates, numbers, programs, jobs, the audit log, upgrades.

use std::path::PathBuf;

use seaworthy_base::Fault;
use serde::{Deserialize, Serialize};

use super::Asker;

/// `POST /v1/gate`: close a site by hand, or open it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateRequest {
    /// Which site.
    pub site: String,
    /// How.
    pub gate: GateWanted,
    /// Who asks.
    #[serde(default)]
    pub asker: Asker,
}

/// How a site is to be closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateWanted {
    /// Not at all.
    Open,
    /// Requests wait.
    Hold {
        /// At the longest so many milliseconds.
        for_ms: u64,
        /// So many at the same time.
        most: u32,
    },
    /// 503 with a page.
    Maintenance {
        /// The page, HTML; our own when absent.
        page: Option<String>,
        /// Seconds after which clients are told to come again.
        retry_after: u32,
        /// Networks that are served all the same.
        allow: Vec<String>,
    },
}

/// `POST /v1/scale`: another number of instances, by hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScaleRequest {
    /// `site/service`.
    pub target: String,
    /// How many; the manifest's number again when absent.
    pub count: Option<u16>,
    /// Who asks.
    #[serde(default)]
    pub asker: Asker,
}

/// `POST /v1/exec`: run a program in a service's environment and release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// `site/service`.
    pub target: String,
}

/// What a program needs to run as a service's own: only root and the platform's user get it, over the
/// control socket.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecGrant {
    /// Working folder.
    pub dir: PathBuf,
    /// The whole environment, secrets included.
    pub environment: Vec<(String, String)>,
    /// User and groups to become.
    pub user: Option<(u32, u32, Vec<u32>)>,
}

impl std::fmt::Debug for ExecGrant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExecGrant").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// `POST /v1/audit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRequest {
    /// The newest so many entries.
    pub limit: u32,
    /// A hash that was the newest once, kept elsewhere: it must be in the chain.
    #[serde(default)]
    pub since: Option<String>,
}

/// The answer to `POST /v1/audit`, `audit --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// Version of the document.
    pub v: u32,
    /// The entries, oldest first.
    pub entries: Vec<AuditLine>,
    /// How many there are in all, when the chain holds.
    pub verified: Option<u64>,
    /// The newest hash, to be kept elsewhere.
    pub head: Option<String>,
    /// Where and how the chain is broken.
    pub broken: Option<String>,
}

/// One entry of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditLine {
    /// Counts up without a gap.
    pub number: u64,
    /// When.
    pub at: String,
    /// Who asked.
    pub who: String,
    /// What was done.
    pub action: String,
    /// To what.
    pub subject: String,
    /// More of it.
    pub detail: String,
}

/// `POST /v1/jobs` (list) and `POST /v1/jobs/run`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRequest {
    /// Which site.
    pub site: String,
    /// Which job, to run one.
    #[serde(default)]
    pub job: String,
    /// Who asks.
    #[serde(default)]
    pub asker: Asker,
}

/// The answer to `POST /v1/jobs`, `job list --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jobs {
    /// Version of the document.
    pub v: u32,
    /// The site.
    pub site: String,
    /// Its jobs.
    pub jobs: Vec<JobView>,
}

/// One job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobView {
    /// Its name.
    pub name: String,
    /// When it runs, in words.
    pub when: String,
    /// When it runs next.
    pub next: Option<String>,
    /// When it last ran.
    pub last: Option<String>,
    /// How long that took.
    pub took_ms: Option<u64>,
    /// `running`, `ok`, `failed`, `never ran`.
    pub state: String,
    /// Where what it prints is kept.
    pub log: PathBuf,
    /// Why it failed.
    pub fault: Option<Fault>,
}

/// `POST /v1/upgrade`: become another program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeRequest {
    /// The new program (absolute).
    pub program: PathBuf,
    /// Who asks.
    #[serde(default)]
    pub asker: Asker,
}
