//! Listener, TLS, HTTP, routing, upstreams.

pub mod model;
