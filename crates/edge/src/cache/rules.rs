//! RFC 9111 as plain functions: what may be kept, how long it is fresh, whether it fits a request.
//!
//! Invariants: where the text leaves a choice, the choice is the one that shows less to others and is
//! stale sooner; a clock of the application that is wrong makes nothing fresher.

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, AGE, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING,
    CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, COOKIE, DATE, ETAG, EXPIRES, HeaderName,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED, PRAGMA, RANGE, SET_COOKIE, TRANSFER_ENCODING,
    VARY,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use seaworthy_base::policy::Cache as Rule;

use super::directives::{Directives, split};
use crate::shape;
use crate::static_files;

/// An answer that is kept.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Where it came from.
    pub(crate) from: Option<std::net::SocketAddr>,
    pub(super) vary: Vec<(HeaderName, String)>,
    /// When the answer came, in milliseconds since 1970.
    came: u64,
    /// How old it was then, in milliseconds.
    initial_age: u64,
    lifetime: u64,
    while_revalidating: u64,
    if_error: u64,
    must_revalidate: bool,
}

/// How a kept answer can serve a request.
#[derive(Debug, Clone)]
pub(crate) enum Use {
    /// As it is.
    Fresh(std::sync::Arc<Kept>),
    /// As it is, while a newer one is fetched.
    WhileFetching(std::sync::Arc<Kept>),
    /// Only if the application agrees, or fails.
    Stale(std::sync::Arc<Kept>),
    /// Answers to this are not kept: nobody needs to wait for another one's.
    Pass,
    /// There is none.
    Nothing,
}

/// What a request says of caching.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    /// It could be served by a kept answer.
    pub(crate) may_use: bool,
    /// Its answer could be kept.
    pub(crate) may_keep: bool,
    pub(crate) only_if_cached: bool,
    /// It brings something that says who asks.
    credentials: bool,
}

/// The certificate that a client showed (RFC 9440 § 2.2), as the edge passes it on.
const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");

/// Fields by which frameworks take a GET for another method.
const OTHER_METHOD: [HeaderName; 3] = [
    HeaderName::from_static("x-http-method-override"),
    HeaderName::from_static("x-http-method"),
    HeaderName::from_static("x-method-override"),
];

/// Reads a request's head.
pub(crate) fn asked(method: &Method, headers: &HeaderMap) -> Asked {
    let said = Directives::read(headers);
    // What is meant as another method must not be kept as what everybody gets.
    let plain = !OTHER_METHOD.iter().any(|name| headers.contains_key(name));
    let get = plain && *method == Method::GET;
    let whole = !headers.contains_key(RANGE);
    Asked {
        may_use: get || (plain && *method == Method::HEAD),
        may_keep: get && whole && !said.no_store,
        only_if_cached: said.only_if_cached,
        credentials: [AUTHORIZATION, COOKIE, CLIENT_CERT]
            .iter()
            .any(|name| headers.contains_key(name)),
    }
}

impl Asked {
    /// Whether nothing in it says who asks.
    pub(crate) fn is_anonymous(self) -> bool {
        !self.credentials
    }

    /// As if nothing in particular had been asked for: to refresh what is kept.
    pub(crate) fn for_refresh(self) -> Self {
        Self { may_keep: true, only_if_cached: false, ..self }
    }
}

/// Statuses that we understand: what others mean we do not know.
fn is_understood(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300..=303 | 307 | 308 | 400..=410 | 414 | 421 | 451 | 500..=504)
}

/// The answer as it came, with how long it will be kept and without its body; none where it may not be.
pub(crate) fn may_keep(
    rule: &Rule,
    asked: Asked,
    request: &HeaderMap,
    (status, headers): (StatusCode, &HeaderMap),
    now: u64,
) -> Option<Kept> {
    let said = Directives::read(headers);
    // Of what this client has, or demanded.
    let for_one = matches!(
        status,
        StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED | StatusCode::PRECONDITION_FAILED
    );
    let forbidden = !asked.may_keep
        || for_one
        || is_endless(headers)
        || status.is_informational()
        || said.forbids(status)
        || is_private(&said, asked, request, headers);
    if forbidden {
        return None;
    }
    let vary = vary_key(headers, request)?;
    let kept = timed(rule, &said, status, headers, now);
    let validators = headers.contains_key(ETAG) || headers.contains_key(LAST_MODIFIED);
    // What is stale at once is worth its room only if it may help out or can be said to be unchanged.
    let helps = kept.while_revalidating > 0 || kept.if_error > 0;
    let useful = kept.lifetime > kept.initial_age || helps || validators;
    let explicit = said.max_age.or(said.s_maxage).is_some()
        || headers.contains_key(EXPIRES)
        || said.no_cache
        || (rule.ttl.is_some() && status.is_success());
    (useful && explicit).then(|| Kept { headers: headers.clone(), vary, ..kept })
}

