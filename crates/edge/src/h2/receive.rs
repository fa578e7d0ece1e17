//! What the frames of a client do.
//!
//! Invariants: a field block is decoded whatever becomes of its stream, or the tables of both sides would
//! differ; a block is bounded before it is gathered; every byte that flow control counts is given back, taken
//! or not. What is wrong with one stream ends that stream only (RFC 9113 § 5.4.2).

use http::StatusCode;

use super::frame::{self, Fault, Frame, LARGEST_WINDOW};
use super::head::{Fields, Head};
use super::inbox::Inbox;
use super::server::{Connection, Farewell};
use super::stream::{Found, Over, Stream, Work};
use super::{Body, Code, WINDOW};
use crate::body::ClientBody;
use crate::head::{Refusal, bad};
use crate::serve;
use crate::watch::Alarm;

/// A field block as it is sent; unfolded it may be as large as this, too.
const LARGEST_BLOCK: usize = 64 << 10;

const FLOW: Fault = Fault::Connection(Code::FlowControl, "a window is larger than it can be");
const CLOSED: Fault = Fault::Connection(Code::StreamClosed, "a head for a stream that is over");
const ORDER: Fault = Fault::Connection(Code::Protocol, "a stream is used before it was opened");

/// A field block that goes on in the next frame.
#[derive(Debug)]
pub(super) struct Block {
    stream: u32,
    end: bool,
    bytes: Vec<u8>,
    /// Runs until it is whole.
    pub(super) alarm: Alarm,
}

impl<S> Connection<S> {
    /// Does what a frame says.
    pub(super) fn take(&mut self, frame: Result<Frame<'_>, Fault>) -> Result<(), Fault> {
        match self.act(frame) {
            Err(Fault::Stream(id, code)) => self.end_stream(id, code),
            done => done,
        }
    }

    fn act(&mut self, frame: Result<Frame<'_>, Fault>) -> Result<(), Fault> {
        let frame = frame?;
        if let Some(block) = &self.block
            && !matches!(frame, Frame::Continuation { stream, .. } if stream == block.stream)
        {
            let cause = "a field block is interrupted";
            return Err(Fault::Connection(Code::Protocol, cause));
        }
        if !self.settled && !matches!(frame, Frame::Settings(_)) {
            let cause = "the first frame is not SETTINGS";
            return Err(Fault::Connection(Code::Protocol, cause));
        }
        match frame {
            Frame::Data { stream, data, counted, end } => self.data(stream, data, counted, end),
            Frame::Headers { stream, block, end, whole: true } => self.head(stream, block, end),
            Frame::Headers { stream, block, end, whole: false } => {
                let (bytes, alarm) = (block.to_vec(), Alarm::of_client(&self.local.watch));
                self.block = Some(Block { stream, end, bytes, alarm });
                Ok(())
            }
            Frame::Continuation { block, whole, .. } => self.go_on(block, whole),
            Frame::Reset { stream } => self.taken_back(stream),
            Frame::Settings(payload) => self.settings(payload),
            Frame::Ping(opaque) => {
                self.guard.idle()?;
                frame::put_ping(&mut self.out, opaque, true);
                Ok(())
            }
            Frame::Pong(opaque) => {
                self.pong(opaque);
                self.guard.idle()
            }
            Frame::Window { stream, increment } => self.window(stream, increment),
            Frame::Priority | Frame::SettingsAck | Frame::Goaway | Frame::Unknown => {
                self.guard.idle()
            }
        }
    }

    /// What is wrong is the client's doing.
    fn end_stream(&mut self, id: u32, code: Code) -> Result<(), Fault> {
        match self.streams.find(id) {
            Found::Fresh => {
                return Err(Fault::Connection(code, "a fault of a stream that is none"));
            }
            Found::At(place) => self.reset(place, code),
            Found::Over(_) | Found::Unknown => frame::put_reset(&mut self.out, id, code),
        }
        self.guard.taken_back()
    }

    fn go_on(&mut self, more: &[u8], whole: bool) -> Result<(), Fault> {
        let Some(mut block) = self.block.take() else {
            let cause = "a CONTINUATION of nothing";
            return Err(Fault::Connection(Code::Protocol, cause));
        };
        block.bytes.extend_from_slice(more);
        if block.bytes.len() > LARGEST_BLOCK {
            return Err(Fault::Connection(Code::Calm, "a field block does not end"));
        }
        if whole {
            return self.head(block.stream, &block.bytes, block.end);
        }
        self.block = Some(block);
        self.guard.idle()
    }

