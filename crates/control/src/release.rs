//! Makes a folder's manifest true: read, compare, build what is new, switch, wait, or go back.
//!
//! Rooms: [`prepare`] (what can be refused), [`differences`], [`build`] with [`files`], [`settle`] (switch and
//! wait), [`prune`]. Invariant: everything that can be refused is refused before anything changes.

mod build;
mod differences;
pub(crate) mod files;
mod prepare;
mod prune;
mod settle;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use seaworthy_api::model::{Applied as Outcome, Progress, VERSION};
use seaworthy_base::{Fault, SiteName};
use seaworthy_manifest::site::{Site, Tls};
use tokio::sync::mpsc::UnboundedSender;

use crate::platform::Platform;
use crate::world::{Applied, Refused};

pub(crate) use files::{disk_fault, hex};
pub(crate) use prepare::resolve_secrets;
pub(crate) use settle::record;

/// Where progress goes.
#[derive(Debug, Clone)]
pub(crate) struct Reporter(pub UnboundedSender<Progress>);

impl Reporter {
    fn say(&self, progress: Progress) {
        // Nobody may be reading any more; the work goes on.
        self.0.send(progress).ok();
    }

    fn step(&self, text: impl Into<String>) {
        self.say(Progress::Step { text: text.into() });
    }
}

/// Applies a project's folder; the last thing reported is `Done` or `Failed`.
pub(crate) async fn apply(
    platform: &Arc<Platform>,
    project: &Path,
    plan_only: bool,
    report: &Reporter,
) {
    let _one_at_a_time = platform.applying.lock().await;
    if platform.world().closing {
        return report.say(Progress::Failed { fault: crate::lifecycle::ending() });
    }
    let begun = Instant::now();
    match attempt(platform, project, plan_only, report).await {
        Ok(mut outcome) => {
            outcome.took_ms = begun.elapsed().as_millis() as u64;
            report.say(Progress::Done(outcome));
        }
        Err(fault) => report.say(Progress::Failed { fault }),
    }
}

async fn attempt(
    platform: &Arc<Platform>,
    project: &Path,
    plan_only: bool,
    report: &Reporter,
) -> Result<Outcome, Fault> {
    let site = seaworthy_manifest::load(project).map_err(|problems| problems.to_fault())?;
    prepare::refuse_conflicts(platform, project, &site)?;
    let name = site.name.clone();
    let was_running = platform.world().sites.get(&name).is_some_and(|site| site.running);
    let outcome = perform(platform, project, plan_only, site, report).await;
    if !plan_only {
        remember(platform, project, &name, was_running, outcome.as_ref().err());
    }
    outcome
}

/// Keeps why a site is not what its folder says, for those who ask later. A first start that failed is
/// not kept: its instances are there and say it themselves.
fn remember(
    platform: &Arc<Platform>,
    project: &Path,
    name: &SiteName,
    was_running: bool,
    fault: Option<&Fault>,
) {
    let kept = was_running || !platform.world().sites.get(name).is_some_and(|site| site.running);
    let refused = fault.filter(|_| kept).map(|fault| {
        let what = format!("the last `up` was not done: {}", fault.what);
        let fault = Fault { what, ..fault.clone() };
        Refused {
            project: project.to_path_buf(),
            fault: fault.next(format!("seaworthy up {}", project.display())),
        }
    });
    if let Some(Refused { fault, .. }) = &refused {
        platform.event(Some(name.as_str()), None, "up-refused", &fault.what, Some(fault));
    }
    keep_refused(platform, name, refused);
}

/// Keeps or forgets a refused `up`, in memory and in the store.
pub(crate) fn keep_refused(platform: &Arc<Platform>, name: &SiteName, refused: Option<Refused>) {
    let text = {
        let mut world = platform.world();
        match refused {
            Some(refused) => drop(world.refused.insert(name.clone(), refused)),
            None if world.refused.remove(name).is_none() => return,
            None => {}
        }
        serde_json::to_string(&world.refused).unwrap_or_default()
    };
    if let Err(error) = platform.store().put_setting("refused", &text) {
        crate::say(&format!("could not record why `up` of {name} was refused: {error}"));
    }
}

async fn perform(
    platform: &Arc<Platform>,
    project: &Path,
    plan_only: bool,
    site: Site,
    report: &Reporter,
) -> Result<Outcome, Fault> {
    let prepared = prepare::prepare(platform, project, site, report)?;
    let changes = differences::differences(platform, &prepared);
    let name = prepared.site.name.clone();
    let was_running = platform.world().sites.get(&name).is_some_and(|site| site.running);
    if plan_only {
        let release =
            platform.world().sites.get(&name).map(|site| site.applied.release.to_string());
        return Ok(Outcome {
            v: VERSION,
            site: name.to_string(),
            release,
            urls: Vec::new(),
            ca: None,
            changes,
            was_running,
            took_ms: 0,
        });
    }
    let release = build::realise(platform, project, &prepared, report).await?;
    let applied = Applied {
        site: prepared.site.clone(),
        release,
        hashes: prepared.hashes.clone(),
        content: prepared.fingerprint.services.clone(),
    };
    settle::switch(platform, project, prepared, applied, report).await?;
    prune::prune(platform, &name);
    let urls = crate::status::urls(platform, &name).await;
    let ca = platform
        .world()
        .sites
        .get(&name)
        .is_some_and(|site| site.applied.site.tls == Tls::Internal);
    let ca = ca.then(|| platform.layout.ca());
    Ok(Outcome {
        v: VERSION,
        site: name.to_string(),
        release: Some(release.to_string()),
        urls,
        ca,
        changes,
        was_running,
        took_ms: 0,
    })
}
