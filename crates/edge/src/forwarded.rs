//! Headers on the way: what the instance is told of the client, and what the client is told.
//!
//! Invariants: what a client says about itself is overwritten or stripped, never appended to; connection
//! headers end here (RFC 9110 § 7.6.1); a redirect never names an instance.

use std::net::{IpAddr, SocketAddr};

use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};

use crate::route::{CompiledRoute, Rules, matches};
use crate::trace::TRACEPARENT;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Headers by which proxies tell who the client is or what it asked for, and `Proxy`, which CGI programs
/// take for their own outgoing proxy.
const IDENTITY: [&str; 22] = [
    "forwarded",
    "x-forwarded",
    "x-scheme",
    "x-url-scheme",
    "front-end-https",
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
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way<'a> {
    pub(crate) tls: bool,
    pub(crate) host: &'a str,
    pub(crate) port: u16,
    pub(crate) id: &'a HeaderValue,
    /// The trace that begins here, where the client brought none.
    pub(crate) trace: Option<&'a [u8]>,
    pub(crate) upgrade: bool,
}

/// An address as a header's value.
pub(crate) fn address_value(ip: IpAddr) -> HeaderValue {
    HeaderValue::from_str(&ip.to_string()).unwrap_or(HeaderValue::from_static(""))
}

/// The client's address: the peer's, or, where a trusted proxy stands in front, the rightmost address of
/// `X-Forwarded-For` that is not a trusted proxy itself. What stands left of it anybody could have written.
pub(crate) fn client_ip(
    peer: IpAddr,
    headers: &HeaderMap,
    trusts: impl Fn(IpAddr) -> bool,
) -> IpAddr {
    let mut client = peer.to_canonical();
    if !trusts(client) {
        return client;
    }
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

/// Whether the client came over HTTPS, and to which port, as a trusted proxy tells it. `own`: how the proxy
/// came here, for what it does not tell.
pub(crate) fn public_way(headers: &HeaderMap, own: (bool, u16)) -> (bool, u16) {
    // The nearest proxy speaks last.
    let last = |name: HeaderName| {
        let value = headers.get_all(name).iter().next_back()?.to_str().ok()?;
        value.rsplit(',').next().map(|word| word.trim().to_ascii_lowercase())
    };
    let proto = last(X_FORWARDED_PROTO);
    let secure = match proto.as_deref() {
        Some("https" | "wss") => true,
        Some("http" | "ws") => false,
        _ => own.0,
    };
    let usual = match proto {
        Some(_) if secure != own.0 => {
            if secure {
                443
            } else {
                80
            }
        }
        _ => own.1,
    };
    let port = last(X_FORWARDED_PORT).and_then(|port| port.parse().ok()).filter(|port| *port > 0);
    (secure, port.unwrap_or(usual))
}

/// An address as proxies write it: bare, in brackets, with or without a port.
fn address(word: &str) -> Option<IpAddr> {
    let ip =
        word.parse::<IpAddr>().or_else(|_| word.parse::<SocketAddr>().map(|address| address.ip()));
    ip.or_else(|_| word.trim_matches(['[', ']']).parse()).ok().map(|ip: IpAddr| ip.to_canonical())
}

/// Makes a client's headers fit for the instance. `address` is the client's, `port` the one it came to.
pub(crate) fn prepare(
    headers: &mut HeaderMap,
    way: &Way<'_>,
    address: HeaderValue,
    port: HeaderValue,
    rules: &Rules,
) {
    strip(headers, way.upgrade, imitates);
    headers.reserve(8);
    let host = headers.get(HOST).cloned();
    headers.insert(X_FORWARDED_FOR, address.clone());
    headers.insert(X_REAL_IP, address);
    let scheme = HeaderValue::from_static(if way.tls { "https" } else { "http" });
    headers.insert(X_FORWARDED_PROTO, scheme);
    // With its port, as browsers write it: frameworks compare it with `Origin`.
    if let Some(host) = host {
        headers.insert(X_FORWARDED_HOST, host);
    }
    headers.insert(X_FORWARDED_PORT, port);
    headers.insert(X_REQUEST_ID, way.id.clone());
    if let Some(trace) = way.trace {
        headers.extend(HeaderValue::from_bytes(trace).map(|trace| (TRACEPARENT, trace)));
    }
    apply(headers, rules);
}

/// Writes the fields of a request for the instance as [`prepare`] would make them, without changing the
/// map: most requests meet no rule, and a map is dear to change. Framing is not written.
pub(crate) fn encode(
    out: &mut Vec<u8>,
    headers: &HeaderMap,
    way: &Way<'_>,
    address: &HeaderValue,
    port: &HeaderValue,
) {
    let named = named_by_connection(headers, way.upgrade);
    for (name, value) in headers {
        let text = name.as_str();
        if !(ends_here(text, way.upgrade) || imitates(text) || named.contains(name)) {
            field(out, text, value.as_bytes());
        }
    }
    if way.upgrade {
        field(out, "connection", b"upgrade");
    }
    field(out, "x-forwarded-for", address.as_bytes());
    field(out, "x-real-ip", address.as_bytes());
    field(out, "x-forwarded-proto", if way.tls { b"https" } else { b"http" });
    if let Some(host) = headers.get(HOST) {
        field(out, "x-forwarded-host", host.as_bytes());
    }
    field(out, "x-forwarded-port", port.as_bytes());
    field(out, "x-request-id", way.id.as_bytes());
    if let Some(trace) = way.trace {
        field(out, "traceparent", trace);
    }
}

/// Writes all fields but those that frame the body.
pub(crate) fn encode_all(out: &mut Vec<u8>, headers: &HeaderMap) {
    for (name, value) in headers {
        if *name != CONTENT_LENGTH && *name != TRANSFER_ENCODING {
            field(out, name.as_str(), value.as_bytes());
        }
    }
}

/// Whether a list header such as `Connection` names something.
pub(crate) fn lists(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let lines = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|one| one.trim().eq_ignore_ascii_case(word))
}

