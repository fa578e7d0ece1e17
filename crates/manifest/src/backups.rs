//! Reading `[database.X]`, `[redis.X]`, `[files.X]`, `[store.X]` and `zone`.
//!
//! Invariants: a rule names stores that exist; a secret stands by its name or, where a person insists, in
//! the clear, and is never shown; what a store's URL cannot mean is refused here and not in the night. Not
//! here: whether a server answers; what is on a server is in `server`, the stores' own keys are in `store`.

mod server;
mod store;

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use seaworthy_base::{Keep, ServiceName};
use toml::de::{DeTable, DeValue};

use crate::keys::backups::{BACKUP, DRILL, FILES, KEEP, PITR};
use crate::limits;
use crate::read::{Found, Reader, Value, is_secret_name, some_of};
use crate::site::EnvValue;
use crate::site::backups::{Backups, Item, Pitr, Rhythm, Rules, Source, Store};

/// Periods by their names.
const PERIODS: [(&str, u64); 3] = [("daily", 1), ("weekly", 7), ("monthly", 30)];

/// A store that a rule names, with its place.
type Named = (Range<usize>, String);

pub(crate) fn read_backups(reader: &mut Reader<'_>, found: &Found<'_>) -> Backups {
    let mut backups = Backups::default();
    let mut used: Vec<Named> = Vec::new();
    if let Some((_, value)) = found.get("zone") {
        backups.zone = reader.text(value).filter(|zone| {
            let known = jiff::tz::TimeZone::get(zone).is_ok();
            if !known {
                let quoted = reader.quote(&value.span(), zone);
                reader.problem(
                    value.span(),
                    format!("{quoted} is no time zone"),
                    Some("write it like `Europe/Berlin` or `UTC`".to_owned()),
                );
            }
            known
        });
    }
    let before = reader.count();
    if let Some((_, value)) = found.get("store") {
        named(reader, value, |reader, name, table| {
            if name == "local" {
                reader.problem(
                    table_place(table),
                    "the store `local` is always there and cannot be another",
                    None,
                );
            } else if let Some(store) = store::read_store(reader, table) {
                backups.stores.insert(name.to_owned(), store);
            }
        });
    }
    let stores_known = reader.understood(before);
    for (section, read) in [
        (
            "database",
            server::read_database
                as fn(&mut Reader<'_>, &str, &DeTable<'_>, &mut Vec<Named>) -> Option<Item>,
        ),
        ("redis", server::read_redis),
        ("files", read_files),
    ] {
        let Some((_, value)) = found.get(section) else { continue };
        named(reader, value, |reader, name, table| {
            if let Some(item) = read(reader, name, table, &mut used) {
                let name = format!("{section}.{name}");
                backups.items.extend(log_of(&item).map(|log| (format!("{name}.log"), log)));
                backups.items.insert(name, item);
            }
        });
    }
    if stores_known {
        check_stores(reader, &backups.stores, used);
    }
    backups
}

/// The item with the log of a server, where it is kept.
fn log_of(item: &Item) -> Option<Item> {
    let (rules, Source::Postgres { url, .. }) = (item.backup.as_ref()?, &item.source) else {
        return None;
    };
    let pitr = rules.pitr?;
    let of_log = Rules {
        rhythm: Rhythm::Every(pitr.base),
        to: rules.to.clone(),
        drill: rules.drill,
        pitr: Some(pitr),
        ..Rules::default()
    };
    let source = Source::PostgresLog { url: url.clone() };
    Some(Item { source, backup: Some(of_log), managed: item.managed })
}

/// Only PostgreSQL has such a log.
fn no_pitr(reader: &mut Reader<'_>, found: &Found<'_>, rules: Option<&Rules>) {
    if let (Some((span, _)), Some(Rules { pitr: Some(_), .. })) = (found.get("backup"), rules) {
        reader.problem(span.clone(), "`pitr` is for PostgreSQL only", None);
    }
}

fn check_stores(reader: &mut Reader<'_>, stores: &BTreeMap<String, Store>, used: Vec<Named>) {
    for (span, name) in used {
        if name == "local" || stores.contains_key(&name) {
            continue;
        }
        let names = || stores.keys().map(String::as_str).chain(["local"]);
        let help = reader
            .suggest(&name, names())
            .unwrap_or_else(|| format!("there are: {}", some_of(names())));
        let quoted = reader.quote(&span, &name);
        reader.problem(span, format!("there is no store {quoted}"), Some(help));
    }
}