/// Whether it ends only when nobody listens any more: read to be kept it would go on for nobody.
fn is_endless(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("text/event-stream")
}

impl Directives {
    /// Whether the answer itself says that it is not to be kept.
    fn forbids(&self, status: StatusCode) -> bool {
        if self.must_understand { !is_understood(status) } else { self.no_store }
    }
}

/// Whether an answer may be one person's own.
fn is_private(said: &Directives, asked: Asked, request: &HeaderMap, headers: &HeaderMap) -> bool {
    let by_itself = [COOKIE, CLIENT_CERT].iter().any(|name| request.contains_key(name));
    let shared = said.public || said.s_maxage.is_some() || (said.must_revalidate && !by_itself);
    said.private || headers.contains_key(SET_COOKIE) || (asked.credentials && !shared)
}

/// Times and permissions of an answer that has just come.
fn timed(
    rule: &Rule,
    said: &Directives,
    status: StatusCode,
    headers: &HeaderMap,
    now: u64,
) -> Kept {
    let date = http_date(headers, &DATE).unwrap_or(now);
    let apparent = now.saturating_sub(date);
    let told = age(headers).saturating_mul(1000);
    let seconds = |time: Option<std::time::Duration>| time.map(|time| time.as_secs());
    let lifetime = match (said.s_maxage, said.max_age) {
        (Some(seconds), _) | (None, Some(seconds)) => seconds.saturating_mul(1000),
        (None, None) if headers.contains_key(EXPIRES) => {
            let only = headers.get_all(EXPIRES).iter().count() == 1;
            // The application's own clock says how long it meant.
            let until = http_date(headers, &EXPIRES).filter(|_| only).unwrap_or(0);
            until.saturating_sub(date)
        }
        (None, None) if status.is_success() => seconds(rule.ttl).unwrap_or(0).saturating_mul(1000),
        (None, None) => 0,
    };
    let pragma = headers.get(PRAGMA).is_some_and(|value| {
        !headers.contains_key(CACHE_CONTROL) && value.as_bytes().eq_ignore_ascii_case(b"no-cache")
    });
    let stale = |given: Option<u64>, usual| {
        let seconds = given.or(seconds(usual)).unwrap_or(0);
        if said.must_revalidate || said.no_cache { 0 } else { seconds.saturating_mul(1000) }
    };
    Kept {
        status,
        headers: HeaderMap::new(),
        body: Bytes::new(),
        from: None,
        vary: Vec::new(),
        came: now,
        // The apparent age corrects a copy that was kept on the way; a fast clock cannot make it younger.
        initial_age: told.max(apparent),
        lifetime: if said.no_cache || pragma { 0 } else { lifetime },
        while_revalidating: stale(said.stale_while_revalidate, rule.stale_while_revalidate),
        // RFC 9111 § 5.2.2.10: `s-maxage` means that nothing stale is given to others.
        if_error: if said.s_maxage.is_some() {
            0
        } else {
            stale(said.stale_if_error, rule.stale_if_error)
        },
        must_revalidate: said.must_revalidate || said.s_maxage.is_some(),
    }
}

/// `Age` in seconds; what is not one plain number means very old.
fn age(headers: &HeaderMap) -> u64 {
    const OLD: u64 = u64::MAX / 2000;
    let mut lines = headers.get_all(AGE).iter().map(|value| value.to_str().unwrap_or("?").trim());
    match (lines.next(), lines.next()) {
        (None, _) => 0,
        (Some(text), None) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
            text.parse().unwrap_or(OLD).min(OLD)
        }
        _ => OLD,
    }
}

