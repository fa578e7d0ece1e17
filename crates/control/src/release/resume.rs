//! Deployments that another control process, or a panic in this one, left unfinished: each is resolved, none is left.
//!
//! The lock on the state folder proves that their owner is dead, however long its lease still runs. Invariants: before
//! the switch the old release goes on and the new one ends; after it the new one goes on, watched; one that waits for a
//! word goes on waiting. Each resolution stands in the journal, the audit log and `status`.

use std::sync::Arc;

use seaworthy_base::{Code, Fault, ReleaseId, SiteName};
use seaworthy_release::journal::resolve;
use seaworthy_release::{Deployment, Ending, Phase, Resolution, Step};

use crate::databases;
use crate::defect::caught;
use crate::platform::Platform;
use crate::release::run::Run;
use crate::release::turn::Patience;
use crate::release::{
    Reporter, back, bring_back, build, flow, prepare, remember, settle, source, turn,
};
use crate::serve;
use crate::world::Applied;

/// Where a deployment is that is in none of its steps.
const BETWEEN: &str = "between two steps";

/// Takes over whatever was left, in tasks of their own.
pub(crate) async fn resume(platform: &Arc<Platform>) {
    source::sweep(&platform.layout);
    // Not those that the world knows: a first deployment may have ended before there was a site.
    let names = platform.store().deployed_sites();
    let names = names.unwrap_or_else(|error| {
        crate::say(&format!("the journals of deployments cannot be read: {error}"));
        Vec::new()
    });
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
    let step = record.open_step().map_or(BETWEEN, Step::word);
    platform.audit("control", "take-over", &format!("{name} deployment {}", record.number), step);
    let run = match Run::take_over(platform, turn, record, &report) {
        Ok(run) => run,
        Err(fault) => return crate::say(&fault.to_string()),
    };
    crate::say(&format!(
        "deployment {} of {name} was left in `{step}`: {resolution:?}",
        run.record().number
    ));
    let cause = interrupted(&run, step);
    // A build or migration of the dead one may still be at it.
    run.sweep().await;
    tokio::spawn(async move {
        let result = resolved(&run, resolution, cause).await;
        run.sweep().await;
        done(&run, result);
    });
}

/// Resolves a deployment of ours that met a defect, as if its owner were dead, and closes its journal.
pub(super) async fn after_defect(run: &Run, defect: Fault) -> Result<ReleaseId, Fault> {
    let record = run.record().clone();
    // What panicked came after the end.
    match (record.ending, record.release, &record.fault) {
        (Some(Ending::Live), Some(release), _) => return Ok(release),
        (Some(_), _, fault) => return Err(fault.clone().unwrap_or(defect)),
        (None, ..) => {}
    }
    let (platform, name) = (&run.platform, &record.site);
    let resolution = resolve(&record, settle::phase(platform, name));
    let step = record.open_step().map_or(BETWEEN, Step::word);
    let subject = format!("{name} deployment {}", record.number);
    platform.audit("control", "take-over", &subject, &format!("{step}: a defect of control"));
    let words = format!("control met a defect of its own in deployment {} ({step})", record.number);
    crate::say(&format!("{words}: {resolution:?}"));
    let because = defect.causes.join(": ");
    run.report.step(format!("{words}: {because}"));
    run.sweep().await;
    let cause = defect.causes.iter().fold(interrupted(run, step), Fault::because);
    let cause = defect.next.iter().fold(cause, Fault::next);
    flow::close(run, resolved(run, resolution, cause).await)
}

fn interrupted(run: &Run, step: &str) -> Fault {
    let record = run.record();
    let site = run.platform.world().sites.get(&record.site).map(|site| site.project.clone());
    let of = match site {
        Some(project) if record.verb != "rollback" => project.display().to_string(),
        None if record.verb != "rollback" => "DIR".to_owned(),
        _ => record.site.to_string(),
    };
    let place = if step == BETWEEN { step.to_owned() } else { format!("in step `{step}`") };
    let what = format!("the work on deployment {} was cut off {place}", record.number);
    let fault = Fault::new(Code::Interrupted, what);
    let fault = if step == Step::Migrate.word() {
        fault.because("the migration may have been done in part: the next deployment runs it again")
    } else {
        fault
    };
    fault.next(format!("seaworthy {} {of}   (does it again)", record.verb))
}

