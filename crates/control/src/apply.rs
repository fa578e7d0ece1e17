//! Makes a folder's manifest true: read, compare, build what is new, switch, wait, or go back.
//!
//! Invariants: everything that can be refused is refused before anything changes; services whose
//! specification is the same keep their processes, routes are swapped without touching a socket; when a
//! changed site does not come up, what ran before is wanted again. Not here: strategies and watching
//! after the switch.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use seaworthy_api::model::{Applied as Outcome, Change, ChangeKind, Progress, VERSION};
use seaworthy_base::{Code, Fault, InstanceId, ReleaseId, ServiceName, SiteName, Timestamp};
use seaworthy_manifest::site::{Site, Tls};
use seaworthy_runtime::model::User;
use seaworthy_secrets::sources::{self, Sources};
use seaworthy_state::{Desired, ReleaseRecord, ReleaseState, SiteRecord};
use tokio::sync::mpsc::UnboundedSender;

use crate::commands::{self, Surroundings};
use crate::instances::store_fault;
use crate::platform::Platform;
use crate::release::{self, Fingerprint, disk_fault};
use crate::specs::{self, Place, Values};
use crate::users;
use crate::world::{Applied, Refused, SiteState, processes};

/// Releases kept besides the one in use.
const KEEP: usize = 5;

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

