//! Requests that another site makes a browser send with the user's cookies.
//!
//! By `Sec-Fetch-Site`, which browsers set and pages cannot, else by `Origin`; no tokens, so nothing is
//! asked of the application. Looked at are requests that change something (and upgrades, which WebSockets
//! of foreign pages are) and bring something that the browser adds by itself: cookies, a stored password, a
//! client certificate. Invariants: what no browser sent passes; the site's own origins always pass; `null` never.

use http::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use seaworthy_base::policy as said;

use super::Refused;
use super::cors::Cors;
use crate::route::CompiledSite;
use crate::serve::Record;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// Put there by [`crate::serve`] where the client showed one.
const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");

/// `csrf` of a route.
#[derive(Debug)]
pub(crate) struct Csrf {
    allow: Vec<String>,
}

/// What is looked at.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    method: &'a Method,
    headers: &'a HeaderMap,
    secure: bool,
    /// The request's host and port as the client wrote them.
    authority: &'a str,
    /// All names of the site.
    hosts: &'a [String],
}

impl<'a> Facts<'a> {
    pub(super) fn of(parts: &'a Parts, record: &Record, site: &'a CompiledSite) -> Self {
        let authority = parts.uri.authority().map(http::uri::Authority::as_str);
        let host = || parts.headers.get(HOST).and_then(|value| value.to_str().ok());
        Self {
            method: &parts.method,
            headers: &parts.headers,
            secure: record.secure,
            authority: authority.or_else(host).unwrap_or_default(),
            hosts: &site.hosts,
        }
    }

    /// Whether it could do harm: it changes something, and the browser adds who the user is.
    fn could_harm(&self) -> bool {
        let safe =
            matches!(*self.method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE);
        (!safe || self.headers.contains_key(UPGRADE)) && self.is_recognised()
    }

    fn is_recognised(&self) -> bool {
        let stored = |value: &HeaderValue| {
            let scheme = value.to_str().unwrap_or_default().split(' ').next().unwrap_or_default();
            ["basic", "digest", "negotiate", "ntlm"]
                .iter()
                .any(|one| one.eq_ignore_ascii_case(scheme))
        };
        self.headers.contains_key(COOKIE)
            || self.headers.get(AUTHORIZATION).is_some_and(stored)
            || self.headers.contains_key(CLIENT_CERT)
    }

    /// Whether an origin is this request's own, or another name of the site at the same port.
    fn is_own(&self, origin: &str) -> bool {
        let Some((scheme, authority)) = origin.split_once("://") else { return false };
        let usual = if scheme == "https" { ":443" } else { ":80" };
        // A page that came without TLS may have been written by anybody on the way.
        let scheme_fits = scheme == "https" || (scheme == "http" && !self.secure);
        let bare = |text: &str| {
            let lower = text.to_ascii_lowercase();
            lower.strip_suffix(usual).map(str::to_owned).unwrap_or(lower)
        };
        let (theirs, ours) = (bare(authority), bare(self.authority));
        let port = |text: &str| text.rsplit_once(':').map(|(_, port)| port.to_owned());
        let named = || {
            let name = theirs.split(':').next().unwrap_or_default();
            port(&theirs) == port(&ours) && self.hosts.iter().any(|host| host == name)
        };
        scheme_fits && (theirs == ours || named())
    }
}

impl Csrf {
    pub(super) fn build(given: &said::Csrf) -> Self {
        Self { allow: given.allow.clone() }
    }

    /// Refuses what another site made the browser send.
    pub(super) fn check(&self, facts: &Facts<'_>, cors: Option<&Cors>) -> Result<(), Refused> {
        if !facts.could_harm() {
            return Ok(());
        }
        let mut origins = facts.headers.get_all(ORIGIN).iter();
        let (origin, another) = (origins.next(), origins.next());
        let site = facts.headers.get(SEC_FETCH_SITE).map(HeaderValue::as_bytes);
        if another.is_none() {
            match (site, origin) {
                // `none`: the user typed it or opened a bookmark.
                (Some(b"same-origin" | b"none"), _) | (None, None) => return Ok(()),
                (_, Some(origin)) if self.trusts(origin, facts, cors) => return Ok(()),
                _ => {}
            }
        }
        let from = origin.and_then(|origin| origin.to_str().ok()).unwrap_or("an unknown origin");
        let cause =
            format!("sent by a page of {} (csrf)", from.chars().take(100).collect::<String>());
        Err(Refused::plain(StatusCode::FORBIDDEN, cause))
    }

