//! What is known of a request, for its log line.
//!
//! It is kept as the request's own parts (shared bytes, not copies) and becomes text only when the line
//! is written, at the end of the response, however that ends.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, ORIGIN, REFERER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Uri};
use seaworthy_base::RequestId;
use tokio::time::Instant;

use super::{Client, Protocol};
use crate::access_log::Entry;
use crate::policy::lockout::Attempt;
use crate::route::{CompiledRoute, CompiledSite};
use crate::worker::Local;

/// One request, as the log will tell it.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) local: Rc<Local>,
    pub(crate) id: RequestId,
    pub(crate) begun: Instant,
    pub(crate) client: IpAddr,
    pub(crate) method: Method,
    pub(crate) host: String,
    pub(crate) uri: Uri,
    pub(super) protocol: Protocol,
    pub(super) tls: bool,
    pub(super) agent: Option<HeaderValue>,
    pub(super) referer: Option<HeaderValue>,
    pub(super) site: Option<Arc<CompiledSite>>,
    /// The site whose application calls somebody else.
    pub(crate) caller: Option<Arc<str>>,
    pub(crate) route: Option<Arc<CompiledRoute>>,
    pub(crate) upstream: Option<Arc<str>>,
    pub(crate) upstream_micros: Option<u64>,
    pub(crate) retries: u32,
    /// The trace that the client brought.
    pub(super) trace: Option<HeaderValue>,
    pub(crate) cause: Option<String>,
    pub(crate) status: u16,
    pub(super) bytes_in: u64,
    /// It gets the release that is being tried.
    pub(super) tried: bool,
    /// A cookie that keeps the visitor's release.
    pub(super) visit: Option<HeaderValue>,
    /// A cookie that keeps the visitor's instance.
    pub(super) place: Option<HeaderValue>,
    /// Whether the client came over HTTPS, here or at a trusted proxy.
    pub(crate) secure: bool,
    /// The port that the client came to.
    pub(super) port: u16,
    /// Who asks to read the answer, where the route has `cors`.
    pub(crate) origin: Option<HeaderValue>,
    /// Codings that the client understands, where the route compresses.
    pub(crate) encodings: Option<HeaderValue>,
    /// The fresh value for scripts and styles, where the route's policy has one.
    pub(crate) nonce: Option<String>,
    /// The answer has nothing of the route's profile: it is written behind its other fields.
    pub(crate) lacks_profile: bool,
    /// What the route's lockouts have reserved for it.
    pub(crate) attempt: Option<Box<Attempt>>,
}

/// Microseconds since a moment.
pub(crate) fn micros(begun: Instant) -> u64 {
    begun.elapsed().as_micros() as u64
}

/// The announced length of a body; 0 without one.
pub(super) fn length(headers: &HeaderMap) -> u64 {
    headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

impl Record {
    pub(crate) fn new(local: &Rc<Local>, client: &Client, parts: &http::request::Parts) -> Self {
        let begun = Instant::now();
        Self {
            local: Rc::clone(local),
            id: local.next_id(begun),
            begun,
            client: client.peer,
            method: parts.method.clone(),
            host: String::new(),
            uri: parts.uri.clone(),
            protocol: client.protocol,
            tls: client.tls,
            agent: parts.headers.get(USER_AGENT).cloned(),
            referer: parts.headers.get(REFERER).cloned(),
            site: None,
            caller: None,
            route: None,
            upstream: None,
            upstream_micros: None,
            retries: 0,
            trace: None,
            cause: None,
            status: 0,
            bytes_in: length(&parts.headers),
            tried: false,
            visit: None,
            place: None,
            secure: client.tls,
            port: client.port,
            origin: None,
            encodings: None,
            nonce: None,
            lacks_profile: false,
            attempt: None,
        }
    }

    /// Keeps what the answer's shape depends on, where the route's answers have one.
    pub(super) fn note(&mut self, parts: &http::request::Parts, route: &CompiledRoute) {
        if route.policy.cors.is_some() {
            self.origin = parts.headers.get(ORIGIN).cloned();
        }
        if route.policy.shape.may_compress() {
            self.encodings = parts.headers.get(ACCEPT_ENCODING).cloned();
        }
        if route.policy.browser.wants_nonce() {
            self.nonce = Some(crate::policy::fresh_nonce());
        }
    }

    /// Of a request that we make ourselves because of this one.
    pub(super) fn aside(&self, client: &Client, parts: &http::request::Parts) -> Self {
        Self {
            client: self.client,
            host: self.host.clone(),
            secure: self.secure,
            port: self.port,
            site: self.site.clone(),
            route: self.route.clone(),
            tried: self.tried,
            ..Self::new(&self.local, client, parts)
        }
    }

    /// Whether the head of its answer is written as lines.
    pub(crate) fn is_in_lines(&self) -> bool {
        self.protocol == Protocol::Http1
    }

    /// What of the profile is still to be written.
    pub(crate) fn profile_lines(&self) -> &[u8] {
        match &self.route {
            Some(route) if self.lacks_profile => route.policy.browser.lines(),
            _ => b"",
        }
    }

    /// Whether browsers are told by all routes of its site to come over TLS only.
    pub(crate) fn is_always_secure(&self) -> bool {
        self.site.as_ref().is_some_and(|site| site.always_secure)
    }

    /// How long a client may send nothing.
    pub(super) fn idle(&self) -> Option<Duration> {
        self.route.as_ref()?.settings.idle_ms.map(Duration::from_millis)
    }

    /// Whether the way to the instance is more than passing on.
    pub(super) fn is_guarded(&self) -> bool {
        self.route.as_ref().is_some_and(|route| route.policy.is_guarded) || self.may_change_kept()
    }

    /// Whether what is kept of the site, by whichever of its routes, may be something else behind it.
    pub(super) fn may_change_kept(&self) -> bool {
        !self.method.is_safe() && self.site.as_ref().is_some_and(|site| site.keeps)
    }

    /// The response ended before its end; the first cause stays.
    pub(crate) fn cut_short(&mut self, cause: String) {
        self.cause.get_or_insert(cause);
    }

    /// All, none, or a sample; of a sample whatever went wrong.
    fn is_logged(&self, route: &CompiledRoute) -> bool {
        let sample = route.settings.policy.log_sample;
        let chosen = sample >= 1000 || self.status >= 400 || self.cause.is_some();
        route.settings.log && (chosen || rand::random_range(0..1000) < sample)
    }

    /// Writes the line; so many bytes of body were sent.
    pub(crate) fn write(&self, bytes_out: u64) {
        if self.route.as_ref().is_some_and(|route| !self.is_logged(route)) {
            return;
        }
        let site = self.site.as_ref().map(|site| &*site.name).or(self.caller.as_deref());
        self.local.shared.log.write(
            self.local.thread,
            &Entry {
                id: self.id,
                site: site.unwrap_or_default(),
                client: self.client,
                method: self.method.as_str(),
                host: &self.host,
                path: self.uri.path(),
                query: self.uri.query(),
                status: self.status,
                bytes_in: self.bytes_in,
                bytes_out,
                micros: micros(self.begun),
                upstream: self.upstream.as_deref(),
                upstream_micros: self.upstream_micros,
                protocol: self.protocol,
                tls: self.tls,
                retries: self.retries,
                trace: self.trace.as_ref().map_or(b"", HeaderValue::as_bytes),
                cause: self.cause.as_deref(),
                agent: self.agent.as_ref().map_or(b"", HeaderValue::as_bytes),
                referer: self.referer.as_ref().map_or(b"", HeaderValue::as_bytes),
            },
        );
    }
}
