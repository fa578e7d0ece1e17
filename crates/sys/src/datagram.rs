//! UDP sockets of one address that several processes serve in turn.
//!
//! Why: a QUIC connection is known by an id in its packets, not by a socket of its own, so two processes on
//! one socket would take each other's packets. Here an address has [`SLOTS`] sockets, one for each process
//! that may be alive at a time, and the kernel deals the packets out: those of a connection to the slot that
//! stands in the id which that process gave it, those that begin one to the newest. Invariants: the sockets
//! of a group are bound in order and stay open together, because the kernel counts them; a group is made only
//! where nobody else is bound. Not here: what an id looks like beyond its first byte ([`slot_of`]).

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

/// Sockets of an address: so many processes serve it at a time, all but one of them finishing. A power of two.
pub const SLOTS: u8 = 4;

/// The slot that the first byte of a connection's id names.
pub fn slot_of(first: u8) -> u8 {
    first & (SLOTS - 1)
}

/// The first byte of an id, made to name a slot.
pub fn with_slot(first: u8, slot: u8) -> u8 {
    (first & !(SLOTS - 1)) | slot_of(slot)
}

/// Binds all sockets of an address. IPv6 sockets are for IPv6 only.
///
/// # Errors
/// `AddrInUse` where anybody is bound there, a group of our own included.
pub fn bind_group(address: SocketAddr) -> io::Result<Vec<UdpSocket>> {
    // Whoever shares a port could join a group of ours, and we one of theirs: this one does not share.
    let alone = bind(address, false)?;
    let address = alone.local_addr()?;
    drop(alone);
    (0..SLOTS).map(|_| bind(address, true)).collect()
}

fn bind(address: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
    if shared {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    Ok(UdpSocket::from(socket))
}

/// Whether it is a UDP socket.
pub fn is_datagram(socket: BorrowedFd<'_>) -> bool {
    sockopt::socket_type(socket).is_ok_and(|kind| kind == SocketType::DGRAM)
}

/// From now on new connections go to that slot of the group which the socket belongs to; those that there are
/// stay where they are. A first packet (RFC 9000 § 17) has a long header and an id that the client
/// made up, a handshake packet one with ours, all later ones a short header with ours.
pub fn steer(socket: impl AsFd, newest: u8) -> io::Result<()> {
    let statement =
        |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = |at: u32| statement(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, at);
    let and = |mask: u32| statement(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, mask);
    let found = || statement(libc::BPF_RET | 0x10, 0, 0, 0);
    let slots = u32::from(SLOTS - 1);
    let mut program = [
        load(0),
        statement(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 3, 0, 0x80),
        // A short header: the id follows at once.
        load(1),
        and(slots),
        found(),
        // A long one: of a handshake the id stands behind version and length.
        and(0x30),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 3, 0x20),
        load(6),
        and(slots),
        found(),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, u32::from(slot_of(newest))),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the option's value is a `sock_fprog` of that size, whose filter points at as many statements as
    // it says; the kernel copies them before it returns.
    let done = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which socket of the group gets a packet.
    fn taken(group: &[UdpSocket], packet: &[u8]) -> usize {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(packet, group[0].local_addr().unwrap()).unwrap();
        // On loopback a packet has arrived when it was sent.
        let mut room = [0; 64];
        let of = |socket: &UdpSocket| socket.recv(&mut [0; 64]).is_ok();
        let found: Vec<usize> =
            group.iter().enumerate().filter(|(_, one)| of(one)).map(|(at, _)| at).collect();
        assert!(group.iter().all(|one| one.recv(&mut room).is_err()));
        assert_eq!(found.len(), 1, "{packet:x?}");
        found[0]
    }

    #[test]
    fn packets_of_a_connection_go_to_its_slot_and_new_ones_to_the_newest() {
        let group = bind_group("127.0.0.1:0".parse().unwrap()).unwrap();
        for newest in 0..SLOTS {
            steer(&group[1], newest).unwrap();
            for slot in 0..SLOTS {
                let first = with_slot(0xfc, slot);
                assert_eq!(slot_of(first), slot);
                let short = [0x40, first, 9, 9, 9, 9, 9, 9, 9];
                assert_eq!(taken(&group, &short), usize::from(slot));
                let handshake = [0xe0, 0, 0, 0, 1, 8, first, 9, 9, 9, 9, 9, 9, 9];
                assert_eq!(taken(&group, &handshake), usize::from(slot));
                let initial = [0xc0, 0, 0, 0, 1, 8, first, 9, 9, 9, 9, 9, 9, 9];
                assert_eq!(taken(&group, &initial), usize::from(newest));
            }
        }
        // What is too short to be anything disturbs nobody.
        assert_eq!(taken(&group, &[0x40]), 0);
    }

    #[test]
    fn a_group_joins_nobody_and_nobody_is_joined() {
        let group = bind_group("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = group[0].local_addr().unwrap();
        assert!(is_datagram(group[0].as_fd()));
        assert_eq!(bind_group(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
