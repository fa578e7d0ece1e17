//! The three inputs of the edge (config, endpoints, keys) and the messages of its control link.
//!
//! Why three: routes change rarely and are large, endpoints change with every start and stop and go
//! to every living edge, draining ones too, and keys must never be written anywhere. Each carries a
//! version; acknowledged means that it holds for every thread. Invariant: a snapshot says only what
//! stays right if control never returns.

mod endpoints;
mod keys;
mod status;
mod store;

use std::net::SocketAddr;
use std::path::PathBuf;

use seaworthy_base::delivery::Delivery;
use seaworthy_base::outgoing::Outgoing;
use seaworthy_base::policy::{Identity, Policy};
use serde::{Deserialize, Serialize};

pub use endpoints::{Check, Endpoint, EndpointState, Endpoints};
pub use keys::{Certificate, Handshake, Keys};
pub use status::{
    BreakerState, CallState, EdgeStatus, EventCount, InstanceLoad, LockedOut, StoreState,
};
pub use store::StoreAt;

/// The protocol that control and edge speak: a 4-byte big-endian length, then JSON.
pub const PROTOCOL: u32 = 1;
/// A feature: this edge may open Unix sockets.
pub const UNIX_SOCKETS: &str = "unix-sockets";
/// A feature: this edge may open the Unix sockets of our own instances.
pub const OWN_SOCKETS: &str = "own-sockets";
/// A feature: this edge counts in a table that it is handed.
pub const COUNTS: &str = "counts";
/// Feature of an edge that takes routes and instances in one message.
pub const WHOLE: &str = "whole";
/// A feature: this edge serves HTTP/3 on UDP sockets that it is given.
pub const HTTP3: &str = "http3";
/// The longest message in bytes.
pub const MAX_MESSAGE: usize = 64 << 20;

/// What the edge serves. Sent whole, swapped whole.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Grows with each change.
    pub version: u64,
    /// Every site; host names are unique among them (control sees to it).
    pub sites: Vec<Site>,
    /// Ways on which applications call others.
    #[serde(default)]
    pub outgoing: Vec<WayOut>,
    /// The authorities (PEM) that may vouch for servers outside, where a way does not name its own.
    #[serde(default)]
    pub roots_pem: Option<String>,
}

/// A way on which an application calls somebody else's server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WayOut {
    /// The application's site.
    pub site: String,
    /// Where the application comes in.
    pub listen: SocketAddr,
    /// The key of the server's addresses in [`Endpoints::services`].
    pub service: String,
    /// What is done with calls.
    pub rules: Outgoing,
    /// Its own authorities (PEM).
    pub roots_pem: Option<String>,
}

/// One site.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Site {
    /// Its name, for logs.
    pub name: String,
    /// Hosts it serves, lower case, `*.x` allowed; the first one is canonical.
    pub hosts: Vec<String>,
    /// Hosts answered with 308 to the canonical one.
    pub redirect_hosts: Vec<String>,
    /// Plain HTTP is redirected to HTTPS on this public port (false: it is served as it is).
    pub https_port: Option<u16>,
    /// HTTP/3 is spoken too, and clients are told of it, on this public port.
    #[serde(default)]
    pub http3_port: Option<u16>,
    /// Networks (CIDR) whose `X-Forwarded-*` are believed.
    pub trusted_proxies: Vec<String>,
    /// Networks (CIDR) that begin each connection with a PROXY header; a connection belongs to no site
    /// yet, so those of all sites count for all.
    #[serde(default)]
    pub proxy_protocol: Vec<String>,
    /// How many connections an address may hold; of several sites the smallest counts.
    #[serde(default)]
    pub connections_per_address: Option<u32>,
    /// How a request's user is known; the first that is there counts.
    #[serde(default)]
    pub identity: Vec<Identity>,
    /// Routes, the most specific first: the first match wins.
    pub routes: Vec<Route>,
    /// Clients are asked for a certificate in the handshake; whether they must show one.
    #[serde(default)]
    pub clients: Option<bool>,
    /// A release that is tried beside the one that serves.
    #[serde(default)]
    pub candidate: Option<Candidate>,
    /// Closed for a while.
    #[serde(default)]
    pub gate: Option<Gate>,
    /// Who is told the details by [`Action::Health`]; nobody without it.
    #[serde(default)]
    pub health: Option<HealthKey>,
    /// The release that serves, as people name it.
    #[serde(default)]
    pub release: Option<String>,
}

