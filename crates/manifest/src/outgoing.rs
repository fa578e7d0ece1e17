//! Reading `[outgoing.X]`: the ways on which the application calls others.
//!
//! Invariants: what is read here the edge can do; an address holds no password. Not here: whether the other side is
//! there, which nobody can know before the first call.

use std::time::Duration;

use seaworthy_base::Rate;
use seaworthy_base::delivery::Breaker;
use seaworthy_base::outgoing::{Again, Outgoing, Target, Wait};
use toml::de::DeValue;

use crate::delivery;
use crate::keys::outgoing as keys;
use crate::limits;
use crate::policy::check_rate;
use crate::read::{Found, Reader, Value};
use crate::service::inside;
use crate::site::WayOut;
use crate::wire;

const ADDRESS: &str = "this is no address such as `https://api.example.com`";

/// All of them, by the order of the file.
pub(crate) fn read(reader: &mut Reader<'_>, value: Value<'_>) -> Vec<WayOut> {
    let Some(table) = reader.table(value) else { return Vec::new() };
    let mut all: Vec<WayOut> = Vec::new();
    for (name, value) in table {
        if all.len() == limits::LIST {
            reader.limit(name.span(), "there are too many `[outgoing.X]`");
            break;
        }
        let text = name.get_ref().as_ref();
        let good = text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.len() <= 40
            && text
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c));
        let Some(one) = one(reader, value, text) else { continue };
        let twice = all.iter().any(|other| other.variable() == one.variable());
        if !good || twice {
            let what = if twice {
                "another one has the same variable: `-` and `_` are one there"
            } else {
                "a name begins with a letter and is of `a-z`, `0-9`, `-` and `_`"
            };
            reader.problem(name.span(), what, Some("[outgoing.payments]".to_owned()));
            continue;
        }
        all.push(one);
    }
    all
}

fn one(reader: &mut Reader<'_>, value: Value<'_>, name: &str) -> Option<WayOut> {
    let table = reader.table(value)?;
    let found = reader.known(table, keys::OUTGOING, "`[outgoing.X]`");
    let Some((_, to)) = found.get("to") else {
        let help = "to = \"https://api.example.com\"".to_owned();
        reader.problem(value.span(), "a way out needs `to`", Some(help));
        return None;
    };
    let to = target(reader, to);
    let get = |key: &str| found.get(key).map(|(_, value)| *value);
    let concurrency = get("concurrency").and_then(|value| reader.number(value, 1..=100_000));
    let rate = get("rate").and_then(|value| rate(reader, value));
    let breaker = get("breaker").and_then(|value| breaker(reader, value));
    let retry = get("retry").map_or(Some(Again::default()), |value| retry(reader, value));
    let hold = get("hold").map_or(Some(Wait::default()), |value| hold(reader, value));
    let times = times(reader, get("timeout"));
    let ca = get("ca").and_then(|value| inside(reader, value));
    let rules = Outgoing {
        name: name.to_owned(),
        to: to?,
        concurrency: concurrency.map(|number| number as u32),
        rate,
        breaker,
        retry: retry?,
        hold: hold?,
        connect: times.connect,
        response: times.response,
        idle: times.idle,
        total: times.total,
    };
    Some(WayOut { rules, ca })
}

/// Scheme, host, port and path; no user, no query.
fn target(reader: &mut Reader<'_>, value: Value<'_>) -> Option<Target> {
    let text = reader.text(value)?;
    let parsed = parse_target(&text);
    if parsed.is_none() {
        let help = "keys and passwords belong into headers that the application sets".to_owned();
        let help = text.contains(['@', '?']).then_some(help);
        reader.problem(value.span(), ADDRESS, help);
    }
    parsed
}

fn parse_target(text: &str) -> Option<Target> {
    let (scheme, rest) = text.split_once("://")?;
    let tls = match scheme {
        "https" => true,
        "http" => false,
        _ => return None,
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = path.trim_end_matches('/');
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok().filter(|p| *p > 0)?),
        _ => (authority, if tls { 443 } else { 80 }),
    };
    let host = wire::host(host).filter(|host| !host.starts_with('*'))?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-._~%+".contains(c);
    path.chars().all(plain).then(|| Target { tls, host, port, path: path.to_owned() })
}

