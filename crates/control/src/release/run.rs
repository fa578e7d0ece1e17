//! One deployment while it goes on: its journal, its heartbeat, and what is said to it.
//!
//! Invariants: a step is on the disk before it begins and after it ended, up to the moment from which there is no
//! way back any more; the lease is renewed as long as
//! the work lives, and no longer; a word that stops it is heard while anything is waited for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use seaworthy_base::{Code, Fault, ReleaseId, Timestamp};
use seaworthy_release::{Deployment, Ending, Owner, Point, Step};
use seaworthy_state::StateError;
use tokio::task::JoinHandle;

use crate::commands::bounds;
use crate::instances::store_fault;
use crate::platform::Platform;
use crate::release::Reporter;
use crate::release::turn::{Turn, Word};
use crate::world::Applied;

/// The lease is renewed this often…
const BEAT: Duration = Duration::from_secs(5);
/// …and is good for this long.
const LEASE: Duration = Duration::from_secs(30);

/// Between two tries of what has to be written.
const AGAIN: Duration = Duration::from_secs(1);

/// A deployment that goes on.
#[derive(Debug)]
pub(crate) struct Run {
    /// All that there is.
    pub platform: Arc<Platform>,
    /// Where progress goes.
    pub report: Reporter,
    turn: Turn,
    record: Arc<Mutex<Deployment>>,
    /// When the step that goes on began.
    step: Mutex<Instant>,
    beat: JoinHandle<()>,
}

/// Who works on a deployment: this control process for whoever asked.
pub(crate) fn owner(platform: &Platform, who: &str, process: u32) -> Owner {
    let host = rustix::system::uname();
    Owner {
        who: who.to_owned(),
        process,
        host: host.nodename().to_string_lossy().into_owned(),
        control: platform.identity.clone(),
    }
}

impl Run {
    /// Opens the journal of a new deployment. `record` has no number yet.
    pub(crate) fn open(
        platform: &Arc<Platform>,
        turn: Turn,
        record: Deployment,
        report: &Reporter,
    ) -> Result<Self, Fault> {
        let lease = lease();
        let write = |number: u64| {
            let numbered = Deployment { number, lease_until: lease, ..record.clone() };
            serde_json::to_string(&numbered).unwrap_or_default()
        };
        let number = platform
            .store()
            .add_deployment(&record.site, write)
            .map_err(|error| store_fault(&error))?;
        let record = Deployment { number, lease_until: lease, ..record };
        Ok(Self::with(platform, turn, record, report))
    }

    /// Goes on with a deployment that another control left; from now on it is ours.
    pub(crate) fn take_over(
        platform: &Arc<Platform>,
        turn: Turn,
        record: Deployment,
        report: &Reporter,
    ) -> Result<Self, Fault> {
        let Owner { who, process, .. } = record.owner.clone();
        let record = Deployment { owner: owner(platform, &who, process), ..record };
        let run = Self::with(platform, turn, record, report);
        run.write()?;
        Ok(run)
    }

    fn with(platform: &Arc<Platform>, turn: Turn, record: Deployment, report: &Reporter) -> Self {
        let record = Arc::new(Mutex::new(record));
        let beat = tokio::spawn(beat(Arc::clone(platform), Arc::clone(&record)));
        let step = Mutex::new(Instant::now());
        Self { platform: Arc::clone(platform), report: report.clone(), turn, record, step, beat }
    }

