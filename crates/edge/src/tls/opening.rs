//! What a client says first over TCP, before rustls reads it.
//!
//! Why: a hello that asks for a server name that is none is to be changed before it is read ([`Misnamed`]), and so
//! has to be seen whole. Nearly every hello comes in one piece: it is looked at where rustls will read it. Others
//! are kept here until they are whole; so the order of bytes is never changed, and what lies here is at most
//! [`LONGEST`] bytes, the headers of [`MOST`] records and what one read brought besides. Invariants: what is no
//! hello, is longer, or comes in more records passes as it is; a second hello (RFC 8446 § 4.1.4) is looked for only
//! where the first was changed. Not here: the records that follow.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

use super::misnamed::{CLIENT_HELLO, HEADER, LONGEST, Misnamed, length};

/// Types of records (RFC 8446 § 5.1), and the bytes before what they hold.
const CHANGE_CIPHER_SPEC: u8 = 20;
const HANDSHAKE: u8 = 22;
const RECORD: usize = 5;
/// The records that a hello may come in. One, from nearly everybody.
const MOST: usize = 4;

/// A client's first words.
#[derive(Debug)]
pub(super) struct Opening {
    /// Whether what comes next may be a hello.
    looks: bool,
    /// What came of it, until it is whole; then what rustls has not read yet.
    held: Vec<u8>,
    misnamed: Option<Arc<Misnamed>>,
}

impl Opening {
    pub(super) fn new() -> Self {
        Self { looks: true, held: Vec::new(), misnamed: None }
    }

    /// The hello that was read last, if it was changed.
    pub(super) fn misnamed(&self) -> Option<&Arc<Misnamed>> {
        self.misnamed.as_ref()
    }

    /// The first hello was read; another may follow it.
    pub(super) fn may_come_again(&mut self) {
        self.looks = self.misnamed.is_some() && self.held.is_empty();
    }

    /// Whether there is more to read than the socket has.
    pub(super) fn holds(&self) -> bool {
        !self.looks && !self.held.is_empty()
    }

    /// A socket as rustls is to read it.
    pub(super) fn of<'a, R>(&'a mut self, socket: &'a mut R) -> Heard<'a, R> {
        Heard { opening: self, socket }
    }

    /// Changes what is to be changed; afterwards it is either clear what this is, or more has to come.
    fn look(&mut self, bytes: &mut [u8]) {
        let pieces = match pieces(bytes) {
            Found::Part => return,
            Found::Other => Pieces::default(),
            Found::Whole(pieces) => pieces,
        };
        self.looks = false;
        self.misnamed = pieces.hide(bytes, self.misnamed.as_deref()).map(Arc::new);
    }
}

/// A socket whose first bytes are looked at.
#[derive(Debug)]
pub(super) struct Heard<'a, R> {
    opening: &'a mut Opening,
    socket: &'a mut R,
}

impl<R: Read> Read for Heard<'_, R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let opening = &mut *self.opening;
        while opening.looks {
            let read = self.socket.read(bytes)?;
            if opening.held.is_empty() {
                opening.look(&mut bytes[..read]);
                if !opening.looks {
                    return Ok(read);
                }
                opening.held.extend_from_slice(&bytes[..read]);
            } else {
                let mut held = std::mem::take(&mut opening.held);
                held.extend_from_slice(&bytes[..read]);
                opening.look(&mut held);
                opening.held = held;
            }
            // At the end rustls may say what it thinks of half a hello.
            opening.looks &= read > 0;
        }
        if opening.held.is_empty() {
            return self.socket.read(bytes);
        }
        let read = opening.held.len().min(bytes.len());
        bytes[..read].copy_from_slice(&opening.held[..read]);
        opening.held.drain(..read);
        if opening.held.is_empty() {
            opening.held = Vec::new();
        }
        Ok(read)
    }
}

/// Where a hello lies in its records.
#[derive(Debug, Default)]
struct Pieces {
    ranges: [Range<usize>; MOST],
    count: usize,
}

impl Pieces {
    fn hide(&self, bytes: &mut [u8], before: Option<&Misnamed>) -> Option<Misnamed> {
        let ranges = self.ranges.get(..self.count)?;
        if let [only] = ranges {
            return Misnamed::hide(bytes.get_mut(only.clone())?, before);
        }
        let mut hello: Vec<u8> =
            ranges.iter().flat_map(|range| &bytes[range.clone()]).copied().collect();
        let misnamed = Misnamed::hide(&mut hello, before)?;
        let mut rest = hello.as_slice();
        for range in ranges {
            let (piece, after) = rest.split_at(range.len());
            bytes[range.clone()].copy_from_slice(piece);
            rest = after;
        }
        Some(misnamed)
    }
}

/// What records begin with.
#[derive(Debug)]
enum Found {
    /// Perhaps a hello: more has to come.
    Part,
    /// No hello, or one that is not looked into.
    Other,
    Whole(Pieces),
}

fn pieces(bytes: &[u8]) -> Found {
    let (mut at, mut missing, mut pieces) = (0, None, Pieces::default());
    loop {
        let Some(&kind) = bytes.get(at) else { return Found::Part };
        if kind == CHANGE_CIPHER_SPEC && at == 0 {
            // A byte that means nothing may stand before a second hello (RFC 8446 § D.4).
            at = RECORD + 1;
            continue;
        }
        let Some(piece) = pieces.ranges.get_mut(pieces.count) else { return Found::Other };
        if kind != HANDSHAKE {
            return Found::Other;
        }
        let Some(&[.., high, low]) = bytes.get(at..at + RECORD) else { return Found::Part };
        let (start, size) = (at + RECORD, usize::from(u16::from_be_bytes([high, low])));
        let left = match missing {
            Some(left) => left,
            None if size < HEADER => return Found::Other,
            None => {
                let Some(header) = bytes.get(start..start + HEADER) else { return Found::Part };
                match length(header) {
                    Some(whole) if header[0] == CLIENT_HELLO && whole <= LONGEST => whole,
                    _ => return Found::Other,
                }
            }
        };
        *piece = start..start + size.min(left);
        pieces.count += 1;
        if size >= left {
            let is_whole = bytes.len() >= piece.end;
            return if is_whole { Found::Whole(pieces) } else { Found::Part };
        }
        missing = Some(left - size);
        at = start + size;
    }
}

#[cfg(test)]
pub(crate) mod tests;
