//! A message on its way out, whichever way that is: a head as bytes, then a body piece by piece.
//!
//! Invariants: the body is framed by its own length, in chunks, or by the end of the connection, never by
//! what headers say; a piece is written whole, its frame included, before the next one is asked for, so
//! that nobody holds back what is there; a body that ends short of its length is a fault.

use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame};

use crate::body::BodyError;

/// How a body is delimited (RFC 9112 § 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delimited {
    /// So many bytes are to follow.
    Length(u64),
    Chunks,
    /// By the end of the connection.
    ToEnd,
    /// Nothing is to follow but what is in hand.
    Done,
}

/// Why it does not go on.
#[derive(Debug)]
pub(crate) enum Fault {
    Body(BodyError),
    Io(io::Error),
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Some bytes were written.
    Wrote,
    /// Everything in hand is written, and more of the body is not there yet.
    Waits,
    /// Everything is written.
    Done,
}

/// A message, as far as it is not written yet.
#[derive(Debug)]
pub(crate) struct Outlet<B> {
    /// The head, later the sizes of chunks.
    buffer: Vec<u8>,
    /// So many of its bytes are written.
    written: usize,
    piece: Bytes,
    /// What ends the piece.
    tail: &'static [u8],
    body: B,
    delimited: Delimited,
}

impl<B: Body<Data = Bytes, Error = BodyError> + Unpin> Outlet<B> {
    /// A message that begins with `buffer`.
    pub(crate) fn new(buffer: Vec<u8>, body: B, delimited: Delimited) -> Self {
        Self { buffer, written: 0, piece: Bytes::new(), tail: b"", body, delimited }
    }

    pub(crate) fn body(&self) -> &B {
        &self.body
    }

    pub(crate) fn body_mut(&mut self) -> &mut B {
        &mut self.body
    }

    /// The body, as far as it was not taken.
    pub(crate) fn into_body(self) -> B {
        self.body
    }

    /// The room of its head, for another one.
    pub(crate) fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }

    /// Begins anew with the same head. Only of a message whose body gave nothing away.
    pub(crate) fn rewind(&mut self) {
        self.written = 0;
    }

    /// Whether nothing is in hand.
    fn is_empty(&self) -> bool {
        self.written == self.buffer.len() && self.piece.is_empty() && self.tail.is_empty()
    }

    /// Writes once, by `write`, as much as is there.
    pub(crate) fn step(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(&mut Context<'_>, &[IoSlice<'_>]) -> Poll<io::Result<usize>>,
    ) -> Poll<Result<Step, Fault>> {
        // The first piece goes with the head where it is there already.
        while self.piece.is_empty() && self.tail.is_empty() && self.delimited != Delimited::Done {
            if self.poll_piece(context).map_err(Fault::Body)?.is_pending() {
                if self.is_empty() {
                    return Poll::Ready(Ok(Step::Waits));
                }
                break;
            }
        }
        if self.is_empty() {
            return Poll::Ready(Ok(Step::Done));
        }
        let head = &self.buffer[self.written..];
        let slices = [IoSlice::new(head), IoSlice::new(&self.piece), IoSlice::new(self.tail)];
        let slices = match (head, &self.piece[..]) {
            (_, []) => &slices[..1],
            ([], _) => &slices[1..],
            _ => &slices[..],
        };
        let written = ready!(write(context, slices)).map_err(Fault::Io)?;
        if written == 0 {
            return Poll::Ready(Err(Fault::Io(io::ErrorKind::WriteZero.into())));
        }
        let of_head = written.min(head.len());
        let of_piece = (written - of_head).min(self.piece.len());
        self.written += of_head;
        self.piece.advance(of_piece);
        if self.piece.is_empty() {
            // Whoever gave it may use its room again.
            self.piece = Bytes::new();
        }
        self.tail = self.tail.get(written - of_head - of_piece..).unwrap_or_default();
        if self.piece.is_empty() && !self.tail.is_empty() {
            // Only the tail is left: it becomes what is written first.
            self.buffer.clear();
            self.buffer.extend_from_slice(std::mem::take(&mut self.tail));
            self.written = 0;
        }
        Poll::Ready(Ok(Step::Wrote))
    }

    /// Takes the next piece of the body and frames it. Only called when none is in hand.
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Result<Poll<()>, BodyError> {
        let frame = match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(frame) => frame.transpose()?,
        };
        if self.written == self.buffer.len() {
            self.buffer.clear();
            self.written = 0;
        }
        match frame.map(Frame::into_data) {
            // Trailers go nowhere.
            Some(Err(_)) => {}
            Some(Ok(piece)) => self.add(piece)?,
            None => {
                match self.delimited {
                    Delimited::Length(1..) => return Err(WRONG_LENGTH.into()),
                    Delimited::Chunks => self.buffer.extend_from_slice(b"0\r\n\r\n"),
                    Delimited::Length(0) | Delimited::ToEnd | Delimited::Done => {}
                }
                self.delimited = Delimited::Done;
            }
        }
        Ok(Poll::Ready(()))
    }

    fn add(&mut self, piece: Bytes) -> Result<(), BodyError> {
        let size = piece.len() as u64;
        match &mut self.delimited {
            _ if size == 0 => return Ok(()),
            Delimited::Length(left) => {
                *left = left.checked_sub(size).ok_or(WRONG_LENGTH)?;
                if *left == 0 {
                    // No need to ask whether it is the end.
                    self.delimited = Delimited::Done;
                }
            }
            Delimited::Chunks => {
                // A Vec takes every byte.
                write!(self.buffer, "{size:x}\r\n").ok();
                self.tail = b"\r\n";
                if self.body.is_end_stream() {
                    // The end goes with the last chunk where it is known already.
                    self.tail = b"\r\n0\r\n\r\n";
                    self.delimited = Delimited::Done;
                }
            }
            Delimited::ToEnd => {}
            Delimited::Done => return Err(WRONG_LENGTH.into()),
        }
        if self.delimited == Delimited::Done && piece.len() <= SMALL {
            self.buffer.extend_from_slice(&piece);
            self.buffer.extend_from_slice(std::mem::take(&mut self.tail));
        } else {
            self.piece = piece;
        }
        Ok(())
    }
}

