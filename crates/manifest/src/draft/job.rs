//! Reading `[job.X]`.
//!
//! Invariant: a job has exactly one time and one kind of work; whether its service and host are the site's
//! is checked with the whole in view.

use std::time::Duration;

use toml::de::DeTable;

use crate::cron::Cron;
use crate::keys;
use crate::read::{Found, Reader, Value, is_secret_name};
use crate::site::{Job, When, Work};
use crate::wire;

/// A job that takes longer hangs, unless it says otherwise.
const TIMEOUT: Duration = Duration::from_secs(3600);

pub(super) fn read_job(reader: &mut Reader<'_>, name: &str, place: Value<'_>) -> Option<Job> {
    let table: &DeTable<'_> = reader.table(place)?;
    let found = reader.known(table, keys::JOB, &format!("`[job.{name}]`"));
    let when = read_when(reader, place, &found);
    let work = read_work(reader, place, &found);
    let timeout = found.get("timeout").and_then(|(_, value)| reader.duration(value));
    Some(Job {
        name: name.to_owned(),
        when: when?,
        work: work?,
        timeout: timeout.unwrap_or(TIMEOUT),
    })
}

fn read_when(reader: &mut Reader<'_>, place: Value<'_>, found: &Found<'_>) -> Option<When> {
    let get = |key: &str| found.get(key).map(|(_, value)| *value);
    match (get("at"), get("every"), get("cron")) {
        (Some(value), None, None) => {
            let text = reader.text(value)?;
            let minute = time_of_day(&text);
            if minute.is_none() {
                reader.problem(value.span(), "a time of day is written `\"04:00\"`", None);
            }
            minute.map(When::At)
        }
        (None, Some(value), None) => {
            let every = reader.duration(value)?;
            if every < Duration::from_secs(1) {
                reader.problem(value.span(), "a job runs once a second at most", None);
                return None;
            }
            Some(When::Every(every))
        }
        (None, None, Some(value)) => {
            let text = reader.text(value)?;
            Cron::parse(&text)
                .map_err(|error| reader.problem(value.span(), error, None))
                .ok()
                .map(When::Cron)
        }
        _ => {
            let place = place.span();
            reader.problem(
                place.start..place.start + 1,
                "a job has one of `at`, `every`, `cron`",
                Some("at = \"04:00\"".to_owned()),
            );
            None
        }
    }
}

fn time_of_day(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let two = |part: &str| (part.len() == 2).then(|| part.parse::<u16>().ok())?;
    let (hour, minute) = (two(hour)?, two(minute)?);
    (hour < 24 && minute < 60).then_some(hour * 60 + minute)
}

fn read_work(reader: &mut Reader<'_>, place: Value<'_>, found: &Found<'_>) -> Option<Work> {
    let get = |key: &str| found.get(key).map(|(_, value)| *value);
    match (get("run"), get("get"), get("post")) {
        (Some(run), None, None) => {
            let Some(service) = get("service") else {
                let help = "service = \"web\"".to_owned();
                reader.problem(
                    run.span(),
                    "`run` needs the service in whose place it runs",
                    Some(help),
                );
                return None;
            };
            let text = reader.text(service)?;
            let service = reader.name(service.span(), &text)?;
            let commands = reader.commands(run, &["RELEASE", "DATA"]);
            Some(Work::Run { service, commands })
        }
        (None, Some(value), None) => read_request(reader, "GET", value, get("bearer")),
        (None, None, Some(value)) => read_request(reader, "POST", value, get("bearer")),
        _ => {
            let place = place.span();
            reader.problem(
                place.start..place.start + 1,
                "a job has one of `run`, `get`, `post`",
                Some("service = \"web\"  run = \"…\"".to_owned()),
            );
            None
        }
    }
}

fn read_request(
    reader: &mut Reader<'_>,
    method: &str,
    value: Value<'_>,
    bearer: Option<Value<'_>>,
) -> Option<Work> {
    let text = reader.text(value)?;
    let (host, path) = match text.split_once("://") {
        None => (None, text.clone()),
        Some((_, rest)) => {
            let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
            (Some(wire::host(host)), format!("/{path}"))
        }
    };
    if host == Some(None) || !wire::is_request_path(&path) {
        let help = "get = \"/cron/hourly\"".to_owned();
        reader.problem(
            value.span(),
            "this is neither a path nor an address of the site",
            Some(help),
        );
        return None;
    }
    let bearer = bearer.and_then(|value| {
        let text = reader.text(value)?;
        let name = text.strip_prefix("secret:").filter(|name| is_secret_name(name));
        if name.is_none() {
            reader.problem(value.span(), "`bearer` is a secret: `\"secret:NAME\"`", None);
        }
        name.map(str::to_owned)
    });
    Some(Work::Request { method: method.to_owned(), host: host.flatten(), path, bearer })
}
