//! What is set by hand and remembered: a site held or under maintenance, numbers of instances; and what is
//! needed to run a program as a service's own.
//!
//! Invariants: what the edge refuses is not remembered; a hold carries its end; everything lands in the
//! audit log. Not here: deployments.

use std::sync::Arc;

use seaworthy_api::model::{
    Audit, AuditLine, AuditRequest, ExecGrant, ExecRequest, GateRequest, GateWanted, ScaleRequest,
    VERSION,
};
use seaworthy_base::{Code, Fault, ServiceName, SiteName, Timestamp};
use seaworthy_edge::model::Gate;
use seaworthy_manifest::site::{Service, ServiceKind};

use crate::instances::store_fault;
use crate::platform::{AuditEntry, Platform};
use crate::specs::{self, Place};
use crate::users;
use crate::world::{SiteState, processes};
use crate::{release, serve};

/// The most instances of a service: more is a slip of the finger.
const MOST: u16 = 1000;
/// Shown when nobody brought a page.
const PAGE: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>Maintenance</title><style>:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;display:grid;place-items:center;min-height:90vh;margin:0}main{text-align:center;padding:2rem}</style><main><h1>Back soon</h1><p>This site is being worked on.</p></main></html>\n";

fn unknown(site: &str) -> Fault {
    Fault::new(Code::NoSuchSite, format!("there is no site `{site}`")).next("seaworthy status")
}

/// Closes a site, or opens it.
pub(crate) async fn gate(platform: &Arc<Platform>, request: &GateRequest) -> Result<String, Fault> {
    let name: SiteName = request.site.parse().map_err(|_| unknown(&request.site))?;
    let (gate, action) = match &request.gate {
        GateWanted::Open => (None, "open"),
        GateWanted::Hold { for_ms, most } => {
            let until_ms = Timestamp::now().0.saturating_add(*for_ms);
            (Some(Gate::Hold { until_ms, most: *most }), "hold")
        }
        GateWanted::Maintenance { page, retry_after, allow } => {
            let page = page.clone().unwrap_or_else(|| PAGE.to_owned());
            let (retry_after, allow) = (*retry_after, allow.clone());
            (Some(Gate::Maintenance { page, retry_after, allow }), "maintenance")
        }
    };
    let before = {
        let mut world = platform.world();
        let site = world.sites.get_mut(&name).ok_or_else(|| unknown(&request.site))?;
        std::mem::replace(&mut site.gate, gate)
    };
    if let Err(fault) = serve::publish(platform).await {
        if let Some(site) = platform.world().sites.get_mut(&name) {
            site.gate = before;
        }
        return Err(fault);
    }
    release::record(platform, &name)?;
    platform.audit(&request.asker.who, action, name.as_str(), "");
    Ok(name.to_string())
}

/// `site/service` of a program.
fn program(platform: &Arc<Platform>, target: &str) -> Result<(SiteName, ServiceName), Fault> {
    let nothing = || {
        let world = platform.world();
        let of = |(name, state): (&SiteName, &SiteState)| {
            let programs = processes(&state.applied.site);
            programs.map(|(service, _)| format!("{name}/{service}")).collect::<Vec<_>>()
        };
        let there: Vec<String> = world.sites.iter().flat_map(of).collect();
        Fault::new(Code::NoSuchInstance, format!("there is no program `{target}`"))
            .because(format!("there are: {}", there.join(", ")))
            .next("seaworthy status")
    };
    let (site, service) = target.split_once('/').ok_or_else(nothing)?;
    let name: SiteName = site.parse().map_err(|_| unknown(site))?;
    let service: ServiceName = service.parse().map_err(|_| nothing())?;
    let is_there = {
        let world = platform.world();
        let state = world.sites.get(&name).ok_or_else(|| unknown(site))?;
        processes(&state.applied.site).any(|(one, _)| *one == service)
    };
    if is_there { Ok((name, service)) } else { Err(nothing()) }
}

/// Sets the number of a service's instances; the manifest's number stands when none is given.
pub(crate) fn scale(platform: &Arc<Platform>, request: &ScaleRequest) -> Result<String, Fault> {
    let (name, service) = program(platform, &request.target)?;
    if request.count.is_some_and(|count| count > MOST) {
        let what = format!("a service has {MOST} instances at most");
        return Err(Fault::new(Code::NoSuchInstance, what));
    }
    if let Some(site) = platform.world().sites.get_mut(&name) {
        match request.count {
            Some(count) => drop(site.scale.insert(service, count)),
            None => drop(site.scale.remove(&service)),
        }
    }
    release::record(platform, &name)?;
    platform.changed();
    let count =
        request.count.map_or_else(|| "as the manifest says".to_owned(), |one| one.to_string());
    platform.audit(&request.asker.who, "scale", &request.target, &count);
    Ok(count)
}

/// The system user that a service names for itself.
pub(crate) fn own_user(service: &Service) -> Option<String> {
    match &service.kind {
        ServiceKind::Process(process) => process.user.clone(),
        _ => None,
    }
}

/// What a program needs to run in a service's place.
pub(crate) fn exec(platform: &Arc<Platform>, request: &ExecRequest) -> Result<ExecGrant, Fault> {
    let (name, service) = program(platform, &request.target)?;
    let world = platform.world();
    let state = world.sites.get(&name).ok_or_else(|| unknown(name.as_str()))?;
    let serving = state.serving();
    let values = match &state.rollout {
        Some(rollout) if rollout.switched() => &rollout.values,
        _ => &state.values,
    };
    let described = serving.site.services.get(&service).ok_or_else(|| unknown(name.as_str()))?;
    let user = match own_user(described) {
        Some(user) if platform.root => Some(users::existing(&user)?),
        _ => state.user.clone(),
    };
    let place = Place { layout: &platform.layout, site: &name, release: serving.release };
    Ok(ExecGrant {
        dir: specs::folder(described, place),
        environment: specs::environment(described, place, values),
        user: user.map(|user| (user.uid, user.gid, user.groups)),
    })
}

/// The audit log's newest entries, and whether its chain holds.
pub(crate) fn audit(platform: &Arc<Platform>, request: &AuditRequest) -> Result<Audit, Fault> {
    let (rows, verdict) = {
        let store = platform.store();
        let rows = store.audit(request.limit).map_err(|error| store_fault(&error))?;
        let verdict = store.verify_audit(request.since.as_deref());
        (rows, verdict.map_err(|error| store_fault(&error))?)
    };
    let entries = rows.iter().filter_map(|row| {
        let entry: AuditEntry = serde_json::from_str(&row.entry).ok()?;
        Some(AuditLine {
            number: row.number,
            at: entry.at.to_string(),
            who: entry.who,
            action: entry.action,
            subject: entry.subject,
            detail: entry.detail,
        })
    });
    let (verified, head, broken) = match verdict {
        Ok((count, head)) => (Some(count), Some(head), None),
        Err(broken) => (None, None, Some(broken.what)),
    };
    Ok(Audit { v: VERSION, entries: entries.collect(), verified, head, broken })
}
