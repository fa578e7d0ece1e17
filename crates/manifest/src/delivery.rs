//! Reading how a route's requests reach their instances, and how that is inherited.
//!
//! Invariants: what is read here the edge can do; each key is kept apart from "not said" and "cleared".
//! Not here: `timeout`, which is older and stands with its route.

use std::time::Duration;

use seaworthy_base::delivery::{Balance, Breaker, Delivery, Hold, Passive, Retry};
use seaworthy_base::policy::Key;

use crate::inherit::take;
use crate::keys::delivery as keys;
use crate::policy::{parse_key, share, table_or_true, take_some};
use crate::read::{Found, Reader, Value};
use crate::route::{Said, said};

/// The keys as they stand in the file.
#[derive(Debug, Clone, Default)]
pub(crate) struct RawDelivery {
    balance: Said<Balance>,
    sticky: Said<bool>,
    passive: Said<Passive>,
    retry: Said<Retry>,
    breaker: Said<Breaker>,
    hold: Said<Hold>,
}

pub(crate) fn read(reader: &mut Reader<'_>, found: &Found<'_>) -> RawDelivery {
    let get = |key: &str| found.get(key).map(|(_, value)| *value);
    RawDelivery {
        balance: said(get("balance"), |value| balance(reader, value)),
        sticky: said(get("sticky"), |value| sticky(reader, value)),
        passive: said(get("passive"), |value| passive(reader, value)),
        retry: said(get("retry"), |value| retry(reader, value)),
        breaker: said(get("breaker"), |value| breaker(reader, value)),
        hold: said(get("hold"), |value| hold(reader, value)),
    }
}

/// Lays the words of a narrower route over what is inherited.
pub(crate) fn inherit(said: &RawDelivery, into: &mut Delivery) {
    take(&said.balance, &mut into.balance, Balance::default());
    take(&said.sticky, &mut into.sticky, false);
    take_some(&said.passive, &mut into.passive);
    take(&said.retry, &mut into.retry, Retry { times: 0 });
    take_some(&said.breaker, &mut into.breaker);
    let nothing = Hold { requests: 0, ..Hold::default() };
    take(&said.hold, &mut into.hold, nothing);
}

const BALANCE: &str = "`balance` is `p2c`, `least-conn`, `round-robin` or `hash:KEY`, where the key \
                       is `ip`, `user`, `header:N` or `cookie:N`";

fn balance(reader: &mut Reader<'_>, value: Value<'_>) -> Option<Balance> {
    let text = reader.text(value)?;
    let found = match text.as_str() {
        "p2c" => Some(Balance::P2c),
        "least-conn" => Some(Balance::LeastConn),
        "round-robin" => Some(Balance::RoundRobin),
        _ => text.strip_prefix("hash:").and_then(|key| match parse_key(key) {
            // What all share would send everything to one; a body would have to be read first.
            Ok(Key::Site | Key::Json(_) | Key::Form(_)) | Err(_) => None,
            Ok(key) => Some(Balance::Hash(key)),
        }),
    };
    if found.is_none() {
        reader.problem(value.span(), BALANCE, None);
    }
    found
}

fn sticky(reader: &mut Reader<'_>, value: Value<'_>) -> Option<bool> {
    let good = reader.text(value)? == "cookie";
    if !good {
        reader.problem(value.span(), "`sticky` is `cookie`", None);
    }
    good.then_some(true)
}

fn passive(reader: &mut Reader<'_>, value: Value<'_>) -> Option<Passive> {
    let table = reader.table(value)?;
    let found = reader.known(table, keys::PASSIVE, "`passive`");
    let default = Passive::default();
    let failures = number(reader, &found, "failures", 1..=1000, default.failures);
    let within = time(reader, &found, "within", default.within);
    let out = time(reader, &found, "for", default.out);
    Some(Passive { failures, within, out })
}

fn retry(reader: &mut Reader<'_>, value: Value<'_>) -> Option<Retry> {
    let table = reader.table(value)?;
    let found = reader.known(table, keys::RETRY, "`retry`");
    Some(Retry { times: number(reader, &found, "times", 0..=10, Retry::default().times) })
}

pub(crate) fn breaker(reader: &mut Reader<'_>, value: Value<'_>) -> Option<Breaker> {
    table_or_true(reader, value, Breaker::default, |reader, table| {
        let found = reader.known(table, keys::BREAKER, "`breaker`");
        let default = Breaker::default();
        let errors = match found.get("errors") {
            Some((_, value)) => share(reader, value, "a share of errors")?,
            None => default.errors,
        };
        let min_requests =
            number(reader, &found, "min_requests", 1..=1_000_000, default.min_requests);
        let over = time(reader, &found, "over", default.over);
        let open = time(reader, &found, "open", default.open);
        Some(Breaker { errors, over, min_requests, open })
    })
}

fn hold(reader: &mut Reader<'_>, value: Value<'_>) -> Option<Hold> {
    let table = reader.table(value)?;
    let found = reader.known(table, keys::HOLD, "`hold`");
    let default = Hold::default();
    let requests = number(reader, &found, "requests", 0..=1_000_000, default.requests);
    let bytes = match found.get("bytes") {
        Some((_, value)) => reader.size(value)?,
        None => default.bytes,
    };
    Some(Hold { requests, bytes, age: time(reader, &found, "for", default.age) })
}

pub(crate) fn number(
    reader: &mut Reader<'_>,
    found: &Found<'_>,
    key: &str,
    range: std::ops::RangeInclusive<i64>,
    default: u32,
) -> u32 {
    let given = found.get(key).and_then(|(_, value)| reader.number(value, range));
    given.map_or(default, |number| number as u32)
}

/// From a millisecond to a day.
pub(crate) fn time(
    reader: &mut Reader<'_>,
    found: &Found<'_>,
    key: &str,
    default: Duration,
) -> Duration {
    let Some((_, value)) = found.get(key) else { return default };
    let time = reader.duration(value).unwrap_or(default);
    if !(Duration::from_millis(1)..=Duration::from_secs(86_400)).contains(&time) {
        reader.problem(value.span(), "this time is from a millisecond to a day", None);
    }
    time
}
