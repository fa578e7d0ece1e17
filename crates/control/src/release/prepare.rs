//! Everything that can be refused is refused here, before anything changes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use seaworthy_api::model::{DeployOptions, Progress};
use seaworthy_base::{Code, Fault, InstanceId, ReleaseId, ServiceName};
use seaworthy_manifest::site::{PortUse, Site, Tls, Work};
use seaworthy_release::{DataBack, Strategy};
use seaworthy_runtime::model::{SocketRule, User};
use seaworthy_runtime::socket::LONGEST_PATH;
use seaworthy_secrets::sources::Resolved;

use crate::authorities;
use crate::databases;
use crate::outgoing;
use crate::platform::Platform;
use crate::release::Reporter;
use crate::release::files;
use crate::release::plan;
use crate::site_secrets;
use crate::specs::{self, Values};
use crate::users;
use crate::world::{Applied, processes};

/// All that is known before anything changes.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    /// The manifest.
    pub(super) site: Site,
    /// The site's folder: secrets and certificates are looked for here.
    pub(super) project: PathBuf,
    /// Where the files are, and which of them are the release's; none when it is built already.
    pub(super) files: Option<(PathBuf, Vec<PathBuf>)>,
    /// The release, when it is known.
    pub(super) release: Option<ReleaseId>,
    /// Hash of all content.
    pub(super) whole: String,
    /// Hash of the content of each service's folder.
    pub(super) content: BTreeMap<ServiceName, String>,
    /// Values of the secrets.
    pub(super) values: Values,
    /// Where each is from, and its version.
    pub(super) secrets: BTreeMap<String, String>,
    /// The site's system user, when we are root.
    pub(super) user: Option<User>,
    /// Hash of each program's specification.
    pub(super) hashes: BTreeMap<ServiceName, String>,
    /// How it takes the place of what runs.
    pub(super) strategy: Strategy,
    /// Why that is not what was asked for.
    pub(super) why: Option<String>,
    /// Old instances kept warm.
    pub(super) warm: u16,
    /// For how long it is watched.
    pub(super) watch: Duration,
    /// Whether it waits for a word before the switch.
    pub(super) pause: bool,
    /// What it does to the databases, where it is a rollback that does.
    pub(super) data: Option<DataBack>,
}

impl Prepared {
    /// What is to be true at the end.
    pub(super) fn applied(&self, release: ReleaseId) -> Applied {
        Applied {
            site: self.site.clone(),
            release,
            hashes: self.hashes.clone(),
            content: self.content.clone(),
        }
    }
}

/// Checks the files of a folder; changes nothing.
pub(super) fn prepare(
    platform: &Arc<Platform>,
    project: &Path,
    dir: &Path,
    site: Site,
    options: Option<&DeployOptions>,
    report: &Reporter,
) -> Result<Prepared, Fault> {
    authorities::judge(&site, project)?;
    let found = files::fingerprint(dir, &site)?;
    let mut prepared = known(platform, project, site, found.services, report)?;
    prepared.whole = found.whole;
    prepared.files = Some((dir.to_path_buf(), found.files));
    prepared.choose(platform, options)?;
    Ok(prepared)
}

/// What was applied before, to be applied again.
pub(super) fn again(
    platform: &Arc<Platform>,
    project: &Path,
    applied: Applied,
    report: &Reporter,
) -> Result<Prepared, Fault> {
    let mut prepared = known(platform, project, applied.site, applied.content, report)?;
    prepared.release = Some(applied.release);
    prepared.choose(platform, None)?;
    // It was watched when it was new, and what it is compared with now is what people want to leave.
    (prepared.watch, prepared.pause) = (Duration::ZERO, false);
    Ok(prepared)
}

/// What can be prepared without secrets: enough to end it.
pub(super) fn bare(project: &Path, applied: Applied) -> Prepared {
    Prepared {
        project: project.to_path_buf(),
        files: None,
        release: Some(applied.release),
        whole: String::new(),
        content: applied.content,
        values: Values::new(),
        secrets: BTreeMap::new(),
        user: None,
        hashes: applied.hashes,
        strategy: Strategy::Rolling,
        why: None,
        warm: u16::MAX,
        watch: Duration::ZERO,
        pause: false,
        data: None,
        site: applied.site,
    }
}

fn known(
    platform: &Arc<Platform>,
    project: &Path,
    mut site: Site,
    content: BTreeMap<ServiceName, String>,
    report: &Reporter,
) -> Result<Prepared, Fault> {
    outgoing::tell_programs(platform, &mut site)?;
    let Resolved { values, origin, warnings } = resolve_secrets(platform, project, &site)?;
    for fault in warnings {
        report.say(Progress::Warning { fault });
    }
    let secrets = site_secrets::versions(platform, &site.name, origin);
    let user = if platform.root {
        Some(users::ensure(&users::site_user_name(&site.name), &platform.layout.data(&site.name))?)
    } else {
        None
    };
    refuse_long_sockets(platform, &site)?;
    for (_, process) in processes(&site) {
        if let (Some(name), true) = (&process.user, platform.root) {
            users::existing(name)?;
        }
    }
    let hash = |(name, _): (&ServiceName, _)| {
        let content = content.get(name).map_or("", String::as_str);
        let service = site.services.get(name)?;
        Some((name.clone(), specs::hash(service, content, &values, &platform.spec_key)))
    };
    let hashes = processes(&site).filter_map(hash).collect();
    let nowhere = ReleaseId { number: 0, digest: 0 };
    let bare = bare(project, Applied { site, release: nowhere, hashes, content });
    Ok(Prepared { release: None, values, secrets, user, ..bare })
}

