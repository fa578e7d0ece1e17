//! A body that is read ahead of the client that it is for, because others wait for the same answer.
//!
//! Who asks first fetches for everybody ([`crate::cache`]). Read only as fast as that client takes it, an answer would
//! be kept no sooner: one who reads slowly, or goes away, would hold up all the others, and could do so on purpose.
//! Invariants: what was read and not yet taken is bounded, for each client by [`WINDOW`] and for all of a thread by
//! [`PURSE`]; where that is used up nobody waits for this answer any more; who waits is told as soon as the answer is
//! kept, or known not to be.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use crate::body::{BodyError, Content, Polled};
use crate::cache::{Leader, now_ms};

/// Bytes that wait for any client.
const WINDOW: usize = 64 << 10;
/// Bytes beyond that, for all clients of a thread.
const PURSE: isize = 16 << 20;

/// What all bodies of a thread may still read ahead. Below nothing where many clients' windows took more than there
/// was: each gives back what it took, and no more.
#[derive(Debug)]
pub(crate) struct Purse(Cell<isize>);

impl Default for Purse {
    fn default() -> Self {
        Self(Cell::new(PURSE))
    }
}

impl Purse {
    fn change(&self, by: impl Fn(isize, isize) -> isize, size: usize) {
        self.0.set(by(self.0.get(), isize::try_from(size).unwrap_or(isize::MAX)));
    }
}

/// Between who reads and who is sent it.
#[derive(Debug)]
struct Queue {
    frames: VecDeque<Result<Frame<Bytes>, BodyError>>,
    /// Bytes in `frames`.
    bytes: usize,
    purse: Rc<Purse>,
    /// Nothing more comes.
    ended: bool,
    /// The client went away.
    gone: bool,
    /// Who waits for the next piece.
    taker: Option<Waker>,
    /// Who waits for room.
    giver: Option<Waker>,
}

fn size(frame: &Result<Frame<Bytes>, BodyError>) -> usize {
    frame.as_ref().ok().and_then(Frame::data_ref).map_or(0, Bytes::len)
}

impl Queue {
    fn new(purse: &Rc<Purse>) -> Self {
        Self {
            frames: VecDeque::new(),
            bytes: 0,
            purse: Rc::clone(purse),
            ended: false,
            gone: false,
            taker: None,
            giver: None,
        }
    }

    fn put(&mut self, frame: Result<Frame<Bytes>, BodyError>) {
        if !self.gone {
            let size = size(&frame);
            self.bytes += size;
            self.purse.change(isize::saturating_sub, size);
            self.frames.push_back(frame);
            self.wake_taker();
        }
    }

    fn end(&mut self) {
        self.ended = true;
        self.wake_taker();
    }

    fn take(&mut self) -> Option<Result<Frame<Bytes>, BodyError>> {
        let frame = self.frames.pop_front()?;
        self.give_back(size(&frame));
        Some(frame)
    }

    fn give_back(&mut self, size: usize) {
        self.bytes -= size;
        self.purse.change(isize::saturating_add, size);
        if let Some(giver) = self.giver.take() {
            giver.wake();
        }
    }

    fn wake_taker(&mut self) {
        if let Some(taker) = self.taker.take() {
            taker.wake();
        }
    }
}

/// What is left for the client.
#[derive(Debug)]
pub(crate) struct Ahead {
    queue: Rc<RefCell<Queue>>,
    left: Option<u64>,
}

/// Reads `content` ahead, on behalf of those who wait for what `leader` fetches; answers of more than `most` bytes are
/// not kept.
pub(crate) fn read(content: Content, purse: &Rc<Purse>, leader: Leader, most: usize) -> Content {
    let left = content.size_hint().exact();
    let queue = Rc::new(RefCell::new(Queue::new(purse)));
    let source = Source { content, queue: Rc::clone(&queue), leader: Some(leader), left: most };
    tokio::task::spawn_local(source.run());
    Content::Ahead(Box::new(Ahead { queue, left }))
}

impl Ahead {
    pub(crate) fn poll_frame(&mut self, context: &mut Context<'_>) -> Polled {
        let mut queue = self.queue.borrow_mut();
        if let Some(frame) = queue.take() {
            let size = size(&frame) as u64;
            self.left = self.left.map(|left| left.saturating_sub(size));
            return Poll::Ready(Some(frame));
        }
        if queue.ended {
            return Poll::Ready(None);
        }
        queue.taker = Some(context.waker().clone());
        Poll::Pending
    }

    pub(crate) fn is_done(&self) -> bool {
        let queue = self.queue.borrow();
        queue.ended && queue.frames.is_empty()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        let mut queue = self.queue.borrow_mut();
        queue.gone = true;
        queue.frames.clear();
        let bytes = queue.bytes;
        queue.give_back(bytes);
    }
}

/// Who reads.
struct Source {
    content: Content,
    queue: Rc<RefCell<Queue>>,
    /// As long as others may wait.
    leader: Option<Leader>,
    /// Bytes that may still be kept.
    left: usize,
}

impl Source {
    async fn run(mut self) {
        while std::future::poll_fn(|context| self.poll_room(context)).await {
            let next = std::future::poll_fn(|context| self.content.poll_frame(context)).await;
            match next {
                Some(Ok(frame)) => {
                    let size = frame.data_ref().map_or(0, Bytes::len);
                    if size > self.left
                        && let Some(leader) = self.leader.take()
                    {
                        leader.pass(now_ms());
                    }
                    self.left = self.left.saturating_sub(size);
                    self.queue.borrow_mut().put(Ok(frame));
                }
                Some(Err(error)) => {
                    self.queue.borrow_mut().put(Err(error));
                    break;
                }
                None => break,
            }
        }
        // What came is kept by now, or was cut off: whoever waits asks.
        if let Some(leader) = self.leader.take() {
            leader.through();
        }
        self.queue.borrow_mut().end();
    }

    /// Whether it goes on; waits for room.
    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        let mut queue = self.queue.borrow_mut();
        if queue.gone {
            return Poll::Ready(self.leader.is_some());
        }
        let in_purse = self.leader.is_some() && queue.purse.0.get() > 0;
        if queue.bytes < WINDOW || in_purse {
            return Poll::Ready(true);
        }
        queue.giver = Some(context.waker().clone());
        drop(queue);
        // It goes on as fast as this client reads: nobody is to wait for that.
        if let Some(leader) = self.leader.take() {
            leader.through();
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_purse_gets_back_what_was_taken_from_it_and_no_more() {
        let purse = Rc::new(Purse(Cell::new(3)));
        let left = || purse.0.get();
        let piece = || Ok(Frame::data(Bytes::from_static(b"0123456789")));
        let (mut one, mut other) = (Queue::new(&purse), Queue::new(&purse));
        // Within the windows each goes on, whatever the purse holds.
        one.put(piece());
        other.put(piece());
        other.put(piece());
        assert_eq!(left(), 3 - 30);
        assert!(one.take().is_some());
        assert_eq!(left(), 3 - 20);
        let queue = Rc::new(RefCell::new(other));
        drop(Ahead { queue: Rc::clone(&queue), left: None });
        // Who went away is given nothing more.
        queue.borrow_mut().put(piece());
        assert_eq!(left(), 3);
    }
}
