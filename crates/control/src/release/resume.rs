//! Deployments that another control process left unfinished: each is resolved, none is left.
//!
//! The lock on the state folder proves that their owner is dead, however long its lease still runs.
//! Invariants: before the switch the old release goes on and the new one ends; after it the new one goes
//! on, watched; one that waits for a word goes on waiting. Each resolution stands in the journal, the
//! audit log and `status`.

use std::sync::Arc;

use seaworthy_base::{Code, Fault, SiteName};
use seaworthy_release::journal::resolve;
use seaworthy_release::{Deployment, Resolution, Step};
use seaworthy_state::{ReleaseRecord, ReleaseState};

use crate::databases;
use crate::platform::Platform;
use crate::release::run::Run;
use crate::release::turn::Patience;
use crate::release::{
    Reporter, back, bring_back, build, flow, prepare, remember, settle, source, turn,
};
use crate::world::Applied;

/// Takes over whatever was left, in tasks of their own.
pub(crate) async fn resume(platform: &Arc<Platform>) {
    source::sweep(&platform.layout);
    let names: Vec<SiteName> = platform.world().sites.keys().cloned().collect();
    for name in names {
        let left = back::deployments(platform, &name).unwrap_or_default();
        for record in left.into_iter().filter(|one| one.ending.is_none()) {
            take_over(platform, &name, record).await;
        }
    }
}

async fn take_over(platform: &Arc<Platform>, name: &SiteName, record: Deployment) {
    let (sender, _) = tokio::sync::mpsc::unbounded_channel();
    let report = Reporter(sender);
    let by = format!("{} (deployment {})", record.owner.who, record.number);
    // Nobody else can have it yet: the control socket is not open.
    let patience = Patience::None;
    let Ok(turn) = turn::take(platform, name, &by, patience, &report).await else { return };
    let phase = settle::phase(platform, name);
    let resolution = resolve(&record, phase);
    let step = record.open_step().map_or("its beginning", Step::word);
    platform.audit("control", "take-over", &format!("{name} deployment {}", record.number), step);
    let run = match Run::take_over(platform, turn, record, &report) {
        Ok(run) => run,
        Err(fault) => return crate::say(&fault.to_string()),
    };
    crate::say(&format!(
        "deployment {} of {name} was left in `{step}`: {resolution:?}",
        run.record().number
    ));
    let (platform, name) = (Arc::clone(platform), name.clone());
    let cause = interrupted(&run, step);
    // A build or migration of the dead one may still be at it.
    run.sweep().await;
    tokio::spawn(async move { settle_it(&platform, &name, &run, resolution, cause).await });
}

fn interrupted(run: &Run, step: &str) -> Fault {
    let record = run.record();
    let fault = Fault::new(
        Code::Interrupted,
        format!("the process that worked on deployment {} ended in step `{step}`", record.number),
    );
    let fault = if step == Step::Migrate.word() {
        fault.because("the migration may have been done in part: the next deployment runs it again")
    } else {
        fault
    };
    fault.next(format!("seaworthy {} again", record.verb))
}

async fn settle_it(
    platform: &Arc<Platform>,
    name: &SiteName,
    run: &Run,
    resolution: Resolution,
    cause: Fault,
) {
    let next = {
        let world = platform.world();
        let site = world.sites.get(name);
        site.map(|site| {
            let rollout = site.rollout.as_ref().map(|rollout| rollout.next.clone());
            (site.project.clone(), site.applied.clone(), rollout)
        })
    };
    let Some((project, applied, rollout)) = next else { return };
    let Some(next) = rollout else {
        // No rollout: what is wanted is on the disk already, or nothing was changed.
        let result = without_rollout(run, applied, cause).await;
        return done(platform, name, run, result);
    };
    let prepared = prepare::again(platform, &project, next.clone(), &run.report);
    let result = match prepared {
        Err(fault) => {
            // A secret went missing: the new release cannot be started again, so the old one serves.
            if let Some(site) = platform.world().sites.get_mut(name) {
                site.faults.push(fault.clone());
            }
            let bare = prepare::bare(&project, next);
            Err(flow::go_back(run, &bare, fault).await)
        }
        Ok(mut prepared) => match resolution {
            Resolution::BringBack => {
                let data = run.record().data.clone();
                let went = match &data {
                    Some(data) => bring_back::go_on(run, &prepared, data, &next, cause).await,
                    None => Err(cause),
                };
                went.map(|()| flow::keep(run, &prepared, &next)).map(|()| next)
            }
            Resolution::GoBack => Err(flow::go_back(run, &prepared, cause).await),
            Resolution::GoOn | Resolution::WaitOn => {
                prepared.watch = prepared.site.deploy.watch.period;
                let paused = resolution == Resolution::WaitOn;
                let went = flow::go_on(run, &prepared, paused).await;
                went.map(|()| flow::keep(run, &prepared, &next)).map(|()| next)
            }
        },
    };
    done(platform, name, run, result);
}

/// A first start or a change in place that was on the disk is what is wanted; anything before is undone.
async fn without_rollout(run: &Run, applied: Applied, cause: Fault) -> Result<Applied, Fault> {
    let (release, reached) = {
        let record = run.record();
        (record.release, record.reached(Step::Switch) || record.reached(Step::Drain))
    };
    if reached && release == Some(applied.release) {
        return Ok(applied);
    }
    let known = run.platform.store().releases(&run.record().site).unwrap_or_default();
    let half = known.into_iter().find(|one| {
        Some(one.id) == release && matches!(one.state, ReleaseState::Building | ReleaseState::Built)
    });
    if let Some(half) = half {
        if half.state == ReleaseState::Building {
            build::discard(&run.platform, &half).await;
        }
        let record = ReleaseRecord { state: ReleaseState::Failed, note: cause.to_string(), ..half };
        if let Err(error) = run.platform.store().put_release(&record) {
            crate::say(&format!("could not note that a release is half made: {error}"));
        }
    }
    Err(cause)
}

fn done(platform: &Arc<Platform>, name: &SiteName, run: &Run, result: Result<Applied, Fault>) {
    let verb = run.record().verb.clone();
    let fault = flow::close(run, result).err();
    databases::settle(platform, name);
    let project = platform.world().sites.get(name).map(|site| site.project.clone());
    if let (Some(project), Some(fault)) = (project, &fault) {
        remember(platform, &project, name, &verb, true, Some(fault));
    }
    platform.changed();
}