/// The folder before a socket's name is this machine's, so the manifest alone does not tell.
fn refuse_long_sockets(platform: &Platform, site: &Site) -> Result<(), Fault> {
    for (name, process) in processes(site) {
        let PortUse::Socket(file) = &process.port else { continue };
        // Every instance's folder is as long as this one's.
        let id =
            InstanceId { site: site.name.clone(), service: name.clone(), slot: 0, generation: 1 };
        let folder = platform.layout.sockets_of(&id);
        let rule = SocketRule { folder, name: file.clone(), owner: None, group: None };
        if let Some(length) = rule.too_long() {
            let what =
                format!("the Unix socket of service `{name}` would have a path of {length} bytes");
            return Err(Fault::new(Code::ManifestInvalid, what)
                .because(format!(
                    "a socket's address has room for {LONGEST_PATH}: `{}`",
                    rule.path().display()
                ))
                .next("a shorter name in `socket`, or a shorter folder: SEAWORTHY_RUN=/run/sw"));
        }
    }
    Ok(())
}

impl Prepared {
    /// Strategy, watch and pause: as the manifest says, unless who asks says otherwise. An `up` has its
    /// person in front of it, and is neither watched nor paused.
    fn choose(
        &mut self,
        platform: &Arc<Platform>,
        options: Option<&DeployOptions>,
    ) -> Result<(), Fault> {
        let deploy = &self.site.deploy;
        let asked = options.and_then(|options| options.strategy.as_deref());
        let asked = asked.map(strategy_of).transpose()?;
        let watched = options.is_some_and(|options| options.watch.unwrap_or(true));
        self.watch = if watched { deploy.watch.period } else { Duration::ZERO };
        self.pause = options.is_some_and(|options| options.pause.unwrap_or(deploy.pause));
        let strategy = asked.unwrap_or(deploy.strategy);
        let memory = plan::memory(&platform.world(), self);
        (self.strategy, self.warm, self.why) = plan::fit(strategy, memory);
        Ok(())
    }
}

fn strategy_of(word: &str) -> Result<Strategy, Fault> {
    Strategy::of_word(word).ok_or_else(|| {
        Fault::new(Code::ManifestInvalid, format!("there is no strategy `{word}`"))
            .next("--strategy rolling, blue-green, canary or recreate")
    })
}

pub(super) fn refuse_conflicts(
    platform: &Arc<Platform>,
    project: &Path,
    site: &Site,
) -> Result<(), Fault> {
    let world = platform.world();
    if let Some(other) =
        world.sites.get(&site.name).filter(|other| other.running && other.project != project)
    {
        let what = format!(
            "a site named `{}` already runs from another folder, `{}`",
            site.name,
            other.project.display()
        );
        return Err(Fault::new(Code::HostConflict, what)
            .next("give one of them another `site = \"…\"`, or")
            .next(format!(
                "seaworthy down {}   (where the folder was moved), then repeat",
                site.name
            )));
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

/// The values of all secrets that the site's services, jobs and routes need.
pub(crate) fn resolve_secrets(
    platform: &Arc<Platform>,
    project: &Path,
    site: &Site,
) -> Result<Resolved, Fault> {
    let mut names: Vec<String> = site.services.values().flat_map(specs::secret_names).collect();
    names.extend(site.jobs.iter().filter_map(|job| match &job.work {
        Work::Request { bearer, .. } => bearer.clone(),
        Work::Run { .. } => None,
    }));
    names.extend(crate::edge_config::secret_names(site));
    if let Tls::Acme(acme) = &site.tls {
        names.extend(acme.secret_names());
    }
    names.sort();
    names.dedup();
    let made = databases::values(platform, site)?;
    names.retain(|name| !made.contains_key(name));
    match site_secrets::look_up(platform, project, site, &names) {
        Ok(mut resolved) => {
            let own = made.keys().map(|name| (name.clone(), "the managed database".to_owned()));
            resolved.origin.extend(own);
            resolved.values.extend(made);
            Ok(resolved)
        }
        Err(faults) => {
            let mut faults = faults.into_iter();
            let first = faults
                .next()
                .unwrap_or_else(|| Fault::new(Code::SecretMissing, "secrets are missing"));
            let needy = site.services.values().filter(|one| !specs::secret_names(one).is_empty());
            let needy: Vec<String> = needy.map(|one| format!("`{}`", one.name)).collect();
            let first = first.because(if needy.is_empty() {
                "a job's `bearer`, a route's `auth`, `[health]` or `[tls]` names it".to_owned()
            } else {
                format!("service {} cannot start without", needy.join(", "))
            });
            Err(faults.fold(first, |all, more| Fault {
                evidence: [all.evidence.clone(), vec![more.to_string()], more.evidence].concat(),
                ..all
            }))
        }
    }
}
