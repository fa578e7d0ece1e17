//! Reading the top of the file and its services into a draft; what needs the whole is checked later.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Component, Path};

use seaworthy_base::{ServiceName, SiteName};
use toml::de::{DeTable, DeValue};

use crate::keys;
use crate::read::{Reader, Value, is_secret_name, shorten};
use crate::route::{RawRoute, read_route};
use crate::site::{
    Health, Instances, Listen, ListenAddress, LogRules, PortUse, Probe, Process, Restart,
    SecretSources, SecretUse, Service, ServiceKind, Site, Stop, Tls,
};

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
    /// The site, when its name could be read.
    pub(crate) fn finish(self) -> Option<Site> {
        let name = self.name?;
        let mut domains: Vec<String> = self.domains.into_iter().map(|(_, domain)| domain).collect();
        if domains.is_empty() {
            domains.push(format!("{name}.localhost"));
        }
        let mut routes = self.routes;
        if let (true, [only]) = (routes.is_empty(), &self.services.keys().collect::<Vec<_>>()[..]) {
            routes.push(RawRoute::everything_to(only));
        }
        Some(Site {
            routes: crate::inherit::resolve(&routes),
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
    let text_length = reader.text.len();
    if reader.text.trim().is_empty() {
        reader.problem(
            0..0,
            "the manifest is empty",
            Some("seaworthy init   (looks at the folder and writes one)".to_owned()),
        );
        return draft;
    }
    draft.name = match found.get("site") {
        Some((_, value)) => reader.text(value).and_then(|text| {
            text.parse()
                .map_err(|error: seaworthy_base::names::NameError| {
                    reader.problem(value.span(), error.to_string(), None)
                })
                .ok()
        }),
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
                let parsed = name.get_ref().parse::<ServiceName>();
                match parsed {
                    Ok(parsed) => {
                        if let Some(service) = read_service(reader, &parsed, value) {
                            draft.services.insert(parsed.clone(), service);
                        }
                        draft.places.insert(parsed, name.span());
                    }
                    Err(error) => reader.problem(name.span(), error.to_string(), None),
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

fn read_tls(reader: &mut Reader<'_>, span: Range<usize>, table: &DeTable<'_>) -> Option<Tls> {
    let found = reader.known(table, keys::TLS, "`[tls]`");
    let cert = found.get("cert").and_then(|(_, value)| reader.text(value));
    let key = found.get("key").and_then(|(_, value)| reader.text(value));
    let mode = found.get("mode").and_then(|(_, value)| Some((value.span(), reader.text(value)?)));
    match (mode, cert, key) {
        (None, Some(cert), Some(key)) => Some(Tls::Files { cert, key }),
        (None, None, None) => None,
        (Some((_, mode)), None, None) if mode == "internal" => Some(Tls::Internal),
        (Some((_, mode)), None, None) if mode == "off" => Some(Tls::Off),
        (Some((span, _)), None, None) => {
            reader.problem(span, "`mode` is `internal` or `off`", None);
            None
        }
        (Some(_), ..) => {
            reader.problem(span, "`mode` and `cert` with `key` exclude each other", None);
            None
        }
        (None, ..) => {
            reader.problem(span, "`cert` and `key` belong together", None);
            None
        }
    }
}

fn read_listen(reader: &mut Reader<'_>, table: &DeTable<'_>) -> Listen {
    let found = reader.known(table, keys::LISTEN, "`[listen]`");
    let addresses = |reader: &mut Reader<'_>, key: &str| match found.get(key) {
        Some((_, value)) => match value.get_ref() {
            DeValue::Array(items) => {
                items.iter().filter_map(|item| listen_address(reader, item)).collect()
            }
            _ => listen_address(reader, value).into_iter().collect(),
        },
        None => Vec::new(),
    };
    let (http, https) = (addresses(reader, "http"), addresses(reader, "https"));
    let free = [ListenAddress::Port(0)];
    let free_address =
        |one: &ListenAddress| matches!(one, ListenAddress::Address(address) if address.port() == 0);
    if let (Some(_), Some((span, _))) = (
        http.iter().find(|one| https.contains(one) && !free.contains(one) && !free_address(one)),
        found.get("https"),
    ) {
        reader.problem(span.clone(), "`http` and `https` cannot listen on the same port", None);
    }
    let trusted =
        found.get("trusted_proxies").map(|(_, value)| reader.texts(value)).unwrap_or_default();
    for (span, network) in &trusted {
        let address = network.split('/').next().unwrap_or_default();
        let bits = network
            .split_once('/')
            .is_none_or(|(_, bits)| bits.parse::<u8>().is_ok_and(|bits| bits <= 128));
        if address.parse::<std::net::IpAddr>().is_err() || !bits {
            reader.problem(span.clone(), "this is no network, such as `10.0.0.0/8`", None);
        }
    }
    Listen {
        http,
        https,
        trusted_proxies: trusted.into_iter().map(|(_, network)| network).collect(),
    }
}

fn listen_address(reader: &mut Reader<'_>, value: Value<'_>) -> Option<ListenAddress> {
    if value.get_ref().as_integer().is_some() {
        return reader.number(value, 0..=65_535).map(|port| ListenAddress::Port(port as u16));
    }
    let text = reader.text(value)?;
    let parsed = text.parse().map(ListenAddress::Address).ok();
    if parsed.is_none() {
        reader.problem(
            value.span(),
            "this is no address with port, such as `127.0.0.1:8443` or `[::1]:8443`",
            None,
        );
    }
    parsed
}

fn read_secrets(reader: &mut Reader<'_>, table: &DeTable<'_>, into: &mut SecretSources) {
    let found = reader.known(table, keys::SECRETS, "`[secrets]`");
    let place = |reader: &mut Reader<'_>, key: &str| {
        found.get(key).and_then(|(_, value)| inside(reader, value))
    };
    if let Some(file) = place(reader, "file") {
        into.file = Some(file);
    }
    into.dir = place(reader, "dir");
    into.age = place(reader, "age");
    if let Some((_, value)) = found.get("command")
        && let Some(crate::site::Command::Argv(words)) = reader.command(value, &[])
    {
        into.command = Some(words);
    }
}

/// A path that stays inside the project.
pub(crate) fn inside(reader: &mut Reader<'_>, value: Value<'_>) -> Option<String> {
    let text = reader.text(value)?;
    check_inside(reader, value.span(), &text).then_some(text)
}

fn check_inside(reader: &mut Reader<'_>, span: Range<usize>, text: &str) -> bool {
    let mut depth = 0i32;
    let stays = Path::new(text).components().all(|part| {
        match part {
            Component::Normal(_) => depth += 1,
            Component::ParentDir => depth -= 1,
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => depth = -1,
        }
        depth >= 0
    });
    if !stays || text.is_empty() || text.contains('\0') {
        reader.problem(
            span,
            format!("`{}` leaves the project's folder", shorten(text)),
            Some("write a path below the folder that holds seaworthy.toml".to_owned()),
        );
        return false;
    }
    true
}

fn read_service(reader: &mut Reader<'_>, name: &ServiceName, value: Value<'_>) -> Option<Service> {
    let table = reader.table(value)?;
    let found = reader.known(table, keys::SERVICE, &format!("`[service.{name}]`"));
    let get = |key: &str| found.get(key).map(|(_, value)| *value);
    let port = read_port(reader, get("port"), get("ports"));
    let mut names: Vec<&str> = vec!["RELEASE", "INSTANCE", "DATA"];
    let variables: Vec<String> = match &port {
        PortUse::Environment(all) => all.iter().map(|(_, variable)| variable.clone()).collect(),
        PortUse::Fixed(_) => vec!["PORT".to_owned()],
    };
    names.extend(variables.iter().map(String::as_str));
    let kinds: Vec<&str> =
        ["run", "static", "upstreams"].into_iter().filter(|key| found.contains_key(key)).collect();
    let kind = match kinds[..] {
        ["run"] => {
            let run = get("run").and_then(|value| reader.command(value, &names));
            read_process(reader, &found, port).and_then(|process| {
                Some(ServiceKind::Process(Box::new(Process { run: run?, ..process })))
            })
        }
        ["static"] => {
            get("static").and_then(|value| inside(reader, value)).map(|root| ServiceKind::Static {
                root,
                spa: get("spa").and_then(|value| reader.switch(value)).unwrap_or(false),
                cache_control: get("cache_control")
                    .map(|value| pairs(reader.map(value)))
                    .unwrap_or_default(),
            })
        }
        ["upstreams"] => get("upstreams").map(|value| read_upstreams(reader, value)),
        [] => {
            reader.problem(
                value.span().start..value.span().start + 1,
                format!("service `{name}` has none of `run`, `static`, `upstreams`"),
                Some("run = \"…\" starts a program".to_owned()),
            );
            None
        }
        _ => {
            reader.problem(
                value.span().start..value.span().start + 1,
                format!(
                    "service `{name}` has {}: only one of them is possible",
                    kinds.join(" and ")
                ),
                None,
            );
            None
        }
    };
    let folder =
        get("dir").and_then(|value| inside(reader, value)).unwrap_or_else(|| ".".to_owned());
    let shared = get("shared").map(|value| reader.texts(value)).unwrap_or_default();
    let shared = shared
        .into_iter()
        .filter(|(span, path)| check_inside(reader, span.clone(), path))
        .map(|(_, path)| path)
        .collect();
    Some(Service {
        name: name.clone(),
        dir: folder,
        build: get("build")
            .map(|value| reader.commands(value, &["RELEASE", "DATA"]))
            .unwrap_or_default(),
        migrate: get("migrate")
            .map(|value| reader.commands(value, &["RELEASE", "DATA"]))
            .unwrap_or_default(),
        shared,
        env: get("env").map(|value| reader.environment(value)).unwrap_or_default(),
        secrets: get("secrets").map(|value| read_secret_uses(reader, value)).unwrap_or_default(),
        kind: kind?,
    })
}

fn pairs(map: Vec<(Range<usize>, String, String)>) -> Vec<(String, String)> {
    map.into_iter().map(|(_, name, value)| (name, value)).collect()
}

fn read_upstreams(reader: &mut Reader<'_>, value: Value<'_>) -> ServiceKind {
    let urls = reader.texts(value);
    for (span, url) in &urls {
        let authority = url.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
        if authority.is_none_or(|authority| authority.is_empty() || authority.contains('/')) {
            reader.problem(span.clone(), "an upstream is written `http://host:port`", None);
        }
    }
    if urls.is_empty() {
        reader.problem(value.span(), "there is no upstream in this list", None);
    }
    ServiceKind::Upstreams(urls.into_iter().map(|(_, url)| url).collect())
}

fn read_port(
    reader: &mut Reader<'_>,
    port: Option<Value<'_>>,
    ports: Option<Value<'_>>,
) -> PortUse {
    let default = PortUse::Environment(vec![("http".to_owned(), "PORT".to_owned())]);
    match (port, ports) {
        (Some(port), None) => {
            reader.number(port, 1..=65_535).map_or(default, |port| PortUse::Fixed(port as u16))
        }
        (None, Some(ports)) => {
            let mut all: Vec<(String, String)> = Vec::new();
            for (span, name, variable) in reader.map(ports) {
                if !is_secret_name(&variable) {
                    reader.problem(
                        span,
                        format!("`{}` is no name of an environment variable", shorten(&variable)),
                        None,
                    );
                } else if all.iter().any(|(_, known)| *known == variable) {
                    reader.problem(
                        span,
                        format!("two ports in the same variable `{variable}`"),
                        None,
                    );
                } else {
                    all.push((name, variable));
                }
            }
            if all.is_empty() { default } else { PortUse::Environment(all) }
        }
        (Some(_), Some(ports)) => {
            reader.problem(ports.span(), "`port` and `ports` exclude each other", None);
            default
        }
        (None, None) => default,
    }
}

fn read_secret_uses(reader: &mut Reader<'_>, value: Value<'_>) -> Vec<SecretUse> {
    let Some(items) = value.get_ref().as_array() else {
        reader.problem(value.span(), "this should be a list of names", None);
        return Vec::new();
    };
    let file = [
        keys::Key { name: "name", kind: keys::Kind::Text, doc: "" },
        keys::Key { name: "as", kind: keys::Kind::Text, doc: "" },
    ];
    let mut uses = Vec::new();
    for item in items {
        let (name, as_file) = match item.get_ref() {
            DeValue::Table(table) => {
                let found = reader.known(table, &file, "a secret");
                let form = found
                    .get("as")
                    .and_then(|(_, value)| Some((value.span(), reader.text(value)?)));
                if let Some((span, form)) = &form
                    && form != "file"
                {
                    reader.problem(
                        span.clone(),
                        "a secret is given `as = \"file\"` or in the environment",
                        None,
                    );
                }
                (found.get("name").and_then(|(_, value)| reader.text(value)), form.is_some())
            }
            _ => (reader.text(item), false),
        };
        match name {
            Some(name) if is_secret_name(&name) => uses.push(SecretUse { name, as_file }),
            Some(_) => reader.problem(
                item.span(),
                "this is no name of a secret: `A-Z`, `0-9` and `_`",
                None,
            ),
            None => {}
        }
    }
    uses
}

fn read_process(
    reader: &mut Reader<'_>,
    found: &BTreeMap<&str, (Range<usize>, Value<'_>)>,
    port: PortUse,
) -> Option<Process> {
    let get = |key: &str| found.get(key).map(|(_, value)| *value);
    let (memory_max, memory_restart) =
        get("memory").map_or((None, None), |value| read_memory(reader, value));
    let after = get("after").map(|value| reader.texts(value)).unwrap_or_default();
    let mut after_names = Vec::new();
    for (span, name) in after {
        match name.parse::<ServiceName>() {
            Ok(name) => after_names.push(name),
            Err(_) if name.contains('.') => reader.problem(
                span,
                format!("planned: starting after `{}` is not built yet", shorten(&name)),
                Some("services of this site can be named".to_owned()),
            ),
            Err(error) => reader.problem(span, error.to_string(), None),
        }
    }
    Some(Process {
        run: crate::site::Command::Argv(Vec::new()),
        instances: get("instances")
            .map_or(Instances::Fixed(1), |value| read_instances(reader, value)),
        port,
        health: read_health(reader, get("health")),
        after: after_names,
        user: get("user").and_then(|value| reader.text(value)),
        memory_max,
        memory_restart,
        cpu_millis: get("cpu").and_then(|value| reader.cores(value)),
        nofile: get("nofile")
            .and_then(|value| reader.number(value, 16..=1 << 30))
            .map(|number| number as u64),
        restart: get("restart").map(|value| read_restart(reader, value)).unwrap_or_default(),
        stop: get("stop").map(|value| read_stop(reader, value)).unwrap_or_default(),
        logs: get("logs").map(|value| read_logs(reader, value)).unwrap_or_default(),
    })
}

fn read_instances(reader: &mut Reader<'_>, value: Value<'_>) -> Instances {
    match value.get_ref() {
        DeValue::String(text) if text == "cores" => Instances::Cores,
        DeValue::Table(_) => {
            reader.problem(
                value.span(),
                "planned: `instances = { min, max }` is not built yet",
                Some("a number, or \"cores\"".to_owned()),
            );
            Instances::Fixed(1)
        }
        _ => reader
            .number(value, 0..=1000)
            .map_or(Instances::Fixed(1), |count| Instances::Fixed(count as u16)),
    }
}

fn read_memory(
    reader: &mut Reader<'_>,
    value: Value<'_>,
) -> (Option<seaworthy_base::ByteSize>, Option<seaworthy_base::ByteSize>) {
    let DeValue::Table(table) = value.get_ref() else { return (reader.size(value), None) };
    let keys = [
        keys::Key { name: "max", kind: keys::Kind::Size, doc: "" },
        keys::Key { name: "restart", kind: keys::Kind::Size, doc: "" },
    ];
    let found = reader.known(table, &keys, "`memory`");
    let mut size = |key: &str| found.get(key).and_then(|(_, value)| reader.size(value));
    let (max, restart) = (size("max"), size("restart"));
    if let (Some(max), Some(restart)) = (max, restart)
        && restart >= max
    {
        reader.problem(
            value.span(),
            "`restart` must be smaller than `max`: else the limit ends it first",
            None,
        );
    }
    (max, restart)
}

fn read_health(reader: &mut Reader<'_>, value: Option<Value<'_>>) -> Health {
    let mut health = Health { ready: Probe::default(), live: Probe::default() };
    let Some(value) = value else { return health };
    match value.get_ref() {
        DeValue::Table(table) => {
            let found = reader.known(table, keys::HEALTH, "`health`");
            if let Some((_, value)) = found.get("path") {
                health.ready.path = read_path(reader, value);
            }
            if let Some((_, value)) = found.get("ready") {
                health.ready = read_probe(reader, value);
            }
            health.live = Probe {
                path: None,
                status: Vec::new(),
                json: BTreeMap::new(),
                headers: BTreeMap::new(),
                ..health.ready.clone()
            };
            if let Some((_, value)) = found.get("live") {
                health.live = read_probe(reader, value);
            }
        }
        _ => health.ready.path = read_path(reader, value),
    }
    health
}

fn read_path(reader: &mut Reader<'_>, value: Value<'_>) -> Option<String> {
    let text = reader.text(value)?;
    if !text.starts_with('/') || text.contains(char::is_whitespace) {
        reader.problem(value.span(), "a path begins with `/`", None);
        return None;
    }
    Some(text)
}

fn read_probe(reader: &mut Reader<'_>, value: Value<'_>) -> Probe {
    let mut probe = Probe::default();
    let DeValue::Table(table) = value.get_ref() else {
        probe.path = read_path(reader, value);
        return probe;
    };
    let found = reader.known(table, keys::PROBE, "a health check");
    let get = |key: &str| found.get(key).map(|(_, value)| *value);
    probe.path = get("path").and_then(|value| read_path(reader, value));
    if let Some(value) = get("status") {
        let items: Vec<Value<'_>> =
            value.get_ref().as_array().map_or_else(|| vec![value], |items| items.iter().collect());
        probe.status = items
            .into_iter()
            .filter_map(|item| reader.number(item, 100..=599))
            .map(|status| status as u16)
            .collect();
    }
    if let Some(table) = get("json").and_then(|value| reader.table(value)) {
        probe.json = table
            .iter()
            .filter_map(|(name, value)| Some((name.get_ref().to_string(), to_json(reader, value)?)))
            .collect();
    }
    probe.headers = get("headers")
        .map(|value| pairs(reader.map(value)).into_iter().collect())
        .unwrap_or_default();
    for (key, into) in
        [("every", &mut probe.every), ("timeout", &mut probe.timeout), ("start", &mut probe.start)]
    {
        if let Some(duration) = get(key).and_then(|value| reader.duration(value)) {
            *into = duration;
        }
    }
    if let Some(failures) = get("failures").and_then(|value| reader.number(value, 1..=1000)) {
        probe.failures = failures as u32;
    }
    if probe.every.is_zero() || probe.timeout.is_zero() {
        reader.problem(value.span(), "`every` and `timeout` must be longer than nothing", None);
    }
    probe
}

fn to_json(reader: &mut Reader<'_>, value: Value<'_>) -> Option<serde_json::Value> {
    match value.get_ref() {
        DeValue::String(text) => Some(text.to_string().into()),
        DeValue::Boolean(switch) => Some((*switch).into()),
        DeValue::Integer(_) => reader.number(value, i64::MIN..=i64::MAX).map(Into::into),
        DeValue::Float(number) => number.as_str().parse::<f64>().ok().map(Into::into),
        _ => {
            reader.problem(
                value.span(),
                "a value to compare is text, a number, true or false",
                None,
            );
            None
        }
    }
}

fn read_restart(reader: &mut Reader<'_>, value: Value<'_>) -> Restart {
    let mut restart = Restart::default();
    let Some(table) = reader.table(value) else { return restart };
    let found = reader.known(table, keys::RESTART, "`restart`");
    let get = |key: &str| found.get(key).map(|(_, value)| *value);
    for (key, into) in [
        ("backoff_min", &mut restart.backoff_min),
        ("backoff_max", &mut restart.backoff_max),
        ("within", &mut restart.within),
    ] {
        if let Some(duration) = get(key).and_then(|value| reader.duration(value)) {
            *into = duration;
        }
    }
    if let Some(crashes) = get("crashes").and_then(|value| reader.number(value, 1..=1000)) {
        restart.crashes = crashes as u32;
    }
    restart
}

fn read_stop(reader: &mut Reader<'_>, value: Value<'_>) -> Stop {
    let mut stop = Stop::default();
    let Some(table) = reader.table(value) else { return stop };
    let found = reader.known(table, keys::STOP, "`stop`");
    if let Some((_, value)) = found.get("signal")
        && let Some(signal) = reader.text(value)
    {
        let signal = signal.trim_start_matches("SIG").to_owned();
        if ["TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "WINCH", "KILL"]
            .contains(&signal.as_str())
        {
            stop.signal = signal;
        } else {
            reader.problem(
                value.span(),
                "this is no signal to stop by: TERM, INT, QUIT, HUP, USR1, USR2, WINCH, KILL",
                None,
            );
        }
    }
    if let Some(grace) = found.get("grace").and_then(|(_, value)| reader.duration(value)) {
        stop.grace = grace;
    }
    stop
}

fn read_logs(reader: &mut Reader<'_>, value: Value<'_>) -> LogRules {
    let mut logs = LogRules::default();
    let Some(table) = reader.table(value) else { return logs };
    let found = reader.known(table, keys::LOGS, "`logs`");
    let get = |key: &str| found.get(key).map(|(_, value)| *value);
    if let Some(size) = get("max_size").and_then(|value| reader.size(value)) {
        logs.max_size = size;
    }
    if let Some(keep) = get("keep").and_then(|value| reader.number(value, 0..=10_000)) {
        logs.keep = keep as u32;
    }
    logs.days =
        get("days").and_then(|value| reader.number(value, 1..=3650)).map(|days| days as u32);
    logs
}
