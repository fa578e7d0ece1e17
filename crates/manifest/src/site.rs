//! The validated manifest: what the rest of the program works with.
//!
//! Invariants: every value here has passed validation (names are names, paths stay inside the
//! project, routes point at services that exist, `after` has no loop); a [`Site`] is never changed
//! after it was made. Secrets stand here by name only.

pub mod backups;
mod deploy;
mod health;
mod job;
pub mod tls;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use seaworthy_base::delivery::Delivery;
use seaworthy_base::outgoing::Outgoing;
use seaworthy_base::policy::{Identity, Policy};
use seaworthy_base::{ByteSize, ServiceName, SiteName};
use serde::{Deserialize, Serialize};

pub use deploy::{Canary, Deploy, Smoke, Strategy, Watch};
pub use health::{Health, HealthKey, Probe};
pub use job::{Job, When, Work};
pub use tls::Tls;

/// One site, as its `seaworthy.toml` describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Site {
    /// `site`, or the folder's name.
    pub name: SiteName,
    /// `domains`, lower case, the canonical one first; `<site>.localhost` when none is given.
    pub domains: Vec<String>,
    /// `redirect_domains`: answered with 308 to the first of `domains`.
    pub redirect_domains: Vec<String>,
    /// `[tls]`: where certificates come from.
    pub tls: Tls,
    /// `[tls]`: what is demanded of handshakes.
    #[serde(default)]
    pub handshake: tls::Handshake,
    /// `[listen]`, as far as it was given.
    pub listen: Listen,
    /// `[secrets]`.
    pub secrets: SecretSources,
    /// `[identity]`: how a request's user is known, the first that is there counts.
    #[serde(default)]
    pub identity: Vec<Identity>,
    /// `[health]`: who is told the details of `to = "@health"`; nobody without it.
    #[serde(default)]
    pub health: Option<HealthKey>,
    /// `[service.X]`, by name.
    pub services: BTreeMap<ServiceName, Service>,
    /// What is backed up, and where to.
    #[serde(default)]
    pub backups: backups::Backups,
    /// `[[route]]` with inheritance resolved, the most specific first: the first match wins.
    pub routes: Vec<Route>,
    /// `[outgoing.X]`.
    #[serde(default)]
    pub outgoing: Vec<WayOut>,
    /// `[deploy]`.
    #[serde(default)]
    pub deploy: Deploy,
    /// `[job.X]`, by name.
    #[serde(default)]
    pub jobs: Vec<Job>,
}

impl Site {
    /// The names for which a public authority is asked: all but those that only this machine knows.
    pub fn public_names(&self) -> Vec<String> {
        let all = self.domains.iter().chain(&self.redirect_domains);
        all.filter(|name| !crate::wire::is_local(name)).cloned().collect()
    }
}

/// One `[outgoing.X]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WayOut {
    /// What the edge does with calls.
    pub rules: Outgoing,
    /// `ca`: a file inside the project.
    pub ca: Option<String>,
}

impl WayOut {
    /// Where the application finds it: `OUTGOING_X`.
    pub fn variable(&self) -> String {
        format!("OUTGOING_{}", self.rules.name.to_ascii_uppercase().replace('-', "_"))
    }
}

/// Addresses the edge listens on; empty means the default for the user and the domains.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listen {
    /// Plain HTTP. A bare port is both address families; on loopback when all domains are local.
    pub http: Vec<ListenAddress>,
    /// HTTPS.
    pub https: Vec<ListenAddress>,
    /// HTTP/3 on the addresses of HTTPS.
    #[serde(default)]
    pub http3: bool,
    /// Networks (CIDR) whose `X-Forwarded-*` are believed.
    pub trusted_proxies: Vec<String>,
    /// `connections_per_address`, as far as it was given.
    #[serde(default)]
    pub connections_per_address: Option<u32>,
    /// Networks (CIDR) whose connections begin with a PROXY header, which is then required of them.
    #[serde(default)]
    pub proxy_protocol: Vec<String>,
}

/// One entry of `listen`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListenAddress {
    /// A port on every address (or on loopback for local domains); 0 asks for a free one.
    Port(u16),
    /// One address and port.
    Address(SocketAddr),
}

/// `[secrets]`: where values are looked for, in this order, after `secrets set`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretSources {
    /// A dotenv file inside the project; `.env` if present.
    pub file: Option<String>,
    /// A folder with one file for each secret.
    pub dir: Option<String>,
    /// A dotenv file encrypted with age.
    pub age: Option<String>,
    /// A command that prints one value; `{name}` stands for the secret's name.
    pub command: Option<Vec<String>>,
}

