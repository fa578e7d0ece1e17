//! Reading the top of the file into a draft; what needs the whole is checked later.
//!
//! Why a draft: a site is only made when nothing is wrong, but what could be read must be known to the
//! checks across sections all the same. Invariant: every value of a draft has a place in the file or is
//! a default. Not here: the keys of a service ([`crate::service`]) and of a route ([`crate::route`]).

mod sections;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use seaworthy_base::{ServiceName, SiteName};
use toml::de::{DeTable, DeValue};

use self::sections::{read_listen, read_secrets, read_tls};
use crate::keys;
use crate::read::Reader;
use crate::route::{RawRoute, read_route};
use crate::service::read_service;
use crate::site::{Listen, SecretSources, Service, Site, Tls};

/// A site before it is checked as a whole.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    pub(crate) name: Option<SiteName>,
    pub(crate) domains: Vec<(Range<usize>, String)>,
    pub(crate) redirect_domains: Vec<(Range<usize>, String)>,
    pub(crate) tls: Option<Tls>,
    pub(crate) listen: Listen,
    pub(crate) secrets: SecretSources,
    pub(crate) services: BTreeMap<ServiceName, Service>,
    /// Where each service's table begins.
    pub(crate) places: BTreeMap<ServiceName, Range<usize>>,
    pub(crate) routes: Vec<RawRoute>,
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
        Some(Site {
            routes: crate::inherit::resolve(&routes, &domains),
            name,
            domains,
            redirect_domains: self.redirect_domains.into_iter().map(|(_, domain)| domain).collect(),
            tls: self.tls.unwrap_or(Tls::Internal),
            listen: self.listen,
            secrets: self.secrets,
            services: self.services,
        })
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
    for (key, into) in
        [("domains", &mut draft.domains), ("redirect_domains", &mut draft.redirect_domains)]
    {
        if let Some((_, value)) = found.get(key) {
            *into = reader
                .texts(value)
                .into_iter()
                .map(|(span, name)| (span, name.to_ascii_lowercase()))
                .collect();
        }
    }
    if let Some((span, value)) = found.get("tls") {
        draft.tls = reader.table(value).and_then(|table| read_tls(reader, span.clone(), table));
    }
    if let Some(table) = found.get("listen").and_then(|(_, value)| reader.table(value)) {
        draft.listen = read_listen(reader, table);
    }
    draft.secrets.file = project.join(".env").is_file().then(|| ".env".to_owned());
    if let Some(table) = found.get("secrets").and_then(|(_, value)| reader.table(value)) {
        read_secrets(reader, table, &mut draft.secrets);
    }
    match found.get("service") {
        Some((_, value)) => {
            for (name, value) in reader.table(value).into_iter().flatten() {
                if let Some(parsed) = reader.name::<ServiceName>(name.span(), name.get_ref()) {
                    if let Some(service) = read_service(reader, &parsed, value) {
                        draft.services.insert(parsed.clone(), service);
                    }
                    draft.places.insert(parsed, name.span());
                }
            }
        }
        None => reader.problem(
            text_length..text_length,
            "there is no `[service.X]`: nothing would run",
            Some("[service.web]\nrun = \"…\"".replace('\n', "  ")),
        ),
    }
    if let Some((_, value)) = found.get("route") {
        match value.get_ref() {
            DeValue::Array(items) => {
                draft.routes.extend(items.iter().filter_map(|item| read_route(reader, item)))
            }
            _ => reader.problem(
                value.span(),
                "routes are a list of tables",
                Some("write [[route]] with two brackets".to_owned()),
            ),
        }
    }
    draft
}

fn folder_name(project: &Path) -> Option<SiteName> {
    let absolute = std::path::absolute(project).ok()?;
    absolute.file_name()?.to_str()?.to_ascii_lowercase().replace(['_', '.', ' '], "-").parse().ok()
}
