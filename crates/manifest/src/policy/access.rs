//! Who may come in, and where to: `allow_from deny_from auth maintenance rewrite`, `block = { query }`.

use std::time::Duration;

use seaworthy_base::policy::{Auth, Maintenance, Rewrite};

use super::{table_or_true, texts_that};
use crate::keys;
use crate::limits;
use crate::read::{Reader, Value, is_secret_name};
use crate::wire;

/// Networks; an empty list would shut everybody out without a word.
pub(super) fn networks(reader: &mut Reader<'_>, value: Value<'_>) -> Option<Vec<String>> {
    let mut all = Vec::new();
    let given = reader.texts(value);
    if given.is_empty() && value.get_ref().as_array().is_some_and(|list| list.is_empty()) {
        let help = "false takes away what is inherited; block = true serves nobody";
        reader.problem(value.span(), "there is no network in this list", Some(help.to_owned()));
    }
    for (span, text) in given {
        if wire::is_network(&text) {
            all.push(text);
        } else {
            reader.problem(span, "this is no network, such as `10.0.0.0/8`", None);
        }
    }
    reader.at_most(value, &mut all, limits::LIST, "networks");
    (!all.is_empty()).then_some(all)
}

/// `auth = { basic = "secret:NAME" }`.
pub(super) fn auth(reader: &mut Reader<'_>, value: Value<'_>) -> Option<Auth> {
    let table = reader.table(value)?;
    let found = reader.known(table, keys::AUTH, "`auth`");
    let Some((_, basic)) = found.get("basic") else {
        let help = "auth = { basic = \"secret:STAFF\" }, the secret: one `user:password` a line";
        reader.problem(value.span(), "`auth` needs `basic`", Some(help.to_owned()));
        return None;
    };
    let text = reader.text(basic)?;
    let name = text.strip_prefix("secret:").filter(|name| is_secret_name(name));
    if name.is_none() {
        let help = "basic = \"secret:STAFF\", and `seaworthy secrets set STAFF`";
        reader.problem(
            basic.span(),
            "passwords do not belong into the manifest: this must be `secret:NAME`",
            Some(help.to_owned()),
        );
    }
    Some(Auth { basic: name?.to_owned() })
}

pub(super) fn maintenance(reader: &mut Reader<'_>, value: Value<'_>) -> Option<Maintenance> {
    // Browsers and load balancers that obey ask again after five minutes.
    let usual = || Maintenance {
        body: None,
        retry_after: Duration::from_secs(300),
        allow_from: Vec::new(),
    };
    table_or_true(reader, value, usual, |reader, table| {
        let found = reader.known(table, keys::MAINTENANCE, "`maintenance`");
        let mut given = usual();
        if let Some((_, value)) = found.get("body") {
            given.body = reader.text(value);
            if given.body.as_ref().is_some_and(|body| body.len() > limits::BODY) {
                let message = format!("this page has {} bytes at most", limits::BODY);
                reader.problem(value.span(), message, None);
            }
        }
        if let Some((_, value)) = found.get("retry_after") {
            given.retry_after = reader.duration(value)?;
        }
        if let Some((_, value)) = found.get("allow_from") {
            given.allow_from = networks(reader, value)?;
        }
        Some(given)
    })
}

/// `rewrite = { strip = "/api", prefix = "/v2" }`.
pub(super) fn rewrite(reader: &mut Reader<'_>, value: Value<'_>) -> Option<Rewrite> {
    let table = reader.table(value)?;
    let found = reader.known(table, keys::REWRITE, "`rewrite`");
    let mut part = |key: &str| -> Option<String> {
        let Some((_, value)) = found.get(key) else { return Some(String::new()) };
        let text = reader.text(value)?;
        let good = wire::is_request_path(&text)
            && !text.contains(['?', '#', '%', '*', '\\'])
            && !text.contains("//")
            && !text.split('/').any(|part| part == "." || part == "..")
            && text.len() > 1;
        if !good {
            reader.problem(
                value.span(),
                "this is no beginning of a path, such as `/api`",
                Some("plain characters only, no `*`, `%` or `..`".to_owned()),
            );
        }
        good.then(|| text.trim_end_matches('/').to_owned())
    };
    let (strip, prefix) = (part("strip"), part("prefix"));
    let rewrite = Rewrite { strip: strip?, prefix: prefix? };
    if rewrite == Rewrite::default() {
        reader.problem(value.span(), "`rewrite` needs `strip` or `prefix`", None);
        return None;
    }
    Some(rewrite)
}

/// `block = { query = ["batch"] }`: names of query fields.
pub(crate) fn read_query(reader: &mut Reader<'_>, value: Value<'_>) -> Option<Vec<String>> {
    let table = reader.table(value)?;
    let found = reader.known(table, keys::BLOCK, "`block`");
    let Some((_, query)) = found.get("query") else {
        reader.problem(value.span(), "`block` needs `query`", Some("block = true".to_owned()));
        return None;
    };
    let names = texts_that(reader, query, "name of a query field", |text| {
        let good = (1..=100).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        (good && !text.contains(['&', '=', ';', '%', '+', '#'])).then(|| text.to_owned())
    });
    (!names.is_empty()).then_some(names)
}
