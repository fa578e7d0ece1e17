//! What is written of a deployment while it goes on, and what follows from it after a crash.
//!
//! Every step is written before it begins and after it ended, so that whoever reads the journal later
//! knows what may have been done. Invariants: a deployment without an ending has an owner with a lease; one
//! whose owner is gone is resolved by [`resolve`], never left. Names of secrets may stand here, values never.

use std::collections::BTreeMap;

use seaworthy_base::{Fault, ReleaseId, SiteName, Timestamp};
use serde::{Deserialize, Serialize};

use crate::Strategy;
use crate::rollout::Phase;

/// What a deployment consists of, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The project's own checks.
    Check,
    /// The files come to their final place.
    Fetch,
    /// Build commands.
    Build,
    /// The databases' state before a migration.
    RestorePoint,
    /// Migrations, once.
    Migrate,
    /// The databases go back to an earlier schema, in a rollback.
    Restore,
    /// New instances start.
    Start,
    /// They are tried through the real listener.
    Gate,
    /// Somebody is to say whether it goes on.
    Pause,
    /// A share of the visitors, growing.
    Canary,
    /// The new release serves.
    Switch,
    /// It is compared with the old one, which is kept warm.
    Watch,
    /// The old instances finish and end.
    Drain,
    /// Old releases go.
    Keep,
    /// The old release serves again.
    GoBack,
}

impl Step {
    /// Every step, in order.
    pub const ALL: [Self; 15] = [
        Self::Check,
        Self::Fetch,
        Self::Build,
        Self::RestorePoint,
        Self::Migrate,
        Self::Restore,
        Self::Start,
        Self::Gate,
        Self::Pause,
        Self::Canary,
        Self::Switch,
        Self::Watch,
        Self::Drain,
        Self::Keep,
        Self::GoBack,
    ];

    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Fetch => "fetch",
            Self::Build => "build",
            Self::RestorePoint => "restore-point",
            Self::Migrate => "migrate",
            Self::Restore => "restore",
            Self::Start => "start",
            Self::Gate => "gate",
            Self::Pause => "pause",
            Self::Canary => "canary",
            Self::Switch => "switch",
            Self::Watch => "watch",
            Self::Drain => "drain",
            Self::Keep => "keep",
            Self::GoBack => "go-back",
        }
    }
}

/// One step of one deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Which.
    pub step: Step,
    /// When it began.
    pub began: Timestamp,
    /// When it ended; none while it goes on, or when its owner died in it.
    pub ended: Option<Timestamp>,
    /// What is to be known of it.
    #[serde(default)]
    pub note: String,
    /// How many milliseconds it took by a clock that nobody sets; none where its owner died in it.
    #[serde(default)]
    pub took_ms: Option<u64>,
}

impl StepRecord {
    /// How long it took, in milliseconds; none while it goes on.
    pub fn took(&self) -> Option<u64> {
        let ended = self.ended?;
        Some(self.took_ms.unwrap_or_else(|| ended.0.saturating_sub(self.began.0)))
    }
}

/// Who works on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The person or key that asked, such as `anna` or `anna via ssh from 10.0.0.7`.
    pub who: String,
    /// The process that asked; 0 when it was control itself.
    pub process: u32,
    /// The host's name.
    pub host: String,
    /// Names one control process among all that ever were.
    pub control: String,
}

/// A backup of one of the site's databases, made right before a migration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// What was backed up, such as `database.main`.
    pub item: String,
    /// The backup's id.
    pub set: String,
    /// The moment that it holds.
    pub at: Timestamp,
}

/// What a rollback does to the databases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataBack {
    /// The schema that they have afterwards.
    pub schema: String,
    /// How.
    pub way: Way,
    /// Releases whose migrations are undone, newest first.
    pub undone: Vec<ReleaseId>,
    /// Items that are back already, each with the backup of what was there before.
    #[serde(default)]
    pub done: Vec<(String, Option<String>)>,
}

/// How databases go back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// Each to a backup.
    Restore(Vec<Point>),
    /// By `migrate.down` of the releases whose migrations are undone.
    Down,
}

/// How a deployment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// The release serves.
    Live,
    /// It failed before the switch: nothing was changed.
    Failed,
    /// It served and was taken back.
    TakenBack,
    /// Somebody stopped it.
    Aborted,
}

impl Ending {
    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Failed => "failed",
            Self::TakenBack => "taken back",
            Self::Aborted => "aborted",
        }
    }
}

/// One attempt to make a release the one that serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// Given by the store; counts up and is never reused.
    pub number: u64,
    /// The site.
    pub site: SiteName,
    /// `up`, `deploy`, `rollback` or what else began it.
    pub verb: String,
    /// Where the files came from, in words.
    pub source: String,
    /// The release, as soon as there is one.
    pub release: Option<ReleaseId>,
    /// The release that served before.
    pub from: Option<ReleaseId>,
    /// How it takes its place.
    pub strategy: Strategy,
    /// Who works on it.
    pub owner: Owner,
    /// The owner says that it lives at least this often; later it is as good as dead.
    pub lease_until: Timestamp,
    /// When it began.
    pub began: Timestamp,
    /// The steps so far.
    pub steps: Vec<StepRecord>,
    /// How it ended; none while it goes on.
    pub ending: Option<Ending>,
    /// Why it did not go well.
    pub fault: Option<Fault>,
    /// Backups made right before its migration.
    #[serde(default)]
    pub points: Vec<Point>,
    /// What it does to the databases, where it is a rollback that does.
    #[serde(default)]
    pub data: Option<DataBack>,
    /// The secrets that its programs are given, by name: where each is from, and its version where there is one.
    #[serde(default)]
    pub secrets: BTreeMap<String, String>,
    /// What is to be made true, in control's own form, as soon as it is known: enough to do it again later.
    #[serde(default)]
    pub applied: String,
}