/// A date in milliseconds since 1970.
pub(super) fn http_date(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    let date = static_files::date(headers, name)?;
    date.duration_since(std::time::UNIX_EPOCH).ok().map(|since| since.as_millis() as u64)
}

impl Kept {
    /// With the body that came, and from where.
    pub(crate) fn with_body(self, body: Bytes) -> Self {
        Self { body, ..self }
    }

    /// With the instance that it came from.
    pub(crate) fn came_from(self, from: Option<std::net::SocketAddr>) -> Self {
        Self { from, ..self }
    }

    /// As others may be given it: without what was for one connection (RFC 9111 § 3.1), and without the fields
    /// that it names for who asked (§ 5.2.2.4, § 5.2.2.7).
    pub(super) fn for_all(mut self) -> Self {
        const HOP: [&str; 7] = [
            "connection",
            "keep-alive",
            "proxy-connection",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
        ];
        let headers = &mut self.headers;
        let said = Directives::read(headers).fields;
        let lines = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
        let named = lines.flat_map(split).chain(said.iter().map(String::as_str));
        let doomed: Vec<HeaderName> =
            named.chain(HOP).filter_map(|name| name.parse().ok()).collect();
        doomed.iter().for_each(|name| drop(headers.remove(name)));
        self
    }

    /// How old it is, in milliseconds.
    fn age(&self, now: u64) -> u64 {
        self.initial_age.saturating_add(now.saturating_sub(self.came))
    }

    /// How old it is, in seconds, as `Age` says it.
    pub(super) fn age_seconds(&self, now: u64) -> u64 {
        (self.age(now) / 1000).min(1 << 31)
    }

    /// Seconds that it stays fresh.
    pub(super) fn left_seconds(&self, now: u64) -> i64 {
        (self.lifetime as i64 - self.age(now).min(i64::MAX as u64 / 2) as i64) / 1000
    }

    /// How it may be used now.
    pub(super) fn usable(self: &std::sync::Arc<Self>, now: u64) -> Use {
        let age = self.age(now);
        let kept = std::sync::Arc::clone(self);
        if age < self.lifetime {
            Use::Fresh(kept)
        } else if age - self.lifetime < self.while_revalidating {
            Use::WhileFetching(kept)
        } else {
            Use::Stale(kept)
        }
    }

    /// Whether it may be used when the application fails.
    pub(crate) fn serves_errors(&self, now: u64) -> bool {
        !self.must_revalidate && self.age(now).saturating_sub(self.lifetime) < self.if_error
    }

    /// Makes a request ask only for what has changed. Whether it can.
    pub(crate) fn make_conditional(&self, request: &mut HeaderMap) -> bool {
        request.remove(IF_NONE_MATCH);
        request.remove(IF_MODIFIED_SINCE);
        let pairs = [(ETAG, IF_NONE_MATCH), (LAST_MODIFIED, IF_MODIFIED_SINCE)];
        let mut any = false;
        for (validator, condition) in pairs {
            if let Some(value) = self.headers.get(validator) {
                request.insert(condition, value.clone());
                any = true;
            }
        }
        any
    }

    /// Bytes that it takes.
    pub(super) fn size(&self) -> usize {
        let heads: usize =
            self.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 64).sum();
        let varies: usize = self.vary.iter().map(|(_, value)| value.len() + 64).sum();
        self.body.len() + heads + varies + 512
    }

    /// Whether it is an answer to a request with this head.
    pub(super) fn fits(&self, request: &HeaderMap) -> bool {
        self.vary.iter().all(|(name, value)| normal(name, request) == *value)
    }
}

/// What becomes of a kept answer after the application said that it is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The refreshed one takes its place.
    Refresh,
    /// It stays as it was: what was said is for who asked.
    Stay,
    /// It is nobody's to keep any more.
    Forget,
}

