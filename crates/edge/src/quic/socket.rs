//! A UDP socket that takes and gives several packets at once, inside the sandbox too.
//!
//! Why our own: quinn's finds out what the kernel can do by opening sockets of its own, which here nobody may; it
//! would then take one packet of each pile that the kernel gives it and lose the rest. Every kernel that is
//! supported can do both (receiving since Linux 5.0, sending since 4.18); a network card that cannot send so
//! says it at the first try, and is then given single packets. Not here: what is in the packets.

use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::io::Interest;

/// The most packets in a pile (`UDP_GRO_CNT_MAX`, `UDP_MAX_SEGMENTS` of the kernel).
const PILE: usize = 64;
/// What a driver says that cannot take a pile apart: EIO, sometimes EINVAL.
const NO_PILES: [i32; 2] = [5, 22];

/// The socket.
#[derive(Debug)]
pub(super) struct Socket {
    io: tokio::net::UdpSocket,
    state: UdpSocketState,
    /// Whether piles can be sent.
    piles: AtomicBool,
    /// The packets that come are another's now: who read on would answer for connections that he does not know.
    deaf: Arc<AtomicBool>,
}

impl Socket {
    /// Registered with the runtime that is entered.
    pub(super) fn new(socket: UdpSocket) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        let io = tokio::net::UdpSocket::from_std(socket)?;
        Ok(Self { io, state, piles: AtomicBool::new(true), deaf: Arc::default() })
    }

    /// Set, it reads nothing more; what is sent still goes out.
    pub(super) fn deaf(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.deaf)
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller { socket: self, waiting: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let sent =
            self.io.try_io(Interest::WRITABLE, || self.state.try_send((&self.io).into(), transmit));
        match sent {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
            Err(error) => {
                let refused = error.raw_os_error().is_some_and(|code| NO_PILES.contains(&code));
                if refused && transmit.segment_size.is_some() {
                    self.piles.store(false, Ordering::Relaxed);
                }
                // As if it had been lost on its way: QUIC sends it again.
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        rooms: &mut [IoSliceMut<'_>],
        about: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            if self.deaf.load(Ordering::Acquire) {
                return Poll::Pending;
            }
            ready!(self.io.poll_recv_ready(context))?;
            let received = self
                .io
                .try_io(Interest::READABLE, || self.state.recv((&self.io).into(), rooms, about));
            match received {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return Poll::Ready(received),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        if self.piles.load(Ordering::Relaxed) { PILE } else { 1 }
    }

    fn max_receive_segments(&self) -> usize {
        PILE
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

type Waiting = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

/// Waits until the socket takes more.
struct Poller {
    socket: Arc<Socket>,
    waiting: Option<Waiting>,
}

impl std::fmt::Debug for Poller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Poller").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl UdpPoller for Poller {
    fn poll_writable(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = Arc::clone(&self.socket);
        let begin = || -> Waiting { Box::pin(async move { socket.io.writable().await }) };
        let mut waiting = self.waiting.take().unwrap_or_else(begin);
        let done = waiting.as_mut().poll(context);
        if done.is_pending() {
            self.waiting = Some(waiting);
        }
        done
    }
}
