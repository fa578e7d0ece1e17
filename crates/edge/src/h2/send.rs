//! What is sent: answers as they are made, as fast as both windows allow, each stream in its turn.
//!
//! Invariants: no more than [`FULL`] lies here unsent, so that nobody makes what nobody takes; a stream whose
//! client takes nothing of what is there for [`SEND_TIME`] is reset, the others go on; a body that ends
//! short, or breaks, resets its stream, so that nobody takes it for whole.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http::Response;
use hyper::body::Body as _;

use super::answer::{self, Page};
use super::frame;
use super::ready::Set;
use super::server::Connection;
use super::stream::{Over, Sending, Work};
use super::{Code, STREAM_WINDOW};
use crate::body::ResponseBody;
use crate::h1::SEND_TIME;
use crate::watch::Alarm;

/// With so much unsent no more of bodies is asked for.
pub(super) const FULL: usize = 32 << 10;
/// A client counts as taking something with each piece of this size that left whole.
const PIECE: usize = 16 << 10;
/// How long a client may go on with a request that was answered.
const LINGER_TIME: Duration = Duration::from_secs(2);

/// What became of asking a body.
enum Asked {
    /// There is something to send, or the end.
    Here,
    Waits,
    Broken,
}

impl Sending {
    /// A body that begins; `left`: the length that was announced.
    pub(super) fn new(body: ResponseBody, left: Option<u64>) -> Self {
        Self { body, rest: Bytes::new(), piece: 0, left, trailers: None, is_last: false }
    }

    /// Asks for more where nothing is here.
    fn fill(&mut self, context: &mut Context<'_>) -> Asked {
        while self.rest.is_empty() && !self.is_last {
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Pending => return Asked::Waits,
                Poll::Ready(None) => self.is_last = true,
                Poll::Ready(Some(Err(_))) => return Asked::Broken,
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        if let Some(left) = self.left {
                            let left = left.checked_sub(data.len() as u64);
                            let Some(left) = left else { return Asked::Broken };
                            self.left = Some(left);
                        }
                        self.piece = data.len().min(PIECE);
                        self.rest = data;
                        self.is_last = self.body.is_end_stream();
                    }
                    Err(other) => {
                        self.trailers = other.into_trailers().ok();
                        self.is_last = true;
                    }
                },
            }
        }
        if self.is_last && self.left.is_some_and(|left| left > 0) {
            return Asked::Broken;
        }
        Asked::Here
    }
}

impl<S> Connection<S> {
    /// Runs the streams that were woken.
    pub(super) fn run(&mut self) {
        let mut marked = self.streams.ready.take() & self.streams.used();
        while marked != 0 {
            let place = marked.trailing_zeros() as usize;
            marked &= marked - 1;
            self.run_one(place);
        }
    }

    fn run_one(&mut self, place: usize) {
        self.credit(place);
        let watch = &self.local.watch;
        let Some((stream, waker)) = self.streams.get(place) else { return };
        let context = &mut Context::from_waker(waker);
        match &mut stream.work {
            Work::Handling(handler) => {
                if let Poll::Ready(response) = handler.as_mut().poll(context) {
                    self.answer(place, response);
                }
            }
            Work::Sending(_) => self.wants |= 1 << place,
            Work::Lingering => {
                let alarm = stream.alarm.get_or_insert_with(|| Alarm::new(watch));
                if alarm.poll(context, LINGER_TIME).is_ready() {
                    self.reset(place, Code::None);
                }
            }
        }
    }

    /// Gives back what a handler has taken of its request's body.
    fn credit(&mut self, place: usize) {
        let Some((stream, _)) = self.streams.get(place) else { return };
        let Some(inbox) = &stream.inbox else { return };
        let taken = inbox.borrow_mut().taken().min(stream.held);
        if taken == 0 {
            return;
        }
        stream.held -= taken;
        stream.credit += taken;
        if stream.remote_open && stream.credit >= STREAM_WINDOW / 2 {
            let credit = std::mem::take(&mut stream.credit);
            stream.receive_window += i64::from(credit);
            let id = stream.id;
            frame::put_window(&mut self.out, id, credit);
        }
        self.give_back(taken);
    }

