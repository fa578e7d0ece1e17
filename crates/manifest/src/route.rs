//! Reading routes, each key kept apart from "not said" and "cleared", so that they can be inherited.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use seaworthy_base::{ByteSize, ServiceName};
use toml::de::DeValue;

use crate::delivery::{self, RawDelivery};
use crate::draft::read_hosts;
use crate::keys;
use crate::limits;
use crate::policy::{self, RawPolicy};
use crate::read::{Entry, Found, Reader, Value};
use crate::service::cache_rules;
use crate::site::RouteAction;
use crate::wire;

/// Targets that the edge answers itself.
const OWN_TARGETS: [&str; 2] = ["@health", "@client-events"];

/// A key of a route: not said, cleared with `false`, or set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Said<T> {
    /// Nothing was said: it is inherited.
    #[default]
    Nothing,
    /// `key = false`.
    Cleared,
    /// A value.
    Is(T),
}

/// Header changes as they were written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RawHeaders {
    /// `set`.
    pub(crate) set: BTreeMap<String, String>,
    /// `add`.
    pub(crate) add: BTreeMap<String, String>,
    /// `remove`.
    pub(crate) remove: Vec<String>,
    /// `mode = "missing"`.
    pub(crate) only_missing: bool,
}

/// Times as they were written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RawTimes {
    /// `connect`.
    pub(crate) connect: Option<Duration>,
    /// `response`.
    pub(crate) response: Option<Duration>,
    /// `idle`.
    pub(crate) idle: Option<Duration>,
    /// `send`.
    pub(crate) send: Option<Duration>,
    /// `total`.
    pub(crate) total: Option<Duration>,
}

/// A `[[route]]` as it stands in the file.
#[derive(Debug, Clone, Default)]
pub(crate) struct RawRoute {
    pub(crate) span: Range<usize>,
    /// Where each path stands.
    pub(crate) path_spans: Vec<Range<usize>>,
    /// Path patterns.
    pub(crate) paths: Vec<String>,
    /// Hosts.
    pub(crate) hosts: Vec<String>,
    /// Where each host stands.
    pub(crate) host_spans: Vec<Range<usize>>,
    /// Paths, hosts or methods could not be read whole: it may be for other requests than it seems.
    pub(crate) incomplete: bool,
    /// Methods.
    pub(crate) methods: Vec<String>,
    /// Priority.
    pub(crate) priority: i64,
    /// What it does, if it says so.
    pub(crate) action: Option<RouteAction>,
    /// Where the action stands.
    pub(crate) action_span: Range<usize>,
    /// It says what it does, and that could not be read.
    pub(crate) action_unread: bool,
    /// Inherited actions that it takes away (`key = false`).
    pub(crate) cleared: Vec<ActionKey>,
    /// `body_limit`.
    pub(crate) body_limit: Said<ByteSize>,
    /// `timeout`.
    pub(crate) timeout: Said<RawTimes>,
    /// `stream`.
    pub(crate) stream: Said<bool>,
    /// `log`.
    pub(crate) log: Said<bool>,
    /// `response_headers`.
    pub(crate) response_headers: Said<RawHeaders>,
    /// `request_headers`.
    pub(crate) request_headers: Said<RawHeaders>,
    /// `cache_control`.
    pub(crate) cache_control: Said<Vec<(String, String)>>,
    /// Everything of [`crate::policy`].
    pub(crate) policy: RawPolicy,
    /// Everything of [`crate::delivery`].
    pub(crate) delivery: RawDelivery,
}

/// The keys of which a route has one at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ActionKey {
    /// `to`.
    To,
    /// `block`.
    Block,
    /// `redirect`.
    Redirect,
    /// `respond`.
    Respond,
}

impl ActionKey {
    const ALL: [(&'static str, Self); 4] = [
        ("to", Self::To),
        ("block", Self::Block),
        ("redirect", Self::Redirect),
        ("respond", Self::Respond),
    ];

    pub(crate) fn of(action: &RouteAction) -> Self {
        match action {
            RouteAction::Service { .. } | RouteAction::Health | RouteAction::ClientEvents => {
                Self::To
            }
            RouteAction::Block => Self::Block,
            RouteAction::Redirect { .. } => Self::Redirect,
            RouteAction::Respond { .. } => Self::Respond,
        }
    }
}

impl RawRoute {
    /// The route of a manifest that has none.
    pub(crate) fn everything_to(service: &ServiceName) -> Self {
        let action = RouteAction::Service { service: service.clone(), port: None };
        Self { paths: vec!["/*".to_owned()], action: Some(action), ..Self::default() }
    }

