//! The way of a deployment, from the project's checks to the end of the old release.
//!
//! Every step is journaled by [`Run`]; what serves changes in three ways only: a first start, a change that
//! replaces no program, and a rollout. Invariants: up to the switch the old release is what is applied,
//! and a failure leaves it so; after it, a failure goes back to it, without building anything.

use std::sync::Arc;
use std::time::Duration;

use seaworthy_base::{Code, Fault, ReleaseId};
use seaworthy_release::{Ending, Phase, Step, Strategy};
use tokio::time::timeout;

use crate::databases;
use crate::names;
use crate::platform::Platform;
use crate::reconcile;
use crate::release::back;
use crate::release::bring_back;
use crate::release::build::{self, Built};
use crate::release::gate::{self, Waiting};
use crate::release::prepare::Prepared;
use crate::release::run::Run;
use crate::release::settle;
use crate::release::watch;
use crate::serve;
use crate::world::{Applied, Rollout};

/// Carries a prepared deployment out. The journal is closed here, whatever comes of it.
pub(super) async fn go(run: &Run, prepared: &Prepared) -> Result<ReleaseId, Fault> {
    let result = way(run, prepared).await;
    if let Err(fault) = &result {
        build::give_up(run, fault).await;
    }
    close(run, result)
}

/// Closes the journal by what came of it.
pub(super) fn close(run: &Run, result: Result<Applied, Fault>) -> Result<ReleaseId, Fault> {
    match result {
        Ok(applied) => {
            let text = serde_json::to_string(&applied).unwrap_or_default();
            run.close(Ending::Live, None, &text);
            Ok(applied.release)
        }
        Err(fault) => {
            let ending = match fault.code {
                Code::Aborted => Ending::Aborted,
                Code::TakenBack => Ending::TakenBack,
                _ => Ending::Failed,
            };
            run.close(ending, Some(&fault), "");
            Err(fault)
        }
    }
}

async fn way(run: &Run, prepared: &Prepared) -> Result<Applied, Fault> {
    let strategy = run.record().strategy;
    let first = !is_running(run, prepared);
    let built = run.unless_stopped(build::make(run, prepared)).await?;
    let next = prepared.applied(built.release);
    run.applies(&next)?;
    run.unless_stopped(databases::start(&run.platform, &prepared.site, &run.report)).await?;
    names::meet(&run.platform, &prepared.site).await;
    if let Some(data) = &prepared.data {
        bring_back::go(run, prepared, data, &next).await?;
        keep(run, prepared, &next);
        return Ok(next);
    }
    // Where old and new exclude each other, so do the old code and the new schema.
    if first || strategy != Strategy::Recreate {
        run.unless_stopped(build::migrate(run, prepared, &built)).await?;
    }
    if first {
        first_start(run, prepared, &next).await?;
    } else if nothing_to_replace(run, prepared, &next) {
        in_place(run, prepared, &next).await?;
    } else {
        rollout(run, prepared, &built, &next).await?;
    }
    keep(run, prepared, &next);
    Ok(next)
}

/// The release serves for good; what nobody needs any more goes. What cannot be written of it now is told, and
/// changes nothing of what serves.
pub(super) fn keep(run: &Run, prepared: &Prepared, next: &Applied) {
    let kept = run.begin(Step::Keep, "removing releases that nobody needs");
    let kept = kept.and_then(|()| build::mark_live(run, prepared, next));
    super::prune::prune(&run.platform, &prepared.site.name, prepared.site.deploy.keep);
    if let Err(unwritten) = kept.and_then(|()| run.end("")) {
        run.report.warn(unwritten);
    }
}

pub(super) fn is_running(run: &Run, prepared: &Prepared) -> bool {
    run.platform.world().sites.get(&prepared.site.name).is_some_and(|site| site.running)
}

/// Whether every program stays as it is and the files that are served too.
fn nothing_to_replace(run: &Run, prepared: &Prepared, next: &Applied) -> bool {
    let world = run.platform.world();
    world.sites.get(&prepared.site.name).is_some_and(|site| {
        site.applied.hashes == next.hashes && site.applied.release == next.release
    })
}

/// Nothing ran before: it is made the wanted one, and stays so when it does not come up, so that its
/// instances are there to say why.
async fn first_start(run: &Run, prepared: &Prepared, next: &Applied) -> Result<(), Fault> {
    run.begin(Step::Switch, "starting")?;
    settle::install(&run.platform, prepared, next).await?;
    settle::wait_until_serving(&run.platform, &prepared.site.name, &run.report).await?;
    run.end(back::FIRST_START)?;
    run.begin(Step::Gate, "trying it through the real listener")?;
    if let Err(fault) = gate::smoke(run, prepared, None).await {
        run.report.warn(fault);
    }
    run.end("")
}

