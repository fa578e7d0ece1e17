//! How many connections one address may hold at a time.
//!
//! Why: each open connection costs memory and a descriptor, and slow clients hold thousands without ever
//! asking for much. Of IPv6 the /64 counts. Invariants: a seat is given back however its connection ends;
//! proxies that are believed are many clients and are not counted; nor is loopback, unless a number is
//! asked for. Not here: how fast an address may ask ([`crate::policy::limit`]).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::policy::keys::network;

/// What an address gets where nobody says otherwise: an office behind one address has fewer, a browser six.
const USUAL: u32 = 1000;

/// Who holds how many.
#[derive(Debug, Default)]
pub(crate) struct Seats {
    taken: Mutex<HashMap<[u8; 16], u32>>,
}

/// One connection's, until it is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    seats: Arc<Seats>,
    key: [u8; 16],
}

impl Seats {
    fn taken(&self) -> MutexGuard<'_, HashMap<[u8; 16], u32>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A seat for one more connection of an address; none where it holds all it may. `most`: what the
    /// manifests say.
    pub(crate) fn take(self: &Arc<Self>, ip: IpAddr, most: Option<u32>) -> Option<Seat> {
        let usual = if ip.to_canonical().is_loopback() { u32::MAX } else { USUAL };
        let key = network(ip);
        let mut taken = self.taken();
        let count = taken.entry(key).or_default();
        if *count >= most.unwrap_or(usual) {
            return None;
        }
        *count += 1;
        drop(taken);
        Some(Seat { seats: Arc::clone(self), key })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken();
        if let Some(count) = taken.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_holds_so_many_and_no_more_until_it_lets_go() {
        let seats = Arc::new(Seats::default());
        let take = |ip: &str, most| seats.take(ip.parse().unwrap(), most);
        let held: Vec<_> = (0..3).filter_map(|_| take("192.0.2.1", Some(2))).collect();
        assert_eq!(held.len(), 2);
        assert!(take("192.0.2.2", Some(2)).is_some());
        drop(held);
        assert!(take("::ffff:192.0.2.1", Some(2)).is_some());
        // A /64 is one client.
        let first = take("2001:db8::1", Some(1));
        assert!(first.is_some() && take("2001:db8::2", Some(1)).is_none());
        drop(first);
        let many: Vec<_> = (0..1500).filter_map(|_| take("192.0.2.9", None)).collect();
        let own: Vec<_> = (0..1500).filter_map(|_| take("127.0.0.1", None)).collect();
        assert_eq!((many.len(), own.len()), (1000, 1500));
        drop((many, own));
        assert!(seats.taken().is_empty());
    }
}
