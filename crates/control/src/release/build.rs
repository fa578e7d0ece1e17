//! Finds or makes the release: copy, build, migrate, publish.
//!
//! Invariants: what runs is not touched; a release whose commands failed is never used.

use std::path::Path;
use std::sync::Arc;

use seaworthy_api::model::Progress;
use seaworthy_base::{Code, Fault, ReleaseId, Timestamp};
use seaworthy_manifest::site::Site;
use seaworthy_runtime::model::User;
use seaworthy_state::{ReleaseRecord, ReleaseState};

use crate::commands::{self, Surroundings};
use crate::instances::store_fault;
use crate::platform::Platform;
use crate::release::Reporter;
use crate::release::files::{self as release, disk_fault};
use crate::release::prepare::Prepared;
use crate::specs::{self, Place, Values};

/// Finds or makes the release: copy, build, migrate, publish.
pub(super) async fn realise(
    platform: &Arc<Platform>,
    project: &Path,
    prepared: &Prepared,
    report: &Reporter,
) -> Result<ReleaseId, Fault> {
    let name = &prepared.site.name;
    let known = platform.store().releases(name).map_err(|error| store_fault(&error))?;
    let usable = |release: &&ReleaseRecord| {
        release.content_hash == prepared.fingerprint.whole
            && matches!(release.state, ReleaseState::Migrated | ReleaseState::Live)
            && release.dir.is_dir()
    };
    let id = if let Some(release) = known.iter().rev().find(usable) {
        release.id
    } else {
        let number =
            platform.store().next_release_number(name).map_err(|error| store_fault(&error))?;
        let id = ReleaseId { number, digest: prepared.fingerprint.short() };
        build_release(platform, project, prepared, id, report).await?;
        id
    };
    let public = platform.layout.public(name, id);
    if !public.is_dir() {
        release::publish(&prepared.site, &platform.layout.release(name, id), &public)?;
    }
    Ok(id)
}

async fn build_release(
    platform: &Arc<Platform>,
    project: &Path,
    prepared: &Prepared,
    id: ReleaseId,
    report: &Reporter,
) -> Result<(), Fault> {
    let (site, user) = (&prepared.site, prepared.user.as_ref());
    let (dir, data) = (platform.layout.release(&site.name, id), platform.layout.data(&site.name));
    let mut record = ReleaseRecord {
        site: site.name.clone(),
        id,
        dir: dir.clone(),
        created: Timestamp::now(),
        content_hash: prepared.fingerprint.whole.clone(),
        state: ReleaseState::Building,
        note: String::new(),
    };
    let put = |record: &ReleaseRecord| {
        platform.store().put_release(record).map_err(|error| store_fault(&error))
    };
    put(&record)?;
    report.step(format!("copying {} files into release {id}", prepared.fingerprint.files.len()));
    copy_files(project, prepared, &dir, &data, user)
        .map_err(|error| disk_fault(format!("could not make release `{id}`"), &error))?;
    let place = Place { layout: &platform.layout, site: &site.name, release: id };
    let steps = run_steps(site, place, &prepared.values, user, report).await;
    if let Err(fault) = steps {
        record.state = ReleaseState::Failed;
        record.note = fault.to_string();
        put(&record)?;
        return Err(fault.next("what ran before still runs: seaworthy status"));
    }
    release::hand_over(&dir, user, true)
        .map_err(|error| disk_fault(format!("could not finish release `{id}`"), &error))?;
    record.state = ReleaseState::Migrated;
    put(&record)
}

fn copy_files(
    project: &Path,
    prepared: &Prepared,
    dir: &Path,
    data: &Path,
    user: Option<&User>,
) -> std::io::Result<()> {
    release::copy(project, &prepared.fingerprint.files, dir)?;
    let fresh = !data.exists();
    std::fs::create_dir_all(data)?;
    for service in prepared.site.services.values() {
        release::link_shared(service, dir, data)?;
    }
    if let Some(user) = user
        && (fresh || prepared.site.services.values().any(|service| !service.shared.is_empty()))
    {
        release::set_owner(data, Some((user.uid, user.gid)), 0o750, 0o640)?;
    }
    for parent in dir.ancestors().take(4).skip(1) {
        std::fs::set_permissions(parent, std::os::unix::fs::PermissionsExt::from_mode(0o711)).ok();
    }
    release::hand_over(dir, user, false)
}

/// Build commands of all services, then all migrations: a migration runs in code that is built whole.
async fn run_steps(
    site: &Site,
    place: Place<'_>,
    values: &Values,
    user: Option<&User>,
    report: &Reporter,
) -> Result<(), Fault> {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let lines = report.clone();
    let forward = tokio::spawn(async move {
        while let Some(line) = receiver.recv().await {
            lines.say(Progress::Output { line });
        }
    });
    let work = async {
        for (code, verb) in [(Code::BuildFailed, "building"), (Code::MigrateFailed, "migrating")] {
            for service in site.services.values() {
                let commands =
                    if code == Code::BuildFailed { &service.build } else { &service.migrate };
                let environment = specs::environment(service, place, values);
                let dir = specs::folder(service, place);
                let data = place.layout.data(place.site).display().to_string();
                let release = place.release.to_string();
                for command in commands {
                    report.step(format!("{verb} {}: {}", service.name, specs::shown(command)));
                    let argv = commands::argv(command, &[("DATA", &data), ("RELEASE", &release)]);
                    let around = Surroundings { dir: &dir, environment: &environment, user };
                    commands::run(&argv, &around, code, &sender).await?;
                }
            }
        }
        Ok(())
    };
    let result = work.await;
    drop(sender);
    forward.await.ok();
    result
}
