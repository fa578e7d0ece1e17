//! Keys of the ways on which the application calls others.

use super::{Key, Kind, key};

/// `[outgoing.X]`.
pub const OUTGOING: &[Key] = &[
    key(
        "to",
        Kind::Text,
        "`https://api.example.com`, perhaps with a path; the application finds its way there in `$OUTGOING_X`, an address on loopback",
    ),
    key("concurrency", Kind::Integer, "so many calls at once, others wait; no bound"),
    key(
        "rate",
        Kind::Text,
        "`10/s`, `300/5m`: no stretch of that time sees more calls begin, others wait; no bound",
    ),
    key("breaker", Kind::Any, "when the other side is left alone: true, or a table; never"),
    key(
        "retry",
        Kind::Table(RETRY),
        "of calls without a body whose method may be repeated (GET, HEAD, OPTIONS, PUT, DELETE); `false` for none",
    ),
    key("hold", Kind::Table(HOLD), "what waits for its turn; further calls get 503 at once"),
    key("timeout", Kind::Table(TIMEOUT), "times"),
    key(
        "ca",
        Kind::Text,
        "file with the authorities (PEM) that may vouch for the other side; those of the system",
    ),
];

/// `retry` of a way out.
pub const RETRY: &[Key] = &[
    key("times", Kind::Integer, "after the first time; 2"),
    key(
        "for",
        Kind::Any,
        "statuses after which a call is made again, when `Retry-After` says, else soon; `[429, 503]`",
    ),
];

/// `hold` of a way out.
pub const HOLD: &[Key] = &[
    key("calls", Kind::Integer, "so many; 1000"),
    key("for", Kind::Duration, "each for so long; 30s"),
];

/// `timeout` of a way out.
pub const TIMEOUT: &[Key] = &[
    key("connect", Kind::Duration, "with the handshake; 5s"),
    key("response", Kind::Duration, "until the head of the answer; 60s"),
    key("idle", Kind::Duration, "between two pieces of a body; 60s"),
    key("total", Kind::Duration, "for a call, its waiting and its whole answer; none"),
];