    /// The journal as it stands.
    pub(crate) fn record(&self) -> MutexGuard<'_, Deployment> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> Result<(), Fault> {
        put(&self.platform, &self.record()).map_err(|error| store_fault(&error))
    }

    /// Begins a step: first in the journal, then for who looks on.
    pub(crate) fn begin(&self, step: Step, text: impl Into<String>) -> Result<(), Fault> {
        self.record().begin(step, Timestamp::now());
        *self.step.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.write()?;
        self.platform.changed();
        crate::crash::point(&format!("{}:before", step.word()));
        self.report.step(text);
        Ok(())
    }

    /// Ends the step that goes on.
    pub(crate) fn end(&self, note: &str) -> Result<(), Fault> {
        let step = self.record().open_step();
        if let Some(step) = step {
            crate::crash::point(&format!("{}:done", step.word()));
            self.end_step(note);
            self.write()?;
            crate::crash::point(&format!("{}:after", step.word()));
        }
        Ok(())
    }

    fn end_step(&self, note: &str) {
        let began = *self.step.lock().unwrap_or_else(PoisonError::into_inner);
        let mut record = self.record();
        record.measure(began.elapsed().as_millis() as u64);
        record.end(Timestamp::now(), note);
    }

    /// Notes the release.
    pub(crate) fn releases(&self, release: ReleaseId) -> Result<(), Fault> {
        self.record().release = Some(release);
        self.write()
    }

    /// Notes what is to be made true.
    pub(crate) fn applies(&self, applied: &Applied) -> Result<(), Fault> {
        self.record().applied = serde_json::to_string(applied).unwrap_or_default();
        self.write()
    }

    /// Notes backups made right before the migration.
    pub(crate) fn points(&self, points: Vec<Point>) -> Result<(), Fault> {
        self.record().points = points;
        self.write()
    }

    /// Notes an item that is back, with the backup of what was there before.
    pub(crate) fn brought_back(&self, item: &str, safety: Option<String>) -> Result<(), Fault> {
        if let Some(data) = &mut self.record().data {
            data.done.push((item.to_owned(), safety));
        }
        self.write()
    }

    /// Closes the journal. A store that fails now is said and asked again until it takes it; should control end
    /// before, the next one finds the journal open and closes it.
    pub(crate) fn close(&self, ending: Ending, fault: Option<&Fault>, applied: &str) {
        self.end_step("");
        {
            let mut record = self.record();
            record.ending = Some(ending);
            record.fault = fault.cloned();
            if !applied.is_empty() {
                applied.clone_into(&mut record.applied);
            }
        }
        let record = self.record().clone();
        until_written(&self.platform, "the end of a deployment", move |platform| {
            put(platform, &record).map_err(|error| store_fault(&error))
        });
        crate::crash::point("closed");
    }

    /// Ends whatever commands of it left running: none of them outlives a deployment.
    pub(crate) async fn sweep(&self) {
        let name = {
            let record = self.record();
            bounds::of_deployment(&record.site, record.number)
        };
        bounds::sweep(&self.platform, name).await;
    }

    /// Waits for some work, unless somebody stops the deployment.
    pub(crate) async fn unless_stopped<T>(
        &self,
        work: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        tokio::select! {
            done = work => done,
            by = self.stopped() => Err(aborted(&by)),
        }
    }

    async fn stopped(&self) -> String {
        let mut words = self.turn.words.clone();
        loop {
            if let Word::Abort(by) = &*words.borrow_and_update() {
                return by.clone();
            }
            if words.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until somebody lets it go on.
    pub(crate) async fn promoted(&self) {
        let mut words = self.turn.words.clone();
        // The sender lives as long as the turn, which we hold.
        words.wait_for(|word| *word == Word::Promote).await.ok();
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.beat.abort();
    }
}

fn aborted(by: &str) -> Fault {
    Fault::new(Code::Aborted, format!("stopped by {by}"))
}

fn lease() -> Timestamp {
    Timestamp(Timestamp::now().0 + LEASE.as_millis() as u64)
}

fn put(platform: &Platform, record: &Deployment) -> Result<(), StateError> {
    let text = serde_json::to_string(record).unwrap_or_default();
    platform.store().put_deployment(record.number, &text)
}

/// Writes what is true already: now, or as soon as there is room again.
pub(super) fn until_written(
    platform: &Arc<Platform>,
    what: &'static str,
    write: impl Fn(&Arc<Platform>) -> Result<(), Fault> + Send + 'static,
) {
    let Err(fault) = write(platform) else { return };
    crate::say(&format!("could not write {what}, and will try again: {fault}"));
    let platform = Arc::clone(platform);
    tokio::spawn(async move {
        while write(&platform).is_err() && !platform.world().closing {
            tokio::time::sleep(AGAIN).await;
        }
    });
}

async fn beat(platform: Arc<Platform>, record: Arc<Mutex<Deployment>>) {
    loop {
        tokio::time::sleep(BEAT).await;
        let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
        record.lease_until = lease();
        if let Err(error) = put(&platform, &record) {
            crate::say(&format!("could not renew the lease of a deployment: {error}"));
        }
    }
}