/// Routes, addresses, numbers of instances: nothing of this replaces a program.
async fn in_place(run: &Run, prepared: &Prepared, next: &Applied) -> Result<(), Fault> {
    run.begin(Step::Switch, "changing routes and numbers; no program is replaced")?;
    let before = settle::replace(&run.platform, prepared, next).await?;
    let serving = settle::wait_until_serving(&run.platform, &prepared.site.name, &run.report);
    let done = run.unless_stopped(serving).await.and_then(|()| run.end(""));
    if let Err(fault) = done {
        settle::put_back(&run.platform, &prepared.site.name, before).await?;
        return Err(fault);
    }
    Ok(())
}

async fn rollout(
    run: &Run,
    prepared: &Prepared,
    built: &Built,
    next: &Applied,
) -> Result<(), Fault> {
    let strategy = run.record().strategy;
    let phase = match strategy {
        Strategy::Rolling => Phase::Start { all: false },
        Strategy::BlueGreen | Strategy::Canary => Phase::Start { all: true },
        Strategy::Recreate => Phase::Stop,
    };
    if strategy == Strategy::Recreate {
        settle::set_room_aside(&run.platform)?;
    }
    let before = watch::Baseline::take(run, prepared).await;
    let rollout = Rollout {
        deployment: run.record().number,
        next: next.clone(),
        strategy,
        phase,
        id: next.release.to_string(),
        key: settle::key(),
        warm: prepared.warm,
        everything: false,
        values: prepared.values.clone(),
    };
    settle::begin(&run.platform, prepared, rollout).await?;
    let forward = async {
        if strategy == Strategy::Recreate {
            recreate(run, prepared, built).await?;
        } else {
            beside(run, prepared, &before).await?;
        }
        watch::watch(run, prepared, &before).await
    };
    match run.unless_stopped(forward).await {
        Ok(()) => {
            finish(run, prepared).await;
            Ok(())
        }
        Err(fault) => Err(go_back(run, prepared, fault).await),
    }
}

/// The old release ends, the new one starts; requests wait meanwhile.
async fn recreate(run: &Run, prepared: &Prepared, built: &Built) -> Result<(), Fault> {
    let limit = prepared.site.deploy.timeout;
    let name = &prepared.site.name;
    run.begin(Step::Start, "ending the old release; requests wait")?;
    gate::within(limit, &run.platform, name, Waiting::OldGone, &run.report).await?;
    run.end("the old release ended")?;
    build::migrate(run, prepared, built).await?;
    run.begin(Step::Switch, "starting the new release")?;
    switch(&run.platform, prepared).await?;
    gate::within(limit, &run.platform, name, Waiting::AllReady, &run.report).await?;
    run.end("")?;
    run.begin(Step::Gate, "trying it through the real listener")?;
    gate::smoke(run, prepared, None).await?;
    run.end("")
}

/// The new release starts beside the old one, is tried, and takes its place.
async fn beside(run: &Run, prepared: &Prepared, before: &watch::Baseline) -> Result<(), Fault> {
    let (name, deploy) = (&prepared.site.name, &prepared.site.deploy);
    let strategy = run.record().strategy;
    let all = strategy != Strategy::Rolling;
    run.begin(Step::Start, if all { "starting all of it" } else { "starting the first of it" })?;
    let waiting = if all { Waiting::AllReady } else { Waiting::FirstReady };
    gate::within(deploy.timeout, &run.platform, name, waiting, &run.report).await?;
    run.end("")?;
    run.begin(Step::Gate, "trying it through the real listener")?;
    let key = settle::key_of(&run.platform, name);
    gate::smoke(run, prepared, key.as_deref()).await?;
    run.end("")?;
    if prepared.pause {
        pause(run, prepared).await?;
    }
    take_over(run, prepared, before).await
}

/// From the gate to the switch.
async fn take_over(run: &Run, prepared: &Prepared, before: &watch::Baseline) -> Result<(), Fault> {
    let (name, deploy) = (&prepared.site.name, &prepared.site.deploy);
    let strategy = run.record().strategy;
    if strategy == Strategy::Canary {
        canary(run, prepared, before).await?;
    }
    run.begin(Step::Switch, "switching")?;
    if strategy == Strategy::Rolling {
        settle::set_phase(&run.platform, name, Phase::Rolling)?;
        reconcile::tell_edge(&run.platform).await;
        gate::within(deploy.timeout, &run.platform, name, Waiting::AllReady, &run.report).await?;
    }
    let took = switch(&run.platform, prepared).await?;
    run.end(&format!("{:.1} ms", took.as_secs_f64() * 1000.0))
}

