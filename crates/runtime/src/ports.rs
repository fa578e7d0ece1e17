//! Free ports for programs that are told theirs.
//!
//! From a range below the kernel's ephemeral ports, so that no outgoing connection takes one; checked by
//! binding. Another program may still be faster: the shim notices (its program ends, a stranger listens)
//! and asks again.

use std::net::{Ipv4Addr, TcpListener};

use rand::Rng;

/// All instances of all platforms on this host listen in here.
pub(crate) const RANGE: std::ops::Range<u16> = 20_000..30_000;

/// A port on which nobody listens now.
pub(crate) fn free_port() -> Option<u16> {
    let mut random = rand::rng();
    (0..500).map(|_| random.random_range(RANGE)).find(|port| {
        TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()
            && TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok()
    })
}
