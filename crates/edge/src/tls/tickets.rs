//! Tickets: what a client keeps of a session and comes back with (RFC 5077; RFC 8446 § 4.6.1).
//!
//! Why our own: rustls' tickets are sealed with keys that nobody else has, so that every client shakes hands in full
//! again, all at once, when an edge was replaced or died. These are sealed with keys made of secrets in the table that
//! all edges of a platform share (docs/decisions/044). Invariants: the keys never leave memory and change every six
//! hours, and with the one before last goes all that it sealed; each purpose has keys of its own, so that a ticket
//! opens only where the same was demanded when it was given out. Not here: what stands in a ticket, and for how long
//! it counts, which is rustls' business.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk};
use rustls::server::ProducesTickets;
use rustls_pki_types::UnixTime;

use crate::table::{SPAN, Secret, Table};

/// A ticket begins with its span, in bytes.
const NAME: usize = 4;

/// Seals and opens tickets of one purpose.
pub(super) struct Tickets {
    table: Arc<Table>,
    purpose: Vec<u8>,
    keys: RwLock<Option<Keys>>,
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets")
    }
}

/// The keys of a span and of the one before.
struct Keys {
    span: u64,
    now: RandomizedNonceKey,
    before: RandomizedNonceKey,
}

fn key(secret: &Secret, purpose: &[u8]) -> Result<RandomizedNonceKey, Unspecified> {
    let mut key = Secret::default();
    let info = [&b"seaworthy tickets "[..], purpose];
    Prk::new_less_safe(HKDF_SHA256, secret).expand(&info, HKDF_SHA256)?.fill(&mut key)?;
    RandomizedNonceKey::new(&AES_256_GCM, &key)
}

/// How a ticket of a span begins.
fn name(span: u64) -> [u8; NAME] {
    (span as u32).to_be_bytes()
}

impl Tickets {
    /// For connections on which the same is demanded, also by another process that has the table.
    pub(super) fn new(table: Arc<Table>, purpose: Vec<u8>) -> Arc<Self> {
        Arc::new(Self { table, purpose, keys: RwLock::default() })
    }

    fn keys(&self, span: u64) -> Option<Keys> {
        let [now, before] = self.table.secrets(span)?;
        let keys = Keys {
            span,
            now: key(&now, &self.purpose).ok()?,
            before: key(&before, &self.purpose).ok()?,
        };
        Some(keys)
    }

    fn with<T>(&self, span: u64, act: impl FnOnce(&Keys) -> Option<T>) -> Option<T> {
        let known = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(keys) = known.as_ref().filter(|keys| keys.span == span) {
            return act(keys);
        }
        drop(known);
        let mut known = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().is_none_or(|keys| keys.span != span) {
            *known = self.keys(span);
        }
        act(known.as_ref()?)
    }

    fn seal(&self, span: u64, session: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = session.to_vec();
        let name = name(span);
        let nonce = self.with(span, |keys| {
            keys.now.seal_in_place_append_tag(Aad::from(name), &mut sealed).ok()
        })?;
        Some([&name[..], nonce.as_ref(), &sealed].concat())
    }

    fn open(&self, span: u64, ticket: &[u8]) -> Option<Vec<u8>> {
        let (of, rest) = ticket.split_first_chunk::<NAME>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let (mut sealed, nonce) = (sealed.to_vec(), Nonce::from(nonce));
        let length = self.with(span, |keys| {
            let key = match *of {
                of if of == name(span) => &keys.now,
                of if of == name(span.saturating_sub(1)) => &keys.before,
                _ => return None,
            };
            Some(key.open_in_place(nonce, Aad::from(of), &mut sealed).ok()?.len())
        })?;
        sealed.truncate(length);
        Some(sealed)
    }
}

fn span() -> u64 {
    UnixTime::now().as_secs() / SPAN
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    /// In seconds; those of the end of a span are opened for a little more than half of it.
    fn lifetime(&self) -> u32 {
        2 * SPAN as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(span(), plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(span(), cipher)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets(table: &Arc<Table>, purpose: &[u8]) -> Arc<Tickets> {
        Tickets::new(Arc::clone(table), purpose.to_vec())
    }

    #[test]
    fn a_ticket_is_opened_by_whoever_has_the_table_for_the_same_purpose_and_for_two_spans() {
        let fd = crate::table::create().unwrap();
        let (old, new) = (Arc::new(Table::default()), Arc::new(Table::default()));
        old.take(fd.try_clone().unwrap()).unwrap();
        let sealed = tickets(&old, b"a").seal(100, b"session").unwrap();
        assert!(!sealed.windows(7).any(|part| part == b"session"));
        assert_ne!(tickets(&old, b"a").seal(100, b"session").unwrap(), sealed);
        // The edge dies; the next one is handed the table.
        drop(old);
        new.take(fd).unwrap();
        let next = tickets(&new, b"a");
        assert_eq!(next.open(100, &sealed).as_deref(), Some(&b"session"[..]));
        assert_eq!(tickets(&new, b"b").open(100, &sealed), None, "another purpose");
        assert_eq!(next.open(101, &sealed).as_deref(), Some(&b"session"[..]));
        assert_eq!(next.open(102, &sealed), None, "too late");
        assert_eq!(tickets(&new, b"a").open(100, &sealed), None, "its secret is gone");
        let alone = Arc::new(Table::default());
        let other = tickets(&alone, b"a");
        assert_eq!(other.open(100, &sealed), None, "another table");
        let own = other.seal(100, b"").unwrap();
        assert_eq!(other.open(100, &own).as_deref(), Some(&b""[..]));
    }

    #[test]
    fn a_ticket_that_was_changed_is_none() {
        let table = Arc::new(Table::default());
        let tickets = tickets(&table, b"a");
        let sealed = tickets.seal(100, b"session").unwrap();
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(tickets.open(100, &changed), None, "byte {at}");
            assert_eq!(tickets.open(100, &sealed[..at]), None, "cut off at {at}");
        }
        assert!(tickets.open(100, &sealed).is_some());
    }
}
