//! ClientHellos that ask for a server name that is none, such as `host:port`.
//!
//! Why: rustls 0.23 ends such a handshake before anybody is asked; others serve it as if no name had been sent
//! (docs/decisions/043). So the extension that holds the name (RFC 6066 § 3) is given a number that nobody knows
//! and everybody has to ignore (RFC 8701), in place, before rustls reads it; what both sides hash is still what the
//! client sent ([`super::transcript`]). Invariants: only the two bytes of that number differ; a hello that rustls
//! would take is not touched; two names, two extensions with names, or what does not end where it says stay as they
//! are, and are refused. Not here: how a hello comes in ([`super::opening`] over TCP, [`super::quic`]).

use std::ops::Range;

use rustls_pki_types::ServerName;

/// The type of the message (RFC 8446 § 4), of the extension (RFC 6066 § 1.1), of the name (§ 3).
pub(super) const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: usize = 0;
const HOST_NAME: usize = 0;
/// A message's type and length, in bytes.
pub(super) const HEADER: usize = 4;

/// How long a handshake message is with its header, in bytes, once that is there.
pub(super) fn length(message: &[u8]) -> Option<usize> {
    let [_, length @ ..] = message.first_chunk::<HEADER>()?;
    Some(HEADER + u32::from_be_bytes([0, length[0], length[1], length[2]]) as usize)
}

/// A hello whose server name was taken out of sight.
#[derive(Debug)]
pub(super) struct Misnamed {
    /// The message as rustls reads it.
    read: Box<[u8]>,
    /// Where the number stands that was changed.
    at: usize,
    /// What the extension holds.
    holds: Range<usize>,
}

impl Misnamed {
    /// Takes the name of a whole ClientHello out of sight if it is none. `before`: the client's first hello, which a
    /// second one has to repeat (RFC 8446 § 4.1.2).
    pub(super) fn hide(hello: &mut [u8], before: Option<&Self>) -> Option<Self> {
        let Found { at, holds, free } = find(hello)?;
        let repeats =
            |first: &Self| first.read.get(first.holds.clone()) == hello.get(holds.clone());
        if !before.is_none_or(repeats) {
            return None;
        }
        hello.get_mut(at..at + 2)?.copy_from_slice(&free);
        Some(Self { read: (&*hello).into(), at, holds })
    }

    /// What the client sent where rustls hashes this hello, or the first part of it (RFC 8446 § 4.2.11.2); nothing
    /// where it hashes something else.
    pub(super) fn sent<'a>(&self, hashed: &'a [u8]) -> Option<[&'a [u8]; 3]> {
        if !self.read.starts_with(hashed) {
            return None;
        }
        let (before, rest) = hashed.split_at_checked(self.at)?;
        let (_, after) = rest.split_at_checked(2)?;
        Some([before, &[0, 0], after])
    }
}

#[cfg(test)]
impl Misnamed {
    /// The message as rustls reads and hashes it.
    pub(crate) fn hashed(&self) -> &[u8] {
        &self.read
    }
}

/// What has been read of a message, and what is left.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..)?.get(..count)?;
        self.at += count;
        Some(taken)
    }

    fn number(&mut self, width: usize) -> Option<usize> {
        Some(self.take(width)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// Bytes after their count (RFC 8446 § 3.4).
    fn counted(&mut self, width: usize) -> Option<&'a [u8]> {
        let count = self.number(width)?;
        self.take(count)
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }
}

/// Where a name stands that is none.
struct Found {
    at: usize,
    holds: Range<usize>,
    /// A number that no extension of the hello has.
    free: [u8; 2],
}

/// The numbers that nobody may know: 0x0A0A, 0x1A1A and so on (RFC 8701 § 2); which of the sixteen.
fn ignored(kind: usize) -> Option<usize> {
    let nth = kind >> 12;
    (kind == 0x0a0a + nth * 0x1010).then_some(nth)
}

fn find(hello: &[u8]) -> Option<Found> {
    let mut cursor = Cursor { bytes: hello, at: 0 };
    if cursor.number(1)? != usize::from(CLIENT_HELLO) || cursor.number(3)? != cursor.left() {
        return None;
    }
    // The version and the client's random bytes; the session, the suites, the compressions (RFC 8446 § 4.1.2).
    cursor.take(2 + 32)?;
    for width in [1, 2, 1] {
        cursor.counted(width)?;
    }
    if cursor.number(2)? != cursor.left() {
        return None;
    }
    let (mut found, mut taken) = (None, 0_u16);
    while cursor.left() > 0 {
        let at = cursor.at;
        let kind = cursor.number(2)?;
        let holds = cursor.counted(2)?;
        if kind == SERVER_NAME {
            if found.is_some() || !is_misnamed(holds) {
                return None;
            }
            found = Some((at, cursor.at - holds.len()..cursor.at));
        }
        taken |= ignored(kind).map_or(0, |nth| 1 << nth);
    }
    let (at, holds) = found?;
    let free = (0..16_u16).find(|nth| taken & 1 << nth == 0)?;
    Some(Found { at, holds, free: (0x0a0a + free * 0x1010).to_be_bytes() })
}

/// Whether an extension holds one host name that is none, nor an address: what rustls would refuse.
fn is_misnamed(holds: &[u8]) -> bool {
    let mut cursor = Cursor { bytes: holds, at: 0 };
    let mut name = || {
        if cursor.number(2)? != cursor.left() || cursor.number(1)? != HOST_NAME {
            return None;
        }
        cursor.counted(2).filter(|name| cursor.left() == 0 && !name.is_empty())
    };
    name().is_some_and(|name| ServerName::try_from(name).is_err())
}

#[cfg(test)]
pub(crate) mod liar;
#[cfg(test)]
pub(crate) mod tests;
