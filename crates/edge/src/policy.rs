//! What is demanded of a request, in an order that never varies, and what its answer is given.
//!
//! | step | key of the route | answer when it fails | where |
//! | --- | --- | --- | --- |
//! | networks | `deny_from`, `allow_from` | 403 | [`access`] |
//! | query fields | `block = { query }` | 404 | [`access`] |
//! | maintenance | `maintenance` | 503 | [`access`] |
//! | lockout | `lockout` | 429 | [`lockout`] |
//! | rate | `limit` | 429 | [`limit`] |
//! | both, on several servers | `store` | 429 | [`stored`] |
//! | preflight | `cors` | 204 or 403 | [`cors`] |
//! | forgery | `csrf` | 403 | [`csrf`] |
//! | password | `auth` | 401 | [`auth`] |
//! | size | `body_limit` | 413 | `serve` |
//! | fields of the body | `lockout`, `limit` by `json:` and `form:` | 429 | [`fields`], `serve::guarded` |
//! | on the way back | `csp`, `cookies`, `cors`, the secure profile | – | [`headers`] |
//!
//! Invariants: everything that can be prepared is, when the route is compiled; a route without a policy
//! pays for a branch each; what is refused is logged with its reason, and the client is not told more
//! than the status. Each room decides by plain functions on plain values and is tested by them.

pub(crate) mod access;
pub(crate) mod auth;
pub(crate) mod clock;
mod compile;
pub(crate) mod cors;
pub(crate) mod csrf;
pub(crate) mod fields;
pub(crate) mod headers;
pub(crate) mod keys;
pub(crate) mod limit;
pub(crate) mod lockout;
mod rewrite;
pub(crate) mod stored;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode};

pub(crate) use compile::{CompiledPolicy, PolicyError, Scope};

use crate::body::ResponseBody;
use crate::respond;
use crate::route::{CompiledRoute, CompiledSite};
use crate::serve::Record;
use crate::snapshot::Shared;
use crate::worker::Local;

/// An answer instead of the one that was asked for.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    /// For the log.
    pub(crate) cause: String,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// Instead of the usual page.
    pub(crate) body: Option<String>,
}

impl Refused {
    /// With nothing but a status and its reason.
    pub(crate) fn plain(status: StatusCode, cause: impl Into<String>) -> Self {
        Self { status, cause: cause.into(), headers: Vec::new(), body: None }
    }

    /// 429, to be tried again after so many milliseconds.
    pub(crate) fn too_many(cause: String, wait_ms: u64) -> Self {
        let seconds = HeaderValue::from(wait_ms.div_ceil(1000).max(1));
        let headers = vec![(RETRY_AFTER, seconds)];
        Self { status: StatusCode::TOO_MANY_REQUESTS, cause, headers, body: None }
    }

    /// As the client gets it; the reason goes into the record.
    pub(crate) fn answer(self, parts: &Parts, record: &mut Record) -> Response<ResponseBody> {
        let mut response = match self.body {
            Some(body) => {
                let html = body.trim_start().starts_with('<');
                let kind =
                    if html { "text/html; charset=utf-8" } else { "text/plain; charset=utf-8" };
                respond::fixed(self.status.as_u16(), &body, kind)
            }
            None if self.status == StatusCode::NO_CONTENT => {
                let mut response = Response::new(respond::empty());
                *response.status_mut() = self.status;
                response
            }
            None => respond::error(self.status, record.id, parts.headers.get(ACCEPT)),
        };
        for (name, value) in self.headers {
            // Several lines of one name, as `Vary` or `RateLimit` may have, are one list.
            if name == RETRY_AFTER || name == WWW_AUTHENTICATE {
                response.headers_mut().insert(name, value);
            } else {
                response.headers_mut().append(name, value);
            }
        }
        record.cause = Some(self.cause);
        if self.status != StatusCode::UNAUTHORIZED {
            // Only the application, or a password of ours, says that an attempt failed: a page elsewhere that sends
            // its visitors' browsers here must not lock them out.
            record.attempt = None;
        }
        response
    }
}

