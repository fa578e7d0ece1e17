//! Reading and writing by the kernel's calls themselves.
//!
//! Why: the C library's own `recv` and `send` allow for threads that are cancelled in them, which takes two locked
//! instructions for each call in a process of several threads; and one slice needs no vector. Invariant: as the
//! runtime's own calls do, one that got less than it asked for says that the kernel has no more now, so that nobody
//! asks it again before it says otherwise; what was sent to who is gone ends no process.

use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::task::{Context, Poll, ready};

use rustix::net::{SendAncillaryBuffer, SendFlags, send, sendmsg};
use seaworthy_sys::socket::receive;
use tokio::io::{Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A socket that the runtime waits for.
pub(super) trait Watched: AsFd {
    /// Until something is to be read.
    fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Until something may be written.
    fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Calls the kernel where it is ready, as far as the runtime knows; `WouldBlock` makes it wait again.
    fn try_io<T>(&self, what: Interest, call: impl FnOnce() -> io::Result<T>) -> io::Result<T>;
}

macro_rules! watched {
    ($stream:ty) => {
        impl Watched for $stream {
            fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_read_ready(context)
            }

            fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_write_ready(context)
            }

            fn try_io<T>(
                &self,
                what: Interest,
                call: impl FnOnce() -> io::Result<T>,
            ) -> io::Result<T> {
                self.try_io(what, call)
            }
        }
    };
}

watched!(TcpStream);
watched!(UnixStream);

/// Calls the kernel for at most `most` bytes; none where it has to be waited for.
fn attempt(
    stream: &impl Watched,
    what: Interest,
    most: usize,
    call: impl FnOnce() -> io::Result<usize>,
) -> Option<io::Result<usize>> {
    let mut done = None;
    let tried = stream.try_io(what, || match call() {
        Ok(some) if 0 < some && some < most => {
            done = Some(some);
            Err(io::ErrorKind::WouldBlock.into())
        }
        other => other,
    });
    match (done, tried) {
        (Some(some), _) => Some(Ok(some)),
        (None, Err(error)) if error.kind() == io::ErrorKind::WouldBlock => None,
        (None, other) => Some(other),
    }
}

pub(super) fn poll_read(
    stream: &impl Watched,
    context: &mut Context<'_>,
    into: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    loop {
        ready!(stream.poll_read_ready(context))?;
        let room = into.remaining();
        let read = || receive(stream, into);
        if let Some(read) = attempt(stream, Interest::READABLE, room, read) {
            return Poll::Ready(read.map(drop));
        }
    }
}

pub(super) fn poll_write(
    stream: &impl Watched,
    context: &mut Context<'_>,
    bytes: &[u8],
) -> Poll<io::Result<usize>> {
    loop {
        ready!(stream.poll_write_ready(context))?;
        let write = || Ok(send(stream, bytes, SendFlags::NOSIGNAL)?);
        if let Some(written) = attempt(stream, Interest::WRITABLE, bytes.len(), write) {
            return Poll::Ready(written);
        }
    }
}

pub(super) fn poll_write_vectored(
    stream: &impl Watched,
    context: &mut Context<'_>,
    slices: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    if let [only] = slices {
        return poll_write(stream, context, only);
    }
    let most = slices.iter().map(|slice| slice.len()).sum();
    loop {
        ready!(stream.poll_write_ready(context))?;
        let write = || {
            Ok(sendmsg(stream, slices, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)?)
        };
        if let Some(written) = attempt(stream, Interest::WRITABLE, most, write) {
            return Poll::Ready(written);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream as Plain;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::super::Socket;
    use super::*;

    fn pair() -> (Socket, Socket) {
        let (near, far) = Plain::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        far.set_nonblocking(true).unwrap();
        let watched = |plain| Socket::Unix(UnixStream::from_std(plain).unwrap());
        (watched(near), watched(far))
    }

    fn run(test: impl Future<Output = ()>) {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_io().build().unwrap().block_on(test);
    }

    #[test]
    fn what_is_sent_arrives_whole_however_little_is_taken_at_once() {
        run(async {
            let (mut near, mut far) = pair();
            // More than the kernel holds: both wait for each other, again and again.
            let sent: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
            let (first, second) = sent.split_at(1_000_000);
            let send = async {
                near.write_all(first).await.unwrap();
                let mut left = second;
                while !left.is_empty() {
                    let (one, other) = left.split_at(left.len() / 3);
                    let slices = [IoSlice::new(one), IoSlice::new(other)];
                    let written = near.write_vectored(&slices).await.unwrap();
                    left = &left[written..];
                }
                near.shutdown().await.unwrap();
            };
            let take = async {
                let (mut taken, mut room) = (Vec::new(), 1);
                loop {
                    let mut piece = bytes::BytesMut::with_capacity(room);
                    if far.read_buf(&mut piece).await.unwrap() == 0 {
                        return taken;
                    }
                    taken.extend_from_slice(&piece);
                    room = room % 70_000 * 3 + 1;
                }
            };
            let ((), taken) = tokio::join!(send, take);
            assert!(taken == sent);
        });
    }

    #[test]
    fn nobody_asks_again_for_what_the_kernel_just_gave_all_of() {
        run(async {
            let (mut near, mut far) = pair();
            far.write_all(b"all of it").await.unwrap();
            let mut room = [0; 64];
            assert_eq!(near.read(&mut room).await.unwrap(), 9);
            // Something comes, but the runtime has not heard of it: a call would find it.
            far.write_all(b"more").await.unwrap();
            let nothing = near.try_read(&mut room).map_err(|error| error.kind());
            assert_eq!(nothing, Err(io::ErrorKind::WouldBlock));
            assert_eq!(near.read(&mut room).await.unwrap(), 4);
            // Who asked for exactly what was there may ask again.
            far.write_all(b"1234").await.unwrap();
            assert_eq!(near.read(&mut room[..4]).await.unwrap(), 4);
            drop(far);
            assert_eq!(near.read(&mut room).await.unwrap(), 0);
        });
    }

    #[test]
    fn who_is_gone_is_an_error_and_not_the_end() {
        run(async {
            let (mut near, far) = pair();
            drop(far);
            let sent = near.write_all(b"x").await.map_err(|error| error.kind());
            assert_eq!(sent, Err(io::ErrorKind::BrokenPipe));
            let slices = [IoSlice::new(b"x"), IoSlice::new(b"y")];
            let sent = near.write_vectored(&slices).await.map_err(|error| error.kind());
            assert_eq!(sent, Err(io::ErrorKind::BrokenPipe));
        });
    }
}
