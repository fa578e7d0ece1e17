//! Rates and lockouts: `limit`, `[limit.X]`, `lockout`, `[identity]`, and the keys by which both count.
//!
//! `"10/s burst 20 by ip"` is a rate, how many more at once, and for each of what. A limit that is named
//! counts once for all routes that use it; one that is written in a route counts for that route and those
//! that inherit it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use seaworthy_base::Rate;
use seaworthy_base::policy::{Identity, Key, Limit, Lockout, Refusal};
use toml::de::{DeTable, DeValue};

use crate::keys;
use crate::limits;
use crate::read::{Reader, Value};
use crate::wire;

/// `[limit.X]` by name.
pub(crate) type NamedLimits = BTreeMap<String, Limit>;

/// A limit as a route writes it.
#[derive(Debug, Clone)]
pub(crate) enum LimitUse {
    /// In place.
    Inline(Limit),
    /// One of [`NamedLimits`], and where it stands.
    Named(String, Range<usize>),
}

impl LimitUse {
    /// The limit; none where the name is nobody's, which was reported.
    pub(super) fn resolve(&self, named: &NamedLimits) -> Option<Limit> {
        match self {
            Self::Inline(limit) => Some(limit.clone()),
            Self::Named(name, _) => named.get(name).cloned(),
        }
    }
}

const EXAMPLES: &str =
    "limit = \"10/s burst 20 by ip\"; by: ip, user, header:N, cookie:N, json:F, form:F, site";

