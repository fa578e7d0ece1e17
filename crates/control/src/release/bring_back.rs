//! A rollback that changes the databases: everything ends, they go back, the earlier release starts.
//!
//! Requests wait meanwhile, as long as the route's `hold` lets them. Invariants: nothing of the site runs
//! while a database is exchanged; each database has a fresh backup first, or migrations are taken back after
//! one; what cannot be brought back whole is put back, and the release that served before serves again;
//! whoever dies in the middle, the next control brings them back to the end.

use std::time::{Duration, Instant};

use seaworthy_base::{Code, Fault, ReleaseId, SiteName};
use seaworthy_manifest::Site;
use seaworthy_release::{DataBack, Phase, Point, Step, Way};
use seaworthy_state::{ReleaseRecord, ReleaseState};

use crate::backups;
use crate::instances::store_fault;
use crate::release::build::{self, Kind};
use crate::release::gate::{self, Waiting};
use crate::release::prepare::{self, Prepared};
use crate::release::run::Run;
use crate::release::{data_back, flow, restore_point, settle};
use crate::serve;
use crate::world::{Applied, Rollout};

/// A database server may come up after us: between two tries after a restart.
const AGAIN: Duration = Duration::from_secs(2);

/// Checks what can be checked before anything ends: the backups are there and good.
pub(super) async fn check(run: &Run, prepared: &Prepared, data: &DataBack) -> Result<(), Fault> {
    let Way::Restore(points) = &data.way else { return Ok(()) };
    for point in points {
        let site = describing(run, prepared, data, &point.item)?;
        backups::check(&run.platform, &prepared.project, &site, point).await?;
    }
    Ok(())
}

/// The whole way.
pub(super) async fn go(
    run: &Run,
    prepared: &Prepared,
    data: &DataBack,
    next: &Applied,
) -> Result<(), Fault> {
    let name = &prepared.site.name;
    run.unless_stopped(check(run, prepared, data)).await?;
    if flow::is_running(run, prepared) {
        settle::set_room_aside(&run.platform)?;
        let rollout = Rollout {
            deployment: run.record().number,
            next: next.clone(),
            strategy: prepared.strategy,
            phase: Phase::Stop,
            id: next.release.to_string(),
            key: settle::key(),
            warm: 0,
            everything: true,
            values: prepared.values.clone(),
        };
        settle::begin(&run.platform, prepared, rollout).await?;
        let ended = async {
            run.begin(Step::Start, "ending all that runs; requests wait")?;
            let limit = prepared.site.deploy.timeout;
            gate::within(limit, &run.platform, name, Waiting::OldGone, &run.report).await?;
            tokio::time::timeout(limit, jobs_over(run, name)).await.unwrap_or_else(|_| {
                let what = format!("a job did not end within {} s", limit.as_secs());
                Err(Fault::new(Code::DeployTimeout, what)
                    .next(format!("seaworthy job list {name}")))
            })?;
            run.end("everything ended")
        };
        if let Err(fault) = run.unless_stopped(ended).await {
            return Err(put_back(run, prepared, fault).await);
        }
    }
    bring_back(run, prepared, data, next, Duration::ZERO).await
}

/// Goes on with what another control began.
pub(super) async fn go_on(
    run: &Run,
    prepared: &Prepared,
    data: &DataBack,
    next: &Applied,
    cause: Fault,
) -> Result<(), Fault> {
    let taken = run.record().points.clone();
    if data.way == Way::Down && !taken.is_empty() && run.record().open_step() == Some(Step::Restore)
    {
        // How far `down` came, nobody knows.
        return Err(undo(run, prepared, &taken, cause).await);
    }
    bring_back(run, prepared, data, next, prepared.site.deploy.timeout).await
}

