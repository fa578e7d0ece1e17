//! Certificates from files: read again when they change, the last good ones served while they are broken.
//!
//! Invariants: what the edge could not use never reaches it; two files that are replaced one after the other are
//! waited for (in between the key belongs to another certificate); files that did not change are not read.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::SystemTime;

use seaworthy_acme::x509;
use seaworthy_base::{Code, Fault, SiteName};
use seaworthy_manifest::site::{Site, Tls};

use crate::platform::Platform;

/// By what a file is told from the one that was there before: the clock of a file system is coarse, and a file that
/// replaces another is another one.
type Stamp = Option<(SystemTime, u64, u64)>;

/// A pair as it was last read and good.
#[derive(Debug, Clone)]
pub(crate) struct Own {
    stamps: [Stamp; 2],
    chain_pem: String,
    key_pem: String,
}

/// Chain and key: those of the files, or the last good ones while the files are broken.
pub(super) fn read(
    platform: &Platform,
    site: &SiteName,
    project: &Path,
    cert: &str,
    key: &str,
) -> Result<(String, String), Fault> {
    let mut all = known(platform);
    let stamps = [stamp(project, cert), stamp(project, key)];
    if all.get(site).is_none_or(|own| own.stamps != stamps) {
        match (load(project, cert, key), all.get(site)) {
            (Ok(own), _) => drop(all.insert(site.clone(), own)),
            (Err(fault), None) => return Err(fault),
            (Err(_), Some(_)) => {}
        }
    }
    let own = all.get(site).map(|own| (own.chain_pem.clone(), own.key_pem.clone()));
    Ok(own.unwrap_or_default())
}

fn known(platform: &Platform) -> MutexGuard<'_, BTreeMap<SiteName, Own>> {
    platform.certificates.own.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks whether the files changed; the fault says why the new ones are not served. Returns whether there are
/// new ones to serve.
pub(super) fn changed(
    platform: &Arc<Platform>,
    site: &Site,
    project: &Path,
) -> (bool, Option<Fault>) {
    let Tls::Files { cert, key } = &site.tls else { return (false, None) };
    let mut all = known(platform);
    let stamps = [stamp(project, cert), stamp(project, key)];
    if let Some(own) = all.get(&site.name).filter(|own| own.stamps == stamps) {
        return (false, fault(site, cert, &own.chain_pem));
    }
    match load(project, cert, key) {
        Ok(own) => {
            let fault = fault(site, cert, &own.chain_pem);
            all.insert(site.name.clone(), own);
            (true, fault)
        }
        Err(fault) => (false, Some(fault.because("the one before is served"))),
    }
}

fn stamp(project: &Path, path: &str) -> Stamp {
    let found = fs::metadata(project.join(path)).ok()?;
    Some((found.modified().ok()?, found.ino(), found.len()))
}

fn load(project: &Path, cert: &str, key: &str) -> Result<Own, Fault> {
    let stamps = [stamp(project, cert), stamp(project, key)];
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
    Ok(Own { stamps, chain_pem, key_pem })
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
