//! Buffers of one thread, used again and again: a request needs room, an idle connection has none.

use std::cell::RefCell;

use bytes::BytesMut;

/// Kept of each kind.
const MOST: usize = 64;
/// What grew beyond this is given back.
const LARGEST: usize = 64 << 10;

/// Spare buffers.
#[derive(Debug, Default)]
pub(crate) struct Rooms {
    heads: RefCell<Vec<Vec<u8>>>,
    reads: RefCell<Vec<BytesMut>>,
}

impl Rooms {
    /// Room for a head.
    pub(crate) fn head(&self) -> Vec<u8> {
        self.heads.borrow_mut().pop().unwrap_or_default()
    }

    /// Room for what is read.
    pub(crate) fn buffer(&self) -> BytesMut {
        self.reads.borrow_mut().pop().unwrap_or_default()
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
        if reads.len() < MOST && (1..=LARGEST).contains(&read.capacity()) {
            read.clear();
            reads.push(read);
        }
    }

    /// Gives all of it back: nothing was asked for in a while.
    pub(crate) fn clear(&self) {
        self.heads.take();
        self.reads.take();
    }
}
