//! Reading `[listen]`, `[secrets]` and `[health]`.
//!
//! Invariant: what is returned is usable as it stands; a wrong value is reported and left out. Nothing
//! here looks at the machine: whether a port is free or a file exists is found out by who uses it.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use crate::keys;
use crate::limits;
use crate::read::{Reader, Value, is_secret_name};
use crate::service::inside;
use crate::site::{HealthKey, Listen, ListenAddress, SecretSources};
use crate::wire;

pub(super) fn read_listen(reader: &mut Reader<'_>, table: &DeTable<'_>) -> Listen {
    let found = reader.known(table, keys::LISTEN, "`[listen]`");
    let addresses = |reader: &mut Reader<'_>, key: &str| -> Vec<ListenAddress> {
        let Some((_, value)) = found.get(key) else { return Vec::new() };
        let DeValue::Array(items) = value.get_ref() else {
            return listen_address(reader, value).into_iter().collect();
        };
        let mut all = items.iter().filter_map(|item| listen_address(reader, item)).collect();
        reader.at_most(value, &mut all, limits::LIST, "addresses");
        all
    };
    let (http, https) = (addresses(reader, "http"), addresses(reader, "https"));
    let free = [ListenAddress::Port(0)];
    let free_address =
        |one: &ListenAddress| matches!(one, ListenAddress::Address(address) if address.port() == 0);
    if let (Some(_), Some((span, _))) = (
        http.iter().find(|one| https.contains(one) && !free.contains(one) && !free_address(one)),
        found.get("https"),
    ) {
        reader.problem(span.clone(), "`http` and `https` cannot listen on the same port", None);
    }
    let mut trusted =
        found.get("trusted_proxies").map(|(_, value)| reader.texts(value)).unwrap_or_default();
    for (span, network) in &trusted {
        if !wire::is_network(network) {
            reader.problem(span.clone(), "this is no network, such as `10.0.0.0/8`", None);
        }
    }
    if let Some((_, value)) = found.get("trusted_proxies") {
        reader.at_most(value, &mut trusted, limits::LIST, "networks");
    }
    let mut speaking =
        found.get("proxy_protocol").map(|(_, value)| reader.texts(value)).unwrap_or_default();
    for (span, network) in &speaking {
        if !wire::is_network(network) {
            reader.problem(
                span.clone(),
                "this is no network, such as `10.0.0.0/8`",
                Some("list who stands in front and sends a PROXY header".to_owned()),
            );
        }
    }
    if let Some((_, value)) = found.get("proxy_protocol") {
        reader.at_most(value, &mut speaking, limits::LIST, "networks");
    }
    let networks =
        |list: Vec<(Range<usize>, String)>| list.into_iter().map(|(_, one)| one).collect();
    let per_address = found
        .get("connections_per_address")
        .and_then(|(_, value)| reader.number(value, 1..=1_000_000));
    let http3 = found.get("http3").and_then(|(_, value)| reader.switch(value)).unwrap_or(false);
    Listen {
        http,
        https,
        http3,
        trusted_proxies: networks(trusted),
        proxy_protocol: networks(speaking),
        connections_per_address: per_address.map(|number| number as u32),
    }
}

fn listen_address(reader: &mut Reader<'_>, value: Value<'_>) -> Option<ListenAddress> {
    if value.get_ref().as_integer().is_some() {
        return reader.number(value, 0..=65_535).map(|port| ListenAddress::Port(port as u16));
    }
    let text = reader.text(value)?;
    let parsed = text.parse().map(ListenAddress::Address).ok();
    if parsed.is_none() {
        reader.problem(
            value.span(),
            "this is no address with port, such as `127.0.0.1:8443` or `[::1]:8443`",
            None,
        );
    }
    parsed
}

pub(super) fn read_secrets(reader: &mut Reader<'_>, table: &DeTable<'_>, into: &mut SecretSources) {
    let found = reader.known(table, keys::SECRETS, "`[secrets]`");
    let place = |reader: &mut Reader<'_>, key: &str| {
        found.get(key).and_then(|(_, value)| inside(reader, value))
    };
    if let Some(file) = place(reader, "file") {
        into.file = Some(file);
    }
    into.dir = place(reader, "dir");
    into.age = place(reader, "age");
    if let Some((_, value)) = found.get("command")
        && let Some(crate::site::Command::Argv(words)) = reader.command(value, &[])
    {
        into.command = Some(words);
    }
}

pub(super) fn read_health(reader: &mut Reader<'_>, table: &DeTable<'_>) -> Option<HealthKey> {
    let found = reader.known(table, keys::AGGREGATE, "`[health]`");
    let (_, value) = found.get("key")?;
    let table = reader.table(value)?;
    let found = reader.known(table, keys::HEALTH_KEY, "`health.key`");
    let help = "key = { header = \"x-health-key\", value = \"secret:HEALTH_KEY\" }";
    let (Some((_, header)), Some((_, secret))) = (found.get("header"), found.get("value")) else {
        let what = "a key needs `header` and `value`";
        reader.problem(value.span(), what, Some(help.to_owned()));
        return None;
    };
    let (header, secret) = (health_header(reader, header), health_secret(reader, secret));
    Some(HealthKey { header: header?, secret: secret? })
}

/// What browsers and proxies send on their own is nobody's key.
fn health_header(reader: &mut Reader<'_>, value: Value<'_>) -> Option<String> {
    let name = reader.text(value)?.to_ascii_lowercase();
    let own = ["authorization", "cookie", "host"].contains(&name.as_str());
    let fault = wire::header_name_fault(&name);
    let fault = fault.or_else(|| own.then_some("is sent for other reasons, too"));
    if let Some(fault) = fault {
        let quoted = reader.quote(&value.span(), &name);
        let help = "header = \"x-health-key\"";
        reader.problem(value.span(), format!("{quoted} {fault}"), Some(help.to_owned()));
    }
    fault.is_none().then_some(name)
}

fn health_secret(reader: &mut Reader<'_>, value: Value<'_>) -> Option<String> {
    let text = reader.text(value)?;
    let name = text.strip_prefix("secret:").filter(|name| is_secret_name(name));
    if name.is_none() {
        reader.problem(
            value.span(),
            "keys do not belong into the manifest: this must be `secret:NAME`",
            Some(
                "value = \"secret:HEALTH_KEY\", and `seaworthy secrets set HEALTH_KEY`".to_owned(),
            ),
        );
    }
    name.map(str::to_owned)
}
