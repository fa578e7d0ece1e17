//! Reading one `[service.X]`: what it is (a program, files, or servers of others), its files and secrets.
//!
//! Invariants: exactly one of `run`, `static` and `upstreams` makes a service; every path stays inside the
//! project. The keys that only a program has are in [`process`], its checks in [`health`]. Not here:
//! whether the services that `after` names exist, which only the whole file tells.

mod health;
mod process;
mod socket;

use std::ops::Range;
use std::path::{Component, Path};

use seaworthy_base::ServiceName;
use toml::de::DeValue;

use self::process::read_process;
use self::socket::read_socket;
use crate::keys;
use crate::limits;
use crate::read::{Entry, Found, Reader, Value, is_secret_name};
use crate::site::{Command, PortUse, Process, SecretUse, Service, ServiceKind};
use crate::wire;

/// The keys of which a service has exactly one.
const KINDS: [&str; 3] = ["run", "static", "upstreams"];

/// A value with its place.
type Placed<T> = (Range<usize>, T);

/// A service as the file names it, whether it could be read or not.
#[derive(Debug)]
pub(crate) struct Declared {
    /// Where its name stands.
    pub(crate) span: Range<usize>,
    pub(crate) service: Option<Service>,
    /// What it starts after, with the place of each name.
    pub(crate) after: Vec<Placed<ServiceName>>,
    /// The databases and others that it starts after, with the place of each name.
    pub(crate) after_items: Vec<Placed<String>>,
    /// The ports that a route can name; none when they could not be read.
    pub(crate) ports: Option<Vec<String>>,
}

pub(crate) fn read_service(
    reader: &mut Reader<'_>,
    name: &ServiceName,
    span: Range<usize>,
    value: Value<'_>,
) -> Declared {
    let mut declared =
        Declared { span, service: None, after: Vec::new(), after_items: Vec::new(), ports: None };
    let Some(table) = reader.table(value) else { return declared };
    let found = reader.known(table, keys::SERVICE, &format!("`[service.{name}]`"));
    if let Some((_, value)) = found.get("after") {
        (declared.after_items, declared.after) = read_after(reader, value);
    }
    let before = reader.count();
    let port = match read_socket(reader, &found) {
        Some(port) => port,
        None => read_port(reader, found.get("port"), found.get("ports")),
    };
    if reader.understood(before) {
        declared.ports = ports_of(&found, &port);
    }
    let kind = read_kind(reader, name, value.span(), &found, port);
    let after = declared.after.iter().map(|(_, name)| name.clone()).collect();
    declared.service = read_common(reader, name, &found, kind, after);
    declared
}

/// The names of the ports that a route can ask for; none when it is unclear what the service is.
fn ports_of(found: &Found<'_>, port: &PortUse) -> Option<Vec<String>> {
    match port {
        PortUse::Environment(all) if found.contains_key("run") => {
            Some(all.iter().map(|(name, _)| name.clone()).collect())
        }
        _ => KINDS.iter().any(|kind| found.contains_key(kind)).then(Vec::new),
    }
}

fn read_kind(
    reader: &mut Reader<'_>,
    name: &ServiceName,
    place: Range<usize>,
    found: &Found<'_>,
    port: PortUse,
) -> Option<ServiceKind> {
    let place = place.start..place.start + 1;
    let get = |key: &str| found.get(key).map(|(_, value)| *value);
    let mut names: Vec<&str> = vec!["RELEASE", "INSTANCE", "DATA"];
    let variables: Vec<String> = match &port {
        PortUse::Environment(all) => all.iter().map(|(_, variable)| variable.clone()).collect(),
        PortUse::Fixed(_) => vec!["PORT".to_owned()],
        PortUse::Socket(_) => vec!["SOCKET".to_owned(), "RUNTIME_DIRECTORY".to_owned()],
    };
    names.extend(variables.iter().map(String::as_str));
    let kinds: Vec<&str> = KINDS.into_iter().filter(|key| found.contains_key(key)).collect();
    match kinds[..] {
        ["run"] => {
            let run = get("run").and_then(|value| reader.command(value, &names));
            read_process(reader, found, port).and_then(|process| {
                Some(ServiceKind::Process(Box::new(Process { run: run?, ..process })))
            })
        }
        ["static"] => {
            get("static").and_then(|value| inside(reader, value)).map(|root| ServiceKind::Static {
                root,
                spa: get("spa").and_then(|value| reader.switch(value)).unwrap_or(false),
                cache_control: get("cache_control")
                    .map(|value| cache_rules(reader, value))
                    .unwrap_or_default(),
            })
        }
        ["upstreams"] => get("upstreams").map(|value| read_upstreams(reader, value)),
        [] => {
            reader.problem(
                place,
                format!("service `{name}` has none of `run`, `static`, `upstreams`"),
                Some("run = \"…\" starts a program".to_owned()),
            );
            None
        }
        _ => {
            reader.problem(
                place,
                format!(
                    "service `{name}` has {}: only one of them is possible",
                    kinds.join(" and ")
                ),
                None,
            );
            None
        }
    }
}

