//! Finds or makes the release: the project's checks, copy, build, migrate, publish.
//!
//! Invariants: what runs is not touched; a release whose commands failed is never used; a migration runs
//! once for each release, after every build command of all services and after the restore point.

use std::path::Path;

use seaworthy_base::{Code, Fault, ReleaseId, Timestamp};
use seaworthy_manifest::site::{Command, Service};
use seaworthy_release::Step;
use seaworthy_runtime::model::User;
use seaworthy_state::{ReleaseRecord, ReleaseState};
use sha2::{Digest, Sha256};

use crate::commands::bounds::{self, Bounds, Limits};
use crate::commands::{self, Surroundings};
use crate::instances::store_fault;
use crate::platform::Platform;
use crate::release::files::{self, disk_fault};
use crate::release::output;
use crate::release::prepare::Prepared;
use crate::release::restore_point;
use crate::release::run::Run;
use crate::specs::{self, Place};
use crate::world::Applied;

/// A release that may be started once it is migrated.
#[derive(Debug)]
pub(super) struct Built {
    /// Its id.
    pub release: ReleaseId,
    /// Its record, until it is migrated.
    record: Option<ReleaseRecord>,
}

/// A release of the same content that is whole.
pub(super) fn find(run: &Platform, prepared: &Prepared) -> Option<ReleaseId> {
    let known = run.store().releases(&prepared.site.name).ok()?;
    let usable = |release: &&ReleaseRecord| {
        release.content_hash == prepared.whole
            && matches!(release.state, ReleaseState::Migrated | ReleaseState::Live)
            && release.dir.is_dir()
    };
    prepared.release.or_else(|| known.iter().rev().find(usable).map(|release| release.id))
}

/// Finds it, or makes it up to the migration.
pub(super) async fn make(run: &Run, prepared: &Prepared) -> Result<Built, Fault> {
    let name = &prepared.site.name;
    let platform = &run.platform;
    if let Some(release) = find(platform, prepared) {
        run.releases(release)?;
        let public = platform.layout.public(name, release);
        if !public.is_dir() {
            files::publish(&prepared.site, &platform.layout.release(name, release), &public)?;
        }
        return Ok(Built { release, record: None });
    }
    let number = platform.store().next_release_number(name).map_err(|error| store_fault(&error))?;
    let digest = u32::from_str_radix(prepared.whole.get(..8).unwrap_or("0"), 16).unwrap_or(0);
    let release = ReleaseId { number, digest };
    run.releases(release)?;
    let mut record = ReleaseRecord {
        site: name.clone(),
        id: release,
        dir: platform.layout.release(name, release),
        created: Timestamp::now(),
        content_hash: prepared.whole.clone(),
        state: ReleaseState::Building,
        note: String::new(),
    };
    put(run, &record)?;
    match steps(run, prepared, release).await {
        Ok(()) => {
            record.state = ReleaseState::Built;
            put(run, &record)?;
            Ok(Built { release, record: Some(record) })
        }
        Err(fault) => {
            discard(platform, &record).await;
            Err(fail(run, record, fault))
        }
    }
}

/// Notes why a release is of no use that was not finished, by whoever stopped it, and removes what cannot be used.
pub(super) async fn give_up(run: &Run, fault: &Fault) {
    let (site, release) = {
        let record = run.record();
        (record.site.clone(), record.release)
    };
    let known = run.platform.store().releases(&site).unwrap_or_default();
    let half = known.into_iter().find(|one| {
        Some(one.id) == release && matches!(one.state, ReleaseState::Building | ReleaseState::Built)
    });
    let Some(half) = half else { return };
    if half.state == ReleaseState::Building {
        // What it left running would go on writing there.
        run.sweep().await;
        discard(&run.platform, &half).await;
    }
    let failed = ReleaseRecord { state: ReleaseState::Failed, note: fault.to_string(), ..half };
    if let Err(unwritten) = put(run, &failed) {
        crate::say(&unwritten.to_string());
    }
}

/// Removes the files of a release that never was whole: one that filled the disk must not keep it full.
pub(super) async fn discard(platform: &Platform, record: &ReleaseRecord) {
    let places = [record.dir.clone(), platform.layout.public(&record.site, record.id)];
    let removed = tokio::task::spawn_blocking(move || files::discard(&places));
    // It runs to its end whether we wait or not.
    removed.await.ok();
}

fn put(run: &Run, record: &ReleaseRecord) -> Result<(), Fault> {
    run.platform.store().put_release(record).map_err(|error| store_fault(&error))
}

/// Notes why a release is of no use.
fn fail(run: &Run, record: ReleaseRecord, fault: Fault) -> Fault {
    let note = fault.to_string();
    let failed = ReleaseRecord { state: ReleaseState::Failed, note, ..record };
    if let Err(unwritten) = put(run, &failed) {
        crate::say(&unwritten.to_string());
    }
    fault.next("what ran before still runs: seaworthy status")
}

