//! Host names: one spelling for each, or none at all.
//!
//! Invariant: what [`canonical_host`] returns is lower case, has no port and no dot at the end, and
//! holds only letters, digits, `-`, `_` and `.`, or an IPv6 address in brackets in its shortest form.
//! It is therefore safe in a `Location`, a log line and a header. Not here: whether anybody serves it.

use std::net::Ipv6Addr;

use super::compile::RouteError;
use super::path::BadRequest;
use crate::model;

/// A name that is none.
const BAD_HOST: BadRequest = BadRequest("the host is malformed");
/// RFC 1035: the longest name that DNS can carry, in its textual form.
const MAX_HOST: usize = 253;
/// RFC 1035: the longest label.
const MAX_LABEL: usize = 63;

/// The one spelling of a `Host` header or authority.
pub fn canonical_host(raw: &[u8]) -> Result<String, BadRequest> {
    // A port adds at most six bytes, a dot one; cut before any work is done.
    if raw.len() > MAX_HOST + 7 {
        return Err(BAD_HOST);
    }
    if let Some(rest) = raw.strip_prefix(b"[") {
        let end = rest.iter().position(|byte| *byte == b']').ok_or(BAD_HOST)?;
        let (address, port) = (&rest[..end], &rest[end + 1..]);
        let port_ok = port.is_empty() || port.strip_prefix(b":").is_some_and(is_port);
        let text = std::str::from_utf8(address).map_err(|_| BAD_HOST)?;
        let address: Ipv6Addr = text.parse().map_err(|_| BAD_HOST)?;
        return if port_ok { Ok(format!("[{address}]")) } else { Err(BAD_HOST) };
    }
    let name = match raw.iter().position(|byte| *byte == b':') {
        Some(colon) if is_port(&raw[colon + 1..]) => &raw[..colon],
        Some(_) => return Err(BAD_HOST),
        None => raw,
    };
    let name = name.strip_suffix(b".").unwrap_or(name);
    let byte_ok = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let labels_ok = name
        .split(|byte| *byte == b'.')
        .all(|label| (1..=MAX_LABEL).contains(&label.len()) && label.iter().all(byte_ok));
    if name.len() > MAX_HOST || !labels_ok {
        return Err(BAD_HOST);
    }
    let mut name = std::str::from_utf8(name).map_err(|_| BAD_HOST)?.to_owned();
    name.make_ascii_lowercase();
    Ok(name)
}

/// Digits up to 65535; nothing at all is the default port (RFC 3986, section 3.2.3).
fn is_port(digits: &[u8]) -> bool {
    digits.len() <= 5
        && digits.iter().all(u8::is_ascii_digit)
        && digits.iter().fold(0u32, |sum, digit| sum * 10 + u32::from(digit - b'0')) <= 65_535
}

/// Whether a pattern such as `*.x` stands for this name: exactly one label more.
pub(super) fn covers(pattern: &str, name: &str) -> bool {
    let suffix = pattern.strip_prefix("*.");
    suffix.is_some_and(|suffix| {
        name.split_once('.')
            .is_some_and(|(label, rest)| rest == suffix && !label.is_empty() && label != "*")
    })
}

/// The one spelling of a host of the configuration, which may be a wildcard or a bare IPv6 address.
pub(super) fn name_of(site: &model::Site, host: &str) -> Result<String, RouteError> {
    let bad = |_| RouteError::Host { site: site.name.clone(), host: host.to_owned() };
    if let Ok(address) = host.parse::<Ipv6Addr>() {
        return Ok(format!("[{address}]"));
    }
    match host.strip_prefix("*.") {
        Some(suffix) => {
            canonical_host(suffix.as_bytes()).map(|suffix| format!("*.{suffix}")).map_err(bad)
        }
        None => canonical_host(host.as_bytes()).map_err(bad),
    }
}

/// [`name_of`] for a list.
pub(super) fn named(site: &model::Site, hosts: &[String]) -> Result<Vec<String>, RouteError> {
    hosts.iter().map(|host| name_of(site, host)).collect()
}
