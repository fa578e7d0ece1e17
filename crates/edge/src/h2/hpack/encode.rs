//! Field blocks for clients (RFC 7541 § 6).
//!
//! What recurs on a connection costs a byte each time: it is put into the table when it comes first. What is
//! another each time (lengths, tags, and whatever missed too often) would only push the rest out, so it
//! goes as text. Invariants: sensitive values are in no table, here or at the client (§ 7.1); the table is
//! never larger than the client allows.

use std::collections::VecDeque;

use http::header::{
    AGE, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderName, HeaderValue, LAST_MODIFIED, LOCATION,
    SET_COOKIE,
};

use super::table::FIXED;
use super::{TABLE, huffman};

/// Places by which names are found; a power of two.
const PLACES: usize = 64;
/// A name whose values were new so often is not remembered any more.
const MISSES: u8 = 16;
/// Larger ones would push out too much.
const LARGEST: usize = 1024;
/// Of the static table's fields, as of 1.
const STATUS: usize = 8;
const LENGTH: usize = 28;

#[derive(Debug)]
struct Known {
    name: HeaderName,
    value: HeaderValue,
    /// The one before it in the same place, counted from the first ever.
    before: u64,
}

impl Known {
    fn size(&self) -> usize {
        size(&self.name, &self.value)
    }
}

fn size(name: &HeaderName, value: &HeaderValue) -> usize {
    name.as_str().len() + value.len() + 32
}

#[derive(Debug, Clone, Copy, Default)]
struct Place {
    /// The newest with such a name; 0 for none.
    newest: u64,
    misses: u8,
}

/// What encodes the blocks of one connection, in their order.
#[derive(Debug)]
pub(in crate::h2) struct Encoder {
    /// The newest first.
    known: VecDeque<Known>,
    size: usize,
    most: usize,
    /// Fields ever remembered.
    count: u64,
    places: Box<[Place; PLACES]>,
    /// The client is to be told of another size first.
    resized: bool,
}

impl Encoder {
    pub(in crate::h2) fn new() -> Self {
        let places = Box::new([Place::default(); PLACES]);
        Self { known: VecDeque::new(), size: 0, most: TABLE, count: 0, places, resized: false }
    }

    /// The client allows a table of so many bytes.
    pub(in crate::h2) fn resize(&mut self, most: usize) {
        let most = most.min(TABLE);
        if most != self.most {
            self.most = most;
            self.resized = true;
            self.shrink(most);
        }
    }

    /// Begins a block.
    pub(in crate::h2) fn begin(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.resized) {
            // Shrunk to nothing first: what was between is over, whatever it was (§ 4.2).
            self.shrink(0);
            integer(out, 0x20, 5, 0);
            integer(out, 0x20, 5, self.most);
        }
    }

    /// The status of a response.
    pub(in crate::h2) fn status(out: &mut Vec<u8>, status: u16) {
        let index = match status {
            200 => 8,
            204 => 9,
            206 => 10,
            304 => 11,
            400 => 12,
            404 => 13,
            500 => 14,
            _ => {
                let mut digits = itoa::Buffer::new();
                integer(out, 0, 4, STATUS);
                return text(out, digits.format(status).as_bytes());
            }
        };
        integer(out, 0x80, 7, index);
    }

    /// How long a body is.
    pub(in crate::h2) fn length(out: &mut Vec<u8>, value: &[u8]) {
        integer(out, 0, 4, LENGTH);
        text(out, value);
    }

    /// Any other field.
    pub(in crate::h2) fn field(
        &mut self,
        out: &mut Vec<u8>,
        name: &HeaderName,
        value: &HeaderValue,
    ) {
        let at = place(name.as_str().as_bytes());
        if value.is_sensitive() {
            // In no table, so that there is nothing to look for.
            named_field(out, (0x10, 4), fixed(at, name.as_str()), name, text);
            return text(out, value.as_bytes());
        }
        let named = match self.find(at, name, value) {
            Ok(index) => {
                self.places[at].misses = 0;
                return integer(out, 0x80, 7, index);
            }
            Err(named) => named,
        };
        let size = size(name, value);
        let fleeting = is_fleeting(name) || size > LARGEST.min(self.most);
        if fleeting || self.places[at].misses >= MISSES {
            named_field(out, (0, 4), named, name, text);
            return text(out, value.as_bytes());
        }
        self.places[at].misses += 1;
        named_field(out, (0x40, 6), named, name, packed);
        packed(out, value.as_bytes());
        self.remember(at, name, value, size);
    }

    /// The index of a field, or else that of one with its name; 0 for none.
    fn find(&self, at: usize, name: &HeaderName, value: &HeaderValue) -> Result<usize, usize> {
        let mut named = 0;
        let mut next = self.places[at].newest;
        while next > 0
            && let Some(known) = self.known.get((self.count - next) as usize)
        {
            if known.name == *name {
                let index = FIXED.len() + 1 + (self.count - next) as usize;
                if known.value == *value {
                    return Ok(index);
                }
                named = index;
            }
            next = known.before;
        }
        Err(if named > 0 { named } else { fixed(at, name.as_str()) })
    }

    fn remember(&mut self, at: usize, name: &HeaderName, value: &HeaderValue, size: usize) {
        self.shrink(self.most - size);
        self.count += 1;
        let before = std::mem::replace(&mut self.places[at].newest, self.count);
        // Small copies: what a value is part of may be much larger.
        let kept = HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| value.clone());
        self.known.push_front(Known { name: name.clone(), value: kept, before });
        self.size += size;
    }

    fn shrink(&mut self, most: usize) {
        while self.size > most {
            let Some(oldest) = self.known.pop_back() else { return };
            self.size -= oldest.size();
        }
    }
}