/// All that is known before anything changes.
struct Prepared {
    site: Site,
    text: String,
    values: Values,
    fingerprint: Fingerprint,
    user: Option<User>,
    hashes: BTreeMap<ServiceName, String>,
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
    refuse_conflicts(platform, project, &site)?;
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
    let prepared = prepare(platform, project, site, report)?;
    let changes = differences(platform, &prepared);
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
    let release = realise(platform, project, &prepared, report).await?;
    let applied = Applied {
        site: prepared.site.clone(),
        release,
        hashes: prepared.hashes.clone(),
        content: prepared.fingerprint.services.clone(),
    };
    switch(platform, project, prepared, applied, report).await?;
    prune(platform, &name);
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

/// Checks; changes nothing.
fn prepare(
    platform: &Arc<Platform>,
    project: &Path,
    site: Site,
    report: &Reporter,
) -> Result<Prepared, Fault> {
    let text = std::fs::read_to_string(project.join("seaworthy.toml")).unwrap_or_default();
    let (values, warnings) = resolve_secrets(platform, project, &site)?;
    for fault in warnings {
        report.say(Progress::Warning { fault });
    }
    let user = if platform.root {
        Some(users::ensure(&users::site_user_name(&site.name), &platform.layout.data(&site.name))?)
    } else {
        None
    };
    for (_, process) in processes(&site) {
        if let (Some(name), true) = (&process.user, platform.root) {
            users::existing(name)?;
        }
    }
    let fingerprint = release::fingerprint(project, &site)?;
    let hash = |(name, _): (&ServiceName, _)| {
        let content = fingerprint.services.get(name).map_or("", String::as_str);
        let service = site.services.get(name)?;
        Some((name.clone(), specs::hash(service, content, &values, &platform.spec_key)))
    };
    let hashes = processes(&site).filter_map(hash).collect();
    Ok(Prepared { site, text, values, fingerprint, user, hashes })
}

fn refuse_conflicts(platform: &Arc<Platform>, project: &Path, site: &Site) -> Result<(), Fault> {
    let world = platform.world();
    if let Some(other) =
        world.sites.get(&site.name).filter(|other| other.running && other.project != project)
    {
        let what = format!(
            "a site named `{}` already runs from another folder, `{}`",
            site.name,
            other.project.display()
        );
        return Err(
            Fault::new(Code::HostConflict, what).next("give one of them another `site = \"…\"`")
        );
    }
    for (name, other) in
        world.sites.iter().filter(|(name, other)| **name != site.name && other.running)
    {
        let theirs = |host: &String| {
            other.applied.site.domains.contains(host)
                || other.applied.site.redirect_domains.contains(host)
        };
        if let Some(host) =
            site.domains.iter().chain(&site.redirect_domains).find(|host| theirs(host))
        {
            let what = format!("site `{name}` already serves `{host}`");
            return Err(Fault::new(Code::HostConflict, what)
                .next(format!("choose another name in `domains`, or: seaworthy down {name}")));
        }
    }
    Ok(())
}

/// The values of all secrets that the site's services need.
pub(crate) fn resolve_secrets(
    platform: &Arc<Platform>,
    project: &Path,
    site: &Site,
) -> Result<(Values, Vec<Fault>), Fault> {
    let mut names: Vec<String> = site.services.values().flat_map(specs::secret_names).collect();
    names.sort();
    names.dedup();
    let names: Vec<_> = names.iter().filter_map(|name| name.parse().ok()).collect();
    let places = Sources {
        file: site.secrets.file.clone(),
        dir: site.secrets.dir.clone(),
        age: site.secrets.age.clone(),
        command: site.secrets.command.clone(),
    };
    let resolved = sources::resolve(&names, project, &places, Some((&platform.vault, &site.name)));
    match resolved {
        Ok(resolved) => Ok((resolved.values, resolved.warnings)),
        Err(faults) => {
            let mut faults = faults.into_iter();
            let first = faults
                .next()
                .unwrap_or_else(|| Fault::new(Code::SecretMissing, "secrets are missing"));
            let needy = site.services.values().filter(|one| !specs::secret_names(one).is_empty());
            let needy: Vec<String> = needy.map(|one| format!("`{}`", one.name)).collect();
            let first = first.because(format!("service {} cannot start without", needy.join(", ")));
            Err(faults.fold(first, |all, more| Fault {
                evidence: [all.evidence.clone(), vec![more.to_string()], more.evidence].concat(),
                ..all
            }))
        }
    }
}

/// What is different from what is applied now.
fn differences(platform: &Arc<Platform>, prepared: &Prepared) -> Vec<Change> {
    let world = platform.world();
    let before =
        world.sites.get(&prepared.site.name).filter(|site| site.running).map(|site| &site.applied);
    let change =
        |kind, subject: String, detail: &str| Change { kind, subject, detail: detail.to_owned() };
    let mut changes = Vec::new();
    for (name, service) in &prepared.site.services {
        let subject = format!("service {name}");
        let old = before.and_then(|before| before.site.services.get(name).map(|old| (before, old)));
        changes.push(match old {
            None => change(ChangeKind::Add, subject, "new"),
            Some((before, old)) => {
                let same_content =
                    before.content.get(name) == prepared.fingerprint.services.get(name);
                let same_hash = before.hashes.get(name) == prepared.hashes.get(name);
                match (old == service, same_content, same_hash) {
                    (true, true, true) => change(ChangeKind::Keep, subject, "untouched"),
                    (true, true, false) => {
                        change(ChangeKind::Change, subject, "a secret changed: replaced one by one")
                    }
                    (_, false, _) => change(
                        ChangeKind::Change,
                        subject,
                        "its files changed: replaced one by one",
                    ),
                    (false, true, true) => change(
                        ChangeKind::Change,
                        subject,
                        "number of instances or order changed: no restart",
                    ),
                    (false, true, false) => change(
                        ChangeKind::Change,
                        subject,
                        "its settings changed: replaced one by one",
                    ),
                }
            }
        });
    }
    if let Some(before) = before {
        let gone =
            before.site.services.keys().filter(|name| !prepared.site.services.contains_key(*name));
        changes.extend(gone.map(|name| {
            change(ChangeKind::Remove, format!("service {name}"), "drained, then stopped")
        }));
        if before.site.routes != prepared.site.routes {
            changes.push(change(
                ChangeKind::Change,
                "routes".to_owned(),
                "swapped without touching a connection",
            ));
        }
        if (&before.site.domains, &before.site.listen, &before.site.tls)
            != (&prepared.site.domains, &prepared.site.listen, &prepared.site.tls)
        {
            changes.push(change(
                ChangeKind::Change,
                "domains and listeners".to_owned(),
                "added before anything is closed",
            ));
        }
    }
    changes
}

/// Finds or makes the release: copy, build, migrate, publish.
async fn realise(
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

/// Makes the prepared site the wanted one and waits until it serves; goes back when it does not.
async fn switch(
    platform: &Arc<Platform>,
    project: &Path,
    prepared: Prepared,
    applied: Applied,
    report: &Reporter,
) -> Result<(), Fault> {
    let name = prepared.site.name.clone();
    let previous = platform.world().sites.remove(&name);
    let id = previous.as_ref().map_or(0, |site| site.id);
    let before = previous
        .as_ref()
        .filter(|site| site.running)
        .map(|site| (site.applied.clone(), site.values.clone()));
    let Prepared { text, values, user, .. } = prepared;
    let state = SiteState {
        id,
        project: project.to_path_buf(),
        applied,
        running: true,
        rejected: BTreeMap::new(),
        faults: Vec::new(),
        values,
        user,
    };
    platform.world().sites.insert(name.clone(), state);
    let opened = crate::serve::publish(platform).await;
    if let Err(fault) = opened {
        // Nothing has changed yet but what we remember.
        let mut world = platform.world();
        match previous {
            Some(previous) => drop(world.sites.insert(name, previous)),
            None => drop(world.sites.remove(&name)),
        }
        return Err(fault);
    }
    record(platform, &name, &text)?;
    platform.changed();
    report.step("starting");
    let waited = wait_until_serving(platform, &name, report).await;
    let Err(fault) = waited else { return Ok(()) };
    if let Some((applied, values)) = before {
        report.step("it did not come up: going back to what ran before");
        if let Some(site) = platform.world().sites.get_mut(&name) {
            site.applied = applied;
            site.values = values;
            site.rejected.clear();
        }
        crate::serve::publish(platform).await?;
        record(platform, &name, &text)?;
        platform.changed();
    }
    Err(fault)
}

/// Writes the site as it is wanted now.
pub(crate) fn record(platform: &Arc<Platform>, name: &SiteName, text: &str) -> Result<(), Fault> {
    let record = {
        let world = platform.world();
        let Some(site) = world.sites.get(name) else { return Ok(()) };
        SiteRecord {
            id: site.id,
            name: name.clone(),
            project: site.project.clone(),
            manifest_text: text.to_owned(),
            site_json: serde_json::to_string(&site.applied).unwrap_or_default(),
            release: Some(site.applied.release),
            desired: if site.running { Desired::Running } else { Desired::Stopped },
            started_by_up: true,
            applied: Timestamp::now(),
        }
    };
    let id = platform.store().put_site(&record).map_err(|error| store_fault(&error))?;
    if let Some(site) = platform.world().sites.get_mut(name) {
        site.id = id;
    }
    Ok(())
}

/// Waits for every service to have its instances ready in the wanted form; a fault on the way is shown at once.
async fn wait_until_serving(
    platform: &Arc<Platform>,
    name: &SiteName,
    report: &Reporter,
) -> Result<(), Fault> {
    let mut changes = platform.changes.subscribe();
    let mut shown: Vec<Fault> = Vec::new();
    loop {
        match serving(platform, name) {
            Serving::Yes => return Ok(()),
            Serving::Failed(fault) => return Err(*fault),
            Serving::NotYet(faults) => {
                for fault in faults {
                    if !shown.contains(&fault) {
                        report.say(Progress::Warning { fault: fault.clone() });
                        shown.push(fault);
                    }
                }
            }
        }
        tokio::time::timeout(Duration::from_millis(500), changes.changed()).await.ok();
    }
}

enum Serving {
    Yes,
    NotYet(Vec<Fault>),
    Failed(Box<Fault>),
}

fn serving(platform: &Arc<Platform>, name: &SiteName) -> Serving {
    let world = platform.world();
    let Some(site) = world.sites.get(name) else { return Serving::Yes };
    let (mut all_ready, mut faults) = (true, site.faults.clone());
    for (service, process) in processes(&site.applied.site) {
        let wanted = site.applied.hashes.get(service).cloned().unwrap_or_default();
        let of_service = |id: &InstanceId| &id.site == name && &id.service == service;
        let current = world
            .instances
            .iter()
            .filter(|(id, one)| of_service(id) && one.draining.is_none() && one.hash == wanted);
        let mut ready = 0;
        for (id, one) in current {
            ready += u16::from(one.is_ready());
            faults.extend(
                one.status
                    .as_ref()
                    .and_then(|status| status.fault.clone())
                    .filter(|_| !one.is_ready()),
            );
            if world.failed_start(id, one) {
                return Serving::Failed(Box::new(start_fault(
                    id,
                    one.status.as_ref().and_then(|status| status.fault.clone()),
                )));
            }
        }
        if site.rejected.get(service) == Some(&wanted) {
            let left =
                world.instances.iter().find(|(id, one)| of_service(id) && one.hash == wanted);
            let fault = left
                .and_then(|(_, one)| one.status.as_ref().and_then(|status| status.fault.clone()));
            let fault = fault.unwrap_or_else(|| {
                Fault::new(
                    Code::StartFailed,
                    format!("a new instance of `{service}` did not become ready"),
                )
            });
            return Serving::Failed(Box::new(fault));
        }
        all_ready &= ready >= specs::count(process, platform.cores);
    }
    if all_ready { Serving::Yes } else { Serving::NotYet(faults) }
}

fn start_fault(id: &InstanceId, fault: Option<Fault>) -> Fault {
    fault
        .unwrap_or_else(|| {
            Fault::new(Code::StartFailed, format!("`{id}` did not become ready in time"))
        })
        .next(format!("seaworthy explain instance {}/{}", id.site, id.service))
}

/// Removes old releases: never one that is wanted or that an instance runs from.
fn prune(platform: &Arc<Platform>, name: &SiteName) {
    let Ok(releases) = platform.store().releases(name) else { return };
    let in_use: Vec<ReleaseId> = {
        let world = platform.world();
        let wanted = world.sites.get(name).map(|site| site.applied.release);
        world
            .instances
            .iter()
            .filter(|(id, _)| &id.site == name)
            .map(|(_, one)| one.release)
            .chain(wanted)
            .collect()
    };
    let unused: Vec<_> = releases.iter().filter(|release| !in_use.contains(&release.id)).collect();
    for old in unused.iter().take(unused.len().saturating_sub(KEEP)) {
        let public = platform.layout.public(name, old.id);
        for dir in [&old.dir, &public] {
            match std::fs::remove_dir_all(dir) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    crate::say(&format!(
                        "could not remove the old release {}: {error}",
                        dir.display()
                    ));
                }
                _ => {}
            }
        }
        let gone = ReleaseRecord { state: ReleaseState::Retired, ..(*old).clone() };
        if let Err(error) = platform.store().put_release(&gone) {
            crate::say(&format!("could not record that a release was removed: {error}"));
        }
    }
}
