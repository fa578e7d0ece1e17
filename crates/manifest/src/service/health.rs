//! `health`: when an instance may serve, and when it must be restarted.
//!
//! Invariant: a probe that was accepted has an interval and a timeout longer than nothing, so that nobody
//! asks in a busy loop. Not here: asking.

use std::collections::BTreeMap;

use toml::de::DeValue;

use crate::keys;
use crate::read::{Reader, Value};
use crate::route::header_map;
use crate::site::{Health, Probe};
use crate::wire;

pub(super) fn read_health(reader: &mut Reader<'_>, value: Option<Value<'_>>) -> Health {
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
    if !wire::is_request_path(&text) {
        reader.problem(
            value.span(),
            "a path begins with `/` and has no spaces; other letters are percent-encoded",
            None,
        );
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
    probe.headers = get("headers").map(|value| header_map(reader, value)).unwrap_or_default();
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
