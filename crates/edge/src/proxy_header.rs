//! The PROXY header that a load balancer sends before a connection's first byte: versions 1 and 2 of
//! HAProxy's specification read, version 2 written.
//!
//! Required of the networks that are listed, refused of nobody else: what others send is read as HTTP or
//! TLS and is neither. Invariants: exactly the header is read, not a byte of what follows; a header that
//! is cut off, too long or malformed ends the connection; what it says is believed for the address alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Begins version 2.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line of version 1, with its end.
const MAX_LINE: usize = 107;
/// Addresses and more than anybody adds to them.
const MAX_LENGTH: usize = 4096;

/// Why a header is none.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[error("{0}")]
pub(crate) struct NoHeader(&'static str);

const CUT_OFF: NoHeader = NoHeader("the PROXY header was cut off");
const MALFORMED: NoHeader = NoHeader("the PROXY header is malformed");

/// Reads a header. None where it speaks for the sender itself (health checks).
pub(crate) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<SocketAddr>, NoHeader> {
    // The shortest header of either version is longer.
    let mut start = [0; 13];
    stream.read_exact(&mut start).await.map_err(|_| CUT_OFF)?;
    if start[..12] == SIGNATURE {
        let mut rest = [0; 3];
        stream.read_exact(&mut rest).await.map_err(|_| CUT_OFF)?;
        let length = usize::from(u16::from_be_bytes([rest[1], rest[2]]));
        if length > MAX_LENGTH {
            return Err(MALFORMED);
        }
        let mut addresses = vec![0; length];
        stream.read_exact(&mut addresses).await.map_err(|_| CUT_OFF)?;
        return version_2(start[12], rest[0], &addresses);
    }
    if !start.starts_with(b"PROXY ") {
        return Err(MALFORMED);
    }
    let mut line = start.to_vec();
    while !line.ends_with(b"\r\n") {
        if line.len() == MAX_LINE {
            return Err(MALFORMED);
        }
        line.push(stream.read_u8().await.map_err(|_| CUT_OFF)?);
    }
    version_1(&line)
}

/// A header (version 2) for a connection that carries requests of this client and nobody else's; without one
/// it speaks for ourselves. The client's port is not known behind proxies and is 0.
pub(crate) fn write(client: Option<IpAddr>, to: SocketAddr) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    let Some(client) = client else {
        bytes.extend_from_slice(&[0x20, 0, 0, 0]);
        return bytes;
    };
    let ports = [[0, 0], to.port().to_be_bytes()].concat();
    match (client.to_canonical(), to.ip().to_canonical()) {
        (IpAddr::V4(client), IpAddr::V4(to)) => {
            bytes.extend_from_slice(&[0x21, 0x11, 0, 12]);
            bytes.extend([client.octets(), to.octets()].concat());
        }
        (client, to) => {
            let wide = |ip: IpAddr| match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            bytes.extend_from_slice(&[0x21, 0x21, 0, 36]);
            bytes.extend([wide(client).octets(), wide(to).octets()].concat());
        }
    }
    bytes.extend_from_slice(&ports);
    bytes
}

/// `PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n`.
fn version_1(line: &[u8]) -> Result<Option<SocketAddr>, NoHeader> {
    let text = std::str::from_utf8(line).map_err(|_| MALFORMED)?;
    let words: Vec<&str> = text.trim_end_matches("\r\n").split(' ').collect();
    match words[..] {
        ["PROXY", "UNKNOWN", ..] => Ok(None),
        ["PROXY", family @ ("TCP4" | "TCP6"), source, destination, port, to] => {
            let ip: IpAddr = source.parse().map_err(|_| MALFORMED)?;
            let other: IpAddr = destination.parse().map_err(|_| MALFORMED)?;
            let fits = |ip: IpAddr| ip.is_ipv4() == (family == "TCP4");
            to.parse::<u16>().map_err(|_| MALFORMED)?;
            let port = port.parse().map_err(|_| MALFORMED)?;
            if fits(ip) && fits(other) {
                Ok(Some(SocketAddr::new(ip, port)))
            } else {
                Err(MALFORMED)
            }
        }
        _ => Err(MALFORMED),
    }
}