    fn trusts(&self, origin: &HeaderValue, facts: &Facts<'_>, cors: Option<&Cors>) -> bool {
        let text = origin.to_str().unwrap_or_default();
        self.allow.iter().any(|one| one.eq_ignore_ascii_case(text))
            || cors.is_some_and(|cors| cors.trusts(origin))
            || facts.is_own(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether it passes, on `shop.example`, whose other name is `www.shop.example`.
    fn passes(method: &str, secure: bool, headers: &[(&str, &str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        let hosts = ["shop.example".to_owned(), "www.shop.example".to_owned()];
        let authority = if secure { "shop.example" } else { "shop.example:8080" };
        let method = method.parse().unwrap();
        let facts = Facts { method: &method, headers: &map, secure, authority, hosts: &hosts };
        let csrf = Csrf { allow: vec!["https://idp.example".to_owned()] };
        csrf.check(&facts, None).is_ok()
    }

    #[test]
    fn a_foreign_page_changes_nothing_with_the_users_cookies() {
        let cookie = ("cookie", "session=1");
        for (expected, method, headers) in [
            (
                false,
                "POST",
                vec![cookie, ("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")],
            ),
            (
                false,
                "POST",
                vec![
                    cookie,
                    ("sec-fetch-site", "same-site"),
                    ("origin", "https://blog.shop.example"),
                ],
            ),
            (false, "POST", vec![cookie, ("origin", "https://evil.example")]),
            (false, "DELETE", vec![cookie, ("origin", "null")]),
            (false, "POST", vec![cookie, ("sec-fetch-site", "cross-site")]),
            (false, "POST", vec![cookie, ("origin", "http://shop.example")]),
            (false, "POST", vec![cookie, ("origin", "https://shop.example:8443")]),
            (
                false,
                "POST",
                vec![
                    cookie,
                    ("origin", "https://shop.example"),
                    ("origin", "https://evil.example"),
                ],
            ),
            (
                false,
                "POST",
                vec![("authorization", "Basic eDp5"), ("origin", "https://evil.example")],
            ),
            (false, "POST", vec![("client-cert", ":AA==:"), ("origin", "https://evil.example")]),
            (true, "POST", vec![("client-cert", ":AA==:")]),
            // Names that only look like ours.
            (false, "POST", vec![cookie, ("origin", "https://shop.example.evil.example")]),
            (false, "POST", vec![cookie, ("origin", "https://evilshop.example")]),
            (false, "POST", vec![cookie, ("origin", "https://shop.example@evil.example")]),
            (false, "POST", vec![cookie, ("origin", "https://shop.example:443.evil.example")]),
            (false, "POST", vec![cookie, ("origin", "https://shop.example.")]),
            (false, "POST", vec![cookie, ("origin", "ftp://shop.example")]),
            (false, "POST", vec![cookie, ("origin", "shop.example")]),
            (false, "POST", vec![cookie, ("origin", "")]),
            (false, "POST", vec![cookie, ("sec-fetch-site", "Same-Origin")]),
            (
                false,
                "GET",
                vec![cookie, ("upgrade", "websocket"), ("origin", "https://evil.example")],
            ),
            (
                true,
                "GET",
                vec![cookie, ("upgrade", "websocket"), ("origin", "https://shop.example")],
            ),
            (
                true,
                "POST",
                vec![cookie, ("sec-fetch-site", "same-origin"), ("origin", "https://shop.example")],
            ),
            (true, "POST", vec![cookie, ("sec-fetch-site", "none")]),
            (true, "POST", vec![cookie, ("origin", "https://SHOP.example:443")]),
            (
                true,
                "POST",
                vec![
                    cookie,
                    ("sec-fetch-site", "same-site"),
                    ("origin", "https://www.shop.example"),
                ],
            ),
            (
                true,
                "POST",
                vec![cookie, ("sec-fetch-site", "cross-site"), ("origin", "https://idp.example")],
            ),
            // No browser: curl, another server.
            (true, "POST", vec![cookie]),
            // Nothing that the browser adds by itself.
            (
                true,
                "POST",
                vec![("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")],
            ),
            (true, "POST", vec![("authorization", "Bearer x"), ("origin", "https://evil.example")]),
            (
                true,
                "GET",
                vec![cookie, ("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")],
            ),
        ] {
            assert_eq!(passes(method, true, &headers), expected, "{method} {headers:?}");
        }
    }

    #[test]
    fn without_tls_the_port_is_part_of_the_own_origin() {
        let cookie = ("cookie", "session=1");
        assert!(passes("POST", false, &[cookie, ("origin", "http://shop.example:8080")]));
        assert!(passes("POST", false, &[cookie, ("origin", "http://www.shop.example:8080")]));
        assert!(!passes("POST", false, &[cookie, ("origin", "http://shop.example")]));
    }
}
