//! What a request's head may be, the same over each version of HTTP.
//!
//! Why in one place: what one version took and another refused would be the way around the refusal. Each
//! version finds fields in its own bytes and asks here what they may amount to; what they mean is decided behind
//! (`serve`). Invariant: bounds are checked before a request is made of a head.

use http::{HeaderMap, StatusCode};

/// The largest head in bytes: over HTTP/1.1 with its line ends, else counted as RFC 9113 § 6.5.2 does. Cookies of
/// real applications stay far below.
pub(crate) const LARGEST: usize = 64 << 10;
/// The most fields; the crumbs of a cookie (RFC 9113 § 8.2.3) count as one.
pub(crate) const MOST_FIELDS: usize = 100;
/// The longest target: the path with its query.
pub(crate) const LONGEST_TARGET: usize = 16 << 10;
/// The longest method: the longest registered one has 17 letters.
pub(crate) const LONGEST_METHOD: usize = 32;

/// Why a request is not passed on. The cause is for the log, the client gets the status only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) cause: &'static str,
}

/// A 400.
pub(crate) const fn bad(cause: &'static str) -> Refusal {
    Refusal { status: StatusCode::BAD_REQUEST, cause }
}

pub(crate) const TOO_LARGE: Refusal = Refusal {
    status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    cause: "the head is larger than 64 KiB or 100 fields",
};
pub(crate) const TARGET_TOO_LONG: Refusal =
    Refusal { status: StatusCode::URI_TOO_LONG, cause: "the target is longer than 16 KiB" };

/// Whether a field is about one connection of HTTP/1.1: forbidden over the later versions (RFC 9113 § 8.2.2,
/// RFC 9114 § 4.2).
pub(crate) fn is_of_connection(name: &str) -> bool {
    matches!(
        name,
        "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade"
    )
}

/// How large fields are (RFC 9113 § 6.5.2, RFC 9114 § 4.2.2), and how many.
pub(crate) fn measure(headers: &HeaderMap) -> (usize, usize) {
    let size = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
    let crumbs = headers.get_all(http::header::COOKIE).iter().count();
    (size, headers.len() - crumbs.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use http::header::{COOKIE, VIA};

    #[test]
    fn crumbs_of_a_cookie_are_one_field_and_all_of_their_bytes() {
        let mut headers = HeaderMap::new();
        assert_eq!(measure(&headers), (0, 0));
        for _ in 0..3 {
            headers.append(COOKIE, HeaderValue::from_static("a=b"));
        }
        headers.append(VIA, HeaderValue::from_static("x"));
        assert_eq!(measure(&headers), (3 * (6 + 3 + 32) + 3 + 1 + 32, 2));
    }
}