/// One `[service.X]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// `dir`: working folder inside the project, `.` by default.
    pub dir: String,
    /// `build`: run once per release.
    pub build: Vec<Command>,
    /// `migrate`, or `migrate.up`: run once per release, before start.
    pub migrate: Vec<Command>,
    /// `migrate.down`: takes back what `up` of the same release did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub migrate_down: Vec<Command>,
    /// `migrate.status`: prints which migrations the database has.
    #[serde(default)]
    pub migrate_status: Option<Command>,
    /// `shared`: paths that outlive releases.
    pub shared: Vec<String>,
    /// `env`: names and values, our own `$NAMES` not yet replaced.
    pub env: BTreeMap<String, EnvValue>,
    /// `secrets`: which ones it gets.
    pub secrets: Vec<SecretUse>,
    /// `protocol = "h2c"`: it speaks HTTP/2 without TLS.
    #[serde(default)]
    pub http2: bool,
    /// `proxy_protocol` of `upstreams`.
    #[serde(default)]
    pub proxy_header: bool,
    /// `health` of `upstreams`: how the edge asks them.
    #[serde(default)]
    pub check: Option<Probe>,
    /// What it is.
    pub kind: ServiceKind,
}

/// What a service is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceKind {
    /// A program that we run.
    Process(Box<Process>),
    /// Files that the edge serves.
    Static {
        /// The folder, inside `dir`.
        root: String,
        /// Unknown paths get `index.html`.
        spa: bool,
        /// `cache_control`: path pattern and header value, in the order written.
        cache_control: Vec<(String, String)>,
    },
    /// Servers that somebody else runs.
    Upstreams(Vec<String>),
}

/// A program and the rules it runs under.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// `run`.
    pub run: Command,
    /// `instances`: how many; `"cores"` is resolved by whoever starts them.
    pub instances: Instances,
    /// How it learns its port.
    pub port: PortUse,
    /// `health`.
    pub health: Health,
    /// `after`: services of this site that must be ready first.
    pub after: Vec<ServiceName>,
    /// `user`: a system user's name instead of the site's own.
    pub user: Option<String>,
    /// `memory.max`.
    pub memory_max: Option<ByteSize>,
    /// `memory.restart`: above it one instance is replaced gracefully.
    pub memory_restart: Option<ByteSize>,
    /// `cpu`, in thousandths of a core.
    pub cpu_millis: Option<u32>,
    /// `nofile`.
    pub nofile: Option<u64>,
    /// `restart`.
    pub restart: Restart,
    /// `stop`.
    pub stop: Stop,
    /// `logs`.
    pub logs: LogRules,
}

/// How many copies run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Instances {
    /// That many.
    Fixed(u16),
    /// One for each core of the machine.
    Cores,
    /// As many as the load asks for.
    Auto(Auto),
}

/// `instances = { min, max, … }`: targets are means per instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Auto {
    /// `min`.
    pub min: u16,
    /// `max`.
    pub max: u16,
    /// `cpu`: share of the cores that an instance may use (of one, where there is no limit), in ten-thousandths.
    pub cpu: Option<u16>,
    /// `memory` as a size.
    pub memory: Option<ByteSize>,
    /// `memory` as a share of the limit (without one, of what the machine has for each of `max` instances), in
    /// ten-thousandths.
    pub memory_share: Option<u16>,
    /// `rps`: requests a second.
    pub rps: Option<u32>,
}

/// How a program learns where to listen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortUse {
    /// A free port in each of these variables; the first is the default (`PORT`). Name to variable.
    Environment(Vec<(String, String)>),
    /// It insists on this one; underneath it gets a free one.
    Fixed(u16),
    /// It listens on a Unix socket of this name, below a folder of the instance's own.
    Socket(String),
}

/// `restart`: the back-off and when to call it a crash loop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// First pause; doubles with each crash.
    pub backoff_min: Duration,
    /// Longest pause.
    pub backoff_max: Duration,
    /// So many ends …
    pub crashes: u32,
    /// … within this time are reported as a crash loop (it is still restarted).
    pub within: Duration,
}

impl Default for Restart {
    fn default() -> Self {
        Self {
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(30),
            crashes: 5,
            within: Duration::from_secs(60),
        }
    }
}