/// Writes a header line.
pub(crate) fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Whether a header says who the client is: any `X-Forwarded-*`; and `X_Forwarded_For` is
/// `X-Forwarded-For` to many frameworks.
fn imitates(name: &str) -> bool {
    // Most begin otherwise, and are not compared with all of these.
    let may_be = name.starts_with(['c', 'f', 'p', 't', 'x']);
    (may_be && (name.starts_with("x-forwarded-") || IDENTITY.contains(&name)))
        || memchr::memchr(b'_', name.as_bytes()).is_some()
}

/// Makes a response's headers fit for the client. `upstream` is the instance it came from.
pub(crate) fn finish(
    headers: &mut HeaderMap,
    way: &Way<'_>,
    upstream: Option<SocketAddr>,
    status: StatusCode,
    route: Option<&CompiledRoute>,
    uri: &Uri,
) {
    strip(headers, way.upgrade, |_| false);
    if let (Some(upstream), Some(location)) = (upstream, headers.get(LOCATION))
        && let Some(rewritten) =
            location.to_str().ok().and_then(|location| rewrite_location(location, way, upstream))
    {
        headers.insert(LOCATION, rewritten);
    }
    headers.insert(X_REQUEST_ID, way.id.clone());
    let Some(route) = route else { return };
    // An error page must not be kept for as long as the file that it stands for.
    if status.is_success() || status == StatusCode::NOT_MODIFIED {
        let path = uri.path().as_bytes();
        let rule = route.cache_control.iter().find(|(one, _)| matches(one.as_bytes(), path));
        if let Some((_, value)) = rule {
            headers.insert(CACHE_CONTROL, value.clone());
        }
    }
    apply(headers, &route.response_rules);
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

/// Whether a header is about one connection (RFC 9110 § 7.6.1), or frames the body.
fn ends_here(name: &str, upgrade: bool) -> bool {
    match name {
        "connection" | "keep-alive" | "proxy-connection" | "te" | "trailer"
        | "transfer-encoding" | "content-length" => true,
        "upgrade" => !upgrade,
        _ => false,
    }
}

/// What `Connection` names besides the usual: it ends here too, but for what must never be removed by
/// naming it, since the request would mean something else.
fn named_by_connection(headers: &HeaderMap, upgrade: bool) -> Vec<HeaderName> {
    let mut named = Vec::new();
    for line in headers.get_all(CONNECTION) {
        let words = line.to_str().unwrap_or_default().split(',').map(str::trim);
        let unusual = words.filter(|word| {
            !["keep-alive", "close", "upgrade", ""]
                .iter()
                .any(|usual| usual.eq_ignore_ascii_case(word))
        });
        let vital = |name: &HeaderName| {
            [HOST, CONTENT_LENGTH, CONTENT_TYPE, CONTENT_ENCODING].contains(name)
                || (upgrade && *name == UPGRADE)
        };
        named.extend(unusual.filter_map(|word| word.parse().ok()).filter(|name| !vital(name)));
    }
    named
}

/// Removes what ends here: what is about one connection, what `Connection` names, and `others`.
pub(crate) fn strip(headers: &mut HeaderMap, upgrade: bool, others: impl Fn(&str) -> bool) {
    // Mostly empty, and an empty list costs nothing.
    let mut doomed = named_by_connection(headers, upgrade);
    for name in headers.keys() {
        let text = name.as_str();
        if (ends_here(text, upgrade) && *name != CONTENT_LENGTH) || others(text) {
            doomed.push(name.clone());
        }
    }
    doomed.iter().for_each(|name| drop(headers.remove(name)));
    if upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// Redirects that name the instance, its loopback alias, or the right host with `http:` point to the
/// public origin (Next.js and Auth.js make such ones whatever `Host` says).
fn rewrite_location(
    location: &str,
    context: &Way<'_>,
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
    let usual = if context.tls { 443 } else { 80 };
    let port = if context.port == usual { String::new() } else { format!(":{}", context.port) };
    let scheme = if context.tls { "https" } else { "http" };
    HeaderValue::from_str(&format!("{scheme}://{}{port}{tail}", context.host)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(id: &HeaderValue) -> Way<'_> {
        Way { tls: true, host: "a.example", port: 443, id, trace: None, upgrade: false }
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
        headers.insert(HOST, HeaderValue::from_static("a.example"));
        prepare(
            &mut headers,
            &context(&id),
            "192.0.2.7".parse().unwrap(),
            443.into(),
            &Rules::default(),
        );
        assert!(headers.values().all(|value| value != "6.6.6.6"), "{headers:?}");
        assert_eq!(headers[X_FORWARDED_FOR], "192.0.2.7");
        assert_eq!(headers[HOST], "a.example");
    }

    #[test]
    fn whoever_says_who_the_client_is_is_found_by_his_first_letter() {
        assert!(IDENTITY.iter().all(|name| imitates(name)));
        assert!(["x-forwarded-user", "x_real_ip", "real_ip"].iter().all(|name| imitates(name)));
        assert!(["cookie", "x-id", "te", "accept", "pragma"].iter().all(|name| !imitates(name)));
    }

    #[test]
    fn what_is_written_is_what_the_changed_map_would_say() {
        let id = HeaderValue::from_static("X");
        let given: &[(&str, &str)] = &[
            ("host", "a.example:8443"),
            ("accept", "text/html"),
            ("accept", "*/*"),
            ("connection", "keep-alive, x-hop, host"),
            ("x-hop", "1"),
            ("te", "trailers"),
            ("upgrade", "websocket"),
            ("content-length", "5"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-user", "root"),
            ("x_real_ip", "6.6.6.6"),
            ("proxy", "http://evil"),
            ("cookie", "a=1"),
        ];
        for upgrade in [false, true] {
            let way = Way { upgrade, ..context(&id) };
            let mut headers = HeaderMap::new();
            for (name, value) in given {
                headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            let (address, port) = (HeaderValue::from_static("192.0.2.7"), HeaderValue::from(443));
            let mut written = Vec::new();
            encode(&mut written, &headers, &way, &address, &port);
            prepare(&mut headers, &way, address, port, &Rules::default());
            let mut changed = Vec::new();
            encode_all(&mut changed, &headers);
            let sorted = |bytes: Vec<u8>| {
                let text = String::from_utf8(bytes).unwrap();
                let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
                lines.sort();
                lines
            };
            assert_eq!(sorted(written), sorted(changed));
        }
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
        let local = Way { host: "localhost", port: 8443, ..context(&id) };
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
    fn a_trusted_proxy_tells_how_the_client_came() {
        let way = |headers: &[(&'static str, &'static str)], own| {
            let headers = headers.iter().map(|(name, value)| {
                (HeaderName::from_static(name), HeaderValue::from_static(value))
            });
            public_way(&headers.collect(), own)
        };
        let proto = |value| [("x-forwarded-proto", value)];
        assert_eq!(way(&proto("https"), (false, 8080)), (true, 443));
        assert_eq!(way(&proto("https, http"), (false, 8080)), (false, 8080));
        assert_eq!(way(&proto("http"), (true, 8443)), (false, 80));
        assert_eq!(way(&proto("nonsense"), (false, 8080)), (false, 8080));
        let both = [("x-forwarded-proto", "https"), ("x-forwarded-port", "8443")];
        assert_eq!(way(&both, (false, 8080)), (true, 8443));
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
        prepare(
            &mut headers,
            &context(&id),
            "192.0.2.7".parse().unwrap(),
            443.into(),
            &Rules::default(),
        );
        assert!(headers.values().all(|value| value != "evil"), "{headers:?}");
    }
}