/// Tables by name.
fn named(
    reader: &mut Reader<'_>,
    value: Value<'_>,
    mut each: impl FnMut(&mut Reader<'_>, &str, &DeTable<'_>),
) {
    let Some(table) = reader.table(value) else { return };
    for (count, (name, value)) in table.iter().enumerate() {
        if count == limits::LIST {
            reader.limit(name.span(), format!("a section has {} names at most", limits::LIST));
            return;
        }
        // The same rule as for services: the name becomes a folder's.
        if reader.name::<ServiceName>(name.span(), name.get_ref()).is_some()
            && let Some(table) = reader.table(value)
        {
            each(reader, name.get_ref(), table);
        }
    }
}

/// A server of ours is backed up unless the manifest says how.
fn item(source: Source, backup: Option<Rules>, managed: bool) -> Item {
    let backup = backup.or_else(|| managed.then(Rules::default));
    Item { source, backup, managed }
}

fn table_place(table: &DeTable<'_>) -> Range<usize> {
    table.keys().next().map_or(0..0, toml::Spanned::span)
}

fn read_files(
    reader: &mut Reader<'_>,
    _name: &str,
    table: &DeTable<'_>,
    used: &mut Vec<Named>,
) -> Option<Item> {
    let found = reader.known(table, FILES, "`[files.X]`");
    let backup = read_rules(reader, &found, used);
    no_pitr(reader, &found, backup.as_ref());
    let Some((_, value)) = found.get("paths") else {
        reader.problem(
            table_place(table),
            "these files need `paths`",
            Some("paths = [\"uploads\"]".to_owned()),
        );
        return None;
    };
    let mut paths = reader.texts(value);
    reader.at_most(value, &mut paths, limits::LIST, "paths");
    for (span, path) in &paths {
        let climbs = std::path::Path::new(path)
            .components()
            .any(|part| part == std::path::Component::ParentDir);
        if path.is_empty() || path.contains('\0') || climbs {
            let quoted = reader.quote(span, path);
            reader.problem(
                span.clone(),
                format!("{quoted} is no path that can be backed up"),
                Some(
                    "write a path inside the project or $DATA, or an absolute one, without `..`"
                        .to_owned(),
                ),
            );
        }
    }
    if paths.is_empty() {
        reader.problem(value.span(), "there is no path in this list", None);
    }
    let paths = paths.into_iter().map(|(_, path)| path).collect();
    Some(item(Source::Files { paths }, backup, false))
}

/// `"secret:NAME"`, or text.
pub(crate) fn read_value(reader: &mut Reader<'_>, value: Value<'_>) -> Option<EnvValue> {
    let text = reader.text(value)?;
    match text.strip_prefix("secret:") {
        Some(name) if is_secret_name(name) => Some(EnvValue::Secret(name.to_owned())),
        Some(_) => {
            reader.problem(
                value.span(),
                "what follows `secret:` is no name of a secret",
                Some("a name is `A-Z`, `0-9` and `_`".to_owned()),
            );
            None
        }
        None => Some(EnvValue::Text(text)),
    }
}

fn read_rules(reader: &mut Reader<'_>, found: &Found<'_>, used: &mut Vec<Named>) -> Option<Rules> {
    let table = found.get("backup").and_then(|(_, value)| reader.table(value))?;
    let found = reader.known(table, BACKUP, "`backup`");
    let get = |key: &str| found.get(key).map(|(_, value)| *value);
    let mut rules = Rules::default();
    match (get("at"), get("every")) {
        (Some(_), Some(every)) => {
            reader.problem(every.span(), "`at` and `every` exclude each other", None)
        }
        (Some(at), None) => rules.rhythm = read_time(reader, at).map_or(rules.rhythm, Rhythm::At),
        (None, Some(every)) => {
            rules.rhythm = at_least(reader, every, Duration::from_secs(60))
                .map_or(rules.rhythm, Rhythm::Every);
        }
        (None, None) => {}
    }
    if let Some(value) = get("keep") {
        rules.keep = read_keep(reader, value);
    }
    if let Some(value) = get("to") {
        let mut stores = reader.texts(value);
        reader.at_most(value, &mut stores, limits::LIST, "stores");
        if stores.is_empty() {
            reader.problem(
                value.span(),
                "there is no store in this list",
                Some("to = [\"local\"]".to_owned()),
            );
        }
        rules.to = stores.iter().map(|(_, name)| name.clone()).collect();
        used.extend(stores);
    }
    if let Some(value) = get("drill") {
        (rules.drill, rules.drill_sql) = read_drill(reader, value);
    }
    rules.pitr = get("pitr").and_then(|value| read_pitr(reader, value));
    rules.rpo = get("rpo").and_then(|value| at_least(reader, value, Duration::from_secs(60)));
    rules.rto = get("rto").and_then(|value| at_least(reader, value, Duration::from_secs(1)));
    Some(rules)
}

