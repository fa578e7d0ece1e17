//! The values of a site's secrets, from the places that its manifest names and from the vault.
//!
//! One way for services, jobs, routes and backups, so that a secret means the same everywhere. Values are
//! never kept here and never part of a fault. Not here: which names are asked for.

use std::collections::BTreeMap;
use std::path::Path;

use seaworthy_base::{Fault, SiteName};
use seaworthy_manifest::Site;
use seaworthy_secrets::sources::{self, Resolved, Sources, THE_VAULT};

use crate::platform::Platform;

/// Looks the names up; all that cannot be found is told at once. A text that is no name of a secret is
/// passed over: the manifest's reader refused it.
pub(crate) fn look_up(
    platform: &Platform,
    project: &Path,
    site: &Site,
    names: &[String],
) -> Result<Resolved, Vec<Fault>> {
    let names: Vec<_> = names.iter().filter_map(|name| name.parse().ok()).collect();
    let places = Sources {
        file: site.secrets.file.clone(),
        dir: site.secrets.dir.clone(),
        age: site.secrets.age.clone(),
        command: site.secrets.command.clone(),
    };
    sources::resolve(&names, project, &places, Some((&platform.vault, &site.name)))
}

/// Where each secret is from; with its version, where that place counts them.
pub(crate) fn versions(
    platform: &Platform,
    site: &SiteName,
    origin: BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let kept = platform.vault.list(site).unwrap_or_default();
    let with_version = |(name, place): (String, String)| {
        let entry = kept.iter().find(|one| one.name == name).filter(|_| place == THE_VAULT);
        let version = entry.map(|one| format!(", version {}", one.version));
        (name, place + &version.unwrap_or_default())
    };
    origin.into_iter().map(with_version).collect()
}
