//! What can only be judged with the whole in view: names that point somewhere, loops, doubles.
//!
//! Runs whatever else is wrong, so that a report is complete; invariant: no problem is only the echo of
//! another one (what could not be read is taken to be right). Not here: the meaning of single values.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use seaworthy_base::ServiceName;

use crate::draft::Draft;
use crate::inherit;
use crate::policy::LimitUse;
use crate::read::{Reader, some_of};
use crate::route::{RawRoute, Said};
use crate::site::backups::server_name;
use crate::site::{RouteAction, Tls, Work};
use crate::wire;

pub(crate) fn check(reader: &mut Reader<'_>, draft: &Draft) {
    check_domains(reader, draft);
    for route in &draft.routes {
        check_target(reader, draft, route);
        check_hosts(reader, draft, route);
        check_limits(reader, draft, route);
    }
    let doubles = inherit::doubles(&draft.routes, &draft.hosts());
    check_doubles(reader, draft, &doubles);
    check_served(reader, draft, &doubles);
    check_after(reader, draft);
    check_servers(reader, draft);
    check_stores(reader, draft);
    check_jobs(reader, draft);
    if draft.routes.is_empty() && draft.complete.routes && draft.services.len() > 1 {
        let end = reader.source.len();
        reader.problem(
            end..end,
            "there is no `[[route]]`: no request would reach a service",
            Some("[[route]]  paths = [\"/*\"]  to = \"…\"".to_owned()),
        );
    }
}

fn check_jobs(reader: &mut Reader<'_>, draft: &Draft) {
    let hosts = draft.hosts();
    for (span, job) in &draft.jobs {
        let what = match &job.work {
            Work::Run { service, .. }
                if draft.complete.services && !draft.services.contains_key(service) =>
            {
                format!("this job runs in `{service}`, and there is no such service")
            }
            Work::Request { host: Some(host), .. }
                if draft.complete.domains && !hosts.contains(host) =>
            {
                format!("this job asks `{host}`, which is none of the site's `domains`")
            }
            _ => continue,
        };
        reader.problem(span.clone(), what, None);
    }
}

fn check_domains(reader: &mut Reader<'_>, draft: &Draft) {
    let mut seen: BTreeMap<&str, &Range<usize>> = BTreeMap::new();
    for (span, domain) in draft.domains.iter().chain(&draft.redirect_domains) {
        if let Some(first) = seen.insert(domain, span) {
            let (line, _) = reader.source.position(first.start);
            let quoted = reader.quote(span, domain);
            reader.problem(
                span.clone(),
                format!("{quoted} stands twice, first in line {line}"),
                None,
            );
        }
    }
    check_acme(reader, draft);
    if let (Some((span, first)), false) = (draft.domains.first(), draft.redirect_domains.is_empty())
        && first.starts_with("*.")
    {
        let what = "`redirect_domains` lead to the first of `domains`, and that is a wildcard";
        let help = "put the name that they lead to first";
        reader.problem(span.clone(), what, Some(help.to_owned()));
    }
    if let (Some(Tls::Off), Some(span)) = (&draft.tls, &draft.https_span) {
        reader.problem(span.clone(), "`listen.https` is given, but `tls.mode` is `off`", None);
    }
    if let (Some(Tls::Off), Some(span)) = (&draft.tls, &draft.http3_span) {
        let what = "HTTP/3 is encrypted always, but `tls.mode` is `off`";
        reader.problem(span.clone(), what, Some("leave out `http3`".to_owned()));
    }
}

/// A wildcard can be proven by a TXT record only (RFC 8555 § 8).
fn check_acme(reader: &mut Reader<'_>, draft: &Draft) {
    let by_default = draft.tls.is_none() && draft.complete.tls;
    let by_dns = match &draft.tls {
        Some(Tls::Acme(acme)) => acme.challenge == "dns-01",
        None if by_default => false,
        _ => return,
    };
    let all = || draft.domains.iter().chain(&draft.redirect_domains);
    let public = all().any(|(_, domain)| !wire::is_local(domain));
    let wild = all().find(|(_, domain)| domain.starts_with("*.") && !wire::is_local(domain));
    if let (false, Some((span, domain))) = (by_dns, wild) {
        let quoted = reader.quote(span, domain);
        let what = format!("no authority gives a certificate for {quoted} without `dns-01`");
        let help = "[tls]  acme = { dns = { rfc2136 = { server = \"ns1.example.com\" } } }, or cert and key files";
        reader.problem(span.clone(), what, Some(help.to_owned()));
    }
    if let (Some(Tls::Acme(_)), false, true) = (&draft.tls, public, draft.complete.domains) {
        let end = reader.source.len();
        let what = "`acme` is given, and there is no public name in `domains`";
        reader.problem(end..end, what, Some("domains = [\"shop.example.com\"]".to_owned()));
    }
}