fn read_pitr(reader: &mut Reader<'_>, value: Value<'_>) -> Option<Pitr> {
    if let Some(switch) = value.get_ref().as_bool() {
        return switch.then(Pitr::default);
    }
    let table = reader.table(value)?;
    let found = reader.known(table, PITR, "`pitr`");
    let mut pitr = Pitr::default();
    for (key, least, into) in
        [("keep", 60, &mut pitr.keep), ("base", 60, &mut pitr.base), ("every", 1, &mut pitr.every)]
    {
        let given = found
            .get(key)
            .and_then(|(_, value)| at_least(reader, value, Duration::from_secs(least)));
        *into = given.unwrap_or(*into);
    }
    Some(pitr)
}

fn at_least(reader: &mut Reader<'_>, value: Value<'_>, least: Duration) -> Option<Duration> {
    let duration = reader.duration(value)?;
    if duration < least {
        reader.problem(
            value.span(),
            format!("this must be at least {}", seaworthy_base::format_duration(least)),
            None,
        );
        return None;
    }
    Some(duration)
}

/// `"02:30"` as the minute of the day.
fn read_time(reader: &mut Reader<'_>, value: Value<'_>) -> Option<u16> {
    let text = reader.text(value)?;
    let digits = |text: &str| (text.len() == 2).then(|| text.parse::<u16>().ok()).flatten();
    let time =
        text.split_once(':').and_then(|(hour, minute)| Some((digits(hour)?, digits(minute)?)));
    let minute = time
        .filter(|(hour, minute)| *hour < 24 && *minute < 60)
        .map(|(hour, minute)| hour * 60 + minute);
    if minute.is_none() {
        reader.problem(value.span(), "this is no time of day, such as `02:30`", None);
    }
    minute
}

fn read_keep(reader: &mut Reader<'_>, value: Value<'_>) -> Keep {
    let Some(table) = reader.table(value) else { return Keep::default() };
    let found = reader.known(table, KEEP, "`keep`");
    let mut count = |key: &str| {
        found.get(key).and_then(|(_, value)| reader.number(value, 0..=100_000)).unwrap_or(0) as u32
    };
    let keep = Keep {
        last: count("last"),
        hourly: count("hourly"),
        daily: count("daily"),
        weekly: count("weekly"),
        monthly: count("monthly"),
        yearly: count("yearly"),
    };
    if keep == Keep::NONE {
        reader.problem(
            value.span(),
            "this would keep the newest backup only",
            Some("keep = { daily = 14, weekly = 8 }".to_owned()),
        );
    }
    keep
}

fn read_drill(reader: &mut Reader<'_>, value: Value<'_>) -> (Option<Duration>, Vec<String>) {
    let weekly = Some(Duration::from_secs(7 * 86_400));
    match value.get_ref() {
        DeValue::Boolean(false) => (None, Vec::new()),
        DeValue::Boolean(true) => (weekly, Vec::new()),
        DeValue::Table(table) => {
            let found = reader.known(table, DRILL, "`drill`");
            let every = found.get("every").map_or(weekly, |(_, value)| read_period(reader, value));
            let mut sql =
                found.get("sql").map(|(_, value)| reader.texts(value)).unwrap_or_default();
            if let Some((_, value)) = found.get("sql") {
                reader.at_most(value, &mut sql, limits::LIST, "questions");
            }
            (every, sql.into_iter().map(|(_, text)| text).collect())
        }
        _ => (read_period(reader, value), Vec::new()),
    }
}

fn read_period(reader: &mut Reader<'_>, value: Value<'_>) -> Option<Duration> {
    let text = reader.text(value)?;
    match PERIODS.iter().find(|(name, _)| *name == text) {
        Some((_, days)) => Some(Duration::from_secs(days * 86_400)),
        None => at_least(reader, value, Duration::from_secs(60)),
    }
}
