//! Reading the top of the file into a draft; what needs the whole is checked later.
//!
//! Why a draft: a site is only made when nothing is wrong, but what could be read must be known to the
//! checks across sections all the same. Invariant: every value of a draft has a place in the file or is
//! a default. Not here: the keys of a service ([`crate::service`]) and of a route ([`crate::route`]).

mod deploy;
mod job;
mod sections;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use seaworthy_base::policy::Identity;
use seaworthy_base::{ServiceName, SiteName};
use toml::de::DeTable;

use self::sections::{read_health, read_listen, read_secrets};
use crate::backups::read_backups;
use crate::keys;
use crate::limits;
use crate::outgoing;
use crate::policy::{self, NamedLimits};
use crate::read::{Found, Reader, Value};
use crate::route::{RawRoute, read_route};
use crate::service::{Declared, read_service};
use crate::site::backups::Backups;
use crate::site::tls::Handshake;
use crate::site::{Deploy, HealthKey, Job, Listen, SecretSources, Site, Tls, WayOut};
use crate::tls::read_tls;
use crate::wire;

/// A site before it is checked as a whole.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    pub(crate) name: Option<SiteName>,
    pub(crate) domains: Vec<(Range<usize>, String)>,
    pub(crate) redirect_domains: Vec<(Range<usize>, String)>,
    pub(crate) tls: Option<Tls>,
    pub(crate) handshake: Handshake,
    pub(crate) listen: Listen,
    pub(crate) secrets: SecretSources,
    /// Where `listen.https` stands, if it does.
    pub(crate) https_span: Option<Range<usize>>,
    /// Where `listen.http3` stands, if it is on.
    pub(crate) http3_span: Option<Range<usize>>,
    /// All that the file names, those that could not be read too.
    pub(crate) services: BTreeMap<ServiceName, Declared>,
    pub(crate) routes: Vec<RawRoute>,
    pub(crate) deploy: Deploy,
    /// With the place of each name.
    pub(crate) jobs: Vec<(Range<usize>, Job)>,
    pub(crate) backups: Backups,
    /// `redis.X` of all that the file names, those that could not be read too.
    pub(crate) redis: BTreeSet<String>,
    pub(crate) identity: Vec<Identity>,
    pub(crate) health: Option<HealthKey>,
    pub(crate) outgoing: Vec<WayOut>,
    /// `[limit.X]`, and whether all of it was read.
    pub(crate) limits: (NamedLimits, bool),
    pub(crate) complete: Complete,
}

/// Which parts were read without a problem: nothing is said to be missing from the others.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Complete {
    pub(crate) domains: bool,
    pub(crate) tls: bool,
    pub(crate) services: bool,
    pub(crate) routes: bool,
}

impl Draft {
    /// The hosts it serves: those given, or one under `localhost`.
    pub(crate) fn hosts(&self) -> Vec<String> {
        let given: Vec<String> = self.domains.iter().map(|(_, domain)| domain.clone()).collect();
        match &self.name {
            Some(name) if given.is_empty() => vec![format!("{name}.localhost")],
            _ => given,
        }
    }

    /// The site, when its name could be read.
    pub(crate) fn finish(self) -> Option<Site> {
        let domains = self.hosts();
        let name = self.name?;
        let mut routes = self.routes;
        if let (true, [only]) = (routes.is_empty(), &self.services.keys().collect::<Vec<_>>()[..]) {
            routes.push(RawRoute::everything_to(only));
        }
        let services = self.services.into_iter();
        Some(Site {
            routes: crate::inherit::resolve(&routes, &domains, &self.limits.0),
            name,
            redirect_domains: self.redirect_domains.into_iter().map(|(_, domain)| domain).collect(),
            tls: self.tls.unwrap_or_else(|| usual_tls(&domains)),
            handshake: self.handshake,
            listen: self.listen,
            secrets: self.secrets,
            deploy: self.deploy,
            jobs: self.jobs.into_iter().map(|(_, job)| job).collect(),
            backups: self.backups,
            identity: self.identity,
            health: self.health,
            outgoing: self.outgoing,
            services: services
                .filter_map(|(name, declared)| Some((name, declared.service?)))
                .collect(),
            domains,
        })
    }
}

/// Names that only this machine knows get a certificate of our own authority, others one that everybody trusts.
fn usual_tls(domains: &[String]) -> Tls {
    if domains.iter().all(|domain| wire::is_local(domain)) {
        Tls::Internal
    } else {
        Tls::Acme(Box::default())
    }
}

