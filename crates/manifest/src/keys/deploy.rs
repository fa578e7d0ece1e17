//! The keys of `[deploy]`.

use super::{Key, Kind, key};

/// `[deploy]`.
pub const DEPLOY: &[Key] = &[
    key(
        "strategy",
        Kind::Text,
        "`rolling`, `blue-green`, `canary` or `recreate` (for exclusive state: requests wait); rolling",
    ),
    key(
        "checks",
        Kind::Command,
        "the project's own checks, run in the new code before anything else",
    ),
    key(
        "smoke",
        Kind::Tables(SMOKE),
        "requests that the new release must answer before anybody is sent to it",
    ),
    key("timeout", Kind::Duration, "time for the new instances to become ready and pass; 5m"),
    key(
        "build_timeout",
        Kind::Duration,
        "time for each command that checks, builds or migrates; 30m",
    ),
    key(
        "build_memory",
        Kind::Size,
        "memory that these commands may use together; none, but the kernel ends them before what serves",
    ),
    key("build_cpu", Kind::Number, "cores that they may use"),
    key(
        "sockets",
        Kind::Duration,
        "how long WebSockets and event streams may go on with instances that were replaced: spread over that time they end with 1001 or `retry:`; 30s",
    ),
    key(
        "watch",
        Kind::Table(WATCH),
        "comparison with the old release after the switch; taken back by itself",
    ),
    key("keep", Kind::Integer, "releases kept besides the one in use; 5"),
    key("pause", Kind::Switch, "wait for `promote` or `abort` before the switch"),
    key("canary", Kind::Table(CANARY), "shares of the visitors"),
];

/// `deploy.smoke`.
pub const SMOKE: &[Key] = &[
    key("get", Kind::Text, "path, through the real listener"),
    key("host", Kind::Text, "one of the site's hosts; the first"),
    key("status", Kind::Any, "statuses that are good; 200 to 299"),
    key("headers", Kind::Map, "headers to send"),
    key("body", Kind::Text, "text that must stand in the answer"),
];

/// `deploy.watch`.
pub const WATCH: &[Key] = &[
    key("for", Kind::Duration, "how long; 30s, `watch = false` for not at all"),
    key("errors", Kind::Text, "points more errors than before that are a breach; `\"10%\"`"),
    key("p95", Kind::Duration, "a breach above this; otherwise twice the time of before"),
    key("logs", Kind::Switch, "whether more error lines in the logs are a breach; true"),
];

/// `deploy.canary`.
pub const CANARY: &[Key] = &[
    key("steps", Kind::Texts, "shares, growing; `[\"5%\", \"25%\", \"50%\"]`"),
    key("for", Kind::Duration, "how long each is watched; 60s"),
];
