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

/// Of one kind, the one that was used last on top.
#[derive(Debug)]
struct Spare<T> {
    list: Vec<T>,
    /// So many lay there untouched since [`Spare::trim`].
    untouched: usize,
}

impl<T> Default for Spare<T> {
    fn default() -> Self {
        Self { list: Vec::new(), untouched: 0 }
    }
}

impl<T> Spare<T> {
    fn pop(&mut self) -> Option<T> {
        let found = self.list.pop();
        self.untouched = self.untouched.min(self.list.len());
        found
    }

    fn push(&mut self, one: T) {
        self.list.push(one);
    }

    fn len(&self) -> usize {
        self.list.len()
    }

    /// Gives back what nobody has needed since the last time.
    fn trim(&mut self) {
        self.list.drain(..self.untouched);
        self.untouched = self.list.len();
    }
}

/// Spare buffers.
#[derive(Debug, Default)]
pub(crate) struct Rooms {
    heads: RefCell<Spare<Vec<u8>>>,
    reads: RefCell<Spare<BytesMut>>,
    maps: RefCell<Spare<HeaderMap>>,
    texts: RefCell<Spare<Vec<u8>>>,
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
        // One that was read full has no room left; all of it again when its pieces were sent. What is behind what was cut off
        // does not tell how large it is, which is asked first.
        let _is_whole = read.try_reclaim(LARGEST + 1) || read.try_reclaim(PIECE);
        if reads.len() < MOST && (1..=LARGEST).contains(&read.capacity()) {
            reads.push(read);
        }
    }

    /// Gives back what was not needed since the last time: after a rush the few that come need little.
    pub(crate) fn trim(&self) {
        self.heads.borrow_mut().trim();
        self.reads.borrow_mut().trim();
        self.maps.borrow_mut().trim();
        self.texts.borrow_mut().trim();
    }

    /// Gives all of it back: nothing was asked for in a while.
    pub(crate) fn clear(&self) {
        self.heads.take();
        self.reads.take();
        self.maps.take();
        self.texts.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grew_too_large_is_given_back_however_much_of_it_is_in_use() {
        let rooms = Rooms::default();
        let grown = |taken: usize| {
            let mut read = BytesMut::with_capacity(2 * LARGEST);
            read.resize(taken, 0);
            drop(read.split_to(taken));
            rooms.keep_buffer(read);
            rooms.buffer().capacity()
        };
        assert_eq!([grown(0), grown(LARGEST + 1000), grown(2 * LARGEST)], [0, 0, 0]);
        // One that was read full has all of its room again.
        let mut read = BytesMut::with_capacity(PIECE);
        read.resize(read.capacity(), 0);
        let piece = read.split();
        drop(piece);
        rooms.keep_buffer(read);
        assert!(rooms.buffer().capacity() >= PIECE);
    }

    #[test]
    fn what_nobody_needs_any_more_is_given_back_while_others_are_used() {
        let rooms = Rooms::default();
        (0..10).for_each(|_| rooms.keep_buffer(BytesMut::with_capacity(PIECE)));
        rooms.trim();
        for _ in 0..3 {
            let used = [rooms.buffer(), rooms.buffer()];
            used.into_iter().for_each(|one| rooms.keep_buffer(one));
            rooms.trim();
        }
        assert_eq!(rooms.reads.borrow().len(), 2);
    }
}
