//! What a route demands of a request and adds to its answer: limits, lockouts, browsers' protection,
//! who may come in, compression, cache.
//!
//! Here, because both the manifest that says it and the edge that does it speak these words, across a
//! process border: a second set of types would only be a place for them to differ. Invariants: what the
//! manifest puts here was validated by it; an absent field of an older sender is the default. Not here:
//! what any of it means on the wire, which is the edge's.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{ByteSize, Rate};

/// All of it, for one route. The order of the fields is the order in which the edge goes through them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// Networks (CIDR) that are refused with 403.
    pub deny_from: Vec<String>,
    /// The only networks that may come in, where there are any; others get 403.
    pub allow_from: Vec<String>,
    /// Names of query fields with which a request is answered 404.
    pub block_query: Vec<String>,
    /// 503 for everybody else than its guests.
    pub maintenance: Option<Maintenance>,
    /// All of them must agree.
    pub lockouts: Vec<Lockout>,
    /// All of them must agree.
    pub limits: Vec<Limit>,
    /// Which other origins' scripts may read answers.
    pub cors: Option<Cors>,
    /// Cross-site requests that change something are refused; none: they are not looked at.
    pub csrf: Option<Csrf>,
    /// Who may come in with a password.
    pub auth: Option<Auth>,
    /// Answers are kept by RFC 9111.
    pub cache: Option<Cache>,
    /// The path that the instance sees.
    pub rewrite: Option<Rewrite>,
    /// `Content-Security-Policy`; `'nonce'` in it stands for a fresh one.
    pub csp: Option<String>,
    /// Attributes that the application's cookies lack.
    pub cookies: Cookies,
    /// Answers are compressed; none: files only.
    pub compress: Option<Compress>,
    /// Of a thousand requests so many are written to the access log; failures always.
    pub log_sample: u16,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            deny_from: Vec::new(),
            allow_from: Vec::new(),
            block_query: Vec::new(),
            maintenance: None,
            lockouts: Vec::new(),
            limits: Vec::new(),
            cors: None,
            csrf: Some(Csrf::default()),
            auth: None,
            cache: None,
            rewrite: None,
            csp: None,
            cookies: Cookies::default(),
            compress: None,
            log_sample: 1000,
        }
    }
}

/// `maintenance`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maintenance {
    /// What is said instead of the usual page, as text or HTML.
    pub body: Option<String>,
    /// `Retry-After`.
    pub retry_after: Duration,
    /// Networks that are served all the same.
    pub allow_from: Vec<String>,
}

/// By what requests are told apart. Values are only ever kept hashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    /// The client's address; of IPv6 the /64.
    Ip,
    /// The user by the site's identity, the address when there is none.
    User,
    /// A request header.
    Header(String),
    /// A cookie.
    Cookie(String),
    /// A field of a JSON body, dotted.
    Json(String),
    /// A field of a form.
    Form(String),
    /// All requests together.
    Site,
}

impl Key {
    /// Whether the body must be looked at.
    pub fn needs_body(&self) -> bool {
        matches!(self, Self::Json(_) | Self::Form(_))
    }
}

/// How a request's user is known (`[identity]`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// By a cookie.
    Cookie(String),
    /// By a bearer token.
    Bearer,
    /// By a header.
    Header(String),
}

/// `limit`: requests above the rate get 429.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Unique within the site: limits of one name share their counts.
    pub name: String,
    /// How many in how long.
    pub rate: Rate,
    /// How many above the rate at once; the rate's own count less one when not said.
    pub burst: Option<u32>,
    /// For each of what.
    pub by: Key,
    /// The Redis that edges of several servers count in (`redis.X`); each server counts for itself without one.
    #[serde(default)]
    pub store: Option<String>,
}

/// `lockout`: who fails too often is kept out for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lockout {
    /// Unique within the site.
    pub name: String,
    /// So many failures …
    pub failures: u16,
    /// … within this time …
    pub within: Duration,
    /// … lock for this long.
    pub locked: Duration,
    /// Each of these is counted and locked on its own.
    pub by: Vec<Key>,
    /// The ways in which the application says no; any of them counts.
    pub refusals: Vec<Refusal>,
    /// As of a limit.
    #[serde(default)]
    pub store: Option<String>,
}

/// One way in which an application refuses: all parts must fit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Refusal {
    /// Statuses; any when empty.
    pub status: Vec<u16>,
    /// Text within `Location`.
    pub location: Option<String>,
    /// Text within the first 64 KiB of the body; each time it stands there is one failure.
    pub body: Option<String>,
}

/// `cors`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cors {
    /// Origins such as `https://a.example`, or `*`.
    pub origins: Vec<String>,
    /// Methods beyond the simple ones.
    pub methods: Vec<String>,
    /// Request headers beyond the simple ones.
    pub headers: Vec<String>,
    /// Response headers that scripts may read.
    pub expose: Vec<String>,
    /// Whether cookies may be sent along.
    pub credentials: bool,
    /// How long a browser may remember the answer to a preflight.
    pub max_age: Duration,
}

/// `csrf`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Csrf {
    /// Other origins that may send requests that change something.
    pub allow: Vec<String>,
}

/// `auth`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Auth {
    /// Name of the secret that holds `user:password`, one a line.
    pub basic: String,
}

/// `cache`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    /// For answers that say nothing of how long they are fresh.
    pub ttl: Option<Duration>,
    /// Where the answer does not say: for so long it is used while it is fetched anew.
    pub stale_while_revalidate: Option<Duration>,
    /// Where the answer does not say: for so long it is used when the application fails.
    pub stale_if_error: Option<Duration>,
    /// Larger answers are not kept.
    pub max_object: ByteSize,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            ttl: None,
            stale_while_revalidate: None,
            stale_if_error: None,
            max_object: ByteSize(4 << 20),
        }
    }
}

/// `rewrite`: first taken away, then put before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewrite {
    /// Taken from the beginning of the path, where it stands there.
    pub strip: String,
    /// Put before the path.
    pub prefix: String,
}

/// `cookies`: added to each `Set-Cookie` that lacks it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cookies {
    /// `Secure`, over HTTPS.
    pub secure: bool,
    /// `HttpOnly`.
    pub http_only: bool,
    /// `SameSite`: `Strict`, `Lax` or `None`.
    pub same_site: Option<String>,
}

/// `compress`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compress {
    /// Smaller answers are left as they are.
    pub min: ByteSize,
    /// Media types; `text/*` stands for all texts. The usual ones when empty.
    pub types: Vec<String>,
}

impl Default for Compress {
    /// What fits into one packet is not made faster.
    fn default() -> Self {
        Self { min: ByteSize(1 << 10), types: Vec::new() }
    }
}