/// From the first database to the release that serves; a failure is tried again for `patience`.
async fn bring_back(
    run: &Run,
    prepared: &Prepared,
    data: &DataBack,
    next: &Applied,
    patience: Duration,
) -> Result<(), Fault> {
    let done =
        run.record().steps.iter().any(|one| one.step == Step::Restore && !one.note.is_empty());
    if !done {
        match &data.way {
            Way::Restore(points) => restore(run, prepared, data, points, patience).await?,
            Way::Down => down(run, prepared, data).await?,
        }
    }
    for release in &data.undone {
        unmigrate(run, *release)?;
    }
    start(run, prepared, next).await
}

async fn restore(
    run: &Run,
    prepared: &Prepared,
    data: &DataBack,
    points: &[Point],
    patience: Duration,
) -> Result<(), Fault> {
    run.begin(Step::Restore, "bringing the databases back")?;
    let begun = Instant::now();
    for point in points {
        let known = run.record().data.clone();
        let known = known.into_iter().flat_map(|data| data.done);
        if known.into_iter().any(|(item, _)| item == point.item) {
            continue;
        }
        loop {
            match restore_one(run, prepared, data, &point.item, &point.set).await {
                Ok(safety) => break run.brought_back(&point.item, safety)?,
                Err(_) if begun.elapsed() < patience => tokio::time::sleep(AGAIN).await,
                Err(fault) => {
                    let back = replaced(run);
                    return Err(undo(run, prepared, &back, fault).await);
                }
            }
        }
    }
    run.end(&data.schema)
}

/// The fresh backups of what was exchanged so far.
fn replaced(run: &Run) -> Vec<Point> {
    let record = run.record();
    let done = record.data.iter().flat_map(|data| &data.done);
    done.filter_map(|(item, safety)| {
        let set = safety.clone()?;
        Some(Point { item: item.clone(), set, at: record.began })
    })
    .collect()
}

async fn restore_one(
    run: &Run,
    prepared: &Prepared,
    data: &DataBack,
    item: &str,
    set: &str,
) -> Result<Option<String>, Fault> {
    let site = describing(run, prepared, data, item)?;
    let report = run.report.clone();
    let shown = item.to_owned();
    let say = move |text: String| report.step(format!("{shown}: {text}"));
    backups::bring_back(&run.platform, &prepared.project, &site, (item, set), say).await
}

/// A manifest that says where an item is: of what is applied, of what is gone back to, of what is undone.
fn describing(run: &Run, prepared: &Prepared, data: &DataBack, item: &str) -> Result<Site, Fault> {
    let name = &prepared.site.name;
    let applied = run.platform.world().sites.get(name).map(|site| site.applied.site.clone());
    let undone =
        data.undone.iter().filter_map(|one| data_back::manifest_of(&run.platform, name, *one));
    let mut all = applied.into_iter().chain([prepared.site.clone()]).chain(undone);
    all.find(|site| site.backups.items.contains_key(item)).ok_or_else(|| {
        let what = format!("no manifest of `{name}` says any more where `{item}` is");
        Fault::new(Code::NoSuchBackup, what).next(format!("seaworthy backup list {item}"))
    })
}

/// Every migration is taken back in its own code, the newest first.
async fn down(run: &Run, prepared: &Prepared, data: &DataBack) -> Result<(), Fault> {
    let site = &prepared.site;
    run.begin(Step::RestorePoint, restore_point::expected(site, true))?;
    let points = match restore_point::make(&run.platform, &prepared.project, site).await {
        Ok(points) => points,
        Err(fault) => return Err(put_back(run, prepared, fault).await),
    };
    run.points(points.clone())?;
    if let Some(made) = restore_point::words(&points) {
        run.end(&made)?;
        run.report.step(made);
    }
    run.begin(Step::Restore, "taking migrations back")?;
    match each_down(run, prepared, data).await {
        Ok(()) => run.end(&data.schema),
        Err(fault) => Err(undo(run, prepared, &points, fault).await),
    }
}