/// What the instance, or the file's folder, gets to see instead of what the client sent.
pub(crate) fn prepare(parts: &mut Parts, route: &CompiledRoute) {
    let policy = &route.policy;
    if policy.auth.is_some() {
        // The password was for us.
        parts.headers.remove(AUTHORIZATION);
    }
    if let Some(rewrite) = &policy.rewrite
        && let Some(uri) = rewrite::rewritten(rewrite, &parts.uri)
    {
        parts.uri = uri;
    }
    if policy.shape.needs_plain() {
        parts.headers.remove(ACCEPT_ENCODING);
    }
}

/// Completes the headers of an answer; what is left to do when its head is written the record knows.
pub(crate) fn finish(headers: &mut HeaderMap, record: &mut Record, status: StatusCode) {
    let sight = headers::Sight {
        status,
        secure: record.secure,
        host: &record.host,
        origin: record.origin.as_ref(),
        nonce: record.nonce.as_deref(),
        in_lines: record.is_in_lines(),
        always_secure: record.is_always_secure(),
    };
    record.lacks_profile =
        headers::finish(headers, record.route.as_ref().map(|route| &route.policy), sight);
}

/// 128 bits that nobody can guess, as text for a header and an attribute.
pub(crate) fn fresh_nonce() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 16]>())
}

/// Who may come in at all, and how often: what is counted here.
pub(crate) fn admit_counts(
    local: &Local,
    parts: &Parts,
    record: &mut Record,
    site: &CompiledSite,
    route: &CompiledRoute,
) -> Result<(), Refused> {
    let policy = &route.policy;
    if policy.asks_nothing {
        return Ok(());
    }
    let shared = &local.shared;
    access::check(policy, record.client, parts.uri.query())?;
    if policy.counts {
        let caller = keys::Caller::new(record.client, parts);
        let counted = Counted::new(shared, site, caller);
        record.attempt =
            lockout::begin_by_head(&shared.lockouts, &policy.lockouts, &counted.failures)?;
        let (limits, now) = (policy.limits_by_head(), clock::monotonic_ms());
        limit::check(&shared.limits, limits, &counted.rates, now)?;
    }
    Ok(())
}

/// What else can be said from the head of a request.
pub(crate) fn admit(
    local: &Local,
    parts: &Parts,
    record: &Record,
    site: &CompiledSite,
    route: &CompiledRoute,
) -> Result<(), Refused> {
    let policy = &route.policy;
    if policy.asks_nothing {
        return Ok(());
    }
    let shared = &local.shared;
    if let Some(cors) = &policy.cors {
        cors.preflight(&parts.method, &parts.headers)?;
    }
    if let Some(csrf) = &policy.csrf {
        csrf.check(&csrf::Facts::of(parts, record, site), policy.cors.as_ref())?;
    }
    if let Some(auth) = &policy.auth {
        auth.check(&parts.headers, &shared.passwords)?;
    }
    Ok(())
}

/// What can be said once the fields of the body are known.
pub(crate) fn admit_body(
    local: &Local,
    parts: &Parts,
    record: &mut Record,
    (site, route): (&CompiledSite, &CompiledRoute),
    fields: &fields::Fields,
) -> Result<(), Refused> {
    let (shared, policy) = (&local.shared, &route.policy);
    let caller = keys::Caller { fields: Some(fields), ..keys::Caller::new(record.client, parts) };
    let counted = Counted::new(shared, site, caller);
    let attempt = lockout::begin_by_body(&shared.lockouts, &policy.lockouts, &counted.failures)?;
    if let Some(attempt) = attempt {
        match &mut record.attempt {
            Some(earlier) => earlier.join(*attempt),
            None => record.attempt = Some(attempt),
        }
    }
    limit::check(&shared.limits, policy.limits_by_body(), &counted.rates, clock::monotonic_ms())
}

/// What a request is counted under: each table hashes by a secret of its own.
struct Counted<'a> {
    failures: keys::Keys<'a>,
    rates: keys::Keys<'a>,
}

impl<'a> Counted<'a> {
    fn new(shared: &Shared, site: &'a CompiledSite, caller: keys::Caller<'a>) -> Self {
        let keys = |hasher| keys::Keys { caller, site, hasher };
        Self { failures: keys(shared.lockouts.hasher()), rates: keys(shared.limits.hasher()) }
    }
}
