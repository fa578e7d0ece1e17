//! Which other origins' scripts may read answers (Fetch standard, § 3.2).
//!
//! Where `cors` is said, the edge alone answers for it: what the application says of other origins is
//! replaced. Invariants: nothing is reflected that was not listed; an answer that depends on the origin
//! says so in `Vary`; `*` never goes with credentials (the manifest refuses it).

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderName, ORIGIN, VARY,
};
use http::{HeaderValue, Method, StatusCode};
use seaworthy_base::policy as said;

use super::Refused;

/// The method that a preflight asks for.
pub(crate) fn announced(method: &Method, headers: &HeaderMap) -> Option<Method> {
    if *method != Method::OPTIONS || !headers.contains_key(ORIGIN) {
        return None;
    }
    Method::from_bytes(headers.get(ACCESS_CONTROL_REQUEST_METHOD)?.as_bytes()).ok()
}

/// `cors` of a route.
#[derive(Debug)]
pub(crate) struct Cors {
    any: bool,
    origins: Vec<HeaderValue>,
    credentials: bool,
    methods: HeaderValue,
    headers: Option<HeaderValue>,
    expose: Option<HeaderValue>,
    max_age: HeaderValue,
}

impl Cors {
    /// The error is what cannot be a header.
    pub(super) fn build(given: &said::Cors) -> Result<Self, String> {
        let value = |text: &str| HeaderValue::from_str(text).map_err(|_| text.to_owned());
        let list =
            |words: &[String]| (!words.is_empty()).then(|| value(&words.join(", "))).transpose();
        let mut methods: Vec<&str> = vec!["GET", "HEAD", "POST"];
        methods.extend(
            given
                .methods
                .iter()
                .map(String::as_str)
                .filter(|one| !["GET", "HEAD", "POST"].contains(one)),
        );
        Ok(Self {
            any: given.origins.iter().any(|origin| origin == "*"),
            origins: given.origins.iter().map(|one| value(one)).collect::<Result<_, _>>()?,
            credentials: given.credentials,
            methods: value(&methods.join(", "))?,
            headers: list(&given.headers)?,
            expose: list(&given.expose)?,
            max_age: HeaderValue::from(given.max_age.as_secs()),
        })
    }

    /// What `Access-Control-Allow-Origin` says to an origin; none: nothing.
    fn allowed(&self, origin: &HeaderValue) -> Option<HeaderValue> {
        if self.any {
            return Some(HeaderValue::from_static("*"));
        }
        self.origins.contains(origin).then(|| origin.clone())
    }

    /// Whether an origin may send requests with cookies.
    pub(super) fn trusts(&self, origin: &HeaderValue) -> bool {
        self.credentials && self.origins.contains(origin)
    }

    /// Answers a preflight; other requests pass.
    pub(super) fn preflight(&self, method: &Method, headers: &HeaderMap) -> Result<(), Refused> {
        let (Some(origin), true) =
            (headers.get(ORIGIN), headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD))
        else {
            return Ok(());
        };
        if method != Method::OPTIONS {
            return Ok(());
        }
        let mut answer = Refused::plain(StatusCode::NO_CONTENT, "preflight");
        let mut put = |name: HeaderName, value: HeaderValue| answer.headers.push((name, value));
        put(
            VARY,
            HeaderValue::from_static(
                "Access-Control-Request-Method, Access-Control-Request-Headers",
            ),
        );
        // The answer itself is marked for its origin by `finish`.
        if self.allowed(origin).is_some() {
            put(ACCESS_CONTROL_ALLOW_METHODS, self.methods.clone());
            if let Some(names) = &self.headers {
                put(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
            }
            put(ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        } else {
            answer.status = StatusCode::FORBIDDEN;
            "the origin is not listed in cors.origins".clone_into(&mut answer.cause);
        }
        Err(answer)
    }

    /// Marks an answer for the origin that asked.
    pub(super) fn finish(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        headers.remove(ACCESS_CONTROL_ALLOW_ORIGIN);
        headers.remove(ACCESS_CONTROL_ALLOW_CREDENTIALS);
        headers.remove(ACCESS_CONTROL_EXPOSE_HEADERS);
        if !self.any {
            super::headers::add_vary(headers, "Origin");
        }
        let Some(value) = origin.and_then(|origin| self.allowed(origin)) else { return };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, value);
        if self.credentials {
            let yes = HeaderValue::from_static("true");
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
        }
        if let Some(names) = &self.expose {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, names.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(origins: &[&str], credentials: bool) -> Cors {
        let list = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let given = said::Cors {
            origins: list(origins),
            methods: list(&["GET", "PUT"]),
            headers: list(&["Authorization", "Content-Type"]),
            expose: list(&["X-Total"]),
            credentials,
            max_age: std::time::Duration::from_secs(600),
        };
        Cors::build(&given).unwrap()
    }

    fn ask(origin: &str, preflight: bool) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ORIGIN, origin.parse().unwrap());
        if preflight {
            headers.insert(ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("DELETE"));
        }
        headers
    }

    #[test]
    fn a_preflight_is_told_the_lists_and_nothing_of_what_it_asked() {
        let cors = cors(&["https://a.example"], true);
        let yes = cors.preflight(&Method::OPTIONS, &ask("https://a.example", true)).unwrap_err();
        assert_eq!(yes.status, StatusCode::NO_CONTENT);
        let said = |name: HeaderName| {
            yes.headers.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone())
        };
        assert_eq!(said(ACCESS_CONTROL_ALLOW_METHODS).unwrap(), "GET, HEAD, POST, PUT");
        assert_eq!(said(ACCESS_CONTROL_ALLOW_HEADERS).unwrap(), "Authorization, Content-Type");
        assert_eq!(said(ACCESS_CONTROL_MAX_AGE).unwrap(), "600");
        for origin in
            ["https://evil.example", "null", "https://a.example.evil.example", "http://a.example"]
        {
            let no = cors.preflight(&Method::OPTIONS, &ask(origin, true)).unwrap_err();
            assert_eq!(no.status, StatusCode::FORBIDDEN, "{origin}");
        }
        // An OPTIONS request that is no preflight is the application's.
        assert!(cors.preflight(&Method::OPTIONS, &ask("https://a.example", false)).is_ok());
    }

    #[test]
    fn only_listed_origins_may_read_and_the_applications_own_words_are_dropped() {
        let listed = cors(&["https://a.example"], true);
        let finished = |cors: &Cors, origin: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
            headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
            let origin = origin.map(|origin| HeaderValue::from_str(origin).unwrap());
            cors.finish(origin.as_ref(), &mut headers);
            headers
        };
        let yes = finished(&listed, Some("https://a.example"));
        assert_eq!(yes[ACCESS_CONTROL_ALLOW_ORIGIN], "https://a.example");
        assert_eq!(yes[ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
        assert_eq!(yes[ACCESS_CONTROL_EXPOSE_HEADERS], "X-Total");
        for origin in [None, Some("null"), Some("https://evil.example")] {
            let no = finished(&listed, origin);
            assert!(!no.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN), "{origin:?}");
            assert_eq!(no.get_all(VARY).iter().count(), 2);
        }
        let any = finished(&cors(&["*"], false), Some("https://x.example"));
        assert_eq!(any[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        assert!(!any.contains_key(ACCESS_CONTROL_ALLOW_CREDENTIALS));
        assert_eq!(any.get_all(VARY).iter().count(), 1);
    }
}