fn check_hosts(reader: &mut Reader<'_>, draft: &Draft, route: &RawRoute) {
    if !draft.complete.domains {
        return;
    }
    let domains = draft.hosts();
    for (span, host) in route.host_spans.iter().zip(&route.hosts) {
        if draft.redirect_domains.iter().any(|(_, domain)| domain == host) {
            let message =
                "a name of `redirect_domains` has no routes: it leads to the first of `domains`";
            let help = "list it in `domains` instead, or leave it out here";
            reader.problem(span.clone(), message, Some(help.to_owned()));
        } else if !domains.iter().any(|one| one == host || wire::wildcard_covers(one, host)) {
            let quoted = reader.quote(span, host);
            reader.problem(
                span.clone(),
                format!("{quoted} is none of the site's `domains`"),
                Some(format!("they are: {}", some_of(domains.iter().map(String::as_str)))),
            );
        }
    }
}

fn check_target(reader: &mut Reader<'_>, draft: &Draft, route: &RawRoute) {
    let Some(RouteAction::Service { service, port }) = &route.action else { return };
    let span = &route.action_span;
    let Some(target) = draft.services.get(service) else {
        no_such_service(reader, draft, span.clone(), service, "this route goes to");
        return;
    };
    let (Some(port), Some(ports)) = (port, &target.ports) else { return };
    if !ports.contains(port) {
        let help = if ports.is_empty() {
            "it has one port: leave out what follows the colon".to_owned()
        } else {
            format!("its ports: {}", some_of(ports.iter().map(String::as_str)))
        };
        let message = if reader.source.shows(span) {
            format!("service `{service}` has no port `{port}`")
        } else {
            "the service has no such port".to_owned()
        };
        reader.problem(span.clone(), message, Some(help));
    }
}

fn check_limits(reader: &mut Reader<'_>, draft: &Draft, route: &RawRoute) {
    let (named, complete) = &draft.limits;
    let Said::Is(used) = &route.policy.limits else { return };
    for one in used {
        let LimitUse::Named(name, span) = one else { continue };
        if named.contains_key(name) || !complete {
            continue;
        }
        let quoted = reader.quote(span, name);
        let help = reader.suggest(name, named.keys().map(String::as_str));
        let help = help.unwrap_or_else(|| {
            "limit = \"10/s burst 20 by ip\", or the name of a `[limit.X]`".to_owned()
        });
        reader.problem(
            span.clone(),
            format!("{quoted} is no limit: there is no such `[limit.X]`"),
            Some(help),
        );
    }
}

fn no_such_service(
    reader: &mut Reader<'_>,
    draft: &Draft,
    span: Range<usize>,
    name: &ServiceName,
    who: &str,
) {
    if !draft.complete.services {
        return;
    }
    let names = || draft.services.keys().map(ServiceName::as_str);
    let help = reader
        .suggest(name.as_str(), names())
        .unwrap_or_else(|| format!("there are: {}", some_of(names())));
    let quoted = if reader.source.shows(&span) { name.as_str() } else { crate::mask::HIDDEN };
    reader.problem(span, format!("{who} `{quoted}`, and there is no such service"), Some(help));
}

fn check_doubles(
    reader: &mut Reader<'_>,
    draft: &Draft,
    doubles: &[(inherit::Place, inherit::Place)],
) {
    let place = |(route, at): inherit::Place| {
        let route = draft.routes.get(route).filter(|route| !route.incomplete)?;
        route.path_spans.get(at).cloned()
    };
    for (first, second) in doubles {
        let (Some(first), Some(second)) = (place(*first), place(*second)) else { continue };
        let (line, _) = reader.source.position(first.start);
        reader.problem(
            second,
            format!("this path has a route already, in line {line}"),
            Some("put their keys together, or give them different hosts or methods".to_owned()),
        );
    }
}