/// What a request shows to be told the details of a site's health.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthKey {
    /// The header.
    pub header: String,
    /// The key of its value among the secrets of [`Keys`].
    pub secret: String,
}

/// A release that is tried: reached with its key, and by a share of the visitors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Names the rollout in the visitors' cookies.
    pub id: String,
    /// Leads to it: in the header `Seaworthy-Release`, or by `/.well-known/seaworthy/release/KEY`.
    pub key: String,
    /// So many of ten thousand visitors get it.
    pub share: u16,
    /// The release, as people name it: what is kept of one release is given to nobody who gets another.
    #[serde(default)]
    pub release: Option<String>,
    /// Its routes.
    pub routes: Vec<Route>,
}

/// How a site is closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// Requests wait.
    Hold {
        /// Milliseconds since 1970 at which it ends by itself.
        until_ms: u64,
        /// So many wait at most; more are answered with 503.
        most: u32,
    },
    /// 503 with a page.
    Maintenance {
        /// The page, HTML.
        page: String,
        /// Seconds after which clients are told to come again.
        retry_after: u32,
        /// Networks that are served all the same.
        allow: Vec<String>,
    },
}

/// One route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// Exact path, or a pattern in which `*` matches any characters, `/` too.
    pub path: String,
    /// Hosts it is for; all of the site's when empty.
    pub hosts: Vec<String>,
    /// Methods; all when empty.
    pub methods: Vec<String>,
    /// What happens.
    pub action: Action,
    /// Limits and switches.
    pub settings: Settings,
}

/// What a route does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// To the instances under this key of [`Endpoints::services`]: `site/service` or `site/service:port`.
    Proxy(String),
    /// Files from a folder.
    Static {
        /// The folder; nothing outside it is ever served.
        root: PathBuf,
        /// Unknown paths get `index.html`.
        spa: bool,
        /// Pattern and `Cache-Control` value.
        cache_control: Vec<(String, String)>,
    },
    /// 404, as if it were not there.
    Block,
    /// To another place.
    Redirect {
        /// Absolute URL or path; `$path` and `$query` are replaced.
        to: String,
        /// 3xx.
        status: u16,
    },
    /// The edge says how the site is.
    Health,
    /// What browsers tell is counted.
    ClientEvents,
    /// A fixed answer.
    Respond {
        /// Status.
        status: u16,
        /// Body.
        body: String,
        /// Its type.
        content_type: String,
    },
}

/// Limits and switches of a route. Times in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Largest request body in bytes (413 above).
    pub body_limit: Option<u64>,
    /// To connect to an instance.
    pub connect_ms: u64,
    /// From the end of the request to the head of the response (504 after).
    pub response_ms: u64,
    /// Between two pieces of a body, either way; none: never cut.
    pub idle_ms: Option<u64>,
    /// Write access log lines.
    pub log: bool,
    /// Response headers to remove, set, add (in that order).
    pub response_headers: HeaderRules,
    /// Request headers towards the instance.
    pub request_headers: HeaderRules,
    /// Path pattern and `Cache-Control` value for responses.
    pub cache_control: Vec<(String, String)>,
    /// What is demanded of requests and added to answers.
    #[serde(default)]
    pub policy: Policy,
    /// Which instance gets a request, when one is left out, what waits.
    #[serde(default)]
    pub delivery: Delivery,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            body_limit: Some(10 << 20),
            connect_ms: 5_000,
            response_ms: 60_000,
            idle_ms: Some(60_000),
            log: true,
            response_headers: HeaderRules::default(),
            request_headers: HeaderRules::default(),
            cache_control: Vec::new(),
            policy: Policy::default(),
            delivery: Delivery::default(),
        }
    }
}

/// Changes to headers: remove, then set, then add.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderRules {
    /// Removed.
    pub remove: Vec<String>,
    /// Set, replacing what is there.
    pub set: Vec<(String, String)>,
    /// Added beside what is there.
    pub add: Vec<(String, String)>,
    /// `set` only where none is there.
    pub only_missing: bool,
}

