//! Certificates from files: read again when they change, the last good ones served while they are broken.
//!
//! Known by the files that a release names: in a rollout the two releases may name different ones. Invariants: what the
//! edge could not use never reaches it; two files that are replaced one after the other are waited for (in between the
//! key belongs to another certificate); files that did not change are not read; a pair that was read, by whomever, is new
//! until an edge took it; files that were broken when control
//! started hold up no other site: the own authority stands in until they are mended.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::SystemTime;

use seaworthy_acme::x509;
use seaworthy_base::{Code, Fault, SiteName};
use seaworthy_edge::model::Certificate;
use seaworthy_manifest::site::{Site, Tls};

use crate::platform::Platform;

/// By what a file is told from the one that was there before: the clock of a file system is coarse, and a file that
/// replaces another is another one.
type Stamp = Option<(SystemTime, u64, u64)>;

/// Certificate and key as a release of a site names them.
pub(super) type Files = (SiteName, String, String);

/// A pair as it was last read.
#[derive(Debug, Clone)]
pub(crate) struct Own {
    stamps: [Stamp; 2],
    /// Chain and key of the last good one, or why there never was any.
    pair: Result<Pair, Fault>,
    /// Whether an edge took it.
    given: bool,
}

/// Chain and key (PEM).
type Pair = (String, String);

/// Chain and key: those of the files, or the last good ones while the files are broken. None where they were broken
/// already when control started.
pub(super) fn read(
    platform: &Platform,
    site: &SiteName,
    project: &Path,
    cert: &str,
    key: &str,
) -> Result<Option<Pair>, Fault> {
    let mut all = known(platform);
    let files = (site.clone(), cert.to_owned(), key.to_owned());
    let stamps = [stamp(project, cert), stamp(project, key)];
    if all.get(&files).is_none_or(|own| own.stamps != stamps) {
        match load(project, cert, key) {
            Ok(pair) => {
                all.insert(files.clone(), Own { stamps, pair: Ok(pair), given: false });
            }
            Err(fault) if !all.contains_key(&files) => return Err(fault),
            Err(_) => {}
        }
    }
    Ok(all.get(&files).and_then(|own| own.pair.clone().ok()))
}

/// Before anything is published: files of a site that runs and that cannot be served are known as such from now on, and
/// fail nothing.
pub(super) fn excuse(platform: &Platform, site: &Site, project: &Path) {
    let Some(files) = files(site) else { return };
    let stamps = [stamp(project, &files.1), stamp(project, &files.2)];
    if let Err(fault) = load(project, &files.1, &files.2) {
        crate::say(&format!("the own authority stands in for the certificate of {}", site.name));
        known(platform).insert(files, Own { stamps, pair: Err(fault), given: false });
    }
}

/// An edge took these.
pub(super) fn are_given(platform: &Platform, certificates: &[Certificate]) {
    for own in known(platform).values_mut() {
        let Ok((chain_pem, key_pem)) = &own.pair else { continue };
        let is_it = |one: &Certificate| one.chain_pem == *chain_pem && one.key_pem == *key_pem;
        own.given |= certificates.iter().any(is_it);
    }
}

/// Forgets all but these.
pub(super) fn keep(platform: &Platform, named: &BTreeSet<Files>) {
    known(platform).retain(|files, _| named.contains(files));
}

/// What a release of a site names.
pub(super) fn files(site: &Site) -> Option<Files> {
    let Tls::Files { cert, key } = &site.tls else { return None };
    Some((site.name.clone(), cert.clone(), key.clone()))
}

fn known(platform: &Platform) -> MutexGuard<'_, BTreeMap<Files, Own>> {
    platform.certificates.own.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks whether the files changed; the fault says why the new ones are not served. Returns whether there are
/// some that no edge has.
pub(super) fn changed(
    platform: &Arc<Platform>,
    site: &Site,
    project: &Path,
) -> (bool, Option<Fault>) {
    let Some(files) = files(site) else { return (false, None) };
    let (cert, key) = (&files.1, &files.2);
    let mut all = known(platform);
    let stamps = [stamp(project, cert), stamp(project, key)];
    let before = all.get(&files);
    if let Some(own) = before.filter(|own| own.stamps == stamps) {
        return match &own.pair {
            Ok((chain_pem, _)) => (!own.given, fault(site, cert, chain_pem)),
            Err(fault) => (false, Some(stood_in(fault.clone()))),
        };
    }
    match load(project, cert, key) {
        Ok(pair) => {
            let fault = fault(site, cert, &pair.0);
            all.insert(files, Own { stamps, pair: Ok(pair), given: false });
            (true, fault)
        }
        Err(fault) if before.is_some_and(|own| own.pair.is_err()) => (false, Some(stood_in(fault))),
        Err(fault) => (false, Some(fault.because("the one before is served"))),
    }
}

fn stood_in(fault: Fault) -> Fault {
    fault.because(
        "one of the platform's own authority is served in its place, which browsers refuse",
    )
}

fn stamp(project: &Path, path: &str) -> Stamp {
    let found = fs::metadata(project.join(path)).ok()?;
    Some((found.modified().ok()?, found.ino(), found.len()))
}

fn load(project: &Path, cert: &str, key: &str) -> Result<Pair, Fault> {
    let read = |path: &str| {
        fs::read_to_string(project.join(path)).map_err(|error| {
            let what = format!("could not read `{path}`, which `[tls]` names");
            Fault::new(Code::FileMissing, what)
                .because(error.to_string())
                .next(format!("ls -l {}", project.join(path).display()))
        })
    };
    let (chain_pem, key_pem) = (read(cert)?, read(key)?);
    if let Some(why) = x509::mismatch(&chain_pem, &key_pem) {
        let what = format!("`{cert}` and `{key}` of `[tls]` cannot be served");
        return Err(Fault::new(Code::CertificateUnfit, what).because(why).next(format!(
            "openssl x509 -noout -subject -dates -in {}",
            project.join(cert).display()
        )));
    }
    Ok((chain_pem, key_pem))
}

/// What makes visitors turn away: it has expired, or is for other names.
fn fault(site: &Site, cert: &str, chain_pem: &str) -> Option<Fault> {
    if let Some(fault) = super::clock::life_fault(&site.name, chain_pem) {
        return Some(Fault {
            next: vec![format!(
                "put a new one in `{cert}`: it is served at once, without a restart"
            )],
            ..fault
        });
    }
    let facts = x509::read(chain_pem).ok()?;
    let covered = |host: &&String| facts.held.hosts.iter().any(|name| x509::covers(name, host));
    let hosts = crate::edge_config::certificate_hosts(site);
    let bare = hosts.iter().find(|host| !covered(host))?;
    let what = format!("the certificate in `{cert}` is not for `{bare}`: browsers refuse it there");
    Some(
        Fault::new(Code::CertificateUnfit, what)
            .because(format!("it is for {}", facts.held.hosts.join(", ")))
            .next(
                "give a certificate with all `domains`, or leave `cert` and `key` out of `[tls]`",
            ),
    )
}
