//! Buffers of one thread, used again and again: a request needs room, an idle connection has none.

use std::cell::RefCell;

use bytes::BytesMut;
use http::HeaderMap;

/// Kept of each kind: a request has two of each, one towards either side.
const MOST: usize = 256;
/// What grew beyond this is given back.
const LARGEST: usize = 64 << 10;
/// Read from a socket at once where little is expected.
pub(crate) const PIECE: usize = 8 << 10;
/// Read at once of a long body: below what the allocator maps and unmaps each time.
const LARGE: usize = 48 << 10;
/// Bodies that were changed.
const MOST_TEXTS: usize = 64;
/// A map with room for more fields is given back.
const MOST_FIELDS: usize = 64;

/// Room in `bytes` for the next read, of which about as much as is `wanted` is expected.
pub(crate) fn make_room(bytes: &mut BytesMut, wanted: u64) {
    if bytes.capacity() - bytes.len() < PIECE / 4 || wanted > PIECE as u64 {
        let wanted = usize::try_from(wanted).unwrap_or(LARGE);
        bytes.reserve(wanted.clamp(PIECE, LARGE));
    }
}

/// Spare buffers.
#[derive(Debug, Default)]
pub(crate) struct Rooms {
    heads: RefCell<Vec<Vec<u8>>>,
    reads: RefCell<Vec<BytesMut>>,
    maps: RefCell<Vec<HeaderMap>>,
    texts: RefCell<Vec<Vec<u8>>>,
}

impl Rooms {
    /// Room for a head.
    pub(crate) fn head(&self) -> Vec<u8> {
        self.heads.borrow_mut().pop().unwrap_or_default()
    }

    /// Room for what is read.
    pub(crate) fn buffer(&self) -> BytesMut {
        let mut read = self.reads.borrow_mut().pop().unwrap_or_default();
        // What was cut off its front is mostly not in use any more: then the same bytes again, which the processor
        // still has at hand, and not those behind them.
        let _is_whole = read.try_reclaim(PIECE);
        read
    }

    /// Room for a piece of a body that is changed.
    pub(crate) fn text(&self) -> Vec<u8> {
        self.texts.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes room for a piece of a body back.
    pub(crate) fn keep_text(&self, mut text: Vec<u8>) {
        let mut texts = self.texts.borrow_mut();
        if texts.len() < MOST_TEXTS && (1..=LARGEST).contains(&text.capacity()) {
            text.clear();
            texts.push(text);
        }
    }

    /// A map for so many fields.
    pub(crate) fn fields(&self, count: usize) -> HeaderMap {
        let mut map = self.maps.borrow_mut().pop().unwrap_or_default();
        map.reserve(count);
        map
    }

    /// Takes a map back.
    pub(crate) fn keep_fields(&self, mut map: HeaderMap) {
        let mut maps = self.maps.borrow_mut();
        if maps.len() < MOST && (1..=MOST_FIELDS).contains(&map.capacity()) {
            map.clear();
            maps.push(map);
        }
    }

    /// Takes room for a head back.
    pub(crate) fn keep_head(&self, head: Vec<u8>) {
        let mut heads = self.heads.borrow_mut();
        if heads.len() < MOST && (1..=LARGEST).contains(&head.capacity()) {
            heads.push(head);
        }
    }

    /// Takes room for what is read back.
    pub(crate) fn keep_buffer(&self, mut read: BytesMut) {
        let mut reads = self.reads.borrow_mut();
        read.clear();
        // One that was read full has no room left; all of it again when its pieces were sent.
        let _is_whole = read.try_reclaim(PIECE);
        if reads.len() < MOST && (1..=LARGEST).contains(&read.capacity()) {
            reads.push(read);
        }
    }

    /// Gives all of it back: nothing was asked for in a while.
    pub(crate) fn clear(&self) {
        self.heads.take();
        self.reads.take();
        self.maps.take();
        self.texts.take();
    }
}
