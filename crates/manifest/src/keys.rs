//! The keys of this version, with what they mean, and those that are planned.
//!
//! The one table from which reading, "did you mean", the JSON schema and the reference are made.

pub mod backups;
pub mod delivery;
pub mod deploy;
pub mod outgoing;
pub mod tls;

/// What a key's value looks like, for the schema and the reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// Whole number.
    Integer,
    /// Number.
    Number,
    /// `true` or `false`.
    Switch,
    /// `"60s"`.
    Duration,
    /// `"500M"`.
    Size,
    /// A command: text, list, or `{ shell = "…" }`.
    Command,
    /// Text or a list of texts.
    Texts,
    /// Names and values.
    Map,
    /// A table with keys of its own.
    Table(&'static [Key]),
    /// Tables by name.
    Named(&'static [Key]),
    /// A list of tables.
    Tables(&'static [Key]),
    /// Several forms; the reader says which.
    Any,
    /// Known and refused: not built yet.
    Planned,
}

/// One key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// How it is written.
    pub name: &'static str,
    /// What its value looks like.
    pub kind: Kind,
    /// What it means, with its default.
    pub doc: &'static str,
}

const fn key(name: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { name, kind, doc }
}

const fn planned(name: &'static str) -> Key {
    Key { name, kind: Kind::Planned, doc: "not built yet" }
}

/// The top of the file.
pub const SITE: &[Key] = &[
    key(
        "site",
        Kind::Text,
        "name of the site: `[a-z][a-z0-9-]{0,39}`; the folder's name by default",
    ),
    key(
        "domains",
        Kind::Texts,
        "host names served, the canonical one first; `<site>.localhost` by default",
    ),
    key("redirect_domains", Kind::Texts, "host names answered with 308 to the first of `domains`"),
    key("tls", Kind::Table(tls::TLS), "certificates"),
    key("listen", Kind::Table(LISTEN), "addresses of the edge"),
    key(
        "secrets",
        Kind::Table(SECRETS),
        "where values of secrets are looked for, after `secrets set`",
    ),
    key("service", Kind::Named(SERVICE), "a program, files, or servers that somebody else runs"),
    key("route", Kind::Tables(ROUTE), "which requests go where, and under which rules"),
    key(
        "zone",
        Kind::Text,
        "time zone of times of day, such as `Europe/Berlin`; the machine's by default",
    ),
    key("database", Kind::Named(backups::DATABASE), "a database that the site depends on"),
    key("redis", Kind::Named(backups::REDIS), "a Redis that the site depends on"),
    key("files", Kind::Named(backups::FILES), "files and folders to back up"),
    key("store", Kind::Named(backups::STORE), "where backups go; `local` is always there"),
    key("identity", Kind::Table(IDENTITY), "how a request's user is known; only ever used hashed"),
    key("limit", Kind::Named(LIMIT), "limits that several routes share"),
    planned("smtp"),
    planned("http"),
    key(
        "health",
        Kind::Table(AGGREGATE),
        "the answer of `to = \"@health\"`: who is told more than one word",
    ),
    planned("heartbeat"),
    key("job", Kind::Named(JOB), "what runs at its time"),
    key("outgoing", Kind::Named(outgoing::OUTGOING), "whom the application calls, and how"),
    key("deploy", Kind::Table(deploy::DEPLOY), "how a release takes the place of another"),
    planned("alerts"),
    planned("notify"),
    planned("kubernetes"),
];

/// `[listen]`.
pub const LISTEN: &[Key] = &[
    key(
        "http",
        Kind::Any,
        "port, `\"address:port\"` or a list; 80 as root, 8080 otherwise; loopback only when all domains are local",
    ),
    key("https", Kind::Any, "the same; 443 as root, 8443 otherwise"),
    key("trusted_proxies", Kind::Texts, "networks whose `X-Forwarded-*` are believed"),
    key(
        "connections_per_address",
        Kind::Integer,
        "how many connections an address (of IPv6 the /64) may hold at a time; 1000, loopback and trusted proxies uncounted",
    ),
    key(
        "http3",
        Kind::Switch,
        "serves HTTP/3 on the addresses of `https` too (UDP), and says so in `Alt-Svc`; experimental",
    ),
    key(
        "proxy_protocol",
        Kind::Texts,
        "networks that send a PROXY header (version 1 or 2) before each connection; others may not",
    ),
];

/// `[secrets]`.
pub const SECRETS: &[Key] = &[
    key("file", Kind::Text, "dotenv file; `.env` if there is one"),
    key("dir", Kind::Text, "folder with a file for each secret"),
    key("age", Kind::Text, "dotenv file encrypted with age; may be committed"),
    key(
        "command",
        Kind::Command,
        "command that prints one value; `{name}` stands for the secret's name",
    ),
];

/// `[service.X]`.
pub const SERVICE: &[Key] = &[
    key("run", Kind::Command, "starts it"),
    key("static", Kind::Text, "serves the files of this folder"),
    key(
        "upstreams",
        Kind::Texts,
        "servers that somebody else runs: `http://host:port`, `h2c://host:port` (HTTP/2 without TLS), `unix:/path`",
    ),
    key(
        "proxy_protocol",
        Kind::Switch,
        "`upstreams`: each connection begins with a PROXY header (version 2) that tells the client's address",
    ),
    key("protocol", Kind::Text, "`h2c`: it speaks HTTP/2 without TLS, as gRPC does; HTTP/1.1"),
    key("dir", Kind::Text, "working folder; `.` by default"),
    key("build", Kind::Command, "run once per release"),
    key(
        "migrate",
        Kind::Any,
        "run once per release, before start, in the new code; or `{ up, down, status }`, where `down` takes it back and `status` prints which migrations the database has",
    ),
    key("shared", Kind::Texts, "paths that outlive releases"),
    key(
        "instances",
        Kind::Any,
        "how many run: a number, `\"cores\"`, or `{ min, max, cpu, memory, rps }`: as many as the load asks for; 1 by default",
    ),
    key("port", Kind::Integer, "the port it insists on; several run side by side all the same"),
    key(
        "socket",
        Kind::Any,
        "it listens on a Unix socket instead: `true`, or the file's name where the program insists on one; `$SOCKET` is the whole path, in a folder of each instance's own (`$RUNTIME_DIRECTORY`)",
    ),
    key(
        "ports",
        Kind::Map,
        "named ports and the variable of each; the first is the default (`{ http = \"PORT\" }`)",
    ),
    key(
        "health",
        Kind::Any,
        "path, or `{ ready = {…}, live = {…} }`; a TCP connection by default; of `upstreams` `ready` only, and only where it is given",
    ),
    key("after", Kind::Texts, "services that must be ready first"),
    key("env", Kind::Map, "environment; `\"secret:NAME\"` is the value of a secret"),
    key("secrets", Kind::Any, "secrets it gets: names, or `{ name, as = \"file\" }`"),
    key("user", Kind::Text, "system user instead of the site's own (as root)"),
    key("memory", Kind::Any, "limit, or `{ max, restart }`"),
    key("cpu", Kind::Number, "cores it may use"),
    key("nofile", Kind::Integer, "open files"),
    key("restart", Kind::Table(RESTART), "back-off and crash loop"),
    key("stop", Kind::Table(STOP), "how it is stopped"),
    key("logs", Kind::Table(LOGS), "how much is kept"),
    key("spa", Kind::Switch, "`static`: unknown paths get index.html"),
    key("cache_control", Kind::Map, "`static`: path pattern and `Cache-Control`"),
    planned("image"),
    planned("sandbox"),
];

/// `instances` as a table.
pub const AUTO: &[Key] = &[
    key("min", Kind::Integer, "never fewer; 1"),
    key("max", Kind::Integer, "never more"),
    key(
        "cpu",
        Kind::Text,
        "share of its cores (of one, without `cpu`) that an instance may use in the mean: `\"70%\"`",
    ),
    key(
        "memory",
        Kind::Text,
        "what an instance may use in the mean: a size, or a share of its limit (without one, of what the machine has for each of `max`)",
    ),
    key("rps", Kind::Integer, "requests a second for an instance in the mean"),
];

/// `migrate` as a table.
pub const MIGRATE: &[Key] = &[
    key("up", Kind::Command, "brings the database to this release's schema"),
    key("status", Kind::Command, "prints which migrations the database has"),
    key("down", Kind::Command, "takes back what `up` of this release did; a rollback runs it"),
];

/// `[job.X]`.
pub const JOB: &[Key] = &[
    key("at", Kind::Text, "each day at this time, `\"04:00\"`"),
    key("every", Kind::Duration, "so long after the last time"),
    key("cron", Kind::Text, "`\"*/5 * * * *\"`: minute, hour, day, month, weekday"),
    key("service", Kind::Text, "in whose environment, folder and user `run` runs"),
    key("run", Kind::Command, "commands, in order"),
    key("get", Kind::Text, "path or address of the site, asked for through the edge"),
    key("post", Kind::Text, "the same with POST"),
    key("bearer", Kind::Text, "`\"secret:NAME\"`, sent along with `get` or `post`"),
    key("timeout", Kind::Duration, "how long it may take; 1h"),
];

/// `restart`.
pub const RESTART: &[Key] = &[
    key("backoff_min", Kind::Duration, "first pause, doubles; 100ms"),
    key("backoff_max", Kind::Duration, "longest pause; 30s"),
    key("crashes", Kind::Integer, "so many ends …; 5"),
    key("within", Kind::Duration, "… within this time are a crash loop; 60s"),
];

/// `stop`.
pub const STOP: &[Key] = &[
    key("signal", Kind::Text, "signal to all of its processes; TERM"),
    key("grace", Kind::Duration, "time until KILL; 30s"),
];

/// `logs`.
pub const LOGS: &[Key] = &[
    key("max_size", Kind::Size, "a file is rotated at this size, and each day; 100M"),
    key("keep", Kind::Integer, "rotated files kept, compressed; 14"),
    key("days", Kind::Integer, "days after which they are removed"),
];

/// `health`.
pub const HEALTH: &[Key] = &[
    key("ready", Kind::Any, "path or probe: not ready means out of rotation"),
    key("live", Kind::Any, "path or probe: not live means restarted"),
    key("path", Kind::Text, "of both"),
];

/// `health.ready`, `health.live`.
pub const PROBE: &[Key] = &[
    key("path", Kind::Text, "GET this; no redirects are followed"),
    key("status", Kind::Any, "statuses that are healthy; 200 to 299"),
    key("json", Kind::Map, "values the JSON answer must hold, by dotted path"),
    key("headers", Kind::Map, "headers to send"),
    key("every", Kind::Duration, "interval; 10s"),
    key("timeout", Kind::Duration, "6s"),
    key("failures", Kind::Integer, "so many in a row; 3"),
    key("start", Kind::Duration, "time a new instance may take; 40s"),
];

/// `[[route]]`.
pub const ROUTE: &[Key] = &[
    key("paths", Kind::Texts, "exact, or with `*` (any characters, `/` too)"),
    key("hosts", Kind::Texts, "hosts it is for; all of the site's"),
    key("methods", Kind::Texts, "methods it is for; all"),
    key(
        "to",
        Kind::Text,
        "`\"service\"` or `\"service:port\"`; `\"@health\"`: how the site is; `\"@client-events\"`: what browsers tell is counted",
    ),
    key(
        "block",
        Kind::Any,
        "404, as if it were not there; `{ query = [\"name\"] }`: only with such a query field",
    ),
    key("redirect", Kind::Any, "place, or `{ to, status }`"),
    key("respond", Kind::Table(RESPOND), "a fixed answer"),
    key("priority", Kind::Integer, "higher wins over a more specific path; 0"),
    key("body_limit", Kind::Size, "largest request body; 10M, `false` for none"),
    key("timeout", Kind::Table(delivery::TIMEOUT), "times"),
    key("stream", Kind::Switch, "no idle cut, and no wait for the beginning of a body"),
    key("log", Kind::Any, "access log: true, false, `{ sample = \"10%\" }` (failures always)"),
    key("response_headers", Kind::Table(HEADERS), "changes to response headers"),
    key("request_headers", Kind::Table(HEADERS), "changes to request headers"),
    key("cache_control", Kind::Map, "path pattern and `Cache-Control`"),
    key(
        "limit",
        Kind::Texts,
        "requests above it get 429: `\"10/s burst 20 by ip\"` (by `ip`, `user`, `site`, `header:N`, `cookie:N`, `json:F`, `form:F`; without `burst` the rate's own count may come at once) or names of `[limit.X]`; all of a route and of wider ones must agree",
    ),
    key("lockout", Kind::Any, "who fails too often is kept out: a table or a list of them"),
    key(
        "csrf",
        Kind::Any,
        "requests that change something, carry cookies and come from another origin get 403; true, `false`, `{ allow = [\"https://…\"] }`",
    ),
    key("cors", Kind::Table(CORS), "which other origins' scripts may read answers; none"),
    key(
        "csp",
        Kind::Text,
        "`Content-Security-Policy`; `'nonce'` in it is a fresh one that is put on scripts and styles too",
    ),
    key("allow_from", Kind::Texts, "the only networks that may come in; others get 403"),
    key("deny_from", Kind::Texts, "networks that get 403"),
    key("auth", Kind::Table(AUTH), "who may come in with a password"),
    key("maintenance", Kind::Any, "503 for all but guests: true, or a table"),
    key("rewrite", Kind::Table(REWRITE), "the path that the service sees"),
    key("cookies", Kind::Table(COOKIES), "attributes that the application's cookies lack"),
    key(
        "compress",
        Kind::Any,
        "zstd, br or gzip for what the service answers: true, or a table; files always are",
    ),
    key("cache", Kind::Any, "answers are kept by RFC 9111: true, or a table"),
    key(
        "balance",
        Kind::Text,
        "which instance: `p2c` (of two random ones the faster and less busy), `least-conn`, `round-robin`, `hash:KEY` (`ip`, `user`, `header:N`, `cookie:N`); p2c",
    ),
    key("sticky", Kind::Text, "`cookie`: a visitor stays with an instance, by a signed cookie"),
    key(
        "passive",
        Kind::Table(delivery::PASSIVE),
        "when an instance that does not answer is left out",
    ),
    key(
        "retry",
        Kind::Table(delivery::RETRY),
        "of requests that may be sent twice; a fifth of all at most",
    ),
    key("breaker", Kind::Any, "when a service that fails is left alone: true, or a table"),
    key(
        "hold",
        Kind::Table(delivery::HOLD),
        "what waits while no instance is ready and one is starting",
    ),
];

/// `[health]`.
pub const AGGREGATE: &[Key] = &[key(
    "key",
    Kind::Table(HEALTH_KEY),
    "whose request has this header gets the details; without it nobody does",
)];

/// `health.key`.
pub const HEALTH_KEY: &[Key] = &[
    key("header", Kind::Text, "name of the header"),
    key("value", Kind::Text, "`secret:NAME`; the secret is the header's value"),
];

/// `[identity]`.
pub const IDENTITY: &[Key] =
    &[key("user", Kind::Texts, "`cookie:NAME`, `bearer`, `header:NAME`; the first that is there")];

/// `[limit.X]`.
pub const LIMIT: &[Key] = &[
    key("rate", Kind::Text, "`10/s`, `5/m`, `300/5m`"),
    key("burst", Kind::Integer, "how many above the rate at once; the rate's count less one"),
    key("by", Kind::Text, "for each of what; `ip`"),
    key(
        "store",
        Kind::Text,
        "`redis.X`: edges of several servers count together there; each server for itself",
    ),
];

/// `lockout`.
pub const LOCKOUT: &[Key] = &[
    key("failures", Kind::Integer, "so many; 5"),
    key("within", Kind::Duration, "in this time; 15m"),
    key("for", Kind::Duration, "lock for this long; 15m"),
    key("by", Kind::Texts, "each counted on its own: `ip`, `json:F`, `form:F`, …; `ip`"),
    key("match", Kind::Any, "how the application refuses: a table or a list; status 401 or 403"),
    key("store", Kind::Text, "`redis.X`: edges of several servers count together there"),
];

/// `lockout.match`.
pub const REFUSAL: &[Key] = &[
    key("status", Kind::Any, "statuses"),
    key("location", Kind::Text, "text within `Location`"),
    key("body", Kind::Text, "text within the body; each time it stands there counts"),
];

/// `cors`.
pub const CORS: &[Key] = &[
    key("origins", Kind::Texts, "`https://app.example.com`, or `*`"),
    key("methods", Kind::Texts, "beyond GET, HEAD, POST"),
    key("headers", Kind::Texts, "request headers"),
    key("expose", Kind::Texts, "response headers that scripts may read"),
    key("credentials", Kind::Switch, "with cookies; false"),
    key("max_age", Kind::Duration, "how long a preflight is remembered; 10m"),
];

/// `csrf`.
pub const CSRF: &[Key] = &[key("allow", Kind::Texts, "other origins that may")];

/// `auth`.
pub const AUTH: &[Key] =
    &[key("basic", Kind::Text, "`secret:NAME`; the secret: one `user:password` a line")];

/// `maintenance`.
pub const MAINTENANCE: &[Key] = &[
    key("body", Kind::Text, "what is said, text or HTML"),
    key("retry_after", Kind::Duration, "5m"),
    key("allow_from", Kind::Texts, "networks that are served all the same"),
];

/// `rewrite`.
pub const REWRITE: &[Key] = &[
    key("strip", Kind::Text, "taken from the beginning of the path"),
    key("prefix", Kind::Text, "put before the path"),
];

/// `block`.
pub const BLOCK: &[Key] = &[key("query", Kind::Texts, "names of query fields")];

/// `cookies`.
pub const COOKIES: &[Key] = &[
    key("secure", Kind::Switch, "`Secure`, over HTTPS"),
    key("http_only", Kind::Switch, "`HttpOnly`"),
    key("same_site", Kind::Text, "`strict`, `lax`, `none`"),
];

/// `compress`.
pub const COMPRESS: &[Key] = &[
    key("min", Kind::Size, "smaller answers are left alone; 1K"),
    key("types", Kind::Texts, "media types; texts, JSON, JavaScript, XML, SVG, WebAssembly, fonts"),
];

/// `cache`.
pub const CACHE: &[Key] = &[
    key("ttl", Kind::Duration, "for answers that say nothing of their freshness"),
    key("stale_while_revalidate", Kind::Duration, "where the answer does not say"),
    key("stale_if_error", Kind::Duration, "where the answer does not say"),
    key("max_object", Kind::Size, "larger ones are not kept; 4M"),
];

/// `log`.
pub const LOG: &[Key] = &[key("sample", Kind::Text, "such as `10%`")];

/// `respond`.
pub const RESPOND: &[Key] = &[
    key("status", Kind::Integer, "200"),
    key("body", Kind::Text, "empty"),
    key("content_type", Kind::Text, "text/plain; charset=utf-8"),
];

/// `response_headers`, `request_headers`.
pub const HEADERS: &[Key] = &[
    key("set", Kind::Map, "replaces what is there"),
    key("add", Kind::Map, "beside what is there"),
    key("remove", Kind::Texts, "removed"),
    key("mode", Kind::Text, "`missing`: `set` only where the application sent none"),
];