fn check_served(
    reader: &mut Reader<'_>,
    draft: &Draft,
    doubles: &[(inherit::Place, inherit::Place)],
) {
    if !draft.complete.routes || !draft.complete.domains {
        return;
    }
    let doubles: BTreeSet<_> = doubles.iter().map(|(_, second)| *second).collect();
    for (route, path) in inherit::unserved(&draft.routes, &draft.hosts()) {
        if doubles.contains(&(route, path)) {
            continue;
        }
        let Some(span) = draft.routes.get(route).and_then(|route| route.path_spans.get(path))
        else {
            continue;
        };
        reader.problem(
            span.clone(),
            "this path has nothing to serve: neither its route nor a wider one says where it goes",
            Some("to = \"service\", redirect, respond, or block = true".to_owned()),
        );
    }
}

/// Every service starts after the servers that we run; others are not asked yet.
fn check_after_items(reader: &mut Reader<'_>, draft: &Draft) {
    for (span, item) in draft.services.values().flat_map(|declared| &declared.after_items) {
        if draft.backups.items.get(item).is_some_and(|item| item.managed) {
            continue;
        }
        let quoted = reader.quote(span, item);
        reader.problem(
            span.clone(),
            format!("planned: starting after {quoted} is not built yet"),
            Some("services of this site and managed databases can be named".to_owned()),
        );
    }
}

/// A server that we run has a name among the services.
fn check_servers(reader: &mut Reader<'_>, draft: &Draft) {
    for (item, _) in draft.backups.managed() {
        let Some(declared) = server_name(item).and_then(|name| draft.services.get(&name)) else {
            continue;
        };
        reader.problem(
            declared.span.clone(),
            format!("the managed server of `{item}` has this name"),
            Some("give the service another name".to_owned()),
        );
    }
}

/// What counts in a Redis counts in one that is described.
fn check_stores(reader: &mut Reader<'_>, draft: &Draft) {
    for (span, name) in std::mem::take(&mut reader.stores) {
        if draft.redis.contains(&name) {
            continue;
        }
        let quoted = reader.quote(&span, &name);
        let help = if draft.redis.is_empty() {
            format!("[{name}]  url = \"secret:REDIS_URL\"")
        } else {
            format!("there are: {}", some_of(draft.redis.iter().map(String::as_str)))
        };
        reader.problem(span, format!("there is no {quoted} to count in"), Some(help));
    }
}

fn check_after(reader: &mut Reader<'_>, draft: &Draft) {
    for declared in draft.services.values() {
        for (span, before) in &declared.after {
            if !draft.services.contains_key(before) {
                no_such_service(reader, draft, span.clone(), before, "it starts after");
            }
        }
    }
    check_after_items(reader, draft);
    let mut done = BTreeSet::new();
    for name in draft.services.keys() {
        let Some(way) = find_loop(draft, name, &mut done) else { continue };
        let Some(declared) = way.first().and_then(|name| draft.services.get(name)) else {
            continue;
        };
        let words = some_of(way.iter().map(ServiceName::as_str)).replace(", ", " → ");
        let place = declared.after.iter().find(|(_, next)| way.get(1).unwrap_or(name) == next);
        let first = way.first().map_or("", ServiceName::as_str);
        reader.problem(
            place.map_or_else(|| declared.span.clone(), |(span, _)| span.clone()),
            format!("`after` goes in a circle: {words} → {first}"),
            None,
        );
    }
}

/// A circle that can be reached from `start` through services that are not `done`, beginning with the
/// name that sorts first. Each service is walked once, whatever the number of ways.
fn find_loop<'d>(
    draft: &'d Draft,
    start: &'d ServiceName,
    done: &mut BTreeSet<&'d ServiceName>,
) -> Option<Vec<ServiceName>> {
    let mut way: Vec<(&ServiceName, usize)> = vec![(start, 0)];
    while let Some((at, next)) = way.last_mut() {
        let after = draft.services.get(*at).map_or(&[][..], |declared| &declared.after[..]);
        let following = after.get(*next).map(|(_, name)| name);
        *next += 1;
        match following {
            None => {
                done.insert(at);
                way.pop();
            }
            Some(name) if done.contains(name) => {}
            Some(name) => match way.iter().position(|(one, _)| *one == name) {
                None => way.push((name, 0)),
                Some(from) => {
                    let mut circle: Vec<ServiceName> =
                        way.iter().skip(from).map(|(name, _)| (*name).clone()).collect();
                    let least = circle.iter().enumerate().min_by_key(|(_, name)| *name);
                    let turn = least.map_or(0, |(at, _)| at);
                    circle.rotate_left(turn);
                    done.extend(way.iter().map(|(name, _)| *name));
                    return Some(circle);
                }
            },
        }
    }
    None
}