fn rate(reader: &mut Reader<'_>, value: Value<'_>) -> Option<Rate> {
    let text = reader.text(value)?;
    let parsed = text.parse::<Rate>().map_err(|_| "a rate is written `10/s`, `5/m`, `300/5m`");
    let checked = parsed.map_err(str::to_owned).and_then(|rate| {
        check_rate(rate)?;
        if rate.count > MOST_REMEMBERED {
            return Err(format!(
                "a rate of calls counts {MOST_REMEMBERED} at most: take a shorter time"
            ));
        }
        Ok(rate)
    });
    checked.map_err(|why| reader.problem(value.span(), why, None)).ok()
}

/// Each call of a stretch of time is remembered.
const MOST_REMEMBERED: u32 = 10_000;

fn breaker(reader: &mut Reader<'_>, value: Value<'_>) -> Option<Breaker> {
    match value.get_ref() {
        DeValue::Boolean(false) => None,
        _ => delivery::breaker(reader, value),
    }
}

fn retry(reader: &mut Reader<'_>, value: Value<'_>) -> Option<Again> {
    if value.get_ref().as_bool() == Some(false) {
        return Some(Again { times: 0, ..Again::default() });
    }
    let table = reader.table(value)?;
    let found = reader.known(table, keys::RETRY, "`retry`");
    let default = Again::default();
    let times = delivery::number(reader, &found, "times", 0..=10, default.times);
    let statuses = match found.get("for") {
        Some((_, value)) => statuses(reader, value)?,
        None => default.statuses,
    };
    Some(Again { times, statuses })
}

fn statuses(reader: &mut Reader<'_>, value: Value<'_>) -> Option<Vec<u16>> {
    let list = match value.get_ref() {
        DeValue::Array(items) if items.len() <= limits::LIST => items.iter().collect(),
        _ => vec![value],
    };
    let each = list.into_iter().map(|value| reader.number(value, 400..=599).map(|one| one as u16));
    each.collect()
}

fn hold(reader: &mut Reader<'_>, value: Value<'_>) -> Option<Wait> {
    if value.get_ref().as_bool() == Some(false) {
        return Some(Wait { calls: 0, ..Wait::default() });
    }
    let table = reader.table(value)?;
    let found = reader.known(table, keys::HOLD, "`hold`");
    let default = Wait::default();
    let calls = delivery::number(reader, &found, "calls", 0..=100_000, default.calls);
    Some(Wait { calls, age: delivery::time(reader, &found, "for", default.age) })
}

struct Times {
    connect: Duration,
    response: Duration,
    idle: Duration,
    total: Option<Duration>,
}

fn times(reader: &mut Reader<'_>, value: Option<Value<'_>>) -> Times {
    let table = value.and_then(|value| reader.table(value));
    let found: Found<'_> =
        table.map(|table| reader.known(table, keys::TIMEOUT, "`timeout`")).unwrap_or_default();
    let mut time =
        |key: &str, seconds| delivery::time(reader, &found, key, Duration::from_secs(seconds));
    let (connect, response, idle) = (time("connect", 5), time("response", 60), time("idle", 60));
    let total = found.contains_key("total").then(|| time("total", 60));
    Times { connect, response, idle, total }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_scheme_a_host_and_perhaps_a_path_and_no_secret() {
        let read = |text: &str| parse_target(text).map(|to| (to.origin(), to.path));
        let good = |origin: &str, path: &str| Some((origin.to_owned(), path.to_owned()));
        assert_eq!(read("https://api.example.com"), good("https://api.example.com", ""));
        assert_eq!(read("https://API.example.com:443/v1/"), good("https://api.example.com", "/v1"));
        assert_eq!(read("http://127.0.0.1:9000"), good("http://127.0.0.1:9000", ""));
        assert_eq!(read("https://[::1]:8443/a/b"), good("https://[::1]:8443", "/a/b"));
        for bad in [
            "api.example.com",
            "ftp://api.example.com",
            "https://",
            "https://u:p@api.example.com",
            "https://api.example.com?key=1",
            "https://api.example.com/x?key=1",
            "https://api.example.com:0",
            "https://*.example.com",
            "https://api.example.com/a b",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
