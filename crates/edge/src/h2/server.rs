//! One HTTP/2 connection, from its preface to its end.
//!
//! It is one future: in each turn it reads what came, runs the streams that were woken, and writes what they
//! have to say at once. Invariants: an idle connection holds no room for bytes; a client that is told to go
//! (GOAWAY) loses no request: the last one that counts is named only after it heard the first word; what is
//! not read makes us read no more, so that nobody fills memory with answers. Deadlines are those of
//! HTTP/1.1; a client that says nothing while it is served is asked whether it is still there.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use http::uri::Authority;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};

use super::frame::{self, Fault};
use super::guard::Guard;
use super::hpack::{Decoder, Encoder};
use super::ready::Set;
use super::receive::Block;
use super::stream::{Over, Streams};
use super::{Code, STREAM_WINDOW, STREAMS, WINDOW};
use crate::h1::{self, HEAD_TIME, IDLE_TIME, SEND_TIME};
use crate::head;
use crate::rooms::PIECE;
use crate::serve::Client;
use crate::watch::Alarm;
use crate::worker::Local;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What every window begins with (§ 6.9.2).
const FIRST_WINDOW: u32 = (1 << 16) - 1;
/// Reads, and turns, before others of the thread get theirs.
const READS: usize = 8;
const TURNS: usize = 8;
/// With so much unsent nothing more is read.
const CLOGGED: usize = 64 << 10;
/// Silence after which a client is asked, and how long it may take to say anything.
const PING_EVERY: Duration = Duration::from_secs(60);
const PING_TIME: Duration = Duration::from_secs(20);
const PING: [u8; 8] = *b"presence";
/// How long a client may take to hear that it should go.
const HEARING: Duration = Duration::from_secs(5);
const GOODBYE: [u8; 8] = *b"farewell";
const NO_STREAM_YET: u32 = (1 << 31) - 1;

/// How far a client is told to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Farewell {
    None,
    /// It is to begin no more requests; those on their way are served.
    Said,
    /// No further ones are.
    Meant,
}

/// What reading came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    /// Everything that was there.
    All,
    /// There may be more.
    More,
    End,
}

/// What a turn came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Again,
    Rest,
    Over,
}

/// A connection.
pub(super) struct Connection<S> {
    pub(super) local: Rc<Local>,
    pub(super) client: Arc<Client>,
    socket: S,
    /// Read and not looked at yet.
    bytes: BytesMut,
    prefaced: bool,
    /// The client's SETTINGS came.
    pub(super) settled: bool,
    /// To be sent; so many of them are.
    pub(super) out: Vec<u8>,
    written: usize,
    flushed: bool,
    pub(super) decoder: Decoder,
    pub(super) encoder: Encoder,
    pub(super) streams: Streams,
    pub(super) guard: Guard,
    pub(super) block: Option<Block>,
    /// Of the last request.
    pub(super) authority: Option<Authority>,
    /// What we may send, on all streams together and on one that begins.
    pub(super) send_window: i64,
    pub(super) initial_window: i64,
    /// What the client may send, and what it was not told of yet.
    pub(super) receive_window: i64,
    pub(super) credit: u32,
    /// Streams that have something to send, and the one whose turn was last.
    pub(super) wants: Set,
    pub(super) turn: u32,
    pub(super) farewell: Farewell,
    /// Only what lies here is still sent.
    closing: bool,
    /// Runs while no stream is open.
    pub(super) idle: Alarm,
    /// For a preface or a frame that was begun while nothing else is under way.
    pub(super) begun: Alarm,
    /// Runs while the client takes nothing at all.
    sending: Alarm,
    blocked: bool,
    /// Runs while streams are open, and whether anything came in that time.
    pulse: Alarm,
    heard: bool,
    asked: bool,
    leaving: Alarm,
}

/// Serves a connection to its end.
pub(crate) fn serve<S>(
    local: &Rc<Local>,
    socket: S,
    client: Arc<Client>,
) -> impl Future<Output = ()> + use<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // Made here: what an `async fn` is given it holds twice.
    let mut connection = Connection::new(local, socket, client);
    async move {
        let local = Rc::clone(&connection.local);
        let mut drain = pin!(local.drain.notified());
        let mut listens = false;
        poll_fn(|context| {
            // Asked once: from then on it wakes this task.
            if !std::mem::replace(&mut listens, true) {
                let _told = drain.as_mut().poll(context);
            }
            if local.draining.get() {
                connection.say_goodbye();
            }
            connection.poll(context)
        })
        .await;
        connection.give_up();
        h1::linger(&local, &mut connection.socket).await;
    }
}