fn read_common(
    reader: &mut Reader<'_>,
    name: &ServiceName,
    found: &Found<'_>,
    kind: Option<ServiceKind>,
    after: Vec<ServiceName>,
) -> Option<Service> {
    let get = |key: &str| found.get(key).map(|(_, value)| *value);
    let mut kind = kind;
    if let Some(ServiceKind::Process(process)) = &mut kind {
        process.after = after;
    }
    let folder =
        get("dir").and_then(|value| inside(reader, value)).unwrap_or_else(|| ".".to_owned());
    let shared = get("shared").map(|value| reader.texts(value)).unwrap_or_default();
    let shared = shared
        .into_iter()
        .filter(|(span, path)| check_inside(reader, span.clone(), path))
        .map(|(_, path)| path)
        .collect();
    let Migrate { up, down, status } =
        get("migrate").map(|value| read_migrate(reader, value)).unwrap_or_default();
    Some(Service {
        name: name.clone(),
        dir: folder,
        build: get("build")
            .map(|value| reader.commands(value, &["RELEASE", "DATA"]))
            .unwrap_or_default(),
        migrate: up,
        migrate_down: down,
        migrate_status: status,
        shared,
        env: get("env").map(|value| reader.environment(value)).unwrap_or_default(),
        secrets: get("secrets").map(|value| read_secret_uses(reader, value)).unwrap_or_default(),
        proxy_header: announces(reader, found, kind.as_ref()),
        http2: get("protocol").is_some_and(|value| read_protocol(reader, value)),
        check: match (&kind, get("health")) {
            (Some(ServiceKind::Upstreams(_)), Some(value)) => {
                Some(health::read_health(reader, Some(value)).ready)
            }
            _ => None,
        },
        kind: kind?,
    })
}

/// `migrate`.
#[derive(Default)]
struct Migrate {
    up: Vec<Command>,
    down: Vec<Command>,
    status: Option<Command>,
}

/// Commands, or `{ up, down, status }`.
fn read_migrate(reader: &mut Reader<'_>, value: Value<'_>) -> Migrate {
    let names = ["RELEASE", "DATA"];
    let table = value.get_ref().as_table().filter(|table| !table.contains_key("shell"));
    let Some(table) = table else {
        return Migrate { up: reader.commands(value, &names), ..Migrate::default() };
    };
    let found = reader.known(table, keys::MIGRATE, "`migrate`");
    let Some((_, up)) = found.get("up") else {
        let help = "migrate = { up = \"…\", status = \"…\" }".to_owned();
        reader.problem(value.span(), "`migrate` has no `up`", Some(help));
        return Migrate::default();
    };
    let down = found.get("down").map(|(_, value)| reader.commands(value, &names));
    Migrate {
        up: reader.commands(up, &names),
        down: down.unwrap_or_default(),
        status: found.get("status").and_then(|(_, value)| reader.command(value, &names)),
    }
}

/// Items such as `database.main`, and services.
fn read_after(
    reader: &mut Reader<'_>,
    value: Value<'_>,
) -> (Vec<Placed<String>>, Vec<Placed<ServiceName>>) {
    let (mut items, mut after) = (Vec::new(), Vec::new());
    for (span, name) in reader.texts(value) {
        if name.contains('.') {
            items.push((span, name));
        } else if let Some(name) = reader.name(span.clone(), &name) {
            after.push((span, name));
        }
    }
    reader.at_most(value, &mut after, limits::SERVICES, "names");
    reader.at_most(value, &mut items, limits::SERVICES, "names");
    (items, after)
}

