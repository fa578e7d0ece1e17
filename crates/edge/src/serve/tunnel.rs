//! A connection that became one of another protocol: bytes both ways, until one side has had enough.
//!
//! A WebSocket on an instance (or an edge) that goes is told so between two frames, with 1001; the client's
//! answer reaches the instance, which sees a client that left in good order. Invariants: no byte of either
//! side is changed; what we say ourselves is the last that the client hears. Other protocols are unknown to us,
//! and are cut when their instance ends.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::frames::{Frames, GOING_AWAY};
use crate::ending;
use crate::snapshot::Shared;
use crate::socket::Socket;
use crate::upstream::InFlight;

/// Bytes that are on their way at once, each way.
const ROOM: usize = 8 << 10;
/// How long a client may take to answer that it was told.
const ANSWER: Duration = Duration::from_secs(2);

/// Both sides changed their protocol.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(super) instance: Socket,
    /// What the instance sent behind its head.
    pub(super) behind: BytesMut,
    /// Whether it speaks in WebSocket frames.
    pub(super) is_web_socket: bool,
    pub(super) shared: Arc<Shared>,
    pub(super) guard: InFlight,
}

/// How the way from the instance to the client ended.
enum Down<W> {
    /// The instance has nothing more to say, or the client does not listen.
    Over,
    /// The client was told that it has to go.
    Told(W),
}

impl Tunnel {
    /// Copies bytes until both sides ended; `early` is what the client sent behind its request.
    pub(crate) async fn run(self, client: impl AsyncRead + AsyncWrite + Unpin, early: BytesMut) {
        let Self { instance, behind, is_web_socket, shared, guard } = self;
        // Long-lived: counted apart, so that it does not hold up the end of the instance's other work.
        let of_instance = guard.into_tunnel();
        let _open = shared.open_tunnel();
        let ending = async {
            if is_web_socket {
                ending::over(of_instance.load(), Arc::clone(&shared)).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        let (mut from_instance, mut to_instance) = tokio::io::split(instance);
        let (mut from_client, to_client) = tokio::io::split(client);
        let answered = tokio::sync::Notify::new();
        let up = async {
            let (mut frames, mut piece) = (Frames::default(), early);
            loop {
                if is_web_socket {
                    frames.see(&piece);
                }
                if to_instance.write_all(&piece).await.is_err() {
                    return;
                }
                if frames.closed() {
                    answered.notify_one();
                }
                piece.clear();
                piece.reserve(ROOM);
                match from_client.read_buf(&mut piece).await {
                    Ok(1..) => {}
                    _ => break,
                }
            }
            // A side that ended is passed on as such; the other may go on.
            to_instance.shutdown().await.ok();
        };
        let mut up = std::pin::pin!(up);
        let mut down = std::pin::pin!(down(&mut from_instance, to_client, behind, ending));
        let mut up_over = false;
        let told = loop {
            tokio::select! {
                () = &mut up, if !up_over => up_over = true,
                ended = &mut down => break ended,
            }
        };
        let Down::Told(mut to_client) = told else {
            // The client may still have something to say.
            if !up_over {
                up.await;
            }
            return;
        };
        shared.told.fetch_add(1, Ordering::Relaxed);
        let answer = async {
            tokio::select! {
                () = answered.notified() => {}
                () = &mut up, if !up_over => {}
            }
        };
        tokio::time::timeout(ANSWER, answer).await.ok();
        to_client.shutdown().await.ok();
    }
}

/// From the instance to the client, until one of them ends, or `ending` does and the frame that is under way.
async fn down<W: AsyncWrite + Unpin>(
    from: &mut (impl AsyncRead + Unpin),
    mut to: W,
    behind: BytesMut,
    ending: impl Future<Output = ()>,
) -> Down<W> {
    let (mut frames, mut piece, mut told) = (Frames::default(), behind, false);
    let mut ending = std::pin::pin!(ending);
    loop {
        frames.see(&piece);
        if to.write_all(&piece).await.is_err() || to.flush().await.is_err() {
            return Down::Over;
        }
        piece.clear();
        piece.reserve(ROOM);
        loop {
            if told && frames.between() {
                // One that the instance closes by itself is not told twice.
                if frames.closed() || to.write_all(&GOING_AWAY).await.is_err() {
                    return Down::Over;
                }
                to.flush().await.ok();
                return Down::Told(to);
            }
            tokio::select! {
                read = from.read_buf(&mut piece) => {
                    if matches!(read, Ok(1..)) {
                        break;
                    }
                    to.shutdown().await.ok();
                    return Down::Over;
                }
                () = &mut ending, if !told => told = true,
            }
        }
    }
}