    /// Begins an answer.
    pub(super) fn answer(&mut self, place: usize, response: Response<ResponseBody>) {
        let Some((stream, _)) = self.streams.get(place) else { return };
        let page = Page { out: &mut self.out, encoder: &mut self.encoder, date: &self.local.date };
        match page.head(stream.id, stream.is_head, response) {
            Some(sending) => {
                stream.work = Work::Sending(sending);
                self.wants |= 1 << place;
            }
            None => self.end(place),
        }
    }

    /// Sends of each stream in its turn, a frame at a time, while there is room.
    pub(super) fn pump(&mut self) {
        let mut blocked: Set = 0;
        loop {
            // Those behind the one that was last, then those before it.
            let open = self.wants & !blocked;
            let behind = open & Set::MAX.checked_shl(self.turn + 1).unwrap_or(0);
            let next = if behind == 0 { open } else { behind };
            if next == 0 || self.unsent() >= FULL {
                return;
            }
            self.turn = next.trailing_zeros();
            if !self.send(self.turn as usize) {
                blocked |= 1 << self.turn;
            }
        }
    }

    /// Sends one frame; false if none can be sent now.
    fn send(&mut self, place: usize) -> bool {
        let Some((stream, waker)) = self.streams.get(place) else { return false };
        let context = &mut Context::from_waker(waker);
        let Work::Sending(sending) = &mut stream.work else { return false };
        match sending.fill(context) {
            Asked::Here => {}
            Asked::Waits => {
                // Until there is something to take it is not the client that is waited for.
                stream.alarm = None;
                self.wants &= !(1 << place);
                return false;
            }
            Asked::Broken => {
                self.reset(place, Code::Internal);
                return true;
            }
        }
        let here = sending.rest.len();
        if here == 0 {
            match sending.trailers.take() {
                Some(all) => answer::trailers(&mut self.out, &mut self.encoder, stream.id, &all),
                None => frame::put_data(&mut self.out, stream.id, 0, true),
            }
            self.end(place);
            return true;
        }
        let allowed = usize::try_from(stream.send_window.min(self.send_window)).unwrap_or(0);
        let length = here.min(frame::LONGEST).min(allowed);
        if length == 0 {
            let alarm = stream.alarm.get_or_insert_with(|| Alarm::of_client(&self.local.watch));
            if alarm.poll(context, SEND_TIME).is_ready() {
                self.reset(place, Code::Cancel);
            }
            return false;
        }
        let end = sending.is_last && length == here && sending.trailers.is_none();
        frame::put_data(&mut self.out, stream.id, length, end);
        self.out.extend_from_slice(&sending.rest[..length]);
        stream.send_window -= length as i64;
        self.send_window -= length as i64;
        self.guard.sent(length, length == allowed && length < here);
        if length == here {
            sending.rest = Bytes::new();
        } else {
            sending.rest.advance(length);
        }
        if length < sending.piece {
            sending.piece -= length;
        } else {
            sending.piece = sending.rest.len().min(PIECE);
            stream.alarm = None;
        }
        if end {
            self.end(place);
        }
        true
    }

    /// An answer was sent whole.
    fn end(&mut self, place: usize) {
        self.wants &= !(1 << place);
        let Some((stream, _)) = self.streams.get(place) else { return };
        if !stream.refused {
            self.guard.answered();
        }
        if let Some(code) = stream.fault {
            return self.reset(place, code);
        }
        if !stream.remote_open {
            return self.remove(place, Over::Ended);
        }
        stream.alarm = None;
        stream.work = Work::Lingering;
        self.streams.ready.mark(place);
    }

    /// Ends a stream before its end.
    pub(super) fn reset(&mut self, place: usize, code: Code) {
        if let Some((stream, _)) = self.streams.get(place) {
            frame::put_reset(&mut self.out, stream.id, code);
        }
        self.remove(place, Over::Reset);
    }

    /// Forgets a stream, and gives back what came of it and was not taken.
    pub(super) fn remove(&mut self, place: usize, over: Over) {
        self.wants &= !(1 << place);
        let Some(stream) = self.streams.remove(place, over) else { return };
        if let Some(inbox) = &stream.inbox {
            inbox.borrow_mut().cut();
        }
        self.give_back(stream.held);
        if !self.streams.are_open() {
            self.streams.give_back();
            self.decoder.give_back();
        }
    }
}
