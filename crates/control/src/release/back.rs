//! `rollback`: an earlier release takes the place of the one that serves, by the same way as any other.
//!
//! What is gone back to is what was applied then: its manifest, its routes, its files. Invariants: nothing is
//! built; secrets are today's, since those of then may be void; where the database was migrated since, it
//! needs a word.

use std::sync::Arc;

use seaworthy_api::model::{Progress, RollbackRequest};
use seaworthy_base::{Code, Fault, ReleaseId, SiteName};
use seaworthy_release::{Deployment, Ending, Step};
use seaworthy_state::ReleaseRecord;

use crate::instances::store_fault;
use crate::platform::Platform;
use crate::world::Applied;

/// How far back is looked.
const LOOKED_AT: u32 = 500;

/// The deployments of a site, newest first.
pub(super) fn deployments(platform: &Platform, name: &SiteName) -> Result<Vec<Deployment>, Fault> {
    let texts =
        platform.store().deployments(name, LOOKED_AT).map_err(|error| store_fault(&error))?;
    Ok(texts.iter().filter_map(|text| serde_json::from_str(text).ok()).collect())
}

/// What to go back to.
#[derive(Debug, PartialEq)]
pub(super) enum Choice {
    /// This.
    Found(Box<Applied>),
    /// Nothing fits.
    None,
}

/// The newest that was live and differs from what serves, or the newest of a release that is named.
fn choose(
    now: &Applied,
    deployments: &[Deployment],
    to: Option<ReleaseId>,
    usable: impl Fn(ReleaseId) -> bool,
) -> Choice {
    let live = deployments.iter().filter(|one| one.ending == Some(Ending::Live));
    let mut applied = live.filter_map(|one| serde_json::from_str::<Applied>(&one.applied).ok());
    let fits = |one: &Applied| match to {
        Some(release) => one.release == release,
        None => one != now && usable(one.release),
    };
    applied.find(fits).map_or(Choice::None, |found| Choice::Found(Box::new(found)))
}

/// Finds what a request means.
pub(super) fn target(
    platform: &Arc<Platform>,
    name: &SiteName,
    request: &RollbackRequest,
) -> Result<Applied, Fault> {
    let now = platform.world().sites.get(name).map(|site| site.applied.clone());
    let Some(now) = now else {
        let what = format!("there is no site `{name}`");
        return Err(Fault::new(Code::NoSuchSite, what).next("seaworthy status"));
    };
    let hint = format!("seaworthy releases {name}");
    let to = request.to.as_deref().map(|text| named(platform, name, text)).transpose()?;
    let known = platform.store().releases(name).map_err(|error| store_fault(&error))?;
    let record = |release: ReleaseId| known.iter().find(|one| one.id == release);
    let usable = |release: ReleaseId| record(release).is_some_and(|one| one.dir.is_dir());
    let deployments = deployments(platform, name)?;
    let Choice::Found(found) = choose(&now, &deployments, to, usable) else {
        let what = match to {
            Some(release) => format!("release `{release}` of `{name}` was never live"),
            None => format!("there is no earlier release of `{name}` to go back to"),
        };
        return Err(Fault::new(Code::NoSuchRelease, what).next(hint));
    };
    if !usable(found.release) {
        let what = format!("the files of release `{}` were removed", found.release);
        let fault = Fault::new(Code::NoSuchRelease, what);
        return Err(fault.because("`deploy.keep` says how many are kept").next(hint));
    }
    if !request.keep_schema {
        refuse_newer_schema(name, &found, &deployments)?;
    }
    Ok(*found)
}

/// A whole id, or its number with or without the `r`.
fn named(platform: &Arc<Platform>, name: &SiteName, text: &str) -> Result<ReleaseId, Fault> {
    let known = platform.store().releases(name).map_err(|error| store_fault(&error))?;
    let number: Option<u32> = text.trim_start_matches('r').parse().ok();
    let fits = |one: &&ReleaseRecord| one.id.to_string() == text || Some(one.id.number) == number;
    known.iter().find(fits).map(|one| one.id).ok_or_else(|| {
        let what = format!("there is no release `{text}` of `{name}`");
        Fault::new(Code::NoSuchRelease, what).next(format!("seaworthy releases {name}"))
    })
}

/// Whether migrations ran since: in a release made later, by commands that it had.
fn refuse_newer_schema(
    name: &SiteName,
    back: &Applied,
    deployments: &[Deployment],
) -> Result<(), Fault> {
    let schema = schema_after(back.release, deployments);
    let today = last_schema(deployments);
    if schema == today {
        return Ok(());
    }
    let today = today.unwrap_or_else(|| "none".to_owned());
    let what = format!("the database of `{name}` was migrated since: its schema is `{today}`");
    Err(Fault::new(Code::SchemaAhead, what)
        .because(format!(
            "release `{}` was made for schema `{}`",
            back.release,
            schema.unwrap_or_else(|| "none".to_owned())
        ))
        .next(format!(
            "seaworthy rollback {name} --to {} --keep-schema   (when the old code can work with the new schema)",
            back.release
        )))
}

/// The schema that the last migration up to this release's first time left.
pub(super) fn schema_after(release: ReleaseId, deployments: &[Deployment]) -> Option<String> {
    // Newest first: everything from this release's first deployment on back.
    let first = deployments.iter().rposition(|one| one.release == Some(release))?;
    last_schema(deployments.get(first..)?)
}

/// The schema that the last of all migrations left; one that failed may have left anything.
fn last_schema(deployments: &[Deployment]) -> Option<String> {
    let migrated = deployments.iter().find_map(|one| {
        let step = one.steps.iter().find(|step| step.step == Step::Migrate)?;
        Some((one, step.note.clone()))
    });
    let (by, note) = migrated?;
    if note.is_empty() { by.release.map(|release| release.to_string()) } else { Some(note) }
}

/// Says what is gone back to.
pub(super) fn announce(report: &super::Reporter, back: &Applied) {
    report.say(Progress::Step { text: format!("going back to release {}", back.release) });
}
