//! Sockets: listening ones, who listens where, who is at the other end.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use bytes::BufMut;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, sockopt};

use crate::proc_tree;

/// Connections that wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A listening socket: address reuse (a restart must not wait for TIME_WAIT), IPv6 sockets for IPv6 only.
pub fn listen_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

/// The kernel's own, never reused number of a socket.
pub fn socket_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(sockopt::socket_cookie(socket)?)
}

/// Whether the socket listens.
pub fn is_listening(socket: BorrowedFd<'_>) -> bool {
    sockopt::socket_acceptconn(socket).unwrap_or(false)
}

/// User and process at the other end of a Unix socket.
pub fn peer(stream: &UnixStream) -> io::Result<(u32, i32)> {
    let credentials = sockopt::socket_peercred(stream.as_fd())?;
    Ok((credentials.uid.as_raw(), credentials.pid.as_raw_nonzero().get()))
}

/// Accepts one connection, non-blocking and close-on-exec. The listener should be non-blocking.
pub fn accept(listener: impl AsFd) -> io::Result<(TcpStream, SocketAddr)> {
    let (fd, address) =
        rustix::net::acceptfrom_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    let address = address.and_then(|address| SocketAddr::try_from(address).ok());
    let address = address
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a peer without an address"))?;
    Ok((TcpStream::from(fd), address))
}

/// Receives behind what a buffer holds, past the C library; so many bytes, 0 at the end.
pub fn receive(from: impl AsFd, into: &mut impl BufMut) -> io::Result<usize> {
    // SAFETY: the kernel writes there and nobody reads what it did not write.
    let room = unsafe { into.chunk_mut().as_uninit_slice_mut() };
    let ((received, _), _) = rustix::net::recv(from, room, RecvFlags::empty())?;
    let count = received.len();
    // SAFETY: so many bytes at the beginning of this room were written.
    unsafe { into.advance_mut(count) };
    Ok(count)
}

/// Who listens on a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its process.
    pub pid: u32,
    /// Its name.
    pub program: String,
}

/// Finds who listens on `address` (or on a wildcard of its port); `None` when it cannot be seen.
pub fn port_holder(address: SocketAddr) -> Option<Holder> {
    let sockets = proc_tree::listening_sockets();
    let found = sockets.iter().find(|one| {
        one.address.port() == address.port()
            && (one.address.ip() == address.ip()
                || one.address.ip().is_unspecified()
                || address.ip().is_unspecified())
    })?;
    let pid = proc_tree::owner_of(found.inode)?;
    Some(Holder { pid, program: proc_tree::program_of(pid) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_port_is_found() {
        let listener = listen_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(port_holder(address).unwrap().pid, std::process::id());
        assert!(is_listening(listener.as_fd()));
        assert_eq!(listen_tcp(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