async fn steps(run: &Run, prepared: &Prepared, release: ReleaseId) -> Result<(), Fault> {
    fetch(run, prepared, release)?;
    // In the release's own place: what is checked is what will run, and the folder stays as it is.
    if !prepared.site.deploy.checks.is_empty() {
        run.begin(Step::Check, "the project's checks")?;
        let whole = Service {
            name: prepared.site.services.keys().next().cloned().ok_or_else(nothing)?,
            dir: ".".to_owned(),
            build: prepared.site.deploy.checks.clone(),
            ..prepared.site.services.values().next().cloned().ok_or_else(nothing)?
        };
        all(run, prepared, release, &[&whole], Kind::Check).await?;
        run.end("")?;
    }
    let services: Vec<&Service> = prepared.site.services.values().collect();
    if services.iter().any(|service| !service.build.is_empty()) {
        run.begin(Step::Build, "building")?;
        all(run, prepared, release, &services, Kind::Build).await?;
        run.end("")?;
    }
    let layout = &run.platform.layout;
    let name = &prepared.site.name;
    files::publish(&prepared.site, &layout.release(name, release), &layout.public(name, release))
}

fn nothing() -> Fault {
    Fault::new(Code::Internal, "a site without services")
}

fn fetch(run: &Run, prepared: &Prepared, release: ReleaseId) -> Result<(), Fault> {
    let Some((from, list)) = &prepared.files else { return Err(nothing()) };
    run.begin(Step::Fetch, format!("copying {} files into release {release}", list.len()))?;
    let layout = &run.platform.layout;
    let (dir, data) =
        (layout.release(&prepared.site.name, release), layout.data(&prepared.site.name));
    copy_files(from, list, prepared, &dir, &data)
        .map_err(|error| disk_fault(format!("could not make release `{release}`"), &error))?;
    run.end("")
}

/// Restore point and migrations of a release that was not migrated yet; then it is whole.
pub(super) async fn migrate(run: &Run, prepared: &Prepared, built: &Built) -> Result<(), Fault> {
    let Some(record) = &built.record else { return Ok(()) };
    match migrations(run, prepared, built.release).await {
        Ok(()) => {
            files::hand_over(&record.dir, prepared.user.as_ref(), true).map_err(|error| {
                disk_fault(format!("could not finish release `{}`", built.release), &error)
            })?;
            put(run, &ReleaseRecord { state: ReleaseState::Migrated, ..record.clone() })
        }
        Err(fault) => Err(fail(run, record.clone(), fault)),
    }
}

async fn migrations(run: &Run, prepared: &Prepared, release: ReleaseId) -> Result<(), Fault> {
    let services: Vec<&Service> = prepared.site.services.values().collect();
    if services.iter().all(|service| service.migrate.is_empty()) {
        return Ok(());
    }
    let serves = run.platform.world().sites.contains_key(&prepared.site.name);
    let expected = restore_point::expected(&prepared.site, serves);
    run.begin(Step::RestorePoint, expected.clone())?;
    let points = restore_point::make(&run.platform, &prepared.project, &prepared.site).await?;
    let made = restore_point::words(&points);
    run.points(points)?;
    run.end(made.as_ref().unwrap_or(&expected))?;
    if let Some(made) = made {
        run.report.step(made);
    }
    run.begin(Step::Migrate, "migrating")?;
    all(run, prepared, release, &services, Kind::Migrate).await?;
    let schema = schema(run, prepared, release).await?;
    run.end(&schema)
}

/// Names the schema that the databases have now: by what the tools say of it, where they all can; otherwise
/// by the release that migrated last.
async fn schema(run: &Run, prepared: &Prepared, release: ReleaseId) -> Result<String, Fault> {
    let said = told_schema(run, prepared, release).await?;
    Ok(said.unwrap_or_else(|| release.to_string()))
}

/// What the tools of a release say of the schema that the databases have now; none where one of them cannot.
pub(super) async fn told_schema(
    run: &Run,
    prepared: &Prepared,
    release: ReleaseId,
) -> Result<Option<String>, Fault> {
    let services = prepared.site.services.values();
    let migrated: Vec<&Service> = services.filter(|one| !one.migrate.is_empty()).collect();
    if migrated.is_empty() {
        return Ok(None);
    }
    let bounds = bounds_of(run, prepared);
    let mut hash = Sha256::new();
    for service in migrated {
        let Some(status) = &service.migrate_status else { return Ok(None) };
        let place = Place { layout: &run.platform.layout, site: &prepared.site.name, release };
        let environment = specs::environment(service, place, &prepared.values);
        let dir = specs::folder(service, place);
        let user = prepared.user.as_ref();
        let limit = prepared.site.deploy.build_timeout;
        let (input, bounds) = (None, Some(&bounds));
        let around =
            Surroundings { dir: &dir, environment: &environment, user, limit, input, bounds };
        let argv = commands::argv(status, &[("RELEASE", &release.to_string())]);
        let (sender, mut lines) = commands::lines();
        let told = async {
            while let Some(line) = lines.recv().await {
                hash.update(line.as_bytes());
                hash.update(b"\n");
            }
        };
        let ran = async {
            let ran = commands::run(&argv, &around, Code::MigrateFailed, &sender).await;
            drop(sender);
            ran
        };
        tokio::join!(ran, told).0?;
    }
    let digest = files::hex(&hash.finalize()[..6]);
    Ok(Some(format!("s-{digest}")))
}

