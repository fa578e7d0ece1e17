//! The words of the control protocol.
//!
//! Every document that scripts may read carries `"v": 1`; fields are only ever added. Times are
//! RFC 3339 texts or milliseconds where the name ends in `_ms`, sizes are bytes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use seaworthy_base::Fault;
use serde::{Deserialize, Serialize};

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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeView {
    /// Its process; none while there is nothing to serve.
    pub pid: Option<u32>,
    /// Addresses of plain HTTP.
    pub http: Vec<SocketAddr>,
    /// Addresses of HTTPS.
    pub https: Vec<SocketAddr>,
    /// Open client connections.
    pub connections: u64,
    /// Requests answered.
    pub requests: u64,
    /// Of these, answered with 5xx by the edge itself.
    pub failed: u64,
    /// Open WebSockets and other upgraded connections.
    pub upgraded: u64,
    /// Older edges that finish what they had begun.
    pub draining: Vec<u32>,
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

/// `POST /v1/apply`: make a folder's manifest true.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyRequest {
    /// The project's folder (absolute).
    pub project: PathBuf,
    /// Only say what would change.
    #[serde(default)]
    pub plan_only: bool,
    /// How, where it is a deployment and no `up`.
    #[serde(default)]
    pub deploy: Option<DeployOptions>,
    /// Who asks, for the journal and for those who have to wait.
    #[serde(default)]
    pub asker: Asker,
}

/// Who asks for something.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asker {
    /// The person or key, such as `anna` or `anna via ssh from 10.0.0.7`.
    pub who: String,
    /// The process that asks.
    pub process: u32,
}

/// What a deployment differs in from an `up`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployOptions {
    /// Where the files are.
    pub source: Source,
    /// Another strategy than the manifest's.
    pub strategy: Option<String>,
    /// Whether the new release is watched; as the manifest says when absent.
    pub watch: Option<bool>,
    /// Whether it waits for `promote`; as the manifest says when absent.
    pub pause: Option<bool>,
    /// Refuse instead of waiting for another deployment of the site.
    pub no_wait: bool,
}

/// Where the files of a deployment are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// In the folder, as they are.
    #[default]
    Folder,
    /// In the folder's git repository, at this reference.
    Git(String),
    /// In a tar archive, which control removes afterwards.
    Tar(PathBuf),
}

/// `POST /v1/rollback`; the answer is as of `/v1/apply`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollbackRequest {
    /// Which site.
    pub site: String,
    /// To which release; to the one before when absent.
    pub to: Option<String>,
    /// Go back in the code although the database stays migrated.
    #[serde(default)]
    pub keep_schema: bool,
    /// Who asks.
    #[serde(default)]
    pub asker: Asker,
}

/// `POST /v1/order`: a word to a deployment that goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderRequest {
    /// Which site.
    pub site: String,
    /// `promote` or `abort`.
    pub word: String,
    /// Who asks.
    #[serde(default)]
    pub asker: Asker,
}

/// `POST /v1/releases`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleasesRequest {
    /// Which site.
    pub site: String,
}

/// A release of a site, `releases --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseView {
    /// Its id.
    pub id: String,
    /// When it was made.
    pub made: String,
    /// Whether it serves.
    pub live: bool,
    /// `building`, `migrated`, `live`, `failed`, `removed`.
    pub state: String,
    /// The release whose migrations the database has while this one serves.
    pub schema: Option<String>,
    /// Where its files came from.
    pub source: String,
    /// Why it failed.
    pub note: String,
}

/// A deployment of a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentView {
    /// Its number.
    pub number: u64,
    /// `up`, `deploy`, `rollback`.
    pub verb: String,
    /// The release.
    pub release: Option<String>,
    /// The release that served before.
    pub from: Option<String>,
    /// How.
    pub strategy: String,
    /// Who asked.
    pub who: String,
    /// When it began.
    pub began: String,
    /// `live`, `failed`, `taken back`, `aborted`, or the step that goes on.
    pub state: String,
    /// Milliseconds by step, in order; a step without an end has none.
    pub steps: Vec<(String, Option<u64>)>,
    /// What is to be known of a step, by its name.
    #[serde(default)]
    pub notes: Vec<(String, String)>,
    /// Why it did not go well.
    pub fault: Option<Fault>,
}

/// The answer to `POST /v1/releases`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Releases {
    /// Version of the document.
    pub v: u32,
    /// The site.
    pub site: String,
    /// Its releases, newest first.
    pub releases: Vec<ReleaseView>,
    /// Its deployments, newest first.
    pub deployments: Vec<DeploymentView>,
}

/// A deployment that goes on, in `status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RolloutView {
    /// Its number.
    pub deployment: u64,
    /// The release that is to serve.
    pub release: String,
    /// How.
    pub strategy: String,
    /// The step that goes on.
    pub step: String,
    /// Who asked.
    pub who: String,
    /// The share of visitors that get it, in per cent.
    pub share: Option<f64>,
    /// Where it can be looked at before the switch.
    pub preview: Option<String>,
}

/// One difference between what runs and what the folder says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// `add`, `change`, `remove` or `keep`.
    pub kind: ChangeKind,
    /// What it is about: `service web`, `routes`, `release`, `listeners`.
    pub subject: String,
    /// Why, or what of it.
    pub detail: String,
}

/// The kind of a [`Change`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// New.
    Add,
    /// Replaced, instance by instance.
    Change,
    /// Drained and stopped.
    Remove,
    /// Untouched.
    Keep,
}

/// One line of the answer to `POST /v1/apply`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Progress {
    /// A step begins.
    Step {
        /// What is done, in words.
        text: String,
    },
    /// A line that a build or migration printed.
    Output {
        /// The line.
        line: String,
    },
    /// Something that is not as it should be but does not stop the work.
    Warning {
        /// What.
        fault: Fault,
    },
    /// The end: it is done.
    Done(Applied),
    /// The end: it is not done, and what ran before still runs.
    Failed {
        /// Why.
        fault: Fault,
    },
}

/// What an apply came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Version of the document.
    pub v: u32,
    /// The site.
    pub site: String,
    /// Its release.
    pub release: Option<String>,
    /// Addresses for people.
    pub urls: Vec<String>,
    /// The certificate to trust, when our own authority signs.
    pub ca: Option<PathBuf>,
    /// What was different.
    pub changes: Vec<Change>,
    /// How it is to be done, or was.
    #[serde(default)]
    pub plan: Option<Plan>,
    /// Whether the site ran before.
    pub was_running: bool,
    /// Milliseconds that it took.
    pub took_ms: u64,
}

/// How a deployment is carried out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// `first start`, `nothing to replace`, or the strategy.
    pub how: String,
    /// Why it is not the strategy that was asked for.
    pub why: Option<String>,
    /// Migrations that run, by service.
    pub migrations: Vec<String>,
    /// What is known of a restore point before them.
    pub restore_point: Option<String>,
    /// Requests that are made before anybody is sent to it.
    pub smoke: Vec<String>,
    /// For how long it is watched, in milliseconds.
    pub watch_ms: u64,
    /// What going back would take.
    pub back: String,
    /// Whether requests have to wait while it is done.
    pub holds: bool,
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