    fn data(&mut self, id: u32, data: &[u8], counted: u32, end: bool) -> Result<(), Fault> {
        self.receive_window -= i64::from(counted);
        if self.receive_window < 0 {
            let cause = "more of bodies than their window";
            return Err(Fault::Connection(Code::FlowControl, cause));
        }
        let place = match self.streams.find(id) {
            Found::At(place) => place,
            Found::Fresh => return Err(ORDER),
            Found::Over(Over::Reset) => {
                self.give_back(counted);
                return self.guard.received(0);
            }
            Found::Over(_) | Found::Unknown => {
                self.give_back(counted);
                return Err(Fault::Stream(id, Code::StreamClosed));
            }
        };
        let Some((stream, _)) = self.streams.get(place) else { return Ok(()) };
        stream.held += counted;
        stream.receive_window -= i64::from(counted);
        if !stream.remote_open {
            return Err(Fault::Stream(id, Code::StreamClosed));
        }
        if stream.receive_window < 0 {
            return Err(Fault::Stream(id, Code::FlowControl));
        }
        if let Some(left) = stream.announced {
            let left = left.checked_sub(data.len() as u64);
            stream.announced = Some(left.ok_or(Fault::Stream(id, Code::Protocol))?);
        }
        let taken = data.is_empty()
            || stream.inbox.as_ref().is_some_and(|inbox| inbox.borrow_mut().push(data));
        // What nobody takes is given back to the others only: its stream is not to send more of it.
        let free = if taken { counted - data.len() as u32 } else { counted };
        stream.held -= free;
        if taken {
            stream.credit += free;
        }
        if end {
            self.end_body(place, None)?;
        }
        self.give_back(free);
        if end { Ok(()) } else { self.guard.received(data.len()) }
    }

    /// The client has sent all of a request.
    fn end_body(&mut self, place: usize, trailers: Option<http::HeaderMap>) -> Result<(), Fault> {
        let Some((stream, _)) = self.streams.get(place) else { return Ok(()) };
        if stream.announced.is_some_and(|left| left > 0) {
            return Err(Fault::Stream(stream.id, Code::Protocol));
        }
        stream.remote_open = false;
        if let Some(inbox) = &stream.inbox {
            inbox.borrow_mut().end(trailers);
        }
        if matches!(stream.work, Work::Lingering) {
            self.remove(place, Over::Ended);
        }
        Ok(())
    }

    /// A whole field block.
    fn head(&mut self, id: u32, block: &[u8], end: bool) -> Result<(), Fault> {
        let mut fields = Fields::default();
        self.decoder
            .decode(block, |entry| fields.take(entry))
            .map_err(|broken| Fault::Connection(Code::Compression, broken.0))?;
        match self.streams.find(id) {
            Found::Fresh if id % 2 == 1 => self.open(id, fields, end),
            Found::At(place) => self.trailers(place, id, fields, end),
            Found::Over(Over::Ended) => Err(CLOSED),
            Found::Over(Over::TakenBack) => Err(Fault::Stream(id, Code::StreamClosed)),
            Found::Over(Over::Reset) => self.guard.idle(),
            Found::Fresh | Found::Unknown => {
                Err(Fault::Connection(Code::Protocol, "streams are not opened in their order"))
            }
        }
    }

    fn trailers(&mut self, place: usize, id: u32, fields: Fields, end: bool) -> Result<(), Fault> {
        let is_open = self.streams.get(place).is_some_and(|(stream, _)| stream.remote_open);
        if !is_open {
            return Err(Fault::Stream(id, Code::StreamClosed));
        }
        let trailers = fields.trailers().filter(|_| end);
        let trailers = trailers.ok_or(Fault::Stream(id, Code::Protocol))?;
        self.end_body(place, (!trailers.is_empty()).then_some(trailers))
    }

