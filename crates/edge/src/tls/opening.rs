//! What a client says first over TCP, before rustls reads it.
//!
//! Why: a hello that asks for a server name that is none is to be changed before it is read ([`Misnamed`]), and so
//! has to be seen whole. Nearly every hello comes in one piece: it is looked at where rustls will read it. Others
//! are kept here until they are whole, in however many records they come; so the order of bytes is never changed, and
//! what lies here is at most [`MOST`] bytes and what one read brought besides: what rustls would keep of a hello itself.
//! Invariants: what is no hello or is longer passes as it is; each byte is walked over once, however few come at a time;
//! a second hello (RFC 8446 § 4.1.4) is looked for only where the first was changed. Not here: the records that follow,
//! and how long a client may take ([`crate::conn`]).

use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

use super::misnamed::{CLIENT_HELLO, HEADER, Misnamed, length};

/// Types of records (RFC 8446 § 5.1), and the bytes before what they hold.
const CHANGE_CIPHER_SPEC: u8 = 20;
const HANDSHAKE: u8 = 22;
const RECORD: usize = 5;
/// The longest hello that rustls takes, in bytes, with the headers of all its records.
const MOST: usize = 0xffff;

/// A client's first words.
#[derive(Debug)]
pub(super) struct Opening {
    /// Whether what comes next may be a hello.
    looks: bool,
    /// What came of it, until it is whole; then what rustls has not read yet.
    held: Vec<u8>,
    walk: Walk,
    misnamed: Option<Arc<Misnamed>>,
}

impl Opening {
    pub(super) fn new() -> Self {
        Self { looks: true, held: Vec::new(), walk: Walk::default(), misnamed: None }
    }

    /// The hello that was read last, if it was changed.
    pub(super) fn misnamed(&self) -> Option<&Arc<Misnamed>> {
        self.misnamed.as_ref()
    }

    /// The first hello was read; another may follow it.
    pub(super) fn may_come_again(&mut self) {
        self.looks = self.misnamed.is_some() && self.held.is_empty();
        self.walk = Walk::default();
    }

    /// Whether there is more to read than the socket has.
    pub(super) fn holds(&self) -> bool {
        !self.looks && !self.held.is_empty()
    }

    /// A socket as rustls is to read it.
    pub(super) fn of<'a, R>(&'a mut self, socket: &'a mut R) -> Heard<'a, R> {
        Heard { opening: self, socket }
    }

    /// Changes what is to be changed; afterwards it is either clear what this is, or more has to come. `bytes`: all that
    /// came so far.
    fn look(&mut self, bytes: &mut [u8]) {
        let found = self.walk.on(bytes);
        if found == Found::Part {
            return;
        }
        self.looks = false;
        let before = self.misnamed.take();
        if let Found::Whole(end) = found
            && let Some(records) = bytes.get_mut(..end)
        {
            self.misnamed = hide(records, before.as_deref()).map(Arc::new);
        }
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
                // By a quarter: twice as much each time would be much of nothing for thousands who are slow.
                if held.capacity() - held.len() < read {
                    held.reserve_exact(read.max(held.len() / 4));
                }
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

/// What records begin with.
#[derive(Debug, PartialEq)]
enum Found {
    /// Perhaps a hello: more has to come.
    Part,
    /// No hello, or one that is not looked into.
    Other,
    /// A hello, which ends there.
    Whole(usize),
}

/// How far the records of a hello were walked through.
#[derive(Debug, Default)]
struct Walk {
    /// Where the next record begins.
    at: usize,
    /// The bytes of the message in the records before it, and the first of them.
    passed: usize,
    header: [u8; HEADER],
}

impl Walk {
    /// Goes on with all that came so far, to the end of the last whole record.
    fn on(&mut self, bytes: &[u8]) -> Found {
        loop {
            let Some(&kind) = bytes.get(self.at) else { return Found::Part };
            let may_be_idle = kind == CHANGE_CIPHER_SPEC && self.at == 0;
            if kind != HANDSHAKE && !may_be_idle {
                return Found::Other;
            }
            let Some(range) = record(bytes, self.at) else { return Found::Part };
            if may_be_idle && range.len() == 1 {
                // One that means nothing may stand before a second hello (RFC 8446 § D.4).
                self.at = range.end;
                continue;
            }
            // An empty one is none (§ 5.1).
            if may_be_idle || range.is_empty() || range.end > MOST {
                return Found::Other;
            }
            match self.enter(bytes, &range) {
                Found::Part if bytes.len() >= range.end => {
                    self.passed += range.len();
                    self.at = range.end;
                }
                found => return found,
            }
        }
    }

    /// Looks at what came of a record.
    fn enter(&mut self, bytes: &[u8], range: &Range<usize>) -> Found {
        let came = bytes.get(range.start..range.end.min(bytes.len())).unwrap_or_default();
        let header = self.header.iter_mut().skip(self.passed);
        header.zip(came).for_each(|(known, byte)| *known = *byte);
        let known = self.header.get(..self.passed + came.len()).unwrap_or(&self.header);
        if known.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Found::Other;
        }
        let Some(whole) = length(known) else { return Found::Part };
        let with_this = self.passed + range.len();
        // Nothing may follow a hello in its record (RFC 8446 § 5.1).
        if whole > MOST || with_this > whole {
            return Found::Other;
        }
        let is_whole = with_this == whole && bytes.len() >= range.end;
        if is_whole { Found::Whole(range.end) } else { Found::Part }
    }
}

/// What a record holds that begins there, once its header is there.
fn record(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let [.., high, low] = bytes.get(at..)?.first_chunk::<RECORD>()?;
    let start = at + RECORD;
    Some(start..start + usize::from(u16::from_be_bytes([*high, *low])))
}

/// Where a message lies in its records, which are whole.
fn pieces(records: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let first = if records.first() == Some(&HANDSHAKE) { 0 } else { RECORD + 1 };
    std::iter::successors(record(records, first), |piece| record(records, piece.end))
}

/// Takes the name of a hello out of sight if it is none. `records`: those of the hello, and no more.
fn hide(records: &mut [u8], before: Option<&Misnamed>) -> Option<Misnamed> {
    let only = pieces(records).next().filter(|piece| piece.end == records.len());
    if let Some(only) = only {
        return Misnamed::hide(records.get_mut(only)?, before);
    }
    let mut hello = Vec::with_capacity(records.len());
    pieces(records).for_each(|piece| hello.extend_from_slice(&records[piece]));
    let misnamed = Misnamed::hide(&mut hello, before)?;
    let (mut next, mut rest) = (pieces(records).next(), hello.as_slice());
    while let Some(piece) = next {
        let (part, after) = rest.split_at(piece.len());
        next = record(records, piece.end);
        records[piece].copy_from_slice(part);
        rest = after;
    }
    Some(misnamed)
}

#[cfg(test)]
pub(crate) mod tests;
