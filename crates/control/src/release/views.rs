//! Releases and deployments as people and scripts see them.

use std::sync::Arc;

use seaworthy_api::model::{DeploymentView, ReleaseView, Releases, VERSION};
use seaworthy_base::{Code, Fault, SiteName};
use seaworthy_release::{Deployment, Ledger, Step, schema};
use seaworthy_state::ReleaseState;

use crate::instances::store_fault;
use crate::platform::Platform;
use crate::release::back;

/// The releases of a site, newest first, and what was done with them.
pub(crate) fn releases(platform: &Arc<Platform>, site: &str) -> Result<Releases, Fault> {
    let unknown = || {
        Fault::new(Code::NoSuchSite, format!("there is no site `{site}`")).next("seaworthy status")
    };
    let name: SiteName = site.parse().map_err(|_| unknown())?;
    let records = platform.store().releases(&name).map_err(|error| store_fault(&error))?;
    let deployments = back::deployments(platform, &name)?;
    let ledger = Ledger::read(&deployments);
    let serving = platform.world().sites.get(&name).map(|site| site.serving().release);
    if records.is_empty() && serving.is_none() {
        return Err(unknown());
    }
    let releases = records.iter().rev().map(|record| {
        let first = deployments.iter().rfind(|one| one.release == Some(record.id));
        let live = serving == Some(record.id);
        ReleaseView {
            id: record.id.to_string(),
            made: record.created.to_string(),
            live,
            state: if live { "live" } else { word(record.state) }.to_owned(),
            schema: ledger
                .of(record.id)
                .filter(|schema| *schema != schema::NONE)
                .map(str::to_owned),
            source: first.map(|one| one.source.clone()).unwrap_or_default(),
            note: record.note.clone(),
        }
    });
    Ok(Releases {
        v: VERSION,
        site: name.to_string(),
        releases: releases.collect(),
        deployments: deployments.iter().take(20).map(deployment).collect(),
    })
}

fn word(state: ReleaseState) -> &'static str {
    match state {
        ReleaseState::Building => "building",
        ReleaseState::Built => "built",
        ReleaseState::Migrated => "migrated",
        ReleaseState::Live => "was live",
        ReleaseState::Failed => "failed",
        ReleaseState::Retired => "removed",
    }
}

fn deployment(one: &Deployment) -> DeploymentView {
    let state = match (one.ending, one.open_step()) {
        (Some(ending), _) => ending.word().to_owned(),
        (None, step) => step.map_or("begun", Step::word).to_owned(),
    };
    DeploymentView {
        number: one.number,
        verb: one.verb.clone(),
        release: one.release.map(|release| release.to_string()),
        from: one.from.map(|release| release.to_string()),
        strategy: one.strategy.word().to_owned(),
        who: one.owner.who.clone(),
        began: one.began.to_string(),
        state,
        steps: one.steps.iter().map(|step| (step.step.word().to_owned(), step.took())).collect(),
        notes: one
            .steps
            .iter()
            .filter(|step| !step.note.is_empty())
            .map(|step| (step.step.word().to_owned(), step.note.clone()))
            .collect(),
        secrets: one.secrets.clone(),
        fault: one.fault.clone(),
    }
}