/// A listening socket that travels beside a message (SCM_RIGHTS, same order).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Where it is bound.
    pub address: SocketAddr,
    /// Whether TLS is spoken on it.
    pub tls: bool,
    /// Applications come there that call others.
    #[serde(default)]
    pub outgoing: bool,
}

/// The UDP sockets of one address ([`seaworthy_sys::datagram`]), which travel beside a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Where they are bound.
    pub address: SocketAddr,
    /// How many there are.
    pub slots: u8,
}

/// What control says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verb")]
pub enum Request {
    /// First message on every connection.
    Hello {
        /// [`PROTOCOL`] of the speaker.
        proto: u32,
        /// Build of the speaker.
        build: String,
    },
    /// The routes.
    Config(Config),
    /// The instances.
    Endpoints(Endpoints),
    /// Routes and instances at once, for an edge with the feature [`WHOLE`]: nobody is served by the one
    /// without the other. Answered as soon as it holds for whatever any thread begins from then on.
    Whole {
        /// The routes.
        config: Config,
        /// The instances.
        endpoints: Endpoints,
    },
    /// The certificates.
    Keys(Keys),
    /// Listen on these as well (descriptors travel with the message).
    Listen {
        /// In the order of the descriptors.
        listeners: Vec<Listener>,
    },
    /// Stop accepting on these addresses.
    Unlisten {
        /// Which.
        addresses: Vec<SocketAddr>,
    },
    /// Hand the listening sockets back (the answer carries the descriptors): behind the first so many as many as one
    /// message carries.
    Listeners {
        /// How many are known already.
        #[serde(default)]
        from: usize,
    },
    /// Speak HTTP/3 on these as well (descriptors travel with the message, those of a group in the order of
    /// its slots). Only to edges with [`HTTP3`].
    ListenDatagrams {
        /// In the order of the descriptors.
        groups: Vec<Group>,
        /// The slot of this edge.
        slot: u8,
    },
    /// Take no new HTTP/3 connections on these addresses.
    UnlistenDatagrams {
        /// Which.
        addresses: Vec<SocketAddr>,
    },
    /// Hand the UDP sockets back (the answer carries the descriptors).
    Datagrams,
    /// How things are.
    Status,
    /// Count in this table (a descriptor travels with the message); first of all, or not at all.
    Counts,
    /// Hand the table back (the answer carries the descriptor, where there is one).
    GiveCounts,
    /// Which lockouts hold.
    Lockouts,
    /// Open again what is locked out.
    ClearLockouts {
        /// Of this site only.
        site: Option<String>,
        /// Only this address, account or digest of one.
        what: Option<String>,
    },
    /// Forget answers that are kept.
    Purge {
        /// Of this site.
        site: String,
        /// Paths that fit this pattern; all when absent.
        path: Option<String>,
    },
    /// Stop accepting, finish what there is, end when nothing is left or after `deadline_ms`.
    Drain {
        /// The longest time.
        deadline_ms: u64,
    },
}

/// What the edge answers: one reply for each request, in order.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reply")]
pub enum Reply {
    /// To `Hello`.
    Hello {
        /// [`PROTOCOL`] of the edge.
        proto: u32,
        /// Its build.
        build: String,
        /// Its process.
        pid: u32,
        /// Boot id of the running kernel.
        boot_id: String,
        /// What it can do beyond the protocol's number.
        features: Vec<String>,
        /// Guards that it does not have, because the kernel does not give them.
        #[serde(default)]
        unguarded: Vec<String>,
    },
    /// Done; it holds for every thread.
    Done,
    /// The sockets (descriptors travel with the message).
    Listeners {
        /// In the order of the descriptors.
        listeners: Vec<Listener>,
    },
    /// The UDP sockets (descriptors travel with the message).
    Datagrams {
        /// In the order of the descriptors.
        groups: Vec<Group>,
        /// The slot of this edge.
        slot: u8,
    },
    /// To `Status`.
    Status(Box<EdgeStatus>),
    /// To `Lockouts`.
    Lockouts {
        /// By site.
        held: Vec<LockedOut>,
    },
    /// To `ClearLockouts` and `Purge`.
    Cleared {
        /// How many there were.
        count: u64,
    },
    /// Not done; the state before the request stays.
    Failed {
        /// Why.
        message: String,
    },
}
