//! Who may come in by where they are, and what is not to be asked for.

use std::net::IpAddr;

use http::{HeaderValue, StatusCode, header};
use percent_encoding::percent_decode_str;
use seaworthy_base::policy::{self as said, Policy};

use super::compile::networks;
use super::{CompiledPolicy, Refused};
use crate::route::{Network, NetworkError};

/// `deny_from` and `allow_from`.
#[derive(Debug)]
pub(crate) struct Access {
    deny: Vec<Network>,
    allow: Vec<Network>,
}

impl Access {
    pub(super) fn build(policy: &Policy) -> Result<Option<Self>, NetworkError> {
        let access =
            Self { deny: networks(&policy.deny_from)?, allow: networks(&policy.allow_from)? };
        Ok((!access.deny.is_empty() || !access.allow.is_empty()).then_some(access))
    }

    /// A denied network stays out even if it is allowed too.
    fn allows(&self, ip: IpAddr) -> bool {
        let within = |list: &[Network]| list.iter().any(|network| network.contains(ip));
        !within(&self.deny) && (self.allow.is_empty() || within(&self.allow))
    }
}

/// `maintenance`.
#[derive(Debug)]
pub(crate) struct Maintenance {
    body: Option<String>,
    retry_after: HeaderValue,
    guests: Vec<Network>,
}

impl Maintenance {
    pub(super) fn build(given: &said::Maintenance) -> Result<Self, NetworkError> {
        Ok(Self {
            body: given.body.clone(),
            retry_after: HeaderValue::from(given.retry_after.as_secs().max(1)),
            guests: networks(&given.allow_from)?,
        })
    }
}

/// Networks, query fields, maintenance.
pub(super) fn check(
    policy: &CompiledPolicy,
    ip: IpAddr,
    query: Option<&str>,
) -> Result<(), Refused> {
    if policy.access.as_ref().is_some_and(|access| !access.allows(ip)) {
        let cause = "the client's network may not come in (allow_from, deny_from)";
        return Err(Refused::plain(StatusCode::FORBIDDEN, cause));
    }
    if let (false, Some(query)) = (policy.block_query.is_empty(), query)
        && let Some(name) = policy.block_query.iter().find(|name| has_field(query, name))
    {
        let cause = format!("the query field `{name}` is blocked");
        return Err(Refused::plain(StatusCode::NOT_FOUND, cause));
    }
    if let Some(maintenance) = &policy.maintenance
        && !maintenance.guests.iter().any(|network| network.contains(ip))
    {
        return Err(Refused {
            status: StatusCode::SERVICE_UNAVAILABLE,
            cause: "maintenance".to_owned(),
            headers: vec![
                (header::RETRY_AFTER, maintenance.retry_after.clone()),
                (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
            ],
            body: maintenance.body.clone(),
        });
    }
    Ok(())
}

/// Whether a query has a field of this name, however it is encoded: `batch`, `batch[]`, `b%61tch`, `Batch`.
/// `;` separates too, for some applications.
fn has_field(query: &str, name: &str) -> bool {
    query.split(['&', ';']).any(|pair| {
        let raw = pair.split('=').next().unwrap_or_default();
        let decoded = percent_decode_str(raw).decode_utf8_lossy();
        let field = decoded.split('[').next().unwrap_or_default();
        field.trim_matches([' ', '+']).eq_ignore_ascii_case(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denied_network_stays_out_even_if_it_is_allowed_too() {
        let list = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let policy = Policy {
            allow_from: list(&["10.0.0.0/8", "fd00::/8"]),
            deny_from: list(&["10.6.0.0/16"]),
            ..Policy::default()
        };
        let access = Access::build(&policy).unwrap().unwrap();
        for (ip, allowed) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("10.6.2.3", false),
            ("192.0.2.1", false),
            ("fd00::1", true),
            ("2001:db8::1", false),
        ] {
            assert_eq!(access.allows(ip.parse().unwrap()), allowed, "{ip}");
        }
        let policy = Policy { deny_from: list(&["10.0.0.0/8"]), ..Policy::default() };
        let access = Access::build(&policy).unwrap().unwrap();
        assert!(access.allows("192.0.2.1".parse().unwrap()));
        assert!(Access::build(&Policy::default()).unwrap().is_none());
    }

    #[test]
    fn a_query_field_is_found_however_it_is_written() {
        for (query, found) in [
            ("batch=1", true),
            ("x=1&batch", true),
            ("x=1;batch=1", true),
            ("b%61tch=1", true),
            ("BATCH=1", true),
            ("batch[]=1", true),
            ("batch%5B0%5D=1", true),
            ("+batch=1", true),
            ("x=batch", false),
            ("batches=1", false),
            ("", false),
        ] {
            assert_eq!(has_field(query, "batch"), found, "{query}");
        }
    }
}