impl Deployment {
    /// The step that was begun and not ended.
    pub fn open_step(&self) -> Option<Step> {
        self.steps.last().filter(|last| last.ended.is_none()).map(|last| last.step)
    }

    /// Whether a step was begun.
    pub fn reached(&self, step: Step) -> bool {
        self.steps.iter().any(|one| one.step == step)
    }

    /// Writes the beginning of a step.
    pub fn begin(&mut self, step: Step, now: Timestamp) {
        self.steps.push(StepRecord {
            step,
            began: now,
            ended: None,
            note: String::new(),
            took_ms: None,
        });
    }

    /// Writes the end of the step that goes on.
    pub fn end(&mut self, now: Timestamp, note: &str) {
        if let Some(last) = self.steps.last_mut() {
            last.ended.get_or_insert(now);
            if !note.is_empty() {
                note.clone_into(&mut last.note);
            }
        }
    }

    /// Writes what the step that goes on took so far, in milliseconds.
    pub fn measure(&mut self, took_ms: u64) {
        if let Some(last) = self.steps.last_mut().filter(|last| last.ended.is_none()) {
            last.took_ms = Some(took_ms);
        }
    }

    /// How long a step took, in milliseconds.
    pub fn took_ms(&self, step: Step) -> Option<u64> {
        self.steps.iter().find(|one| one.step == step)?.took()
    }
}

/// What to do with a deployment whose owner is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// Nothing was switched: the old release goes on, the new one ends.
    GoBack,
    /// It waits for somebody's word, and can go on waiting.
    WaitOn,
    /// The new release serves: go on from the watch.
    GoOn,
    /// Databases were being brought back: bring them back, then go on.
    BringBack,
}

/// Decides for a deployment that was found without an ending. `phase` is the rollout's, where there is one.
pub fn resolve(deployment: &Deployment, phase: Option<Phase>) -> Resolution {
    match phase {
        Some(Phase::Switched) => Resolution::GoOn,
        // They may have been exchanged already: only forward is safe.
        Some(Phase::Stop) if deployment.data.is_some() && deployment.reached(Step::Restore) => {
            Resolution::BringBack
        }
        Some(Phase::Start { .. }) if deployment.open_step() == Some(Step::Pause) => {
            Resolution::WaitOn
        }
        _ => Resolution::GoBack,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn deployment() -> Deployment {
        Deployment {
            number: 1,
            site: "shop".parse().unwrap(),
            verb: "deploy".to_owned(),
            source: String::new(),
            release: None,
            from: None,
            strategy: Strategy::Rolling,
            owner: Owner {
                who: "anna".to_owned(),
                process: 1,
                host: "h".to_owned(),
                control: "c".to_owned(),
            },
            lease_until: Timestamp(1),
            began: Timestamp(0),
            steps: Vec::new(),
            ending: None,
            fault: None,
            points: Vec::new(),
            data: None,
            secrets: BTreeMap::new(),
            applied: String::new(),
        }
    }

    #[test]
    fn before_the_switch_a_dead_owners_work_is_undone_and_after_it_finished() {
        let mut one = deployment();
        one.begin(Step::Build, Timestamp(1));
        assert_eq!(resolve(&one, None), Resolution::GoBack);
        for phase in [Phase::Rolling, Phase::Stop, Phase::Back, Phase::Canary { share: 1 }] {
            assert_eq!(resolve(&one, Some(phase)), Resolution::GoBack);
        }
        assert_eq!(resolve(&one, Some(Phase::Switched)), Resolution::GoOn);
    }

    #[test]
    fn databases_that_may_have_been_brought_back_are_brought_back_whoever_dies() {
        let mut one = deployment();
        let schema = "s-a".to_owned();
        one.data = Some(DataBack { schema, way: Way::Down, undone: Vec::new(), done: Vec::new() });
        one.begin(Step::Start, Timestamp(1));
        assert_eq!(resolve(&one, Some(Phase::Stop)), Resolution::GoBack);
        one.begin(Step::Restore, Timestamp(2));
        assert_eq!(resolve(&one, Some(Phase::Stop)), Resolution::BringBack);
    }

    #[test]
    fn one_that_waits_for_a_word_goes_on_waiting() {
        let mut one = deployment();
        one.begin(Step::Pause, Timestamp(1));
        assert_eq!(resolve(&one, Some(Phase::Start { all: true })), Resolution::WaitOn);
        one.end(Timestamp(2), "promoted");
        assert_eq!(resolve(&one, Some(Phase::Start { all: true })), Resolution::GoBack);
        assert_eq!((one.open_step(), one.took_ms(Step::Pause)), (None, Some(1)));
        // Whatever a clock that was set says.
        one.begin(Step::Watch, Timestamp(9));
        one.measure(40);
        one.end(Timestamp(3), "");
        one.measure(70);
        assert_eq!(one.took_ms(Step::Watch), Some(40));
    }
}
