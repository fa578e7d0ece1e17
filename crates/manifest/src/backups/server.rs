//! Reading what a server keeps: `[database.X]` and `[redis.X]`, somebody else's server or one of ours.

use std::ops::Range;

use toml::de::DeTable;

use super::{Named, item, no_pitr, read_rules, read_value, table_place};
use crate::keys::backups::{DATABASE, REDIS};
use crate::read::{Found, Reader};
use crate::site::EnvValue;
use crate::site::backups::{Item, Source};

/// The longest name of one of ours: its service is called after it.
const LONGEST: usize = 31;

/// What runs a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Engine {
    Postgres,
    Mysql,
    Sqlite,
}

pub(super) fn read_database(
    reader: &mut Reader<'_>,
    name: &str,
    table: &DeTable<'_>,
    used: &mut Vec<Named>,
) -> Option<Item> {
    let found = reader.known(table, DATABASE, "`[database.X]`");
    let backup = read_rules(reader, &found, used);
    let databases = found.get("databases").and_then(|(_, value)| reader.text(value));
    let path = found.get("path").and_then(|(_, value)| Some((value.span(), reader.text(value)?)));
    let url =
        found.get("url").and_then(|(span, value)| Some((span.clone(), read_value(reader, value)?)));
    let engine = read_engine(reader, &found, url.as_ref().map(|(_, url)| url), path.is_some())?;
    if engine != Engine::Postgres {
        no_pitr(reader, &found, backup.as_ref());
    }
    let (managed, url) = match read_managed(reader, &found, name, "DATABASE_URL") {
        Some(made) => (true, Some(made)),
        None if asked(&found) => return None,
        None => (false, url),
    };
    if managed && engine == Engine::Sqlite {
        reader.problem(
            table_place(table),
            "an SQLite database has no server to run",
            Some("leave out `managed`".to_owned()),
        );
        return None;
    }
    if managed && let Some((span, _)) = found.get("databases") {
        reader.problem(span.clone(), "a managed server has one database", None);
        return None;
    }
    let place = found.get("engine").map_or_else(|| table_place(table), |(_, value)| value.span());
    let source = match (engine, url, path) {
        (Engine::Sqlite, None, Some((span, path))) => {
            if path.is_empty() || path.contains('\0') {
                reader.problem(span, "this is no path of a file", None);
                return None;
            }
            Source::Sqlite { path }
        }
        (Engine::Sqlite, _, None) => {
            reader.problem(
                place,
                "an SQLite database needs `path`",
                Some("path = \"$DATA/app.db\"".to_owned()),
            );
            return None;
        }
        (Engine::Postgres, Some((_, url)), None) => Source::Postgres { url, databases },
        (Engine::Mysql, Some((_, url)), None) => Source::Mysql { url, databases },
        (_, None, _) => {
            reader.problem(
                place,
                "this database needs `url`",
                Some("url = \"secret:DATABASE_URL\"".to_owned()),
            );
            return None;
        }
        (_, Some((span, _)), Some(_)) => {
            reader.problem(span, "`url` and `path` exclude each other", None);
            return None;
        }
    };
    Some(item(source, backup, managed))
}

/// `postgres`, `mysql` or `sqlite`: what is written, or what the URL's scheme says.
fn read_engine(
    reader: &mut Reader<'_>,
    found: &Found<'_>,
    url: Option<&EnvValue>,
    path: bool,
) -> Option<Engine> {
    if let Some((_, value)) = found.get("engine") {
        let text = reader.text(value)?;
        return match text.as_str() {
            "postgres" | "postgresql" => Some(Engine::Postgres),
            "mysql" | "mariadb" => Some(Engine::Mysql),
            "sqlite" => Some(Engine::Sqlite),
            _ => {
                let help =
                    reader.suggest(&text, ["postgres", "mariadb", "mysql", "sqlite"].into_iter());
                let quoted = reader.quote(&value.span(), &text);
                reader.problem(
                    value.span(),
                    format!("{quoted} is no engine that is known"),
                    help.or(Some("postgres, mariadb, mysql or sqlite".to_owned())),
                );
                None
            }
        };
    }
    match url {
        Some(EnvValue::Text(url)) if url.starts_with("postgres") => Some(Engine::Postgres),
        Some(EnvValue::Text(url)) if url.starts_with("mysql") || url.starts_with("mariadb") => {
            Some(Engine::Mysql)
        }
        None if path => Some(Engine::Sqlite),
        _ => {
            let place = found.values().next().map_or(0..0, |(span, _)| span.clone());
            reader.problem(
                place,
                "this database does not say which `engine` it has",
                Some("engine = \"postgres\"".to_owned()),
            );
            None
        }
    }
}

pub(super) fn read_redis(
    reader: &mut Reader<'_>,
    name: &str,
    table: &DeTable<'_>,
    used: &mut Vec<Named>,
) -> Option<Item> {
    let found = reader.known(table, REDIS, "`[redis.X]`");
    let backup = read_rules(reader, &found, used);
    no_pitr(reader, &found, backup.as_ref());
    if let Some((_, url)) = read_managed(reader, &found, name, "REDIS_URL") {
        return Some(item(Source::Redis { url }, backup, true));
    }
    if asked(&found) {
        return None;
    }
    let Some((_, value)) = found.get("url") else {
        reader.problem(
            table_place(table),
            "this Redis needs `url`",
            Some("url = \"secret:REDIS_URL\"".to_owned()),
        );
        return None;
    };
    Some(item(Source::Redis { url: read_value(reader, value)? }, backup, false))
}

/// Whether a server of ours is asked for; what is wrong with how was said already.
fn asked(found: &Found<'_>) -> bool {
    found.get("managed").is_some_and(|(_, value)| value.get_ref().as_bool() != Some(false))
}

/// `managed = true`: where it stands, and the secret that holds the URL which is made. `url` may name it;
/// that of `main` is called as most applications call it, that of another has its name before it.
fn read_managed(
    reader: &mut Reader<'_>,
    found: &Found<'_>,
    name: &str,
    usual: &str,
) -> Option<(Range<usize>, EnvValue)> {
    let (span, value) = found.get("managed")?;
    if !reader.switch(value)? {
        return None;
    }
    let secret = match found.get("url").map(|(_, value)| (value.span(), read_value(reader, value)))
    {
        Some((_, Some(EnvValue::Secret(secret)))) => secret,
        Some((place, Some(EnvValue::Text(_)))) => {
            let help = format!("leave it out, or name the secret: url = \"secret:{usual}\"");
            reader.problem(place, "the URL of a managed server is made", Some(help));
            return None;
        }
        Some((_, None)) => return None,
        None if name == "main" => usual.to_owned(),
        None if name.len() > LONGEST => {
            reader.problem(
                span.clone(),
                format!("a managed server's name has {LONGEST} characters at most"),
                None,
            );
            return None;
        }
        None => format!("{}_{usual}", name.to_ascii_uppercase().replace('-', "_")),
    };
    Some((span.clone(), EnvValue::Secret(secret)))
}
