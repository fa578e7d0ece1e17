//! Waiting for instances, and trying a release through the real listener before anybody is sent to it.
//!
//! An instance that is healthy on its own port may still be broken behind its route: the request that
//! counts takes the way of a visitor, with the name, the certificate, the route and its headers. It is made
//! by a process of its own (`probe`), since what comes back was written by somebody else. Invariant: a
//! failure says what was asked and what came back.

use std::sync::Arc;
use std::time::Duration;

use seaworthy_api::model::Progress;
use seaworthy_base::{Code, Fault, InstanceId, ServiceName, SiteName};
use seaworthy_manifest::site::Smoke;

use crate::platform::Platform;
use crate::probe::{self, Answer, Question};
use crate::release::Reporter;
use crate::release::prepare::Prepared;
use crate::release::run::Run;
use crate::serve;
use crate::world::{Applied, SiteState, World, processes};

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiting {
    /// Everything that is applied is ready.
    Applied,
    /// Of each program that changes, one new instance is ready.
    FirstReady,
    /// All new instances are ready.
    AllReady,
    /// No old instance is left.
    OldGone,
    /// All old instances are ready and every new one is on its way out.
    OldServes,
}

/// Waits; a fault on the way is shown at once, and an instance that had its time is the end.
pub(super) async fn wait(
    platform: &Arc<Platform>,
    name: &SiteName,
    waiting: Waiting,
    report: &Reporter,
) -> Result<(), Fault> {
    let mut changes = platform.changes.subscribe();
    let mut shown: Vec<Fault> = Vec::new();
    loop {
        let state = look(&platform.world(), name, waiting, platform.cores);
        let (there, faults) = match state {
            State::There(faults) => (true, faults),
            State::NotYet(faults) => (false, faults),
            State::Failed(fault) => return Err(*fault),
        };
        for fault in faults {
            if !shown.contains(&fault) {
                report.say(Progress::Warning { fault: fault.clone() });
                shown.push(fault);
            }
        }
        if there {
            return Ok(());
        }
        tokio::time::timeout(Duration::from_millis(500), changes.changed()).await.ok();
    }
}

/// Waits for so long; a fault says what was not well at the end.
pub(super) async fn within(
    limit: Duration,
    platform: &Arc<Platform>,
    name: &SiteName,
    waiting: Waiting,
    report: &Reporter,
) -> Result<(), Fault> {
    let waited = tokio::time::timeout(limit, wait(platform, name, waiting, report)).await;
    waited.unwrap_or_else(|_| {
        let what = format!("it was not ready within {} s", limit.as_secs());
        let fault = Fault::new(Code::DeployTimeout, what);
        let faults = match look(&platform.world(), name, waiting, platform.cores) {
            State::NotYet(faults) => faults,
            State::There(_) | State::Failed(_) => Vec::new(),
        };
        let named = faults.iter().fold(fault, |all, one| {
            let all = all.because(format!("{} ({})", one.what, one.code));
            let all = one.evidence.iter().fold(all, Fault::seen);
            one.next.iter().fold(all, Fault::next)
        });
        Err(named
            .because("`deploy.timeout` of the manifest gives it no longer")
            .next("seaworthy status"))
    })
}

enum State {
    /// What is wrong with those that serve all the same.
    There(Vec<Fault>),
    NotYet(Vec<Fault>),
    Failed(Box<Fault>),
}

fn look(world: &World, name: &SiteName, waiting: Waiting, cores: u16) -> State {
    let there = || State::There(Vec::new());
    let Some(site) = world.sites.get(name) else { return there() };
    match (waiting, &site.rollout) {
        (Waiting::Applied, _) => ready(world, name, site, &site.applied, |_, count| count, cores),
        (_, None) => there(),
        (Waiting::FirstReady, Some(rollout)) => {
            let need = |service: &ServiceName, count: u16| {
                if site.changes(service) { count.min(1) } else { 0 }
            };
            ready(world, name, site, &rollout.next, need, cores)
        }
        (Waiting::AllReady, Some(rollout)) => {
            let need = |service: &ServiceName, count| if site.changes(service) { count } else { 0 };
            ready(world, name, site, &rollout.next, need, cores)
        }
        (Waiting::OldGone, Some(_)) => {
            let left = changing(world, name, site).any(|(id, one)| {
                site.applied.hashes.get(&id.service).is_some_and(|hash| *hash == one.hash)
            });
            if left { State::NotYet(Vec::new()) } else { there() }
        }
        (Waiting::OldServes, Some(rollout)) => {
            let left = changing(world, name, site).any(|(id, one)| {
                let new = rollout.next.hashes.get(&id.service) == Some(&one.hash);
                new && one.alive && one.draining.is_none()
            });
            if left {
                return State::NotYet(Vec::new());
            }
            match ready(world, name, site, &site.applied, |_, count| count, cores) {
                // Whether the old one comes back is not for us to judge: it is all there is.
                State::Failed(fault) => State::NotYet(vec![*fault]),
                other => other,
            }
        }
    }
}

/// The instances of programs that differ between the two releases.
fn changing<'a>(
    world: &'a World,
    name: &'a SiteName,
    site: &'a SiteState,
) -> impl Iterator<Item = (&'a InstanceId, &'a crate::world::Instance)> {
    world.instances.iter().filter(move |(id, _)| &id.site == name && site.changes(&id.service))
}