pub(super) fn limits(
    reader: &mut Reader<'_>,
    value: Value<'_>,
    scope: &str,
) -> Option<Vec<LimitUse>> {
    let mut all = Vec::new();
    for (span, text) in reader.texts(value) {
        if is_name(&text) {
            all.push(LimitUse::Named(text, span));
            continue;
        }
        match inline(&text) {
            Ok((rate, burst, by)) => {
                let name =
                    format!("{scope} {}", text.split_whitespace().collect::<Vec<_>>().join(" "));
                all.push(LimitUse::Inline(Limit { name, rate, burst, by, store: None }));
            }
            Err(why) => reader.problem(span, why, Some(EXAMPLES.to_owned())),
        }
    }
    reader.at_most(value, &mut all, limits::POLICY_LIST, "limits");
    (!all.is_empty()).then_some(all)
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

fn inline(text: &str) -> Result<(Rate, Option<u32>, Key), String> {
    let mut words = text.split_whitespace();
    let rate: Rate =
        words.next().unwrap_or_default().parse().map_err(|_| {
            "a limit begins with a rate, such as `10/s`, `5/m`, `300/5m`".to_owned()
        })?;
    check_rate(rate)?;
    let (mut burst, mut by) = (None, None);
    while let Some(word) = words.next() {
        match (word, words.next()) {
            ("burst", Some(number)) if burst.is_none() => {
                let number: u32 = number
                    .parse()
                    .ok()
                    .filter(|number| *number <= MAX_BURST)
                    .ok_or_else(|| format!("a burst is a number up to {MAX_BURST}"))?;
                burst = Some(number);
            }
            ("by", Some(key)) if by.is_none() => by = Some(parse_key(key)?),
            _ => return Err("a limit is a rate, `burst N` and `by KEY`".to_owned()),
        }
    }
    Ok((rate, burst, by.unwrap_or(Key::Ip)))
}

/// More at once is no limit.
const MAX_BURST: u32 = 1_000_000;

/// What the edge can count: a request now and then at the least, a million a second at the most.
pub(crate) fn check_rate(rate: Rate) -> Result<(), String> {
    if rate.per > Duration::from_secs(86_400) {
        return Err("the time of a rate is a day at most".to_owned());
    }
    let per_second = f64::from(rate.count) / rate.per.as_secs_f64();
    if per_second > 1_000_000.0 || rate.count > MAX_BURST {
        return Err("a rate is a million a second at most".to_owned());
    }
    Ok(())
}

/// `ip`, `user`, `site`, `header:N`, `cookie:N`, `json:F`, `form:F`.
pub(crate) fn parse_key(text: &str) -> Result<Key, String> {
    let (kind, name) = text.split_once(':').unwrap_or((text, ""));
    let token = |make: fn(String) -> Key| {
        wire::is_token(name)
            .then(|| make(name.to_owned()))
            .ok_or_else(|| format!("`{kind}:` is followed by a name"))
    };
    match (kind, name) {
        ("ip", "") => Ok(Key::Ip),
        ("user", "") => Ok(Key::User),
        ("site", "") => Ok(Key::Site),
        ("header", _) => token(|name| Key::Header(name.to_ascii_lowercase())),
        ("cookie", _) => token(Key::Cookie),
        ("json", _) => token(Key::Json),
        ("form", _) => token(Key::Form),
        _ => Err("a key is `ip`, `user`, `site`, `header:N`, `cookie:N`, `json:F` or `form:F`"
            .to_owned()),
    }
}

/// `[limit.X]`.
pub(crate) fn read_named(reader: &mut Reader<'_>, value: Value<'_>) -> NamedLimits {
    let mut all = NamedLimits::new();
    let Some(table) = reader.table(value) else { return all };
    for (name, value) in table {
        let text: &str = name.get_ref();
        if !is_name(text) || text.len() > 40 {
            let quoted = reader.quote(&name.span(), text);
            reader.problem(name.span(), format!("{quoted} is no name of a limit"), None);
        } else if all.len() == limits::LIST {
            reader.limit(name.span(), format!("a site has {} limits at most", limits::LIST));
            break;
        } else if let Some(limit) =
            reader.table(value).and_then(|table| named(reader, value, table, text))
        {
            all.insert(text.to_owned(), limit);
        }
    }
    all
}

fn named(
    reader: &mut Reader<'_>,
    value: Value<'_>,
    table: &DeTable<'_>,
    name: &str,
) -> Option<Limit> {
    let found = reader.known(table, keys::LIMIT, "`[limit.X]`");
    let Some((_, rate)) = found.get("rate") else {
        reader.problem(value.span(), "a limit needs `rate`", Some("rate = \"100/m\"".to_owned()));
        return None;
    };
    let text = reader.text(rate)?;
    let parsed =
        text.parse::<Rate>().map_err(|_| "a rate is written `10/s`, `5/m`, `300/5m`".to_owned());
    let parsed = parsed.and_then(|rate| check_rate(rate).map(|()| rate));
    let rate = parsed.map_err(|why| reader.problem(rate.span(), why, None)).ok()?;
    let burst =
        found.get("burst").and_then(|(_, value)| reader.number(value, 0..=i64::from(MAX_BURST)));
    let by = match found.get("by") {
        None => Key::Ip,
        Some((_, value)) => key(reader, value)?,
    };
    let store = match found.get("store") {
        Some((_, value)) => Some(store(reader, value)?),
        None => None,
    };
    let burst = burst.map(|burst| burst as u32);
    Some(Limit { name: name.to_owned(), rate, burst, by, store })
}

/// The name of a Redis; whether there is one of that name is looked at with the whole in view.
fn store(reader: &mut Reader<'_>, value: Value<'_>) -> Option<String> {
    let text = reader.text(value)?;
    let named = text.strip_prefix("redis.").is_some_and(is_name);
    if !named {
        let help = "store = \"redis.main\"".to_owned();
        reader.problem(value.span(), "a store is the name of a `[redis.X]`", Some(help));
        return None;
    }
    reader.stores.push((value.span(), text.clone()));
    Some(text)
}

fn key(reader: &mut Reader<'_>, value: Value<'_>) -> Option<Key> {
    let text = reader.text(value)?;
    parse_key(&text).map_err(|why| reader.problem(value.span(), why, None)).ok()
}

/// One lockout, or a list of them.
pub(super) fn lockouts(
    reader: &mut Reader<'_>,
    value: Value<'_>,
    scope: &str,
) -> Option<Vec<Lockout>> {
    let mut all: Vec<Lockout> = match value.get_ref() {
        DeValue::Array(items) => {
            items.iter().filter_map(|item| lockout(reader, item, scope)).collect()
        }
        _ => lockout(reader, value, scope).into_iter().collect(),
    };
    reader.at_most(value, &mut all, limits::POLICY_LIST, "lockouts");
    (!all.is_empty()).then_some(all)
}

fn lockout(reader: &mut Reader<'_>, value: Value<'_>, scope: &str) -> Option<Lockout> {
    let table = reader.table(value)?;
    let found = reader.known(table, keys::LOCKOUT, "`lockout`");
    let get = |key: &str| found.get(key).map(|(_, value)| *value);
    let before = reader.count();
    let failures = get("failures").and_then(|value| reader.number(value, 1..=1000)).unwrap_or(5);
    let mut time = |key: &str| {
        let Some(value) = get(key) else { return Duration::from_secs(900) };
        let time = reader.duration(value).unwrap_or_default();
        if !(Duration::from_secs(1)..=Duration::from_secs(365 * 86_400)).contains(&time) {
            reader.problem(value.span(), "this time is from a second to a year", None);
        }
        time
    };
    let (within, locked) = (time("within"), time("for"));
    let by = match get("by") {
        None => vec![Key::Ip],
        Some(value) => {
            let texts = reader.texts(value);
            let mut keys = Vec::new();
            for (span, text) in texts {
                match parse_key(&text) {
                    Ok(Key::Site) => reader.problem(
                        span,
                        "a lockout by `site` would let anybody lock out everybody",
                        None,
                    ),
                    Ok(key) => keys.push(key),
                    Err(why) => reader.problem(span, why, None),
                }
            }
            keys
        }
    };
    let refusals = match get("match") {
        // What practically every application says to a wrong password.
        None => vec![Refusal { status: vec![401, 403], ..Refusal::default() }],
        Some(value) => refusals(reader, value),
    };
    let store = get("store").and_then(|value| store(reader, value));
    let name = format!("{scope} lockout {failures}/{}s", within.as_secs());
    let whole = reader.understood(before) && !by.is_empty() && !refusals.is_empty();
    whole.then_some(Lockout {
        name,
        failures: failures as u16,
        within,
        locked,
        by,
        refusals,
        store,
    })
}

fn refusals(reader: &mut Reader<'_>, value: Value<'_>) -> Vec<Refusal> {
    let DeValue::Array(items) = value.get_ref() else {
        return refusal(reader, value).into_iter().collect();
    };
    let mut all = items.iter().filter_map(|item| refusal(reader, item)).collect();
    reader.at_most(value, &mut all, limits::POLICY_LIST, "entries");
    all
}

fn refusal(reader: &mut Reader<'_>, value: Value<'_>) -> Option<Refusal> {
    let table = reader.table(value)?;
    let found = reader.known(table, keys::REFUSAL, "`match`");
    let mut refusal = Refusal::default();
    if let Some((_, value)) = found.get("status") {
        let items: Vec<Value<'_>> =
            value.get_ref().as_array().map_or_else(|| vec![*value], |items| items.iter().collect());
        for item in items {
            let status = reader.number(item, 100..=599)?;
            if status >= 500 {
                reader.problem(
                    item.span(),
                    "a 5xx never counts: it is the application's fault",
                    None,
                );
            }
            refusal.status.push(status as u16);
        }
    }
    let mut text = |key: &str| -> Option<String> {
        let (_, value) = found.get(key)?;
        let text = reader.text(value)?;
        if text.is_empty() || text.len() > 200 {
            reader.problem(value.span(), "this text has 1 to 200 bytes", None);
        }
        Some(text)
    };
    (refusal.location, refusal.body) = (text("location"), text("body"));
    if refusal == Refusal::default() {
        reader.problem(value.span(), "this would count every answer as a failure", None);
        return None;
    }
    Some(refusal)
}

/// `[identity]`.
pub(crate) fn read_identity(reader: &mut Reader<'_>, value: Value<'_>) -> Vec<Identity> {
    let Some(table) = reader.table(value) else { return Vec::new() };
    let found = reader.known(table, keys::IDENTITY, "`[identity]`");
    let Some((_, value)) = found.get("user") else { return Vec::new() };
    let mut all = Vec::new();
    for (span, text) in reader.texts(value) {
        let one = match text.split_once(':') {
            None if text == "bearer" => Some(Identity::Bearer),
            Some(("cookie", name)) if wire::is_token(name) => {
                Some(Identity::Cookie(name.to_owned()))
            }
            Some(("header", name)) if wire::is_token(name) => {
                Some(Identity::Header(name.to_ascii_lowercase()))
            }
            _ => None,
        };
        match one {
            Some(one) => all.push(one),
            None => reader.problem(
                span,
                "a user is known by `cookie:NAME`, `bearer` or `header:NAME`",
                None,
            ),
        }
    }
    reader.at_most(value, &mut all, limits::POLICY_LIST, "entries");
    all
}