/// The kept answer as only who asked gets it, after the application said that it is unchanged (RFC 9111 § 3.2), and
/// what becomes of the one that is kept.
pub(crate) fn refreshed(
    rule: &Rule,
    kept: &Kept,
    (asked, request): (Asked, &HeaderMap),
    unchanged: &HeaderMap,
    now: u64,
) -> (Kept, Fate) {
    // They describe the bytes that we have, or the connection.
    const OURS: [HeaderName; 6] = [
        CONTENT_LENGTH,
        CONTENT_ENCODING,
        CONTENT_RANGE,
        HeaderName::from_static("content-md5"),
        TRANSFER_ENCODING,
        ETAG,
    ];
    let mut headers = kept.headers.clone();
    headers.remove(AGE);
    let mut seen: Vec<&HeaderName> = Vec::new();
    for (name, value) in unchanged {
        if OURS.contains(name) && headers.contains_key(name) {
            continue;
        }
        if seen.contains(&name) {
            headers.append(name.clone(), value.clone());
        } else {
            headers.insert(name.clone(), value.clone());
            seen.push(name);
        }
    }
    let said = Directives::read(&headers);
    let vary = vary_key(&headers, request);
    let fate = if said.private || said.forbids(kept.status) || vary.is_none() {
        Fate::Forget
    } else if is_private(&said, asked, request, &headers) {
        Fate::Stay
    } else {
        Fate::Refresh
    };
    let times = timed(rule, &said, kept.status, &headers, now);
    let vary = vary.unwrap_or_default();
    (Kept { headers, body: kept.body.clone(), from: kept.from, vary, ..times }, fate)
}

/// What the application is told by the edge, of each client or request something else: what came in these fields
/// is not what it answered to.
const TOLD: [&str; 6] = [
    "forwarded",
    "traceparent",
    "x-forwarded-for",
    "x-forwarded-port",
    "x-real-ip",
    "x-request-id",
];

/// What an answer varies by, with the request's values; none for `*` and for what only the edge knows, which fit no
/// other request.
fn vary_key(headers: &HeaderMap, request: &HeaderMap) -> Option<Vec<(HeaderName, String)>> {
    let mut names: Vec<HeaderName> = Vec::new();
    for line in headers.get_all(VARY) {
        for word in split(line.to_str().ok()?) {
            names.push(if word == "*" { return None } else { word.parse().ok()? });
        }
    }
    if names.iter().any(|name| TOLD.contains(&name.as_str())) {
        return None;
    }
    // An application that forgets to say so: packed bytes are for who can unpack them.
    names.extend(headers.contains_key(CONTENT_ENCODING).then_some(ACCEPT_ENCODING));
    names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    Some(names.into_iter().map(|name| (name.clone(), normal(&name, request))).collect())
}

/// A request header in one spelling: what means the same fits the same answer, and nothing else does.
fn normal(name: &HeaderName, request: &HeaderMap) -> String {
    // Letter by letter: bytes that are no text must not look alike.
    let text =
        |value: &HeaderValue| value.as_bytes().iter().map(|byte| char::from(*byte)).collect();
    let lines = request.get_all(name).iter().map(text);
    let whole = lines.collect::<Vec<String>>().join(",");
    if *name == ACCEPT_ENCODING && whole.is_ascii() {
        return codings(&whole);
    }
    let members = split(&whole).join(",");
    let squeezed = members.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    // Absent and empty are two things.
    let there = if request.contains_key(name) { "=" } else { "" };
    if name.as_str() == "accept-language" {
        return format!("{there}{}", squeezed.to_ascii_lowercase());
    }
    format!("{there}{squeezed}")
}

/// The codings that a client accepts: those that we know in its order, and what it says of any other.
fn codings(whole: &str) -> String {
    let header = HeaderValue::from_str(whole).unwrap_or(HeaderValue::from_static(""));
    let known = shape::accepted(&header).into_iter().map(|one| one.name().to_owned());
    let is_known = |word: &str| {
        let name = word.split(';').next().unwrap_or_default();
        ["gzip", "x-gzip", "br", "zstd"].contains(&name) || word == "identity"
    };
    let squeezed = |word: &str| word.split(';').map(str::trim).collect::<Vec<_>>().join(";");
    let words = whole.split(',').map(|word| squeezed(word).to_ascii_lowercase());
    let mut others: Vec<String> =
        words.filter(|word| !word.is_empty() && !is_known(word)).collect();
    others.sort();
    known.chain(others).collect::<Vec<_>>().join(",")
}