/// Whether enough instances of a release are ready.
fn ready(
    world: &World,
    name: &SiteName,
    site: &SiteState,
    applied: &Applied,
    need: impl Fn(&ServiceName, u16) -> u16,
    cores: u16,
) -> State {
    let (mut all, mut faults, mut of_ready) = (true, site.faults.clone(), Vec::new());
    for (service, process) in processes(&applied.site) {
        let need = need(service, site.count(service, process, cores));
        if need == 0 {
            continue;
        }
        let wanted = applied.hashes.get(service).cloned().unwrap_or_default();
        let of_service = |id: &InstanceId| &id.site == name && &id.service == service;
        let current = world
            .instances
            .iter()
            .filter(|(id, one)| of_service(id) && one.draining.is_none() && one.hash == wanted);
        let mut count = 0;
        for (id, one) in current {
            count += u16::from(one.is_ready());
            let fault = one.status.as_ref().and_then(|status| status.fault.clone());
            if world.failed_start(id, one) {
                return State::Failed(Box::new(start_fault(id, fault)));
            }
            if one.is_ready() { &mut of_ready } else { &mut faults }.extend(fault);
        }
        if site.rejected.get(service) == Some(&wanted) {
            let left =
                world.instances.iter().find(|(id, one)| of_service(id) && one.hash == wanted);
            let fault = left
                .and_then(|(_, one)| one.status.as_ref().and_then(|status| status.fault.clone()));
            return State::Failed(Box::new(fault.unwrap_or_else(|| {
                let what = format!("a new instance of `{service}` did not become ready");
                Fault::new(Code::StartFailed, what)
            })));
        }
        all &= count >= need;
    }
    if all { State::There(of_ready) } else { State::NotYet(faults) }
}

fn start_fault(id: &InstanceId, fault: Option<Fault>) -> Fault {
    fault
        .unwrap_or_else(|| {
            Fault::new(Code::StartFailed, format!("`{id}` did not become ready in time"))
        })
        .next(format!("seaworthy explain instance {}/{}", id.site, id.service))
}

/// Asks for what the manifest declares, or for the first page. With a key, the release that is tried answers.
pub(super) async fn smoke(run: &Run, prepared: &Prepared, key: Option<&str>) -> Result<(), Fault> {
    let declared = &prepared.site.deploy.smoke;
    let first_page = [Smoke { path: "/".to_owned(), ..Smoke::default() }];
    let checks = if declared.is_empty() { &first_page[..] } else { declared };
    for check in checks {
        let host = check.host.clone().or_else(|| host_of(prepared));
        let Some(host) = host else { return Ok(()) };
        let way = serve::way_in(&run.platform, &prepared.site, &host).await;
        let Some((address, certificate)) = way else { return Ok(()) };
        let mut headers: Vec<(String, String)> = check.headers.clone().into_iter().collect();
        // What is asked here must be answered now: who names a release, with a key or without, is given nothing kept.
        headers.push(("seaworthy-release".to_owned(), key.unwrap_or("live").to_owned()));
        let question = Question {
            address,
            certificate,
            host: host.clone(),
            method: "GET".to_owned(),
            path: check.path.clone(),
            headers,
            timeout_ms: 30_000,
        };
        let answer = probe::ask(&run.platform, &question).await;
        judge(check, &host, declared.is_empty(), answer)?;
    }
    Ok(())
}

fn host_of(prepared: &Prepared) -> Option<String> {
    prepared.site.domains.iter().find(|domain| !domain.starts_with("*.")).cloned()
}

/// Undeclared, only what is plainly broken counts: an application may well have no first page.
fn judge(
    check: &Smoke,
    host: &str,
    lenient: bool,
    answer: Result<Answer, String>,
) -> Result<(), Fault> {
    let what = format!("`GET https://{host}{}` was not answered well", check.path);
    let failed = |cause: String| {
        Fault::new(Code::GateFailed, what.clone())
            .because(cause)
            .next("seaworthy logs --tail 50   (the new instances' last lines)")
    };
    let answer = answer.map_err(failed)?;
    let good = if lenient {
        answer.status < 500
    } else if check.status.is_empty() {
        (200..300).contains(&answer.status)
    } else {
        check.status.contains(&answer.status)
    };
    let seen = |fault: Fault| answer.body.lines().take(5).fold(fault, Fault::seen);
    if !good {
        let by = answer.request_id.as_deref().unwrap_or_default();
        let fault = failed(format!("the answer was {}", answer.status));
        let fault = if by.is_empty() {
            fault
        } else {
            fault.next(format!("seaworthy explain request {by}"))
        };
        return Err(seen(fault));
    }
    match &check.body {
        Some(text) if !answer.body.contains(text.as_str()) => {
            Err(seen(failed(format!("`{text}` does not stand in the answer"))))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Result<Answer, String> {
        Ok(Answer { status, request_id: Some("ID".to_owned()), body: body.to_owned() })
    }

    #[test]
    fn what_is_declared_counts_exactly_and_otherwise_only_what_is_broken() {
        let check = |status: &[u16], body: Option<&str>| Smoke {
            path: "/x".to_owned(),
            status: status.to_vec(),
            body: body.map(str::to_owned),
            ..Smoke::default()
        };
        assert!(judge(&check(&[], None), "a", true, answer(404, "")).is_ok());
        assert!(judge(&check(&[], None), "a", true, answer(500, "")).is_err());
        assert!(judge(&check(&[], None), "a", false, answer(302, "")).is_err());
        assert!(judge(&check(&[302], None), "a", false, answer(302, "")).is_ok());
        let fault = judge(&check(&[], Some("hello")), "a", false, answer(200, "bye")).unwrap_err();
        assert_eq!(fault.causes, ["`hello` does not stand in the answer"]);
        assert_eq!(fault.evidence, ["bye"]);
    }
}
