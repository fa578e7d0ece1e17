//! Keys of how a route's requests reach the instances of its service.

use super::{Key, Kind, key};

/// `passive`.
pub const PASSIVE: &[Key] = &[
    key("failures", Kind::Integer, "so many answers that did not come; 3"),
    key("within", Kind::Duration, "in this time; 10s"),
    key("for", Kind::Duration, "left out for so long; 30s"),
];

/// `retry` of a route.
pub const RETRY: &[Key] = &[key("times", Kind::Integer, "after the first time; 2")];

/// `breaker`.
pub const BREAKER: &[Key] = &[
    key("errors", Kind::Text, "share of 5xx and answers that did not come; 50%"),
    key("over", Kind::Duration, "in this time; 10s"),
    key("min_requests", Kind::Integer, "of so many answers at least; 20"),
    key("open", Kind::Duration, "nothing is sent for so long; 30s"),
];

/// `hold`.
pub const HOLD: &[Key] = &[
    key("requests", Kind::Integer, "so many at once; 1000"),
    key("bytes", Kind::Size, "so large together; 64M"),
    key("for", Kind::Duration, "each for so long; 30s"),
];

/// `timeout`.
pub const TIMEOUT: &[Key] = &[
    key("connect", Kind::Duration, "5s"),
    key("response", Kind::Duration, "until the head of the response; 60s"),
    key("idle", Kind::Duration, "between two pieces of a body; 60s"),
    key("send", Kind::Duration, "for the service to take a piece of the request; as `idle`"),
    key("total", Kind::Duration, "for the request and its whole answer; none"),
];