/// Rules of `cache_control`: path pattern and value, in the order written.
pub(crate) fn cache_rules(reader: &mut Reader<'_>, value: Value<'_>) -> Vec<(String, String)> {
    let mut rules = Vec::new();
    for entry in reader.map(value) {
        if !entry.name.starts_with(['/', '*']) || entry.name.len() > limits::PATH {
            let quoted = reader.quote(&entry.key, &entry.name);
            reader.problem(
                entry.key,
                format!("{quoted} is no path pattern: it begins with `/` or `*`"),
                None,
            );
        } else if entry.text.trim().is_empty() || !wire::is_header_value(&entry.text) {
            reader.problem(entry.span, "this is no value of `Cache-Control`", None);
        } else {
            rules.push((entry.name, entry.text));
        }
    }
    reader.at_most(value, &mut rules, limits::CACHE_RULES, "rules");
    rules
}

fn read_upstreams(reader: &mut Reader<'_>, value: Value<'_>) -> ServiceKind {
    let mut urls = reader.texts(value);
    reader.at_most(value, &mut urls, limits::UPSTREAMS, "upstreams");
    for (span, url) in &urls {
        let authority = url.strip_prefix("http://").or_else(|| url.strip_prefix("h2c://"));
        let authority = authority.map(|rest| rest.trim_end_matches('/'));
        let socket = url.strip_prefix("unix:").is_some_and(|path| {
            // What a socket's address has room for.
            path.starts_with('/') && path.len() <= 107 && !path.contains(char::is_control)
        });
        if !socket && !authority.is_some_and(wire::is_authority) {
            let message =
                "an upstream is written `http://host:port`, `h2c://host:port` or `unix:/path`";
            reader.problem(span.clone(), message, None);
        }
    }
    if urls.is_empty() {
        reader.problem(value.span(), "there is no upstream in this list", None);
    }
    ServiceKind::Upstreams(urls.into_iter().map(|(_, url)| url).collect())
}

/// Whether connections begin with a PROXY header. Those who check our own programs send none, and over one
/// connection of HTTP/2 many clients ask.
fn announces(reader: &mut Reader<'_>, found: &Found<'_>, kind: Option<&ServiceKind>) -> bool {
    let Some((span, value)) = found.get("proxy_protocol") else { return false };
    if !reader.switch(value).unwrap_or(false) {
        return false;
    }
    let many = match kind {
        Some(ServiceKind::Upstreams(urls)) => {
            found.contains_key("protocol") || urls.iter().any(|url| url.starts_with("h2c:"))
        }
        Some(_) => true,
        None => false,
    };
    if many {
        let message = "a PROXY header goes before connections of HTTP/1.1 to `upstreams` only";
        reader.problem(span.clone(), message, None);
    }
    !many
}

fn read_protocol(reader: &mut Reader<'_>, value: Value<'_>) -> bool {
    let text = reader.text(value);
    let good = text.as_deref() == Some("h2c");
    if text.is_some() && !good {
        reader.problem(value.span(), "`protocol` is `h2c`; HTTP/1.1 needs no word", None);
    }
    good
}

fn read_port(
    reader: &mut Reader<'_>,
    port: Option<&(Range<usize>, Value<'_>)>,
    ports: Option<&(Range<usize>, Value<'_>)>,
) -> PortUse {
    let default = PortUse::Environment(vec![("http".to_owned(), "PORT".to_owned())]);
    match (port, ports) {
        (Some((_, port)), None) => {
            reader.number(port, 1..=65_535).map_or(default, |port| PortUse::Fixed(port as u16))
        }
        (None, Some((_, ports))) => {
            let mut all: Vec<(String, String)> = Vec::new();
            for Entry { key, name, span, text: variable } in reader.map(ports) {
                if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) {
                    reader.problem(key, "a port's name is letters, digits, `-` and `_`", None);
                } else if !is_secret_name(&variable) {
                    reader.problem(
                        span,
                        "this is no name of an environment variable: `A-Z`, `0-9` and `_`",
                        None,
                    );
                } else if all.iter().any(|(_, known)| *known == variable) {
                    reader.problem(span, "two ports in the same variable", None);
                } else {
                    all.push((name, variable));
                }
            }
            reader.at_most(ports, &mut all, limits::LIST, "ports");
            if all.is_empty() { default } else { PortUse::Environment(all) }
        }
        (Some(_), Some((span, _))) => {
            reader.problem(span.clone(), "`port` and `ports` exclude each other", None);
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
        let quoted = reader.quote(&span, text);
        reader.problem(
            span,
            format!("{quoted} leaves the project's folder"),
            Some("write a path below the folder that holds seaworthy.toml".to_owned()),
        );
        return false;
    }
    true
}