async fn each_down(run: &Run, prepared: &Prepared, data: &DataBack) -> Result<(), Fault> {
    let name = &prepared.site.name;
    for release in &data.undone {
        let site = data_back::manifest_of(&run.platform, name, *release).ok_or_else(|| {
            let what = format!("the manifest of release `{release}` cannot be read any more");
            Fault::new(Code::MigrateFailed, what)
        })?;
        let services: Vec<_> = site.services.values().cloned().collect();
        let values = prepare::resolve_secrets(&run.platform, &prepared.project, &site)?.values;
        let theirs = Prepared { site, values, ..prepared.clone() };
        build::all(run, &theirs, *release, &services.iter().collect::<Vec<_>>(), Kind::Down)
            .await?;
    }
    let release = prepared.release.unwrap_or(ReleaseId { number: 0, digest: 0 });
    match build::told_schema(run, prepared, release).await? {
        Some(told) if data.schema.starts_with("s-") && told != data.schema => {
            let what = format!("`migrate.down` left the schema `{told}`, not `{}`", data.schema);
            Err(Fault::new(Code::MigrateFailed, what).because("`migrate.status` says so"))
        }
        _ => Ok(()),
    }
}

/// A release whose migration was undone has to be made anew before it may serve again.
fn unmigrate(run: &Run, release: ReleaseId) -> Result<(), Fault> {
    let store = run.platform.store();
    let known = store.releases(&run.record().site).map_err(|error| store_fault(&error))?;
    let Some(one) = known.into_iter().find(|one| one.id == release) else { return Ok(()) };
    if !matches!(one.state, ReleaseState::Migrated | ReleaseState::Live) {
        return Ok(());
    }
    let note = "a rollback took its migration back".to_owned();
    let one = ReleaseRecord { state: ReleaseState::Built, note, ..one };
    store.put_release(&one).map_err(|error| store_fault(&error))
}

/// The release that is gone back to starts; from here on it is what is wanted, whether it comes up or not.
async fn start(run: &Run, prepared: &Prepared, next: &Applied) -> Result<(), Fault> {
    let name = &prepared.site.name;
    run.begin(Step::Switch, "starting the release that they fit")?;
    if settle::phase(&run.platform, name).is_some() {
        settle::set_coming(&run.platform, name, true);
        settle::complete(&run.platform, name);
        serve::publish(&run.platform).await?;
    } else {
        settle::install(&run.platform, prepared, next).await?;
    }
    let serving = settle::wait_until_serving(&run.platform, name, &run.report).await;
    settle::set_coming(&run.platform, name, false);
    serving?;
    run.end("")?;
    run.begin(Step::Gate, "trying it through the real listener")?;
    if let Err(fault) = gate::smoke(run, prepared, None).await {
        run.report.warn(fault);
    }
    run.end("")
}

/// Databases that were touched get back what was there; then the release that served before serves again.
async fn undo(run: &Run, prepared: &Prepared, points: &[Point], fault: Fault) -> Fault {
    let data = run.record().data.clone();
    let mut fault = fault;
    for point in points {
        run.report.step(format!("putting {} back as it was", point.item));
        let Some(data) = &data else { continue };
        if let Err(more) = restore_one(run, prepared, data, &point.item, &point.set).await {
            fault = fault
                .because(format!("{} could not be put back: {}", point.item, more.what))
                .next(format!("seaworthy backup restore {} --at {}", point.item, point.set));
        }
    }
    put_back(run, prepared, fault).await
}

/// The release that served before starts again.
async fn put_back(run: &Run, prepared: &Prepared, fault: Fault) -> Fault {
    if settle::phase(&run.platform, &prepared.site.name).is_none() {
        return fault;
    }
    flow::go_back(run, prepared, fault).await
}

/// Jobs of the site that run may write: they end first, and none begins meanwhile.
async fn jobs_over(run: &Run, name: &SiteName) -> Result<(), Fault> {
    while let Some(job) = run.platform.jobs.any_of(name) {
        run.report.step(format!("waiting for job `{job}` to end"));
        tokio::time::sleep(AGAIN).await;
    }
    Ok(())
}
