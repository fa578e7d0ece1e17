//! Words about releases: applying, deploying, going back, and what became of it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use seaworthy_base::Fault;
use serde::{Deserialize, Serialize};

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
    /// Bring the databases back too, to their backups from right before the first migration since.
    #[serde(default)]
    pub with_database: bool,
    /// A person was told what is lost by it, and said yes.
    #[serde(default)]
    pub confirmed: bool,
    /// Only say what would happen.
    #[serde(default)]
    pub plan_only: bool,
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
    /// The secrets that its programs were given, by name: where each is from, and its version where there is one.
    #[serde(default)]
    pub secrets: BTreeMap<String, String>,
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

/// A deployment that goes on and has not begun to replace anything, in `status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoingOn {
    /// The site.
    pub site: String,
    /// Its number.
    pub number: u64,
    /// `up`, `deploy` or `rollback`.
    pub verb: String,
    /// The step that goes on.
    pub step: String,
    /// For how many milliseconds.
    pub for_ms: u64,
    /// Who asked.
    pub who: String,
}

/// A deployment that replaces something, in `status`.
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
    pub plan: Option<Box<Plan>>,
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
    /// For about how many milliseconds: what the last start took; none where that is not known.
    #[serde(default)]
    pub hold_ms: Option<u64>,
    /// What a rollback does to the databases.
    #[serde(default)]
    pub data: Option<DataPlan>,
}

/// What a rollback does to the databases.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataPlan {
    /// The schema that they have now.
    pub from: String,
    /// The schema that they have afterwards.
    pub schema: String,
    /// The backups that they go back to; what was written later is lost.
    pub restored: Vec<RestoredItem>,
    /// Otherwise: the commands that take migrations back, by service.
    pub down: Vec<String>,
}

/// A database that goes back to a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredItem {
    /// Its name, such as `database.main`.
    pub item: String,
    /// The backup's id.
    pub backup: String,
    /// The moment that it holds (RFC 3339).
    pub at: String,
    /// Milliseconds since then: what was written in that time is lost.
    pub loses_ms: u64,
}
