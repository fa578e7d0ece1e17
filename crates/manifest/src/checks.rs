//! What can only be judged with the whole in view: names that point somewhere, loops, doubles.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;

use seaworthy_base::ServiceName;

use crate::draft::Draft;
use crate::inherit;
use crate::read::{Reader, shorten, some_of};
use crate::route::RawRoute;
use crate::site::{PortUse, RouteAction, ServiceKind, Tls};

pub(crate) fn check(reader: &mut Reader<'_>, draft: &Draft) {
    check_domains(reader, draft);
    for route in &draft.routes {
        check_target(reader, draft, route);
        for host in &route.hosts {
            let known = draft.domains.iter().chain(&draft.redirect_domains).any(|(_, domain)| {
                domain == host || domain.strip_prefix('*').is_some_and(|tail| host.ends_with(tail))
            });
            if !known {
                reader.problem(
                    route.span.clone(),
                    format!("`{}` is none of the site's `domains`", shorten(host)),
                    None,
                );
            }
        }
    }
    check_doubles(reader, &draft.routes);
    check_served(reader, draft);
    check_after(reader, draft);
    if draft.routes.is_empty() && draft.services.len() > 1 {
        let end = reader.source.len();
        reader.problem(
            end..end,
            "there is no `[[route]]`: no request would reach a service",
            Some("[[route]]  paths = [\"/*\"]  to = \"…\"".to_owned()),
        );
    }
}

fn check_domains(reader: &mut Reader<'_>, draft: &Draft) {
    let mut seen: Vec<&str> = Vec::new();
    for (span, domain) in draft.domains.iter().chain(&draft.redirect_domains) {
        if !is_domain(domain) {
            reader.problem(
                span.clone(),
                format!("`{}` is no host name", shorten(domain)),
                Some("write it like `example.com`, without `https://`, port or path".to_owned()),
            );
        } else if seen.contains(&domain.as_str()) {
            reader.problem(span.clone(), format!("`{domain}` stands twice"), None);
        }
        seen.push(domain);
    }
    let public = draft.domains.iter().find(|(_, domain)| is_domain(domain) && !is_local(domain));
    if let (None, Some((span, domain))) = (&draft.tls, public) {
        let help = "[tls] with mode = \"internal\", cert and key files, or mode = \"off\" behind another terminator";
        reader.problem(
            span.clone(),
            format!("planned: getting a certificate for `{domain}` (ACME) is not built yet"),
            Some(help.to_owned()),
        );
    }
    if draft.tls == Some(Tls::Off) && !draft.listen.https.is_empty() {
        let end = reader.source.len();
        reader.problem(end..end, "`listen.https` is given, but `tls.mode` is `off`", None);
    }
}

fn is_local(domain: &str) -> bool {
    domain == "localhost"
        || domain.ends_with(".localhost")
        || domain.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

/// A host name (RFC 1123, `_` excluded), `*.` before it allowed, or an address.
pub(crate) fn is_domain(text: &str) -> bool {
    if text.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        return true;
    }
    let name = text.strip_prefix("*.").unwrap_or(text);
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let dotted = name.contains('.') || name == "localhost";
    let numeric =
        name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    dotted && !numeric && name.len() <= 253 && name.split('.').all(label)
}

fn check_target(reader: &mut Reader<'_>, draft: &Draft, route: &RawRoute) {
    let Some(RouteAction::Service { service, port }) = &route.action else { return };
    let Some(target) = draft.services.get(service) else {
        let names = || draft.services.keys().map(ServiceName::as_str);
        let help = reader
            .suggest(service.as_str(), names())
            .unwrap_or_else(|| format!("there are: {}", some_of(names())));
        reader.problem(
            route.span.clone(),
            format!("this route goes to `{service}`, and there is no such service"),
            Some(help),
        );
        return;
    };
    let Some(port) = port else { return };
    let ports: Vec<&str> = match &target.kind {
        ServiceKind::Process(process) => match &process.port {
            PortUse::Environment(all) => all.iter().map(|(name, _)| name.as_str()).collect(),
            PortUse::Fixed(_) => Vec::new(),
        },
        _ => Vec::new(),
    };
    if !ports.contains(&port.as_str()) {
        reader.problem(
            route.span.clone(),
            format!("service `{service}` has no port `{}`", shorten(port)),
            Some(format!("its ports: {}", ports.join(", "))),
        );
    }
}

fn check_served(reader: &mut Reader<'_>, draft: &Draft) {
    for (route, path) in inherit::unserved(&draft.routes, &draft.hosts()) {
        let Some(route) = draft.routes.get(route) else { continue };
        let span = route.path_spans.get(path).unwrap_or(&route.span).clone();
        reader.problem(
            span,
            "this path has nothing to serve: neither its route nor a wider one says where it goes",
            Some("to = \"service\", redirect, respond, or block = true".to_owned()),
        );
    }
}

fn list<'a>(names: impl Iterator<Item = &'a ServiceName>) -> String {
    names.map(ServiceName::as_str).collect::<Vec<_>>().join(", ")
}

fn check_doubles(reader: &mut Reader<'_>, routes: &[RawRoute]) {
    let mut seen: BTreeMap<(String, Vec<String>, Vec<String>), Range<usize>> = BTreeMap::new();
    for route in routes {
        for path in &route.paths {
            let sorted = |list: &[String]| {
                let mut list = list.to_vec();
                list.sort();
                list
            };
            let key = (path.clone(), sorted(&route.hosts), sorted(&route.methods));
            if let Some(first) = seen.get(&key) {
                let (line, _) = reader.source.position(first.start);
                reader.problem(
                    route.span.clone(),
                    format!("`{}` has a route already, in line {line}", shorten(path)),
                    Some(
                        "put their keys together, or give them different hosts or methods"
                            .to_owned(),
                    ),
                );
            } else {
                seen.insert(key, route.span.clone());
            }
        }
    }
}

fn check_after(reader: &mut Reader<'_>, draft: &Draft) {
    let after = |name: &ServiceName| match draft.services.get(name).map(|service| &service.kind) {
        Some(ServiceKind::Process(process)) => process.after.clone(),
        _ => Vec::new(),
    };
    for name in draft.services.keys() {
        let place = draft.places.get(name).cloned().unwrap_or(0..0);
        for before in after(name) {
            if !draft.services.contains_key(&before) {
                reader.problem(
                    place.clone(),
                    format!("`{name}` starts after `{before}`, and there is no such service"),
                    Some(format!("there are: {}", list(draft.services.keys()))),
                );
            }
        }
        // A loop is told once, by its first name.
        if let Some(chain) = find_loop(name, &after)
            && chain.iter().min() == Some(name)
        {
            let words: Vec<&str> = chain
                .iter()
                .map(ServiceName::as_str)
                .chain(std::iter::once(name.as_str()))
                .collect();
            reader.problem(place, format!("`after` goes in a circle: {}", words.join(" → ")), None);
        }
    }
}

/// The way from `start` back to itself, if there is one.
fn find_loop(
    start: &ServiceName,
    after: &dyn Fn(&ServiceName) -> Vec<ServiceName>,
) -> Option<Vec<ServiceName>> {
    let mut ways = vec![vec![start.clone()]];
    let mut visited = Vec::new();
    while let Some(way) = ways.pop() {
        let at = way.last()?.clone();
        for next in after(&at) {
            if &next == start {
                return Some(way);
            }
            if !visited.contains(&next) {
                visited.push(next.clone());
                ways.push([way.clone(), vec![next]].concat());
            }
        }
    }
    None
}
