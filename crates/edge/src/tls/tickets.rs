//! Tickets: what a client keeps of a session and comes back with (RFC 5077; RFC 8446 § 4.6.1).
//!
//! Why our own: rustls' tickets are sealed with keys that nobody else has, so that every client shakes hands in full
//! again, all at once, when an edge was replaced or died. These are sealed with keys made of secrets in the table that
//! all edges of a platform share (docs/decisions/044, 060). Invariants: the keys never leave memory and change every six
//! hours, none is there before its time, and with the one before last goes all that it sealed, also where nobody comes
//! any more ([`Tickets::forget`]); each purpose has keys of its own, so that a ticket opens only where the same was
//! demanded when it was given out. Not here: what stands in a ticket, and for how long it counts, which is rustls'
//! business.

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

/// The keys of a span and of the one before, if anybody sealed with that.
struct Keys {
    span: u64,
    now: RandomizedNonceKey,
    before: Option<RandomizedNonceKey>,
}

impl Keys {
    fn of(&self, span: u64) -> Option<&RandomizedNonceKey> {
        match self.span.checked_sub(span)? {
            0 => Some(&self.now),
            1 => self.before.as_ref(),
            _ => None,
        }
    }
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

    fn key(&self, secret: Option<Secret>) -> Option<RandomizedNonceKey> {
        key(&secret?, &self.purpose).ok()
    }

    fn keys(&self, span: u64) -> Option<Keys> {
        let secrets = self.table.secrets()?;
        secrets.forget(span);
        let now = self.key(secrets.draw(span))?;
        let before = self.key(span.checked_sub(1).and_then(|before| secrets.read(before)));
        Some(Keys { span, now, before })
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
        let mut sealed = sealed.to_vec();
        let length = self.with(span, |keys| {
            // The last is of an edge whose clock is ahead of ours.
            let named = [span, span.saturating_sub(1), span + 1];
            let named = named.into_iter().find(|span| name(*span) == *of)?;
            let later;
            let key = if let Some(key) = keys.of(named) {
                key
            } else {
                later = self.key(self.table.secrets()?.read(named))?;
                &later
            };
            let opened = key.open_in_place(Nonce::from(nonce), Aad::from(of), &mut sealed);
            Some(opened.ok()?.len())
        })?;
        sealed.truncate(length);
        Some(sealed)
    }

    /// Forgets keys of another span: where nobody shakes hands any more they would lie here for ever.
    pub(super) fn forget(&self, span: u64) {
        let mut known = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        drop(known.take_if(|keys| keys.span != span));
    }
}

/// The span that it is.
pub(super) fn span() -> u64 {
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
mod tests;