impl<S> Connection<S> {
    fn new(local: &Rc<Local>, socket: S, client: Arc<Client>) -> Self {
        let alarm = || Alarm::new(&local.watch);
        let mut out = local.rooms.head();
        out.clear();
        frame::put_settings(
            &mut out,
            &[(3, STREAMS as u32), (4, STREAM_WINDOW), (6, head::LARGEST as u32)],
        );
        frame::put_window(&mut out, 0, WINDOW - FIRST_WINDOW);
        Self {
            local: Rc::clone(local),
            client,
            socket,
            bytes: BytesMut::new(),
            prefaced: false,
            settled: false,
            out,
            written: 0,
            flushed: true,
            decoder: Decoder::new(),
            encoder: Encoder::new(),
            streams: Streams::new(),
            guard: Guard::new(),
            block: None,
            authority: None,
            send_window: FIRST_WINDOW.into(),
            initial_window: FIRST_WINDOW.into(),
            receive_window: WINDOW.into(),
            credit: 0,
            wants: 0,
            turn: 0,
            farewell: Farewell::None,
            closing: false,
            idle: Alarm::of_client(&local.watch),
            begun: Alarm::of_client(&local.watch),
            sending: Alarm::of_client(&local.watch),
            blocked: false,
            pulse: alarm(),
            heard: false,
            asked: false,
            leaving: alarm(),
        }
    }

    /// What is under way is dropped.
    fn give_up(&mut self) {
        self.drop_streams();
        self.local.rooms.keep_head(std::mem::take(&mut self.out));
        self.local.rooms.keep_buffer(std::mem::take(&mut self.bytes));
    }

    fn drop_streams(&mut self) {
        let mut used = self.streams.used();
        while used != 0 {
            self.remove(used.trailing_zeros() as usize, Over::Reset);
            used &= used - 1;
        }
    }

    /// Bytes that lie here and are not sent.
    pub(super) fn unsent(&self) -> usize {
        self.out.len() - self.written
    }

    /// Says that the client should begin no more requests.
    fn say_goodbye(&mut self) {
        if self.farewell == Farewell::None && !self.closing {
            self.farewell = Farewell::Said;
            frame::put_goaway(&mut self.out, NO_STREAM_YET, Code::None);
            frame::put_ping(&mut self.out, GOODBYE, false);
        }
    }

    /// An answer to one of our questions.
    pub(super) fn pong(&mut self, opaque: [u8; 8]) {
        if opaque == GOODBYE {
            self.mean_goodbye();
        }
    }

    fn mean_goodbye(&mut self) {
        if self.farewell == Farewell::Said {
            self.farewell = Farewell::Meant;
            frame::put_goaway(&mut self.out, self.streams.last, Code::None);
        }
    }

    /// Ends the connection for what the client did.
    fn fail(&mut self, fault: Fault) {
        let Fault::Connection(code, _) = fault else { return };
        if code == Code::Calm {
            self.local.shared.flooded.fetch_add(1, Ordering::Relaxed);
        }
        self.drop_streams();
        self.block = None;
        frame::put_goaway(&mut self.out, self.streams.last, code);
        self.closing = true;
    }

    /// Takes what was read, as far as it is whole frames.
    fn consume(&mut self) -> Result<(), Fault> {
        let mut bytes = std::mem::take(&mut self.bytes);
        let mut at = 0;
        let done = self.consume_all(&bytes, &mut at);
        bytes.advance(at);
        self.bytes = bytes;
        done
    }