    /// How many headers it changes.
    pub(crate) fn header_rules(&self) -> usize {
        let count = |said: &Said<RawHeaders>| match said {
            Said::Is(rules) => rules.set.len() + rules.add.len() + rules.remove.len(),
            Said::Nothing | Said::Cleared => 0,
        };
        count(&self.response_headers) + count(&self.request_headers)
    }
}

pub(crate) fn said<'a, T>(
    value: Option<Value<'a>>,
    read: impl FnOnce(Value<'a>) -> Option<T>,
) -> Said<T> {
    match value {
        None => Said::Nothing,
        Some(value) if value.get_ref().as_bool() == Some(false) => Said::Cleared,
        Some(value) => read(value).map_or(Said::Nothing, Said::Is),
    }
}

pub(crate) fn read_route(reader: &mut Reader<'_>, value: Value<'_>) -> Option<RawRoute> {
    let table = reader.table(value)?;
    let found = reader.known(table, keys::ROUTE, "`[[route]]`");
    let get = |key: &str| found.get(key).map(|(_, value)| *value);
    let span = found
        .get("paths")
        .map_or_else(|| value.span().start..value.span().start + 1, |(_, value)| value.span());
    let mut route = RawRoute { span: span.clone(), ..RawRoute::default() };
    let before = reader.count();
    match get("paths") {
        Some(value) => read_paths(reader, value, &mut route),
        None => {
            reader.problem(span, "this route has no `paths`", Some("paths = [\"/*\"]".to_owned()))
        }
    }
    let hosts = get("hosts").map(|value| read_hosts(reader, value)).unwrap_or_default();
    (route.host_spans, route.hosts) = hosts.into_iter().unzip();
    if let Some(value) = get("methods") {
        for (span, method) in reader.texts(value) {
            if wire::is_method(&method) {
                route.methods.push(method.to_ascii_uppercase());
            } else {
                reader.problem(span, "this is no method, such as `GET`", None);
            }
        }
        reader.at_most(value, &mut route.methods, limits::LIST, "methods");
    }
    route.incomplete = !reader.understood(before);
    route.priority =
        get("priority").and_then(|value| reader.number(value, -1000..=1000)).unwrap_or(0);
    let scope = scope(&route);
    route.policy = policy::read(reader, &found, &scope);
    route.delivery = delivery::read(reader, &found);
    read_action(reader, &found, &mut route);
    route.body_limit = said(get("body_limit"), |value| reader.size(value));
    route.timeout = said(get("timeout"), |value| read_times(reader, value));
    route.stream =
        get("stream").and_then(|value| reader.switch(value)).map_or(Said::Nothing, Said::Is);
    route.log = match get("log") {
        Some(value) if value.get_ref().as_table().is_some() => Said::Is(true),
        value => value.and_then(|value| reader.switch(value)).map_or(Said::Nothing, Said::Is),
    };
    route.response_headers = said(get("response_headers"), |value| read_headers(reader, value));
    route.request_headers = said(get("request_headers"), |value| read_headers(reader, value));
    route.cache_control = said(get("cache_control"), |value| Some(cache_rules(reader, value)));
    Some(route)
}

/// Names the requests that a route is for; within a site no two routes have the same name.
fn scope(route: &RawRoute) -> String {
    [&route.hosts, &route.methods, &route.paths]
        .into_iter()
        .filter(|words| !words.is_empty())
        .map(|words| words.join(" "))
        .collect::<Vec<_>>()
        .join(" ")
}

fn read_paths(reader: &mut Reader<'_>, value: Value<'_>, route: &mut RawRoute) {
    for (span, path) in reader.texts(value) {
        let good = path.starts_with('/')
            && !path.contains(['?', '#', '\\'])
            && !path.contains(|c: char| c.is_whitespace() || c.is_control());
        if path.len() > limits::PATH {
            let message = format!("a path has {} bytes at most", limits::PATH);
            reader.problem(span, message, None);
        } else if !good {
            let quoted = reader.quote(&span, &path);
            reader.problem(
                span,
                format!("{quoted} is no path: it begins with `/` and has no `?`"),
                None,
            );
        } else {
            route.paths.push(path);
            route.path_spans.push(span);
        }
    }
    if value.get_ref().as_array().is_some_and(|items| items.is_empty()) {
        reader.problem(value.span(), "this route has no path", Some("paths = [\"/*\"]".to_owned()));
    }
    reader.at_most(value, &mut route.paths, limits::PATHS, "paths");
}

fn read_action(reader: &mut Reader<'_>, found: &Found<'_>, route: &mut RawRoute) {
    let mut given: Vec<&str> = Vec::new();
    for (name, key) in ActionKey::ALL {
        let Some((span, value)) = found.get(name) else { continue };
        if value.get_ref().as_bool() == Some(false) {
            route.cleared.push(key);
            if key == ActionKey::Block {
                route.policy.block_query = Said::Cleared;
            }
            continue;
        }
        if key == ActionKey::Block && value.get_ref().as_table().is_some() {
            // It narrows the route, it is not what the route does.
            route.policy.block_query =
                policy::read_query(reader, value).map_or(Said::Nothing, Said::Is);
            continue;
        }
        given.push(name);
        if given.len() > 1 {
            reader.problem(
                span.clone(),
                format!("{} exclude each other", given.join(" and ")),
                None,
            );
            continue;
        }
        route.action = match key {
            ActionKey::To => read_target(reader, value),
            ActionKey::Block => read_block(reader, value),
            ActionKey::Redirect => read_redirect(reader, value),
            ActionKey::Respond => read_respond(reader, value),
        };
        route.action_span = value.span();
        route.action_unread = route.action.is_none();
    }
}

fn read_block(reader: &mut Reader<'_>, value: Value<'_>) -> Option<RouteAction> {
    reader.switch(value).map(|_| RouteAction::Block)
}

fn read_target(reader: &mut Reader<'_>, value: Value<'_>) -> Option<RouteAction> {
    let text = reader.text(value)?;
    match text.as_str() {
        "@health" => return Some(RouteAction::Health),
        "@client-events" => return Some(RouteAction::ClientEvents),
        "@metrics" => {
            reader.problem(value.span(), "planned: `@metrics` is not built yet", None);
            return None;
        }
        _ if text.starts_with('@') => {
            let help = reader.suggest(&text, OWN_TARGETS.into_iter());
            let help = help.unwrap_or_else(|| format!("there are: {}", OWN_TARGETS.join(", ")));
            let what = "the edge has no such target: names of services have no `@`";
            reader.problem(value.span(), what, Some(help));
            return None;
        }
        _ => {}
    }
    let (service, port) = text
        .split_once(':')
        .map_or((text.as_str(), None), |(service, port)| (service, Some(port.to_owned())));
    let service = reader.name(value.span(), service)?;
    Some(RouteAction::Service { service, port })
}

fn read_redirect(reader: &mut Reader<'_>, value: Value<'_>) -> Option<RouteAction> {
    let DeValue::Table(table) = value.get_ref() else {
        return Some(RouteAction::Redirect { to: read_place(reader, value)?, status: 308 });
    };
    let keys = [
        keys::Key { name: "to", kind: keys::Kind::Text, doc: "" },
        keys::Key { name: "status", kind: keys::Kind::Integer, doc: "" },
    ];
    let found = reader.known(table, &keys, "`redirect`");
    let Some((_, to)) = found.get("to") else {
        reader.problem(value.span(), "a redirect needs `to`", None);
        return None;
    };
    let to = read_place(reader, to)?;
    let status =
        found.get("status").and_then(|(_, value)| reader.number(value, 300..=308)).unwrap_or(308);
    if ![301, 302, 303, 307, 308].contains(&status) {
        reader.problem(value.span(), "a redirect is 301, 302, 303, 307 or 308", None);
    }
    Some(RouteAction::Redirect { to, status: status as u16 })
}

fn read_respond(reader: &mut Reader<'_>, value: Value<'_>) -> Option<RouteAction> {
    let table = reader.table(value)?;
    let found = reader.known(table, keys::RESPOND, "`respond`");
    let get = |key: &str| found.get(key).map(|(_, value)| *value);
    let body = get("body").and_then(|value| reader.text(value)).unwrap_or_default();
    if let (true, Some(value)) = (body.len() > limits::BODY, get("body")) {
        let message = format!("a fixed answer has {} bytes at most", limits::BODY);
        reader.problem(value.span(), message, Some("serve a file with `static`".to_owned()));
    }
    let content_type = get("content_type").and_then(|value| {
        let text = reader.text(value)?;
        let good = text.contains('/') && wire::is_header_value(&text);
        if !good {
            reader.problem(value.span(), "this is no media type, such as `text/plain`", None);
        }
        good.then_some(text)
    });
    Some(RouteAction::Respond {
        status: get("status").and_then(|value| reader.number(value, 200..=599)).unwrap_or(200)
            as u16,
        body,
        content_type: content_type.unwrap_or_else(|| "text/plain; charset=utf-8".to_owned()),
    })
}

/// Where a redirect leads to.
fn read_place(reader: &mut Reader<'_>, value: Value<'_>) -> Option<String> {
    let text = reader.text(value)?;
    if wire::is_place(&text) {
        return Some(text);
    }
    reader.problem(
        value.span(),
        "a redirect leads to a path or an address: `/…`, `https://…`, `$path`",
        Some(
            "spaces are percent-encoded; `$path` begins with a slash itself: `https://new.example$path`"
                .to_owned(),
        ),
    );
    None
}

fn read_times(reader: &mut Reader<'_>, value: Value<'_>) -> Option<RawTimes> {
    let table = reader.table(value)?;
    let found = reader.known(table, keys::delivery::TIMEOUT, "`timeout`");
    let mut time = |key: &str| found.get(key).and_then(|(_, value)| reader.duration(value));
    Some(RawTimes {
        connect: time("connect"),
        response: time("response"),
        idle: time("idle"),
        send: time("send"),
        total: time("total"),
    })
}

fn read_headers(reader: &mut Reader<'_>, value: Value<'_>) -> Option<RawHeaders> {
    let table = reader.table(value)?;
    let found = reader.known(table, keys::HEADERS, "header rules");
    let mut map =
        |key: &str| found.get(key).map(|(_, value)| header_map(reader, value)).unwrap_or_default();
    let (set, add) = (map("set"), map("add"));
    let given = found.get("remove").map(|(_, value)| reader.texts(value)).unwrap_or_default();
    let mut remove = Vec::new();
    for (span, name) in given {
        if is_header(reader, &span, &name) {
            remove.push(name.to_ascii_lowercase());
        }
    }
    let mode = found.get("mode").and_then(|(_, value)| Some((value.span(), reader.text(value)?)));
    if let Some((span, mode)) = &mode
        && mode != "missing"
    {
        reader.problem(span.clone(), "`mode` is `missing`", None);
    }
    Some(RawHeaders { set, add, remove, only_missing: mode.is_some() })
}

/// Headers and values, names in lower case; what cannot be sent is reported and left out.
pub(crate) fn header_map(reader: &mut Reader<'_>, value: Value<'_>) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for Entry { key, name, span, text } in reader.map(value) {
        if !is_header(reader, &key, &name) {
            continue;
        }
        if !wire::is_header_value(&text) {
            let message = "the value of a header cannot be this long or hold control characters";
            reader.problem(span, message, None);
        } else if all.insert(name.to_ascii_lowercase(), text).is_some() {
            reader.problem(key, "this header stands twice: case makes no difference", None);
        }
    }
    all
}

fn is_header(reader: &mut Reader<'_>, span: &Range<usize>, name: &str) -> bool {
    let fault = wire::header_name_fault(name);
    if let Some(fault) = fault {
        let quoted = reader.quote(span, name);
        reader.problem(span.clone(), format!("{quoted} {fault}"), None);
    }
    fault.is_none()
}
