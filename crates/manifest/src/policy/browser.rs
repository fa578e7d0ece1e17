//! What browsers are told and held to: `cors csrf csp cookies`.

use std::time::Duration;

use seaworthy_base::policy::{Cookies, Cors, Csrf};

use super::{table_or_true, texts_that};
use crate::keys;
use crate::read::{Reader, Value};
use crate::wire;

/// An origin in the spelling in which browsers send it.
fn origin(text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    let (scheme, rest) = lower.split_once("://")?;
    let usual = match scheme {
        "https" => ":443",
        "http" => ":80",
        // Browser extensions and application shells have schemes of their own.
        _ if scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) => "",
        _ => return None,
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let rest = rest.strip_suffix(usual).filter(|_| !usual.is_empty()).unwrap_or(rest);
    wire::is_authority(rest).then(|| format!("{scheme}://{rest}"))
}

pub(super) fn cors(reader: &mut Reader<'_>, value: Value<'_>) -> Option<Cors> {
    let table = reader.table(value)?;
    let found = reader.known(table, keys::CORS, "`cors`");
    let get = |key: &str| found.get(key).map(|(_, value)| *value);
    let Some(origins) = get("origins") else {
        let help = "cors = { origins = [\"https://app.example.com\"] }";
        reader.problem(value.span(), "`cors` needs `origins`", Some(help.to_owned()));
        return None;
    };
    let list = |reader: &mut Reader<'_>, key: &str, wanted: &str, upper: bool| {
        let fit = |text: &str| {
            let good = if upper { wire::is_method(text) } else { wire::is_token(text) };
            good.then(|| if upper { text.to_ascii_uppercase() } else { text.to_owned() })
        };
        get(key).map(|value| texts_that(reader, value, wanted, fit)).unwrap_or_default()
    };
    let cors = Cors {
        origins: texts_that(reader, origins, "origin, such as `https://app.example.com`", |text| {
            if text == "*" { Some(text.to_owned()) } else { origin(text) }
        }),
        methods: list(reader, "methods", "method, such as `PUT`", true),
        headers: list(reader, "headers", "header name", false),
        expose: list(reader, "expose", "header name", false),
        credentials: get("credentials").and_then(|value| reader.switch(value)).unwrap_or(false),
        // Browsers remember 5 s when nothing is said: then each call costs two.
        max_age: get("max_age")
            .and_then(|value| reader.duration(value))
            .unwrap_or(Duration::from_secs(600)),
    };
    if cors.credentials && cors.origins.iter().any(|origin| origin == "*") {
        reader.problem(
            origins.span(),
            "`*` with `credentials` would let every page act as your users",
            Some("list the origins, or leave `credentials` out".to_owned()),
        );
    }
    (!cors.origins.is_empty()).then_some(cors)
}

pub(super) fn csrf(reader: &mut Reader<'_>, value: Value<'_>) -> Option<Csrf> {
    table_or_true(reader, value, Csrf::default, |reader, table| {
        let found = reader.known(table, keys::CSRF, "`csrf`");
        let wanted = "origin, such as `https://accounts.example.com`";
        let allow = found.get("allow").map(|(_, value)| texts_that(reader, value, wanted, origin));
        Some(Csrf { allow: allow.unwrap_or_default() })
    })
}

/// A policy on one line; each directive a word and its sources.
pub(super) fn csp(reader: &mut Reader<'_>, value: Value<'_>) -> Option<String> {
    let text = reader.text(value)?;
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.is_empty() || !text.is_ascii() || !wire::is_header_value(&text) {
        reader.problem(
            value.span(),
            "this is no policy, such as `default-src 'self'`",
            Some("csp = false takes away what is inherited".to_owned()),
        );
        return None;
    }
    for directive in text.split(';').map(str::trim).filter(|one| !one.is_empty()) {
        let name = directive.split(' ').next().unwrap_or_default();
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            let message = "a directive of the policy begins with something that is no name";
            let help = "name source source; name source";
            reader.problem(value.span(), message, Some(help.to_owned()));
            return None;
        }
    }
    Some(text)
}

pub(super) fn cookies(reader: &mut Reader<'_>, value: Value<'_>) -> Option<Cookies> {
    let table = reader.table(value)?;
    let found = reader.known(table, keys::COOKIES, "`cookies`");
    let mut switch =
        |key: &str| found.get(key).and_then(|(_, value)| reader.switch(value)).unwrap_or_default();
    let (secure, http_only) = (switch("secure"), switch("http_only"));
    let same_site = found.get("same_site").and_then(|(_, value)| {
        let text = reader.text(value)?;
        let known =
            ["Strict", "Lax", "None"].into_iter().find(|one| one.eq_ignore_ascii_case(&text));
        if known.is_none() {
            reader.problem(value.span(), "`same_site` is `strict`, `lax` or `none`", None);
        }
        known.map(str::to_owned)
    });
    Some(Cookies { secure, http_only, same_site })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_has_one_spelling() {
        for (given, expected) in [
            ("https://A.example", Some("https://a.example")),
            ("https://a.example:443", Some("https://a.example")),
            ("http://a.example:80/", Some("http://a.example")),
            ("http://localhost:3000", Some("http://localhost:3000")),
            ("chrome-extension://abcdef", Some("chrome-extension://abcdef")),
            ("a.example", None),
            ("https://a.example/x", None),
            ("https://u@a.example", None),
            ("null", None),
        ] {
            assert_eq!(origin(given).as_deref(), expected, "{given}");
        }
    }
}
