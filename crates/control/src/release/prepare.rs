//! Everything that can be refused is refused here, before anything changes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use seaworthy_api::model::Progress;
use seaworthy_base::{Code, Fault, ServiceName};
use seaworthy_manifest::site::Site;
use seaworthy_runtime::model::User;
use seaworthy_secrets::sources::{self, Sources};

use crate::platform::Platform;
use crate::release::Reporter;
use crate::release::files::{self as release, Fingerprint};
use crate::specs::{self, Values};
use crate::users;
use crate::world::processes;

/// All that is known before anything changes.
#[derive(Debug)]
pub(super) struct Prepared {
    /// The manifest.
    pub(super) site: Site,
    /// Its text.
    pub(super) text: String,
    /// Values of the secrets.
    pub(super) values: Values,
    /// What the folder holds.
    pub(super) fingerprint: Fingerprint,
    /// The site's system user, when we are root.
    pub(super) user: Option<User>,
    /// Hash of each program's specification.
    pub(super) hashes: BTreeMap<ServiceName, String>,
}

/// Checks; changes nothing.
pub(super) fn prepare(
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
