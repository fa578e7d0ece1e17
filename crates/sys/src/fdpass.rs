//! Messages with descriptors over a Unix socket: a 4-byte big-endian length, then the payload; the
//! descriptors (SCM_RIGHTS) ride on the length's bytes.
//!
//! Invariants: at most [`MAX_FDS`] descriptors and `max` bytes; what is longer is refused before memory is
//! taken; received descriptors are close-on-exec.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// The most descriptors in one message.
pub const MAX_FDS: usize = 64;

/// Sends one message. Blocking.
pub fn send_message(stream: &UnixStream, payload: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let too_large = || io::Error::new(io::ErrorKind::InvalidInput, "the message is too large");
    if fds.len() > MAX_FDS {
        return Err(too_large());
    }
    let length = u32::try_from(payload.len()).map_err(|_| too_large())?.to_be_bytes();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let sent = sendmsg(stream, &[IoSlice::new(&length)], &mut control, SendFlags::NOSIGNAL)?;
    let mut writer = stream;
    // A partial send of four bytes has carried the descriptors already; the rest follows plainly.
    writer.write_all(&length[sent.min(4)..])?;
    writer.write_all(payload)
}

/// Receives one message; `None` when the peer closed between messages. Blocking.
pub fn receive_message(
    stream: &UnixStream,
    max: usize,
) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut length = [0u8; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = loop {
        match recvmsg(
            stream,
            &mut [IoSliceMut::new(&mut length)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        ) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?.bytes,
        }
    };
    if got == 0 {
        return Ok(None);
    }
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    let mut reader = stream;
    reader.read_exact(&mut length[got..])?;
    let length = u32::from_be_bytes(length) as usize;
    if length > max {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a message of {length} bytes is announced, at most {max} are taken"),
        ));
    }
    let mut payload = Vec::new();
    stream.take(length as u64).read_to_end(&mut payload)?;
    if payload.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some((payload, fds)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn payload_and_descriptors_arrive_together() {
        let (a, b) = UnixStream::pair().unwrap();
        let (inner, other) = UnixStream::pair().unwrap();
        send_message(&a, b"hello", &[inner.as_fd()]).unwrap();
        drop(inner);
        let (payload, mut fds) = receive_message(&b, 10).unwrap().unwrap();
        assert_eq!(payload, b"hello");
        let mut inner = UnixStream::from(fds.pop().unwrap());
        inner.write_all(b"x").unwrap();
        let mut byte = [0];
        (&other).read_exact(&mut byte).unwrap();
        drop(a);
        assert!(receive_message(&b, 10).unwrap().is_none());
    }

    #[test]
    fn what_is_too_long_or_cut_off_is_an_error() {
        let (a, b) = UnixStream::pair().unwrap();
        send_message(&a, b"hello", &[]).unwrap();
        assert_eq!(receive_message(&b, 4).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let (mut a, b) = UnixStream::pair().unwrap();
        a.write_all(&[0, 0, 0, 9, 1]).unwrap();
        drop(a);
        assert_eq!(receive_message(&b, 100).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