/// Notes that a release serves.
pub(super) fn mark_live(run: &Run, prepared: &Prepared, next: &Applied) -> Result<(), Fault> {
    let known = run.platform.store().releases(&prepared.site.name);
    let known = known.map_err(|error| store_fault(&error))?;
    let found = known.into_iter().find(|one| one.id == next.release);
    found.map_or(Ok(()), |one| put(run, &ReleaseRecord { state: ReleaseState::Live, ..one }))
}

fn copy_files(
    from: &Path,
    list: &[std::path::PathBuf],
    prepared: &Prepared,
    dir: &Path,
    data: &Path,
) -> std::io::Result<()> {
    let user: Option<&User> = prepared.user.as_ref();
    files::copy(from, list, dir)?;
    let fresh = !data.exists();
    std::fs::create_dir_all(data)?;
    for service in prepared.site.services.values() {
        files::link_shared(service, dir, data)?;
    }
    if let Some(user) = user
        && (fresh || prepared.site.services.values().any(|service| !service.shared.is_empty()))
    {
        files::set_owner(data, Some((user.uid, user.gid)), 0o750, 0o640)?;
    }
    for parent in dir.ancestors().take(4).skip(1) {
        std::fs::set_permissions(parent, std::os::unix::fs::PermissionsExt::from_mode(0o711)).ok();
    }
    files::hand_over(dir, user, false)
}

/// Which commands of a service.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Check,
    Build,
    Migrate,
    Down,
}

impl Kind {
    fn of(self, service: &Service) -> (&[Command], Code, &'static str) {
        match self {
            Self::Check => (&service.build, Code::CheckFailed, "checking"),
            Self::Build => (&service.build, Code::BuildFailed, "building"),
            Self::Migrate => (&service.migrate, Code::MigrateFailed, "migrating"),
            Self::Down => {
                (&service.migrate_down, Code::MigrateFailed, "taking back the migration of")
            }
        }
    }
}

/// Where the commands of a deployment run.
fn bounds_of(run: &Run, prepared: &Prepared) -> Bounds {
    let deploy = &prepared.site.deploy;
    let memory_key = "`build_memory` of `[deploy]`";
    let limits = Limits { memory: deploy.build_memory, cpu_millis: deploy.build_cpu, memory_key };
    let name = bounds::of_deployment(&prepared.site.name, run.record().number);
    Bounds::new(&run.platform, &name, limits, true)
}

/// Runs the commands of all services, every line shown as it comes.
pub(super) async fn all(
    run: &Run,
    prepared: &Prepared,
    release: ReleaseId,
    services: &[&Service],
    kind: Kind,
) -> Result<(), Fault> {
    let place = Place { layout: &run.platform.layout, site: &prepared.site.name, release };
    let (sender, written) = output::open(place.layout, place.site, release, &run.report);
    let bounds = bounds_of(run, prepared);
    if let Some(missing) = &bounds.missing {
        run.report.step(missing);
    }
    let work = async {
        for service in services {
            let (list, code, verb) = kind.of(service);
            let environment = specs::environment(service, place, &prepared.values);
            let dir = specs::folder(service, place);
            let data = place.layout.data(place.site).display().to_string();
            let release = place.release.to_string();
            for command in list {
                run.report.step(format!("{verb} {}: {}", service.name, specs::shown(command)));
                let argv = commands::argv(command, &[("DATA", &data), ("RELEASE", &release)]);
                let user = prepared.user.as_ref();
                let limit = prepared.site.deploy.build_timeout;
                let around = Surroundings {
                    dir: &dir,
                    environment: &environment,
                    user,
                    limit,
                    input: None,
                    bounds: Some(&bounds),
                };
                commands::run(&argv, &around, code, &sender).await?;
            }
        }
        Ok(())
    };
    let result = work.await;
    drop(sender);
    written.await.ok();
    let log = output::path(place.layout, place.site);
    result.map_err(|fault: Fault| {
        fault.next(format!("less {}   (all that it printed)", log.display()))
    })
}
