//! Certificates as people see them.

use std::sync::Arc;

use seaworthy_acme::due::{self, Next};
use seaworthy_acme::x509;
use seaworthy_api::certificates::{CertificateView, CertificatesView};
use seaworthy_api::model::VERSION;
use seaworthy_base::{Code, Fault, SiteName, Timestamp};
use seaworthy_edge::model::Certificate;
use seaworthy_manifest::site::{Site, Tls};

use super::{clock, of_site};
use crate::platform::Platform;

/// The certificates of one site, or of all that run.
pub(super) fn list(
    platform: &Arc<Platform>,
    wanted: Option<&str>,
) -> Result<CertificatesView, Fault> {
    let sites: Vec<_> = {
        let world = platform.world();
        if let Some(wanted) = wanted.filter(|name| !known(&world, name)) {
            return Err(no_such(wanted));
        }
        let fits = |name: &SiteName| wanted.is_none_or(|wanted| wanted == name.as_str());
        let chosen = world.sites.iter().filter(|(name, state)| fits(name) && state.running);
        chosen.map(|(_, state)| (state.serving().site.clone(), state.project.clone())).collect()
    };
    let mut certificates = Vec::new();
    for (site, project) in sites {
        for (index, certificate) in of_site(platform, &site, &project)?.into_iter().enumerate() {
            certificates.extend(one(platform, &site, &certificate, index == 0));
        }
    }
    Ok(CertificatesView { v: VERSION, certificates })
}

fn known(world: &crate::world::World, name: &str) -> bool {
    world.sites.keys().any(|site| site.as_str() == name)
}

fn no_such(name: &str) -> Fault {
    Fault::new(Code::NoSuchSite, format!("there is no site `{name}`")).next("seaworthy status")
}

fn one(
    platform: &Arc<Platform>,
    site: &Site,
    certificate: &Certificate,
    first: bool,
) -> Option<CertificateView> {
    let facts = x509::read(&certificate.chain_pem).ok()?;
    let now = Timestamp::now();
    let kept = platform.certificates.get(&site.name);
    let public = matches!(site.tls, Tls::Acme(_));
    let issued = kept.certificate.as_ref();
    let is_issued = issued.is_some_and(|issued| issued.chain_pem == certificate.chain_pem);
    let source = match &site.tls {
        Tls::Files { .. } => "files",
        Tls::Acme(_) if is_issued || first => "acme",
        _ => "internal",
    };
    let decision = (public && source == "acme").then(|| clock::next(platform, site, now));
    let next = decision.map(|decision| match decision {
        Next::Obtain(_) => now,
        Next::Wait(until) if !is_issued || kept.past.failures > 0 => until,
        Next::Wait(_) | Next::AskWindow => {
            due::renew_at(&facts.held, &kept.past, clock::seed(&site.name))
        }
    });
    let state = match decision {
        Some(_) if !is_issued => "waiting",
        _ if facts.held.not_after <= now => "expired",
        Some(Next::Obtain(_)) => "due",
        Some(_) if kept.past.failures > 0 => "due",
        _ => "valid",
    };
    let explanation = kept.past.window.and_then(|window| window.explanation);
    Some(CertificateView {
        site: site.name.to_string(),
        hosts: certificate.hosts.clone(),
        source: source.to_owned(),
        state: state.to_owned(),
        issuer: facts.issuer,
        serial: facts.serial,
        not_before: facts.held.not_before,
        not_after: facts.held.not_after,
        next,
        explanation: explanation.filter(|_| source == "acme" && is_issued),
        failures: if source == "acme" { kept.past.failures } else { 0 },
        fault: if source == "acme" { kept.fault } else { None },
    })
}

/// The site that is meant: the one of that name, or the only one that asks an authority.
pub(super) fn choose(platform: &Platform, wanted: Option<&str>) -> Result<SiteName, Fault> {
    let world = platform.world();
    if let Some(wanted) = wanted {
        let found = world.sites.keys().find(|name| name.as_str() == wanted);
        return found.cloned().ok_or_else(|| no_such(wanted));
    }
    let public = world
        .sites
        .iter()
        .filter(|(_, state)| state.running && matches!(state.serving().site.tls, Tls::Acme(_)));
    let names: Vec<&SiteName> = public.map(|(name, _)| name).collect();
    match names[..] {
        [name] => Ok(name.clone()),
        [] => {
            Err(Fault::new(Code::NoCertificate, "no site gets its certificate from an authority")
                .next("seaworthy cert list"))
        }
        _ => Err(Fault::new(
            Code::NoCertificate,
            "several sites get their certificates from an authority",
        )
        .next(format!("seaworthy cert renew --site {}", names[0]))),
    }
}
