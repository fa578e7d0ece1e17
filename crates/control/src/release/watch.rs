//! Watching a new release beside what is known of the old one.
//!
//! The edge counts by instance; shims count restarts; error lines are counted in the logs. What was counted
//! of the old release up to the beginning of the rollout is the measure (and, while both serve, what it suffers
//! at the same time excuses the new one), what is counted of the new one since it got its first visitor is judged (`seaworthy-release`, which also says how sure it is). Invariant:
//! what cannot be counted (an edge that is being replaced) counts as nothing, never as an error.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use seaworthy_base::{Code, Fault, InstanceId};
use seaworthy_release::judge::{Counts, Latency, Rules, judge_beside};
use seaworthy_release::{Side, Step};

use crate::platform::Platform;
use crate::release::error_lines;
use crate::release::prepare::Prepared;
use crate::release::run::Run;
use crate::world::World;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);

/// What the old release did before.
#[derive(Debug)]
pub(super) struct Baseline {
    counts: Counts,
    /// Whether its logs reach back to its beginning.
    logs: bool,
}

impl Baseline {
    /// Counts the old release now.
    pub(super) async fn take(run: &Run, prepared: &Prepared) -> Self {
        let logs = logs_of(&run.platform, prepared, Side::Now);
        Self {
            counts: count(&run.platform, prepared, Side::Now).await,
            logs: logs.iter().all(|log| error_lines::is_whole(log)),
        }
    }
}

/// The watch after the switch.
pub(super) async fn watch(run: &Run, prepared: &Prepared, before: &Baseline) -> Result<(), Fault> {
    let period = prepared.watch;
    if period.is_zero() {
        return Ok(());
    }
    run.begin(Step::Watch, format!("watching it for {} s", period.as_secs_f64()))?;
    compare(run, prepared, before, period).await?;
    run.end("")
}

/// Compares for so long; an error says in what the new release is worse.
pub(super) async fn compare(
    run: &Run,
    prepared: &Prepared,
    before: &Baseline,
    period: Duration,
) -> Result<(), Fault> {
    let watch = &prepared.site.deploy.watch;
    let rules = Rules {
        errors: f64::from(watch.errors) / 10_000.0,
        p95_micros: watch.p95.map(|limit| limit.as_micros() as u64),
        logs: watch.logs && before.logs,
    };
    let (begun, mut latency) = (Instant::now(), Latency::default());
    let first = count(&run.platform, prepared, Side::Next).await;
    let first_of_old = count(&run.platform, prepared, Side::Now).await;
    while begun.elapsed() < period {
        tokio::time::sleep(LOOK.min(period.saturating_sub(begun.elapsed()))).await;
        let mut seen = count(&run.platform, prepared, Side::Next).await.since(&first);
        seen.seconds = begun.elapsed().as_secs_f64();
        let beside = count(&run.platform, prepared, Side::Now).await.since(&first_of_old);
        let mut reasons = judge_beside(&before.counts, Some(&beside), &seen, &rules);
        reasons.extend(latency.judge(&before.counts, &beside, &seen, &rules));
        if let Some((first, more)) = reasons.split_first() {
            let fault = Fault::new(Code::TakenBack, "the new release is worse than the old one");
            let fault = more.iter().fold(fault.because(first), Fault::because);
            return Err(fault.next(format!("seaworthy releases {}", prepared.site.name)));
        }
    }
    Ok(())
}

/// What was counted of one side's changed programs.
async fn count(platform: &Arc<Platform>, prepared: &Prepared, side: Side) -> Counts {
    let status = platform.edge.lock().await.status().await.unwrap_or_default();
    let mut counts = Counts::default();
    {
        let world = platform.world();
        let own = world
            .instances
            .iter()
            .filter(|(id, one)| one.alive && belongs(&world, prepared, id, &one.hash, side));
        for (id, one) in own {
            if let Some(load) = status.instances.get(&id.to_string()) {
                counts.requests += load.answered;
                counts.errors += load.errors;
                counts.times.iter_mut().zip(&load.times).for_each(|(sum, one)| *sum += one);
            }
            if let Some(status) = &one.status {
                counts.restarts += u64::from(status.restarts);
                counts.crash_loop |= status.crash_loop;
            }
            counts.seconds = counts.seconds.max(one.since.elapsed().as_secs_f64());
        }
    }
    if prepared.site.deploy.watch.logs {
        let logs = logs_of(platform, prepared, side);
        let counted = tokio::task::spawn_blocking(move || {
            logs.iter().map(|log| error_lines::count(log)).sum::<u64>()
        });
        counts.log_errors = counted.await.unwrap_or(0);
    }
    counts
}

fn logs_of(platform: &Arc<Platform>, prepared: &Prepared, side: Side) -> Vec<PathBuf> {
    let world = platform.world();
    let all = world.instances.iter();
    all.filter(|(id, one)| one.alive && belongs(&world, prepared, id, &one.hash, side))
        .map(|(id, _)| platform.layout.instance_log(id))
        .collect()
}

/// Only programs that differ between the two releases are compared.
fn belongs(world: &World, prepared: &Prepared, id: &InstanceId, hash: &str, side: Side) -> bool {
    let Some(site) = world.sites.get(&id.site).filter(|_| id.site == prepared.site.name) else {
        return false;
    };
    match &site.rollout {
        None => {
            side == Side::Now
                && site.applied.hashes.get(&id.service) != prepared.hashes.get(&id.service)
        }
        Some(_) => site.changes(&id.service) && world.side(id, hash) == side,
    }
}