/// Resolves a deployment; what is to be written as its end. A defect in that leaves what its phase says, untried.
async fn resolved(run: &Run, resolution: Resolution, cause: Fault) -> Result<Applied, Fault> {
    let defect = match caught(settle_it(run, resolution, cause)).await {
        Ok(result) => return result,
        Err(defect) => defect,
    };
    let (platform, name) = (&run.platform, run.record().site.clone());
    crate::say(&format!("resolving deployment {} of {name}: {defect}", run.record().number));
    let serves = settle::phase(platform, &name) == Some(Phase::Switched);
    if serves {
        settle::complete(platform, &name);
    } else {
        settle::forget_rollout(platform, &name);
    }
    settle::set_coming(platform, &name, false);
    if let Err(unpublished) = caught(serve::publish(platform)).await.and_then(|told| told) {
        crate::say(&unpublished.to_string());
    }
    let applied = platform.world().sites.get(&name).map(|site| site.applied.clone());
    applied.filter(|_| serves).ok_or(defect)
}

async fn settle_it(run: &Run, resolution: Resolution, cause: Fault) -> Result<Applied, Fault> {
    let (platform, name) = (&run.platform, run.record().site.clone());
    let known = {
        let world = platform.world();
        let site = world.sites.get(&name);
        site.map(|site| {
            let rollout = site.rollout.as_ref().map(|rollout| rollout.next.clone());
            (site.project.clone(), site.applied.clone(), rollout)
        })
    };
    let (project, next) = match known {
        Some((project, _, Some(next))) => (project, next),
        // No rollout: what is wanted is on the disk already, or nothing was changed.
        known => return without_rollout(run, known.map(|(_, applied, _)| applied), cause).await,
    };
    let mut prepared = match prepare::again(platform, &project, next.clone(), &run.report) {
        Ok(prepared) => prepared,
        Err(fault) => {
            // A secret went missing: the new release cannot be started again, so the old one serves.
            if let Some(site) = platform.world().sites.get_mut(&name) {
                site.faults.push(fault.clone());
            }
            let bare = prepare::bare(&project, next);
            return Err(flow::go_back(run, &bare, fault).await);
        }
    };
    match resolution {
        Resolution::BringBack => {
            let data = run.record().data.clone();
            let data = data.ok_or_else(|| cause.clone())?;
            bring_back::go_on(run, &prepared, &data, &next, cause).await?;
        }
        Resolution::GoBack => return Err(flow::go_back(run, &prepared, cause).await),
        Resolution::GoOn | Resolution::WaitOn => {
            prepared.watch = prepared.site.deploy.watch.period;
            flow::go_on(run, &prepared, resolution == Resolution::WaitOn).await?;
        }
    }
    flow::keep(run, &prepared, &next);
    Ok(next)
}

/// A first start or a change in place that was on the disk is what is wanted; anything before is undone.
async fn without_rollout(
    run: &Run,
    applied: Option<Applied>,
    cause: Fault,
) -> Result<Applied, Fault> {
    let (release, reached) = {
        let record = run.record();
        (record.release, record.reached(Step::Switch) || record.reached(Step::Drain))
    };
    if let Some(applied) = applied.filter(|one| reached && release == Some(one.release)) {
        return Ok(applied);
    }
    build::give_up(run, &cause).await;
    Err(cause)
}

/// Closes the journal of one that was taken over; why it did not go well is kept for those who ask later.
fn done(run: &Run, result: Result<Applied, Fault>) {
    let platform = &run.platform;
    let (name, verb) = {
        let record = run.record();
        (record.site.clone(), record.verb.clone())
    };
    let fault = flow::close(run, result).err();
    databases::settle(platform, &name);
    let project = platform.world().sites.get(&name).map(|site| site.project.clone());
    if let (Some(project), Some(fault)) = (project, &fault) {
        remember(platform, &project, &name, &verb, true, Some(fault));
    }
    platform.changed();
}