/// To copy a last piece of so many bytes behind what stands before it costs less than to write both in one call.
const SMALL: usize = 1 << 10;

const WRONG_LENGTH: &str = "the body has another length than was announced";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Gives pieces, and says between them that nothing is there yet.
    struct Pieces(Vec<Option<Vec<u8>>>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            match self.0.pop() {
                None => Poll::Ready(None),
                Some(None) => Poll::Pending,
                Some(Some(piece)) => Poll::Ready(Some(Ok(Frame::data(piece.into())))),
            }
        }

        fn is_end_stream(&self) -> bool {
            self.0.is_empty()
        }
    }

    /// What is written when each write takes at most so many bytes, and what had been written at each wait.
    fn written(
        pieces: &[Option<Vec<u8>>],
        delimited: Delimited,
        most: usize,
    ) -> Result<(Vec<u8>, Vec<usize>), String> {
        let body = Pieces(pieces.iter().rev().cloned().collect());
        let mut outlet = Outlet::new(b"head ".to_vec(), body, delimited);
        let mut context = Context::from_waker(std::task::Waker::noop());
        let (mut out, mut waits) = (Vec::new(), Vec::new());
        loop {
            let step = outlet.step(&mut context, |_, slices| {
                let all: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
                let taken = all.len().min(most);
                out.extend_from_slice(&all[..taken]);
                Poll::Ready(Ok(taken))
            });
            match step {
                Poll::Ready(Ok(Step::Wrote)) => {}
                Poll::Ready(Ok(Step::Waits)) => waits.push(out.len()),
                Poll::Ready(Ok(Step::Done)) => return Ok((out, waits)),
                other => return Err(format!("{other:?}")),
            }
        }
    }

    #[test]
    fn a_chunk_is_written_whole_before_the_next_one_is_there() {
        let pieces = [Some(b"half".to_vec()), None, Some(b"rest".to_vec()), None];
        let (out, waits) = written(&pieces, Delimited::Chunks, 1000).unwrap();
        assert_eq!(out, b"head 4\r\nhalf\r\n4\r\nrest\r\n0\r\n\r\n");
        assert_eq!(waits, [b"head 4\r\nhalf\r\n".len(), b"head 4\r\nhalf\r\n4\r\nrest\r\n".len()]);
    }

    #[test]
    fn the_end_goes_with_the_last_chunk_where_it_is_known() {
        let body = Pieces(vec![Some(b"half".to_vec())]);
        let mut outlet = Outlet::new(b"head ".to_vec(), body, Delimited::Chunks);
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut writes = Vec::new();
        while let Poll::Ready(Ok(Step::Wrote)) = outlet.step(&mut context, |_, slices| {
            writes.push(slices.iter().flat_map(|slice| slice.to_vec()).collect::<Vec<u8>>());
            Poll::Ready(Ok(writes.last().map_or(0, Vec::len)))
        }) {}
        assert_eq!(writes, [b"head 4\r\nhalf\r\n0\r\n\r\n"]);
    }

    #[test]
    fn a_last_piece_goes_with_the_head_as_one_where_it_is_small() {
        for (size, slices) in [(SMALL, 1), (SMALL + 1, 2)] {
            let body = Pieces(vec![Some(vec![b'x'; size])]);
            let mut outlet = Outlet::new(b"head ".to_vec(), body, Delimited::Length(size as u64));
            let mut context = Context::from_waker(std::task::Waker::noop());
            let mut seen = 0;
            let step = outlet.step(&mut context, |_, slices| {
                seen = slices.iter().filter(|slice| !slice.is_empty()).count();
                Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()))
            });
            assert!(matches!(step, Poll::Ready(Ok(Step::Wrote))) && seen == slices, "{size}");
        }
    }

    #[test]
    fn a_body_of_another_length_is_a_fault() {
        let pieces = [Some(b"half".to_vec())];
        assert!(written(&pieces, Delimited::Length(5), 1000).is_err());
        assert!(written(&pieces, Delimited::Length(3), 1000).is_err());
        assert_eq!(written(&pieces, Delimited::Length(4), 1000).unwrap().0, b"head half");
        assert_eq!(written(&pieces, Delimited::ToEnd, 1000).unwrap().0, b"head half");
        assert_eq!(written(&[], Delimited::Chunks, 1000).unwrap().0, b"head 0\r\n\r\n");
    }

    proptest! {
        #[test]
        fn however_little_is_taken_at_once_the_bytes_are_the_same(
            pieces in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..20)), 0..8),
            most in 1usize..30,
        ) {
            let whole = written(&pieces, Delimited::Chunks, 1 << 20).unwrap().0;
            prop_assert_eq!(written(&pieces, Delimited::Chunks, most).unwrap().0, whole);
        }
    }
}