/// Where fields of that name are looked for.
const fn place(name: &[u8]) -> usize {
    let length = name.len();
    if length == 0 {
        return 0;
    }
    let (first, middle, last) = (name[0], name[length / 2], name[length - 1]);
    (length * 5 + first as usize * 7 + middle as usize * 3 + last as usize) % PLACES
}

/// The names of the static table by their places: their first index, 0 for none.
static FIXED_AT: [[u8; 4]; PLACES] = {
    let mut all = [[0; 4]; PLACES];
    // What is no pseudo-header.
    let mut nth = 14;
    while nth < FIXED.len() {
        let at = place(FIXED[nth].0.as_bytes());
        let mut free = 0;
        while all[at][free] != 0 {
            free += 1;
        }
        all[at][free] = nth as u8 + 1;
        nth += 1;
    }
    all
};

/// Whether the values of a name are others almost each time.
fn is_fleeting(name: &HeaderName) -> bool {
    [CONTENT_LENGTH, ETAG, LAST_MODIFIED, LOCATION, SET_COOKIE, CONTENT_RANGE, AGE].contains(name)
}

/// A name's index in the static table; 0 for none.
fn fixed(at: usize, name: &str) -> usize {
    let named = |index: &&u8| {
        FIXED.get(usize::from(**index).wrapping_sub(1)).is_some_and(|(known, _)| *known == name)
    };
    FIXED_AT[at].iter().find(named).copied().unwrap_or(0).into()
}

/// A field's name, by its index or as `write` does it.
fn named_field(
    out: &mut Vec<u8>,
    (pattern, prefix): (u8, u32),
    named: usize,
    name: &HeaderName,
    write: fn(&mut Vec<u8>, &[u8]),
) {
    integer(out, pattern, prefix, named);
    if named == 0 {
        write(out, name.as_str().as_bytes());
    }
}

/// § 5.1: a number behind a pattern, in what the pattern leaves of its byte.
fn integer(out: &mut Vec<u8>, pattern: u8, prefix: u32, number: usize) {
    let most = (1_usize << prefix) - 1;
    if number < most {
        return out.push(pattern | number as u8);
    }
    out.push(pattern | most as u8);
    let mut rest = number - most;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// A string as it is: quick, for what goes out again and again.
fn text(out: &mut Vec<u8>, plain: &[u8]) {
    integer(out, 0, 7, plain.len());
    out.extend_from_slice(plain);
}

/// A string in as few bytes as it can have: for what goes out once.
fn packed(out: &mut Vec<u8>, plain: &[u8]) {
    let length = huffman::length(plain);
    if length >= plain.len() {
        return text(out, plain);
    }
    integer(out, 0x80, 7, length);
    huffman::encode(plain, out);
}