pub(crate) fn read_site(reader: &mut Reader<'_>, document: &DeTable<'_>, project: &Path) -> Draft {
    let mut draft = Draft::default();
    let found = reader.known(document, keys::SITE, "the manifest");
    let text_length = reader.source.len();
    if reader.source.is_blank() {
        reader.problem(
            0..0,
            "the manifest is empty",
            Some("seaworthy init   (looks at the folder and writes one)".to_owned()),
        );
        return draft;
    }
    draft.name = match found.get("site") {
        Some((_, value)) => reader.text(value).and_then(|text| reader.name(value.span(), &text)),
        None => folder_name(project),
    };
    if draft.name.is_none() && !found.contains_key("site") {
        reader.problem(
            0..0,
            "the site has no name, and the folder's is none",
            Some("site = \"my-site\"".to_owned()),
        );
    }
    read_edge(reader, &found, &mut draft);
    draft.secrets.file = project.join(".env").is_file().then(|| ".env".to_owned());
    if let Some(table) = found.get("secrets").and_then(|(_, value)| reader.table(value)) {
        read_secrets(reader, table, &mut draft.secrets);
    }
    match found.get("service") {
        Some((_, value)) => read_services(reader, value, &mut draft),
        None => reader.problem(
            text_length..text_length,
            "there is no `[service.X]`: nothing would run",
            Some("[service.web]\nrun = \"…\"".replace('\n', "  ")),
        ),
    }
    if let Some(table) = found.get("deploy").and_then(|(_, value)| reader.table(value)) {
        draft.deploy = deploy::read_deploy(reader, table);
    }
    if let Some(table) = found.get("job").and_then(|(_, value)| reader.table(value)) {
        for (name, value) in table {
            // A job's name stands in files and commands, as a service's does.
            let known: Option<ServiceName> = reader.name(name.span(), name.get_ref());
            let job = known.and_then(|known| job::read_job(reader, known.as_str(), value));
            draft.jobs.extend(job.map(|job| (name.span(), job)));
        }
    }
    draft.backups = read_backups(reader, &found);
    let redis = found.get("redis").and_then(|(_, value)| value.get_ref().as_table());
    draft.redis = redis
        .into_iter()
        .flat_map(DeTable::keys)
        .map(|name| format!("redis.{}", name.get_ref()))
        .collect();
    if let Some((_, value)) = found.get("identity") {
        draft.identity = policy::read_identity(reader, value);
    }
    if let Some(table) = found.get("health").and_then(|(_, value)| reader.table(value)) {
        draft.health = read_health(reader, table);
    }
    let before = reader.count();
    if let Some((_, value)) = found.get("limit") {
        draft.limits.0 = policy::read_named(reader, value);
    }
    draft.limits.1 = reader.understood(before);
    if let Some((_, value)) = found.get("outgoing") {
        draft.outgoing = outgoing::read(reader, value);
    }
    draft.complete.routes = reader.is_sound();
    if let Some((_, value)) = found.get("route") {
        read_routes(reader, value, &mut draft);
    }
    draft
}

/// Domains, `[tls]` and `[listen]`.
fn read_edge(reader: &mut Reader<'_>, found: &Found<'_>, draft: &mut Draft) {
    let before = reader.count();
    for (key, into) in
        [("domains", &mut draft.domains), ("redirect_domains", &mut draft.redirect_domains)]
    {
        if let Some((_, value)) = found.get(key) {
            *into = read_hosts(reader, value);
        }
    }
    draft.complete.domains = reader.understood(before);
    let before = reader.count();
    if let Some((span, value)) = found.get("tls")
        && let Some(table) = reader.table(value)
    {
        (draft.tls, draft.handshake) = read_tls(reader, span.clone(), table);
    }
    draft.complete.tls = reader.understood(before);
    if let Some(table) = found.get("listen").and_then(|(_, value)| reader.table(value)) {
        draft.https_span = table.get("https").map(toml::Spanned::span);
        draft.listen = read_listen(reader, table);
        draft.http3_span =
            table.get("http3").filter(|_| draft.listen.http3).map(toml::Spanned::span);
    }
}

/// Host names, each in its one spelling; what is none is reported and left out.
pub(crate) fn read_hosts(reader: &mut Reader<'_>, value: Value<'_>) -> Vec<(Range<usize>, String)> {
    let mut hosts = Vec::new();
    for (span, text) in reader.texts(value) {
        if let Some(host) = wire::host(&text) {
            hosts.push((span, host));
            continue;
        }
        let quoted = reader.quote(&span, &text);
        let help = "write it like `example.com`, without `https://`, port or path";
        reader.problem(span, format!("{quoted} is no host name"), Some(help.to_owned()));
    }
    reader.at_most(value, &mut hosts, limits::LIST, "host names");
    hosts
}

fn read_services(reader: &mut Reader<'_>, value: Value<'_>, draft: &mut Draft) {
    let Some(table) = reader.table(value) else { return };
    let mut named = true;
    for (name, value) in table {
        if draft.services.len() == limits::SERVICES {
            let message = format!("a site has {} services at most", limits::SERVICES);
            reader.limit(name.span(), message);
            return;
        }
        match reader.name::<ServiceName>(name.span(), name.get_ref()) {
            Some(parsed) => {
                let declared = read_service(reader, &parsed, name.span(), value);
                draft.services.insert(parsed, declared);
            }
            None => named = false,
        }
    }
    draft.complete.services = named && reader.is_sound();
}

fn read_routes(reader: &mut Reader<'_>, value: Value<'_>, draft: &mut Draft) {
    let Some(items) = value.get_ref().as_array() else {
        reader.problem(
            value.span(),
            "routes are a list of tables",
            Some("write [[route]] with two brackets".to_owned()),
        );
        draft.complete.routes = false;
        return;
    };
    let (mut paths, mut headers, mut rules) = (0, 0, 0);
    for item in items {
        let Some(route) = read_route(reader, item) else {
            draft.complete.routes = false;
            continue;
        };
        draft.complete.routes &= !route.incomplete;
        paths += route.paths.len();
        headers += route.header_rules();
        rules += route.policy.rules();
        let over = [
            (draft.routes.len() == limits::ROUTES, limits::ROUTES, "routes"),
            (paths > limits::PATHS, limits::PATHS, "paths in its routes"),
            (
                rules > limits::POLICY_RULES,
                limits::POLICY_RULES,
                "limits and lockouts in its routes",
            ),
            (headers > limits::HEADER_RULES, limits::HEADER_RULES, "header rules in its routes"),
        ];
        if let Some((_, most, what)) = over.into_iter().find(|(over, ..)| *over) {
            reader.limit(route.span, format!("a site has {most} {what} at most"));
            draft.complete.routes = false;
            return;
        }
        draft.routes.push(route);
    }
}

fn folder_name(project: &Path) -> Option<SiteName> {
    let absolute = std::path::absolute(project).ok()?;
    absolute.file_name()?.to_str()?.to_ascii_lowercase().replace(['_', '.', ' '], "-").parse().ok()
}