/// Goes on with what another control began: from the pause, or from the watch.
pub(super) async fn go_on(run: &Run, prepared: &Prepared, paused: bool) -> Result<(), Fault> {
    let before = watch::Baseline::take(run, prepared).await;
    let forward = async {
        if paused {
            run.promoted().await;
            run.end("promoted")?;
            take_over(run, prepared, &before).await?;
        } else {
            let (limit, name) = (prepared.site.deploy.timeout, &prepared.site.name);
            gate::within(limit, &run.platform, name, Waiting::AllReady, &run.report).await?;
        }
        watch::watch(run, prepared, &before).await
    };
    match run.unless_stopped(forward).await {
        Ok(()) => {
            finish(run, prepared).await;
            Ok(())
        }
        Err(fault) => Err(go_back(run, prepared, fault).await),
    }
}

/// Waits for somebody's word.
async fn pause(run: &Run, prepared: &Prepared) -> Result<(), Fault> {
    let name = &prepared.site.name;
    run.begin(
        Step::Pause,
        format!("paused: seaworthy promote {name}, or: seaworthy abort {name}"),
    )?;
    for preview in crate::status::previews(&run.platform, name).await {
        run.report.step(format!("preview: {preview}"));
    }
    run.promoted().await;
    run.end("promoted")
}

/// A growing share of the visitors, each watched.
async fn canary(run: &Run, prepared: &Prepared, before: &watch::Baseline) -> Result<(), Fault> {
    let canary = &prepared.site.deploy.canary;
    for share in &canary.steps {
        let text = format!("{} % of the visitors get it", f64::from(*share) / 100.0);
        run.begin(Step::Canary, text)?;
        settle::set_phase(&run.platform, &prepared.site.name, Phase::Canary { share: *share })?;
        serve::publish(&run.platform).await?;
        watch::compare(run, prepared, before, canary.period).await?;
        run.end("")?;
    }
    Ok(())
}

/// From now on the new release serves. The disk is written before and after, never in between: what it takes is
/// the edge's time.
async fn switch(platform: &Arc<Platform>, prepared: &Prepared) -> Result<Duration, Fault> {
    let name = &prepared.site.name;
    settle::intend(platform, name, Phase::Switched)?;
    crate::crash::point("switched");
    let took = settle::switch(platform, name, Phase::Switched).await?;
    // Who changed something else of the site meanwhile wrote it as it was.
    settle::record(platform, name)?;
    serve::publish(platform).await?;
    Ok(took)
}

/// The new release is all there is; the old one drains by itself. Nothing that fails from here on is a reason to
/// take it back.
async fn finish(run: &Run, prepared: &Prepared) {
    let begun = run.begin(Step::Drain, "the old release finishes what it has");
    settle::complete(&run.platform, &prepared.site.name);
    let published = serve::publish(&run.platform).await;
    if let Err(fault) = begun.and(published).and_then(|()| run.end("")) {
        run.report.warn(fault);
    }
}

/// The old release serves again, and the new one ends. Returns the fault that is to be told.
pub(super) async fn go_back(run: &Run, prepared: &Prepared, fault: Fault) -> Fault {
    let name = &prepared.site.name;
    let switched = settle::phase(&run.platform, name) == Some(Phase::Switched);
    run.report.step(format!("going back: {}", fault.what));
    let journaled = run.end("").and_then(|()| run.begin(Step::GoBack, "the old release serves"));
    // Where everything ended, nothing of the new one is there to end: the old one simply starts again.
    let whole = settle::is_whole(&run.platform, name);
    settle::set_coming(&run.platform, name, whole);
    let written = if whole {
        settle::forget_rollout(&run.platform, name);
        Ok(())
    } else {
        settle::intend(&run.platform, name, Phase::Back)
    };
    if let Err(unwritten) = journaled.and(written) {
        // The disk says otherwise, but what serves is put right first; the next start reads the journal.
        crate::say(&unwritten.to_string());
    }
    // Without a rollout there is nothing to move: the edge is told all the same.
    if let Err(unpublished) = settle::switch(&run.platform, name, Phase::Back).await {
        crate::say(&unpublished.to_string());
    }
    if let Err(unpublished) = serve::publish(&run.platform).await {
        crate::say(&unpublished.to_string());
    }
    // The manifest's time bounds how long an old release that had ended may take to start again.
    let limit = prepared.site.deploy.timeout;
    let waiting = if whole { Waiting::Applied } else { Waiting::OldServes };
    let back = gate::wait(&run.platform, name, waiting, &run.report);
    if timeout(limit, back).await.is_err() {
        crate::say(&format!("the old release of {name} is not ready again after {limit:?}"));
    }
    settle::set_coming(&run.platform, name, false);
    settle::forget_rollout(&run.platform, name);
    if let Err(unwritten) = run.end("") {
        crate::say(&unwritten.to_string());
    }
    if switched && fault.code != Code::Aborted && fault.code != Code::TakenBack {
        let what = format!("the new release was taken back: {}", fault.what);
        return Fault { code: Code::TakenBack, what, ..fault };
    }
    fault
}
