//! Words that go onto the wire: host names, header names and values, networks, methods.
//!
//! Why here, when the edge checks them too: the edge refuses its whole configuration for one bad word, and
//! by then nobody knows in which line it stands. Invariant: what these functions accept, the edge accepts.
//! Not here: whether a host is the site's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether no public authority gives a certificate for a name: it never leaves this machine (RFC 6761), or is an
/// address.
pub(crate) fn is_local(domain: &str) -> bool {
    domain == "localhost"
        || domain.ends_with(".localhost")
        || domain.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

/// Headers whose change would alter where a message ends, whom it is for or whether the connection is
/// kept: they belong to the edge.
const FRAMING: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// The longest method in use is 16 letters (UPDATEREDIRECTREF is 17 and of no use here).
const MAX_METHOD: usize = 20;
/// The longest header name; servers cut or refuse long before.
const MAX_HEADER_NAME: usize = 100;
/// The longest header value: many servers refuse more than 8 KiB of headers in all.
const MAX_HEADER_VALUE: usize = 4096;

/// The one spelling of a host name (RFC 1123, `_` excluded), `*.` before it allowed, or of an address.
pub(crate) fn host(text: &str) -> Option<String> {
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Ok(address) = inner.unwrap_or(text).parse::<Ipv6Addr>() {
        return Some(format!("[{address}]"));
    }
    if text.parse::<Ipv4Addr>().is_ok() {
        return Some(text.to_owned());
    }
    let name = text.strip_prefix("*.").unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let dotted = name.contains('.') || name == "localhost";
    let numeric =
        name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    let good = dotted && !numeric && name.len() <= 253 && name.split('.').all(label);
    good.then(|| text.to_ascii_lowercase())
}

/// Whether a wildcard such as `*.x` stands for this host: exactly one label more.
pub(crate) fn wildcard_covers(wildcard: &str, host: &str) -> bool {
    wildcard.strip_prefix("*.").is_some_and(|parent| {
        host.split_once('.').is_some_and(|(label, rest)| rest == parent && label != "*")
    })
}

/// Why a header cannot be used by a rule; none when it can.
pub(crate) fn header_name_fault(name: &str) -> Option<&'static str> {
    if !is_token(name) {
        Some("is no header name")
    } else if FRAMING.contains(&name.to_ascii_lowercase().as_str()) {
        Some("belongs to the edge: changing it would break the framing of messages")
    } else {
        None
    }
}

/// Whether a text is a token (RFC 9110 § 5.6.2), such as the name of a header or a cookie.
pub(crate) fn is_token(text: &str) -> bool {
    (1..=MAX_HEADER_NAME).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// Whether a text can be the value of a header.
pub(crate) fn is_header_value(text: &str) -> bool {
    text.len() <= MAX_HEADER_VALUE && !text.chars().any(char::is_control)
}

/// Whether a text is a method.
pub(crate) fn is_method(text: &str) -> bool {
    (1..=MAX_METHOD).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphabetic())
}

/// Whether a text is a network such as `10.0.0.0/8`, or one address.
pub(crate) fn is_network(text: &str) -> bool {
    let (address, prefix) =
        text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
    let Ok(ip) = address.parse::<IpAddr>() else { return false };
    let canonical = ip.to_canonical();
    // `::ffff:10.0.0.0/104` is `10.0.0.0/8` seen through a socket for both families.
    let mapped = if ip.is_ipv6() && canonical.is_ipv4() { 96 } else { 0 };
    let longest = if canonical.is_ipv4() { 32 } else { 128 };
    prefix.is_none_or(|digits| {
        !digits.is_empty()
            && digits.bytes().all(|byte| byte.is_ascii_digit())
            && digits.parse::<u8>().is_ok_and(|prefix| {
                (mapped..=mapped + longest).contains(&prefix) || (mapped == 0 && prefix <= longest)
            })
    })
}

/// Whether a text is a host with or without port, as it stands in an address: no user, no path.
pub(crate) fn is_authority(text: &str) -> bool {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (text, None),
    };
    let inner = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    // A name without dots, or with `_`, is what container networks give.
    let good = inner.map_or_else(
        || {
            (1..=253).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        },
        |address| address.parse::<Ipv6Addr>().is_ok(),
    );
    let digits = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    good && port.is_none_or(|port| digits(port) && port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// Whether a text is a path that can stand in a request line.
pub(crate) fn is_request_path(text: &str) -> bool {
    text.starts_with('/')
        && text.len() <= MAX_HEADER_VALUE
        && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether a text is a place to redirect to: a path, or an address; `$path` may stand for the former. The path
/// begins with a slash: behind another one, and where no host stands before it, its first part would be the host,
/// and anybody could lead visitors of the site elsewhere.
pub(crate) fn is_place(text: &str) -> bool {
    ["/", "http://", "https://", "$path"].iter().any(|start| text.starts_with(start))
        && is_header_value(text)
        && !text.contains(char::is_whitespace)
        && !text.contains("/$path")
        && !["//", "/\\"].iter().any(|start| text.starts_with(start))
}
