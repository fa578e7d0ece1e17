//! Headers on the way: what the instance is told of the client, and what the client is told.
//!
//! Invariants: what a client says about itself is overwritten or stripped, never appended to; connection
//! headers end here (RFC 9110 § 7.6.1); a redirect never names an instance.

use std::net::{IpAddr, SocketAddr};

use http::header::{CACHE_CONTROL, CONNECTION, LOCATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::route::{Rules, matches};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Headers by which proxies tell who the client is or what it asked for, and `Proxy`, which CGI programs
/// take for their own outgoing proxy.
const IDENTITY: [&str; 18] = [
    "forwarded",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "true-client-ip",
    "fastly-client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "x-original-forwarded-for",
    "x-original-host",
    "x-original-url",
    "x-rewrite-url",
    "x-host",
    "x-real-ip",
    "x-middleware-subrequest",
    "proxy",
    "proxy-authorization",
    "proxy-authenticate",
];

/// What is known of a request's way here.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) client: IpAddr,
    pub(crate) tls: bool,
    pub(crate) host: &'a str,
    pub(crate) port: u16,
    pub(crate) id: &'a HeaderValue,
    pub(crate) upgrade: bool,
}

impl Context<'_> {
    /// The host, with the port where it is not the usual one: what links to this site must name.
    fn authority(&self) -> String {
        let usual = if self.tls { 443 } else { 80 };
        if self.port == usual {
            self.host.to_owned()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// The client's address: the peer's, or, where a trusted proxy stands in front, the rightmost address of
/// `X-Forwarded-For` that is not a trusted proxy itself. What stands left of it anybody could have written.
pub(crate) fn client_ip(
    peer: IpAddr,
    headers: &HeaderMap,
    trusts: impl Fn(IpAddr) -> bool,
) -> IpAddr {
    let mut client = peer.to_canonical();
    let lines: Vec<&str> = headers
        .get_all(X_FORWARDED_FOR)
        .iter()
        .map(|value| value.to_str().unwrap_or_default())
        .collect();
    let mut words = lines.iter().rev().flat_map(|line| line.rsplit(',')).map(str::trim);
    while trusts(client) {
        let Some(next) = words.next().and_then(address) else { break };
        client = next;
    }
    client
}

/// An address as proxies write it: bare, in brackets, with or without a port.
fn address(word: &str) -> Option<IpAddr> {
    let ip =
        word.parse::<IpAddr>().or_else(|_| word.parse::<SocketAddr>().map(|address| address.ip()));
    ip.or_else(|_| word.trim_matches(['[', ']']).parse()).ok().map(|ip: IpAddr| ip.to_canonical())
}

/// Makes a client's headers fit for the instance.
pub(crate) fn prepare(headers: &mut HeaderMap, context: &Context<'_>, rules: &Rules) {
    strip_hop_by_hop(headers, context.upgrade);
    for name in IDENTITY {
        headers.remove(name);
    }
    // Any `X-Forwarded-*`; and `X_Forwarded_For` is `X-Forwarded-For` to many frameworks.
    let imitates = |name: &&HeaderName| {
        name.as_str().starts_with("x-forwarded-") || name.as_str().contains('_')
    };
    let imitations: Vec<HeaderName> = headers.keys().filter(imitates).cloned().collect();
    imitations.iter().for_each(|name| drop(headers.remove(name)));
    let text = |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
    let client = text(&context.client.to_string());
    headers.insert(X_FORWARDED_FOR, client.clone());
    headers.insert(X_REAL_IP, client);
    headers.insert(
        X_FORWARDED_PROTO,
        HeaderValue::from_static(if context.tls { "https" } else { "http" }),
    );
    headers.insert(X_FORWARDED_HOST, text(&context.authority()));
    headers.insert(X_FORWARDED_PORT, HeaderValue::from(context.port));
    headers.insert(X_REQUEST_ID, context.id.clone());
    apply(headers, rules);
}

/// Makes an instance's headers fit for the client.
pub(crate) fn finish(
    headers: &mut HeaderMap,
    context: &Context<'_>,
    upstream: Option<SocketAddr>,
    rules: &Rules,
    cache: &[(String, HeaderValue)],
    path: &str,
) {
    if !context.upgrade {
        strip_hop_by_hop(headers, false);
    }
    if let (Some(upstream), Some(location)) = (upstream, headers.get(LOCATION))
        && let Some(rewritten) = location
            .to_str()
            .ok()
            .and_then(|location| rewrite_location(location, context, upstream))
    {
        headers.insert(LOCATION, rewritten);
    }
    if let Some((_, value)) =
        cache.iter().find(|(pattern, _)| matches(pattern.as_bytes(), path.as_bytes()))
    {
        headers.insert(CACHE_CONTROL, value.clone());
    }
    headers.insert(X_REQUEST_ID, context.id.clone());
    apply(headers, rules);
}

fn apply(headers: &mut HeaderMap, rules: &Rules) {
    rules.remove.iter().for_each(|name| drop(headers.remove(name)));
    for (name, value) in &rules.set {
        if !(rules.only_missing && headers.contains_key(name)) {
            headers.insert(name.clone(), value.clone());
        }
    }
    for (name, value) in &rules.add {
        headers.append(name.clone(), value.clone());
    }
}

fn strip_hop_by_hop(headers: &mut HeaderMap, upgrade: bool) {
    let listed: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in
        listed.iter().chain([&KEEP_ALIVE, &PROXY_CONNECTION, &TE, &TRAILER, &TRANSFER_ENCODING])
    {
        // What must never be removed by naming it: the request would mean something else.
        let vital = *name == http::header::HOST
            || *name == http::header::CONTENT_LENGTH
            || (upgrade && *name == UPGRADE);
        if !vital {
            headers.remove(name);
        }
    }
    headers.remove(CONNECTION);
    if upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    } else {
        headers.remove(UPGRADE);
    }
}

/// Redirects that name the instance, its loopback alias, or the right host with `http:` point to the
/// public origin (Next.js and Auth.js make such ones whatever `Host` says).
fn rewrite_location(
    location: &str,
    context: &Context<'_>,
    upstream: SocketAddr,
) -> Option<HeaderValue> {
    let (scheme, rest) = match location.split_once("://") {
        Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
        // `//host/path` keeps the scheme that the page has.
        None => {
            (if context.tls { "https" } else { "http" }.to_owned(), location.strip_prefix("//")?)
        }
    };
    if scheme != "http" && scheme != "https" {
        return None;
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse::<u16>().ok()),
        _ => (authority, None),
    };
    let loopback = host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.is_loopback() || ip.is_unspecified());
    let ours = authority == upstream.to_string()
        || (loopback && port == Some(upstream.port()))
        || (loopback && host != context.host && port.is_some());
    let downgraded = host.eq_ignore_ascii_case(context.host)
        && context.tls
        && scheme == "http"
        && port.is_none_or(|port| port == 80 || port == context.port || port == upstream.port());
    if !ours && !downgraded {
        return None;
    }
    let scheme = if context.tls { "https" } else { "http" };
    HeaderValue::from_str(&format!("{scheme}://{}{tail}", context.authority())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(id: &HeaderValue) -> Context<'_> {
        Context {
            client: "192.0.2.7".parse().unwrap(),
            tls: true,
            host: "a.example",
            port: 443,
            id,
            upgrade: false,
        }
    }

    #[test]
    fn what_a_client_says_about_itself_is_overwritten_or_stripped() {
        let id = HeaderValue::from_static("X");
        let mut headers = HeaderMap::new();
        for name in [
            "x-forwarded-for",
            "x-real-ip",
            "cf-connecting-ip",
            "true-client-ip",
            "forwarded",
            "x_forwarded_for",
            "x-forwarded-proto",
            "x-hop",
            "keep-alive",
            "upgrade",
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("6.6.6.6"));
        }
        headers.insert(CONNECTION, HeaderValue::from_static("x-hop, host"));
        headers.insert(http::header::HOST, HeaderValue::from_static("a.example"));
        prepare(&mut headers, &context(&id), &Rules::default());
        assert!(headers.values().all(|value| value != "6.6.6.6"), "{headers:?}");
        assert_eq!(headers[X_FORWARDED_FOR], "192.0.2.7");
        assert_eq!(headers[http::header::HOST], "a.example");
    }

    #[test]
    fn redirects_to_the_instance_point_to_the_public_origin() {
        let id = HeaderValue::from_static("X");
        let upstream = "127.0.0.1:20123".parse().unwrap();
        let cases = [
            ("https://localhost:3000/auth", Some("https://a.example/auth")),
            ("http://127.0.0.1:20123/x?y", Some("https://a.example/x?y")),
            ("http://a.example/login", Some("https://a.example/login")),
            ("https://other.example/x", None),
            ("/relative", None),
            ("//localhost:3000/x", Some("https://a.example/x")),
            ("HTTP://a.example/x", Some("https://a.example/x")),
            ("https://127.0.0.1.evil.example:20123/x", None),
        ];
        for (given, expected) in cases {
            let rewritten = rewrite_location(given, &context(&id), upstream);
            assert_eq!(
                rewritten.as_ref().and_then(|value| value.to_str().ok()),
                expected,
                "{given}"
            );
        }
    }

    #[test]
    fn a_site_on_localhost_never_names_the_instances_port() {
        let id = HeaderValue::from_static("X");
        let local = Context { host: "localhost", port: 8443, ..context(&id) };
        let rewritten = rewrite_location(
            "https://localhost:20123/auth",
            &local,
            "127.0.0.1:20123".parse().unwrap(),
        );
        assert_eq!(rewritten.unwrap(), "https://localhost:8443/auth");
        assert_eq!(
            rewrite_location(
                "https://localhost:9999/other",
                &local,
                "127.0.0.1:20123".parse().unwrap()
            ),
            None
        );
    }

    #[test]
    fn the_client_is_the_rightmost_address_that_is_no_trusted_proxy() {
        let trusts = |ip: IpAddr| matches!(ip, IpAddr::V4(ip) if ip.octets()[0] == 10);
        let said = |lines: &[&'static str], peer: &str| {
            let mut headers = HeaderMap::new();
            lines.iter().for_each(|line| {
                headers.append(X_FORWARDED_FOR, HeaderValue::from_static(line));
            });
            client_ip(peer.parse().unwrap(), &headers, trusts).to_string()
        };
        assert_eq!(said(&["6.6.6.6, 203.0.113.9, 10.0.0.2"], "10.0.0.1"), "203.0.113.9");
        assert_eq!(said(&["6.6.6.6", "203.0.113.9", "10.0.0.2"], "::ffff:10.0.0.1"), "203.0.113.9");
        assert_eq!(said(&["203.0.113.9:4711"], "10.0.0.1"), "203.0.113.9");
        assert_eq!(said(&["[2001:db8::1]:4711"], "10.0.0.1"), "2001:db8::1");
        assert_eq!(said(&["6.6.6.6, nonsense"], "10.0.0.1"), "10.0.0.1");
        assert_eq!(said(&["6.6.6.6"], "192.0.2.1"), "192.0.2.1");
        assert_eq!(said(&[], "10.0.0.1"), "10.0.0.1");
    }

    #[test]
    fn no_header_that_proxies_identify_clients_by_gets_through() {
        let id = HeaderValue::from_static("X");
        let mut headers = HeaderMap::new();
        for name in IDENTITY.iter().chain(&[
            "x-forwarded-prefix",
            "x-forwarded-user",
            "x-forwarded-client-cert",
            "x_real_ip",
        ]) {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("evil"));
        }
        prepare(&mut headers, &context(&id), &Rules::default());
        assert!(headers.values().all(|value| value != "evil"), "{headers:?}");
    }
}
