//! `rollback`: an earlier release takes the place of the one that serves, by the same way as any other.
//!
//! What is gone back to is what was applied then: its manifest, its routes, its files. Invariants: nothing is
//! built; secrets are today's, since those of then may be void; where the database was migrated since, it
//! needs a word, or `migrate.down`. Not here: what becomes of the databases (`data_back`).

use std::sync::Arc;

use seaworthy_api::model::{Progress, RollbackRequest};
use seaworthy_base::{Code, Fault, ReleaseId, SiteName};
use seaworthy_release::{DataBack, Deployment, Ending, Ledger, Step, Strategy, Way};
use seaworthy_state::ReleaseRecord;

use crate::instances::store_fault;
use crate::platform::Platform;
use crate::release::data_back;
use crate::release::prepare::Prepared;
use crate::world::Applied;

/// The journal's note of the step in which everything starts for the first time.
pub(super) const FIRST_START: &str = "first start";

/// How far back is looked.
const LOOKED_AT: u32 = 500;

/// The deployments of a site, newest first.
pub(super) fn deployments(platform: &Platform, name: &SiteName) -> Result<Vec<Deployment>, Fault> {
    let texts =
        platform.store().deployments(name, LOOKED_AT).map_err(|error| store_fault(&error))?;
    Ok(texts.iter().filter_map(|text| serde_json::from_str(text).ok()).collect())
}

/// How many milliseconds the programs took to start when they last did; none where that is not known.
pub(super) fn last_start(platform: &Platform, name: &SiteName) -> Option<u64> {
    let all = deployments(platform, name).ok()?;
    all.iter().filter(|one| one.ending == Some(Ending::Live)).find_map(start_ms)
}

/// How long the programs of a deployment took to start; none where it started none.
fn start_ms(one: &Deployment) -> Option<u64> {
    let switch = one.steps.iter().find(|step| step.step == Step::Switch)?;
    match one.strategy {
        _ if switch.note == FIRST_START => switch.took(),
        Strategy::Recreate if one.reached(Step::Start) => switch.took(),
        Strategy::Rolling => Some(one.took_ms(Step::Start)? + switch.took()?),
        _ => one.took_ms(Step::Start),
    }
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

/// What a request comes to.
#[derive(Debug)]
pub(super) struct Target {
    /// What is gone back to.
    pub(super) applied: Applied,
    /// What is done to the databases.
    pub(super) data: Option<DataBack>,
    /// The schema that they have.
    pub(super) schema: String,
}

/// Finds what a request means.
pub(super) fn target(
    platform: &Arc<Platform>,
    name: &SiteName,
    request: &RollbackRequest,
) -> Result<Target, Fault> {
    let now = platform.world().sites.get(name).map(|site| site.applied.clone());
    let Some(now) = now else {
        let what = format!("there is no site `{name}`");
        return Err(Fault::new(Code::NoSuchSite, what).next("seaworthy status"));
    };
    let deployments = deployments(platform, name)?;
    let ledger = Ledger::read(&deployments);
    let to = request.to.as_deref().map(|text| named(platform, name, text)).transpose()?;
    // After a migration that failed, what serves is what the databases were right for.
    let ahead = ledger.of(now.release).is_some_and(|schema| schema != ledger.today());
    let applied = if to.is_none() && request.with_database && ahead {
        now
    } else {
        code(platform, name, &now, &deployments, to)?
    };
    let data = match ledger.of(applied.release) == Some(ledger.today()) {
        true if request.with_database => return Err(data_back::nothing_since(name, &applied)),
        true => None,
        false if request.keep_schema => None,
        false if request.with_database => Some(data_back::restore(name, &applied, &ledger)?),
        false => Some(data_back::down(platform, name, &applied, &ledger)?),
    };
    Ok(Target { applied, data, schema: ledger.today().to_owned() })
}

/// Finds the release that is meant.
fn code(
    platform: &Arc<Platform>,
    name: &SiteName,
    now: &Applied,
    deployments: &[Deployment],
    to: Option<ReleaseId>,
) -> Result<Applied, Fault> {
    let hint = format!("seaworthy releases {name}");
    let known = platform.store().releases(name).map_err(|error| store_fault(&error))?;
    let record = |release: ReleaseId| known.iter().find(|one| one.id == release);
    let usable = |release: ReleaseId| record(release).is_some_and(|one| one.dir.is_dir());
    let Choice::Found(found) = choose(now, deployments, to, usable) else {
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

/// Live data is exchanged only when a person knows what is lost by it.
pub(super) fn refuse_unconfirmed(
    name: &SiteName,
    prepared: &Prepared,
    request: &RollbackRequest,
) -> Result<(), Fault> {
    let restores = matches!(&prepared.data, Some(DataBack { way: Way::Restore(_), .. }));
    if request.confirmed || !restores {
        return Ok(());
    }
    let what = format!("going back with the databases of `{name}` loses what was written since");
    Err(Fault::new(Code::RestoreUnconfirmed, what)
        .because("nobody confirmed it")
        .next(format!("seaworthy rollback {name} --with-database --plan   (says what is lost)"))
        .next(format!("seaworthy rollback {name} --with-database --yes")))
}

/// Says what is gone back to.
pub(super) fn announce(report: &super::Reporter, prepared: &Prepared) {
    let Some(release) = prepared.release else { return };
    let with = if prepared.data.is_some() { " with its databases" } else { "" };
    report.say(Progress::Step { text: format!("going back to release {release}{with}") });
}
