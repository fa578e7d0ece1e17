//! Certificates from files: read again when they change, the last good ones served while they are broken.
//!
//! Invariants: what the edge could not use never reaches it; two files that are replaced one after the other are
//! waited for (in between the key belongs to another certificate).

use std::fs;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use seaworthy_acme::x509;
use seaworthy_base::{Code, Fault, SiteName};
use seaworthy_manifest::site::{Site, Tls};

use crate::platform::Platform;

/// A pair as it was last read and good.
#[derive(Debug, Clone)]
pub(crate) struct Own {
    stamps: [Option<SystemTime>; 2],
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
    let fresh = load(project, cert, key);
    let mut all = platform.certificates.own.lock().unwrap_or_else(PoisonError::into_inner);
    match (fresh, all.get(site)) {
        (Ok(own), _) => {
            let pair = (own.chain_pem.clone(), own.key_pem.clone());
            all.insert(site.clone(), own);
            Ok(pair)
        }
        (Err(_), Some(known)) => Ok((known.chain_pem.clone(), known.key_pem.clone())),
        (Err(fault), None) => Err(fault),
    }
}

/// Looks whether the files changed; the fault says why the new ones are not served. Returns whether there are
/// new ones to serve.
pub(super) fn changed(
    platform: &Arc<Platform>,
    site: &Site,
    project: &Path,
) -> (bool, Option<Fault>) {
    let Tls::Files { cert, key } = &site.tls else { return (false, None) };
    let known = {
        let all = platform.certificates.own.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&site.name).map(|own| (own.stamps, own.chain_pem.clone()))
    };
    let stamps = [stamp(project, cert), stamp(project, key)];
    if let Some((_, chain)) = known.as_ref().filter(|(before, _)| *before == stamps) {
        return (false, fault(site, cert, chain));
    }
    match load(project, cert, key) {
        Ok(own) => (true, fault(site, cert, &own.chain_pem)),
        Err(fault) => (false, Some(fault.because("the one before is served"))),
    }
}

fn stamp(project: &Path, path: &str) -> Option<SystemTime> {
    fs::metadata(project.join(path)).and_then(|found| found.modified()).ok()
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