    fn open(&mut self, id: u32, fields: Fields, end: bool) -> Result<(), Fault> {
        self.streams.last = id;
        self.idle.clear();
        // While it is open nobody asks how long its frame took: the next one that is begun has all of its time.
        self.begun.clear();
        let place = self.streams.place().filter(|_| self.farewell != Farewell::Meant);
        let Some(place) = place else {
            frame::put_reset(&mut self.out, id, Code::Refused);
            self.streams.remember(id, Over::Reset);
            return self.guard.taken_back();
        };
        let mut stream = Stream::new(id, Work::Lingering, self.initial_window);
        stream.remote_open = !end;
        let head = fields.request(&mut self.authority).and_then(|head| {
            let short = end && head.length.is_some_and(|length| length > 0);
            if short { Err(bad("a body is shorter than its Content-Length")) } else { Ok(head) }
        });
        match head {
            Ok(Head { request, length }) => {
                stream.is_head = *request.method() == http::Method::HEAD;
                let body = if end {
                    ClientBody::Empty
                } else {
                    let inbox = Inbox::new(&self.streams.ready, place, length);
                    let body = Body::new(&inbox);
                    (stream.announced, stream.inbox) = (length, Some(inbox));
                    ClientBody::Http2(body)
                };
                let (local, client) = (self.local.clone(), self.client.clone());
                // Boxed, and made where it stays.
                let parts = Box::new(request.into_parts().0);
                let handler = Box::pin(serve::handle(local, client, parts, body));
                stream.work = Work::Handling(handler);
                self.streams.put(place, stream);
                self.streams.ready.mark(place);
                Ok(())
            }
            Err(refusal) => self.refuse(place, stream, refusal),
        }
    }

    /// Answers what is no request (§ 8.1.1); one that is malformed is reset behind its answer, for those
    /// who look at errors only.
    fn refuse(&mut self, place: usize, mut stream: Stream, refusal: Refusal) -> Result<(), Fault> {
        self.local.shared.requests.add();
        let Refusal { status, cause } = refusal;
        let response = serve::turned_down(&self.local, &self.client, status, cause);
        stream.refused = true;
        stream.fault = (status == StatusCode::BAD_REQUEST).then_some(Code::Protocol);
        self.streams.put(place, stream);
        self.answer(place, response);
        self.guard.taken_back()
    }

    fn taken_back(&mut self, id: u32) -> Result<(), Fault> {
        match self.streams.find(id) {
            Found::Fresh => Err(ORDER),
            Found::At(place) => {
                self.remove(place, Over::TakenBack);
                self.guard.taken_back()
            }
            Found::Over(_) | Found::Unknown => self.guard.idle(),
        }
    }

    /// § 6.5.2, in their order.
    fn settings(&mut self, payload: &[u8]) -> Result<(), Fault> {
        self.guard.idle()?;
        self.settled = true;
        let wrong =
            |code| Err(Fault::Connection(code, "a setting has a value that it cannot have"));
        for (identifier, value) in frame::settings(payload) {
            match (identifier, value) {
                (1, most) => self.encoder.resize(most as usize),
                (2, 2..) => return wrong(Code::Protocol),
                (4, window) if i64::from(window) > LARGEST_WINDOW => {
                    return wrong(Code::FlowControl);
                }
                (4, window) => self.initial_window(window.into())?,
                (5, most) => {
                    let most = most as usize;
                    if !(frame::LONGEST..1 << 24).contains(&most) {
                        return wrong(Code::Protocol);
                    }
                }
                _ => {}
            }
        }
        frame::put_settings_ack(&mut self.out);
        Ok(())
    }

    /// What is under way changes as well (§ 6.9.2).
    fn initial_window(&mut self, window: i64) -> Result<(), Fault> {
        let more = window - std::mem::replace(&mut self.initial_window, window);
        for stream in self.streams.iter_mut() {
            stream.send_window += more;
            if stream.send_window > LARGEST_WINDOW {
                return Err(FLOW);
            }
        }
        Ok(())
    }

    fn window(&mut self, id: u32, increment: u32) -> Result<(), Fault> {
        self.guard.idle()?;
        if id == 0 {
            self.send_window += i64::from(increment);
            return if self.send_window > LARGEST_WINDOW { Err(FLOW) } else { Ok(()) };
        }
        match self.streams.find(id) {
            Found::Fresh => Err(ORDER),
            Found::At(place) => {
                let Some((stream, _)) = self.streams.get(place) else { return Ok(()) };
                stream.send_window += i64::from(increment);
                let is_larger = stream.send_window > LARGEST_WINDOW;
                if is_larger { Err(Fault::Stream(id, Code::FlowControl)) } else { Ok(()) }
            }
            Found::Over(_) | Found::Unknown => Ok(()),
        }
    }

    /// So many bytes of bodies are done with: the client may send as many more.
    pub(super) fn give_back(&mut self, bytes: u32) {
        self.credit += bytes;
        // Not each time: an update costs more than it is worth.
        if self.credit >= WINDOW / 4 {
            let credit = std::mem::take(&mut self.credit);
            frame::put_window(&mut self.out, 0, credit);
            self.receive_window += i64::from(credit);
        }
    }
}