/// `stop`: which signal, and how long until KILL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// Signal name without `SIG`.
    pub signal: String,
    /// Time between signal and KILL.
    pub grace: Duration,
}

impl Default for Stop {
    fn default() -> Self {
        Self { signal: "TERM".to_owned(), grace: Duration::from_secs(30) }
    }
}

/// `logs`: how much is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRules {
    /// A file is rotated at this size, and each day.
    pub max_size: ByteSize,
    /// Rotated files kept.
    pub keep: u32,
    /// Rotated files older than this many days are removed.
    pub days: Option<u32>,
}

impl Default for LogRules {
    fn default() -> Self {
        Self { max_size: ByteSize(100 << 20), keep: 14, days: None }
    }
}

/// A command: argv, or a shell line where the manifest asks for a shell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Split into words as a shell would, run without one.
    Argv(Vec<String>),
    /// `{ shell = "…" }`.
    Shell(String),
}

/// A value of `env`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnvValue {
    /// Text; `$PORT`, `$RELEASE`, `$INSTANCE`, `$DATA` are replaced when it starts.
    Text(String),
    /// `"secret:NAME"`.
    Secret(String),
}

/// A secret that a service gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretUse {
    /// Its name.
    pub name: String,
    /// As a file (its path in `NAME_FILE`) instead of in the environment.
    pub as_file: bool,
}

/// One route, complete: inheritance is already resolved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// One path pattern: exact, or with `*` that matches any characters, `/` too.
    pub path: String,
    /// Hosts it is for; all of the site's when empty.
    pub hosts: Vec<String>,
    /// Methods it is for; all when empty.
    pub methods: Vec<String>,
    /// What happens.
    pub action: RouteAction,
    /// Seconds, sizes and switches.
    pub settings: RouteSettings,
}

/// What a route does with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteAction {
    /// `to = "service"` or `"service:port"`.
    Service {
        /// Which service.
        service: ServiceName,
        /// Which of its named ports; the default one when absent.
        port: Option<String>,
    },
    /// `block = true`: 404, as if it were not there.
    Block,
    /// `redirect = {to, status}`.
    Redirect {
        /// Absolute URL or path; `$path` and `$query` are replaced.
        to: String,
        /// 301, 302, 303, 307 or 308.
        status: u16,
    },
    /// `to = "@health"`: whether the site can serve.
    Health,
    /// `to = "@client-events"`: what browsers tell is counted.
    ClientEvents,
    /// `respond = {status, body, content_type}`.
    Respond {
        /// Its status.
        status: u16,
        /// Its body.
        body: String,
        /// Its type.
        content_type: String,
    },
}

/// The inheritable keys of a route that this version knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteSettings {
    /// `body_limit`; none when cleared with `false`.
    pub body_limit: Option<ByteSize>,
    /// `timeout.connect`.
    pub connect: Duration,
    /// `timeout.response`: from the end of the request to the head of the response.
    pub response: Duration,
    /// `timeout.idle`: between two pieces of a body, either way; none for `stream = true`.
    pub idle: Option<Duration>,
    /// `stream`.
    pub stream: bool,
    /// `log`.
    pub log: bool,
    /// `response_headers.set`/`.add`/`.remove`, in that order of application (remove first).
    pub response_headers: HeaderRules,
    /// `request_headers`.
    pub request_headers: HeaderRules,
    /// `cache_control`: pattern and value.
    pub cache_control: Vec<(String, String)>,
    /// Limits, browsers' protection, who may come in, compression, cache.
    #[serde(default)]
    pub policy: Policy,
    /// Which instance, how long, what waits; `timeout.send` and `.total` too.
    #[serde(default)]
    pub delivery: Delivery,
}

impl Default for RouteSettings {
    fn default() -> Self {
        Self {
            body_limit: Some(ByteSize(10 << 20)),
            connect: Duration::from_secs(5),
            response: Duration::from_secs(60),
            idle: Some(Duration::from_secs(60)),
            stream: false,
            log: true,
            response_headers: HeaderRules::default(),
            request_headers: HeaderRules::default(),
            cache_control: Vec::new(),
            policy: Policy::default(),
            delivery: Delivery::default(),
        }
    }
}

/// Changes to headers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderRules {
    /// Set, replacing what is there.
    pub set: BTreeMap<String, String>,
    /// Added beside what is there.
    pub add: BTreeMap<String, String>,
    /// Removed.
    pub remove: Vec<String>,
    /// `mode = "missing"`: `set` only where the application sent none.
    pub only_missing: bool,
}
