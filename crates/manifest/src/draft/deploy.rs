//! Reading `[deploy]`.
//!
//! Invariant: what is returned can be carried out as it stands: paths are paths, shares grow, hosts are
//! host names. Whether a smoke check's host is the site's is checked with the whole in view.

use std::ops::Range;

use toml::de::DeTable;

use crate::keys;
use crate::read::{Reader, Value};
use crate::site::{Canary, Deploy, Smoke, Strategy, Watch};
use crate::wire;

/// Smoke checks of a site: each is a request at every deploy.
const SMOKE: usize = 50;

pub(super) fn read_deploy(reader: &mut Reader<'_>, table: &DeTable<'_>) -> Deploy {
    let mut deploy = Deploy::default();
    let found = reader.known(table, keys::deploy::DEPLOY, "`[deploy]`");
    let get = |key: &str| found.get(key).map(|(_, value)| *value);
    if let Some(strategy) = get("strategy").and_then(|value| read_strategy(reader, value)) {
        deploy.strategy = strategy;
    }
    if let Some(value) = get("checks") {
        deploy.checks = reader.commands(value, &["RELEASE", "DATA"]);
    }
    if let Some(value) = get("smoke") {
        deploy.smoke = read_smoke(reader, value);
    }
    if let Some(timeout) = get("timeout").and_then(|value| reader.duration(value)) {
        deploy.timeout = timeout;
    }
    if let Some(limit) = get("build_timeout").and_then(|value| reader.duration(value)) {
        deploy.build_timeout = limit;
    }
    deploy.build_memory = get("build_memory").and_then(|value| reader.size(value));
    deploy.build_cpu = get("build_cpu").and_then(|value| reader.cores(value));
    if let Some(sockets) = get("sockets").and_then(|value| reader.duration(value)) {
        deploy.sockets = sockets;
    }
    if let Some(value) = get("watch") {
        deploy.watch = read_watch(reader, value);
    }
    if let Some(keep) = get("keep").and_then(|value| reader.number(value, 1..=1000)) {
        deploy.keep = keep as u16;
    }
    deploy.pause = get("pause").and_then(|value| reader.switch(value)).unwrap_or(false);
    if let Some(table) = get("canary").and_then(|value| reader.table(value)) {
        deploy.canary = read_canary(reader, table);
    }
    deploy
}

fn read_strategy(reader: &mut Reader<'_>, value: Value<'_>) -> Option<Strategy> {
    let text = reader.text(value)?;
    let found = Strategy::of_word(&text);
    if found.is_none() {
        let help = reader.suggest(&text, Strategy::ALL.into_iter().map(Strategy::word));
        reader.problem(
            value.span(),
            "a strategy is `rolling`, `blue-green`, `canary` or `recreate`",
            help,
        );
    }
    found
}

fn read_smoke(reader: &mut Reader<'_>, value: Value<'_>) -> Vec<Smoke> {
    let Some(items) = value.get_ref().as_array() else {
        let help = "smoke = [{ get = \"/login\", status = [200] }]";
        reader.problem(value.span(), "smoke checks are a list of tables", Some(help.to_owned()));
        return Vec::new();
    };
    let mut all: Vec<Smoke> = items.iter().filter_map(|item| one_smoke(reader, item)).collect();
    reader.at_most(value, &mut all, SMOKE, "smoke checks");
    all
}

fn one_smoke(reader: &mut Reader<'_>, value: Value<'_>) -> Option<Smoke> {
    let table = reader.table(value)?;
    let found = reader.known(table, keys::deploy::SMOKE, "a smoke check");
    let get = |key: &str| found.get(key).map(|(_, value)| *value);
    let Some(place) = get("get") else {
        let help = "{ get = \"/\" }".to_owned();
        reader.problem(value.span(), "this smoke check asks for no path", Some(help));
        return None;
    };
    let path = reader.text(place)?;
    if !wire::is_request_path(&path) {
        reader.problem(place.span(), "this is no path to ask for: it begins with `/`", None);
        return None;
    }
    let host = get("host").and_then(|value| Some((value.span(), reader.text(value)?)));
    let mut headers = std::collections::BTreeMap::new();
    for entry in get("headers").map(|value| reader.map(value)).unwrap_or_default() {
        if let Some(fault) = wire::header_name_fault(&entry.name) {
            reader.problem(entry.key, format!("this header {fault}"), None);
        } else if wire::is_header_value(&entry.text) {
            headers.insert(entry.name, entry.text);
        } else {
            reader.problem(entry.span, "this cannot be the value of a header", None);
        }
    }
    Some(Smoke {
        path,
        host: host.and_then(|(span, text)| read_host(reader, span, &text)),
        status: get("status").map(|value| read_status(reader, value)).unwrap_or_default(),
        headers,
        body: get("body").and_then(|value| reader.text(value)),
    })
}

fn read_host(reader: &mut Reader<'_>, span: Range<usize>, text: &str) -> Option<String> {
    let host = wire::host(text).filter(|host| !host.starts_with("*."));
    if host.is_none() {
        reader.problem(span, "this is no host name that can be asked for", None);
    }
    host
}

fn read_status(reader: &mut Reader<'_>, value: Value<'_>) -> Vec<u16> {
    let list = value.get_ref().as_array();
    let items: Vec<Value<'_>> = list.map_or_else(|| vec![value], |items| items.iter().collect());
    let numbers = items.into_iter().filter_map(|item| reader.number(item, 100..=599));
    numbers.map(|number| number as u16).collect()
}

fn read_watch(reader: &mut Reader<'_>, value: Value<'_>) -> Watch {
    let mut watch = Watch::default();
    if let Some(switch) = value.get_ref().as_bool() {
        if !switch {
            watch.period = std::time::Duration::ZERO;
        }
        return watch;
    }
    let Some(table) = reader.table(value) else { return watch };
    let found = reader.known(table, keys::deploy::WATCH, "`watch`");
    let get = |key: &str| found.get(key).map(|(_, value)| *value);
    if let Some(period) = get("for").and_then(|value| reader.duration(value)) {
        watch.period = period;
    }
    if let Some(errors) = get("errors").and_then(|value| reader.share(value)) {
        watch.errors = errors;
    }
    watch.p95 = get("p95").and_then(|value| reader.duration(value));
    watch.logs = get("logs").and_then(|value| reader.switch(value)).unwrap_or(true);
    watch
}

fn read_canary(reader: &mut Reader<'_>, table: &DeTable<'_>) -> Canary {
    let mut canary = Canary::default();
    let found = reader.known(table, keys::deploy::CANARY, "`canary`");
    if let Some((_, value)) = found.get("steps") {
        let items = value.get_ref().as_array();
        let items: Vec<Value<'_>> =
            items.map_or_else(|| vec![*value], |items| items.iter().collect());
        canary.steps = items.into_iter().filter_map(|item| reader.share(item)).collect();
        if !canary.steps.is_sorted() || canary.steps.is_empty() {
            let help = "steps = [\"5%\", \"25%\", \"50%\"]".to_owned();
            reader.problem(value.span(), "the shares of a canary grow", Some(help));
        }
    }
    if let Some(period) = found.get("for").and_then(|(_, value)| reader.duration(value)) {
        canary.period = period;
    }
    canary
}