fn version_2(
    version_and_command: u8,
    family: u8,
    addresses: &[u8],
) -> Result<Option<SocketAddr>, NoHeader> {
    match version_and_command {
        0x20 => return Ok(None),
        0x21 => {}
        _ => return Err(MALFORMED),
    }
    let port = |at: usize| Some(u16::from_be_bytes([*addresses.get(at)?, *addresses.get(at + 1)?]));
    match family {
        0x11 => {
            let source: [u8; 4] =
                addresses.get(..4).and_then(|s| s.try_into().ok()).ok_or(MALFORMED)?;
            let port = port(8).filter(|_| addresses.len() >= 12).ok_or(MALFORMED)?;
            Ok(Some(SocketAddr::new(Ipv4Addr::from(source).into(), port)))
        }
        0x21 => {
            let source: [u8; 16] =
                addresses.get(..16).and_then(|s| s.try_into().ok()).ok_or(MALFORMED)?;
            let port = port(32).filter(|_| addresses.len() >= 36).ok_or(MALFORMED)?;
            Ok(Some(SocketAddr::new(Ipv6Addr::from(source).into(), port)))
        }
        // A connection of another kind, such as a Unix socket: the sender is all that is known.
        0x00 | 0x31 => Ok(None),
        _ => Err(MALFORMED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a header says, and how many bytes after it are left.
    fn said(bytes: &[u8]) -> (Result<Option<SocketAddr>, NoHeader>, usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut rest = bytes;
        let said = runtime.block_on(read(&mut rest));
        (said, rest.len())
    }

    fn v2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let length = (addresses.len() as u16).to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, addresses, b"GET "].concat()
    }

    #[test]
    fn what_is_written_is_read_as_it_was_meant() {
        for (client, to) in [
            ("192.0.2.7", "198.51.100.1:443"),
            ("2001:db8::1", "[2001:db8::2]:443"),
            ("2001:db8::1", "198.51.100.1:443"),
            ("192.0.2.7", "[2001:db8::2]:443"),
        ] {
            let (client, to): (IpAddr, SocketAddr) = (client.parse().unwrap(), to.parse().unwrap());
            let (found, rest) = said(&write(Some(client), to));
            assert_eq!(
                found.map(|found| found.map(|one| one.ip().to_canonical())),
                Ok(Some(client))
            );
            assert_eq!(rest, 0);
        }
        let nobody = write(None, "198.51.100.1:443".parse().unwrap());
        assert_eq!(said(&nobody), (Ok(None), 0));
    }

    #[test]
    fn both_versions_tell_the_clients_address_and_nothing_else_is_read() {
        let address = |text: &str| Ok(Some(text.parse().unwrap()));
        assert_eq!(
            said(b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\nGET "),
            (address("192.0.2.7:4711"), 4)
        );
        assert_eq!(
            said(b"PROXY TCP6 2001:db8::1 ::1 4711 443\r\nGET "),
            (address("[2001:db8::1]:4711"), 4)
        );
        assert_eq!(said(b"PROXY UNKNOWN\r\nGET "), (Ok(None), 4));
        let four = [192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x67, 1, 187];
        assert_eq!(said(&v2(0x21, 0x11, &four)), (address("192.0.2.7:4711"), 4));
        // With something added after the addresses.
        assert_eq!(
            said(&v2(0x21, 0x11, &[&four[..], &[4, 0, 1, 0]].concat())),
            (address("192.0.2.7:4711"), 4)
        );
        assert_eq!(said(&v2(0x20, 0, &[])), (Ok(None), 4));
    }

    #[test]
    fn what_is_no_header_ends_the_connection() {
        for bytes in [
            &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
            b"PROXY TCP4 192.0.2.7 198.51.100.1 4711\r\n",
            b"PROXY TCP4 2001:db8::1 ::1 4711 443\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 99999 443\r\n",
            b"PROXY TCP4  192.0.2.7 198.51.100.1 1 2\r\n",
            b"PROXY TCP4 192.0.2.7",
            b"",
            &[b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat(),
            &v2(0x21, 0x11, &[1, 2, 3]),
            &v2(0x31, 0x11, &[0; 12]),
            &v2(0x21, 0x77, &[0; 12]),
            &[&SIGNATURE[..], &[0x21, 0x11, 0xff, 0xff]].concat(),
        ] {
            assert!(said(bytes).0.is_err(), "{}", String::from_utf8_lossy(bytes));
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200), begin in 0usize..3) {
            let start: &[u8] = [&b""[..], b"PROXY TCP4 ", &SIGNATURE][begin];
            said(&[start, &bytes].concat()).0.ok();
        }
    }
}