    fn consume_all(&mut self, bytes: &[u8], at: &mut usize) -> Result<(), Fault> {
        if !self.prefaced {
            let here = bytes.len().min(PREFACE.len());
            if bytes[..here] != PREFACE[..here] {
                return Err(Fault::Connection(Code::Protocol, "no preface"));
            }
            if here < PREFACE.len() {
                return Ok(());
            }
            (*at, self.prefaced) = (here, true);
        }
        while let Some(read) = frame::read(&bytes[*at..]) {
            *at += read.size;
            self.take(read.frame)?;
        }
        Ok(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        for _ in 0..TURNS {
            self.streams.ready.begin(context.waker());
            match self.turn(context) {
                Turn::Over => return Poll::Ready(()),
                Turn::Rest if self.streams.ready.rest() => return Poll::Pending,
                Turn::Rest | Turn::Again => {}
            }
        }
        self.streams.ready.rest();
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn turn(&mut self, context: &mut Context<'_>) -> Turn {
        if self.out.capacity() == 0 {
            self.out = self.local.rooms.head();
            self.out.clear();
        }
        let mut came = Came::All;
        if !self.closing {
            match self.read(context) {
                Ok(Came::End) => return Turn::Over,
                Ok(other) => came = other,
                Err(fault) => self.fail(fault),
            }
        }
        if !self.closing {
            self.run();
            self.pump();
            if !self.is_patient(context) {
                return Turn::Over;
            }
        }
        let was_full = self.unsent() >= super::send::FULL;
        match self.write(context) {
            Poll::Pending => return Turn::Rest,
            Poll::Ready(Err(())) => return Turn::Over,
            Poll::Ready(Ok(())) => {}
        }
        let left = self.farewell == Farewell::Meant && !self.streams.are_open();
        if self.closing || left {
            return Turn::Over;
        }
        if was_full || came == Came::More { Turn::Again } else { Turn::Rest }
    }

    fn read(&mut self, context: &mut Context<'_>) -> Result<Came, Fault> {
        for _ in 0..READS {
            if self.unsent() >= CLOGGED {
                break;
            }
            if self.bytes.capacity() == 0 {
                self.bytes = self.local.rooms.buffer();
            }
            let (room, here) = (self.bytes.capacity(), self.bytes.len());
            let wanted = frame::wanted(&self.bytes).unwrap_or(0);
            if room - here < PIECE / 4 || room < wanted {
                self.bytes.reserve(wanted.saturating_sub(here).max(PIECE));
            }
            match pin!(self.socket.read_buf(&mut self.bytes)).poll(context) {
                Poll::Pending => {
                    if self.bytes.is_empty() {
                        self.local.rooms.keep_buffer(std::mem::take(&mut self.bytes));
                    }
                    return Ok(Came::All);
                }
                Poll::Ready(Ok(1..)) => self.heard = true,
                Poll::Ready(_) => return Ok(Came::End),
            }
            self.consume()?;
        }
        Ok(Came::More)
    }

    /// Sends all that lies here.
    fn write(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ()>> {
        while self.unsent() > 0 {
            let rest = &self.out[self.written..];
            match Pin::new(&mut self.socket).poll_write(context, rest) {
                Poll::Pending => return self.wait(context),
                Poll::Ready(Ok(taken @ 1..)) => {
                    self.written += taken;
                    // There was no room until the client took something: that is a sign of life, too.
                    self.heard |= std::mem::take(&mut self.blocked);
                    self.flushed = false;
                    self.sending.clear();
                }
                Poll::Ready(_) => return Poll::Ready(Err(())),
            }
        }
        if !self.flushed {
            match Pin::new(&mut self.socket).poll_flush(context) {
                Poll::Pending => return self.wait(context),
                Poll::Ready(Err(_)) => return Poll::Ready(Err(())),
                Poll::Ready(Ok(())) => self.sending.clear(),
            }
            self.flushed = true;
        }
        self.written = 0;
        self.local.rooms.keep_head(std::mem::take(&mut self.out));
        Poll::Ready(Ok(()))
    }

    /// A client that takes nothing for too long is cut off.
    fn wait(&mut self, context: &Context<'_>) -> Poll<Result<(), ()>> {
        self.blocked = true;
        self.sending.poll(context, SEND_TIME).map(Err)
    }

    /// Looks at the deadlines; false if the client is gone.
    fn is_patient(&mut self, context: &Context<'_>) -> bool {
        if let Some(block) = &mut self.block
            && block.alarm.poll(context, HEAD_TIME).is_ready()
        {
            self.fail(Fault::Connection(Code::Calm, "a field block took longer than 15 s"));
            return true;
        }
        if self.farewell == Farewell::Said && self.leaving.poll(context, HEARING).is_ready() {
            self.mean_goodbye();
        }
        if self.streams.are_open() {
            return self.is_present(context);
        }
        if self.bytes.is_empty() {
            self.begun.clear();
        } else if self.begun.poll(context, HEAD_TIME).is_ready() {
            self.fail(Fault::Connection(Code::Calm, "a frame took longer than 15 s"));
            return true;
        }
        if self.idle.poll(context, IDLE_TIME).is_ready() {
            self.say_goodbye();
            return self.leaving.poll(context, HEARING).is_pending();
        }
        true
    }

    /// Whether the client says anything while it is served, at the latest when it is asked.
    fn is_present(&mut self, context: &Context<'_>) -> bool {
        let time = |asked| if asked { PING_TIME } else { PING_EVERY };
        if self.pulse.poll(context, time(self.asked)).is_pending() {
            return true;
        }
        self.pulse.clear();
        let heard = std::mem::take(&mut self.heard);
        if self.asked && !heard {
            return false;
        }
        self.asked = !heard;
        if self.asked {
            frame::put_ping(&mut self.out, PING, false);
        }
        self.pulse.poll(context, time(self.asked)).is_pending()
    }
}
